package uplink

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
	"forebay/uplink/shape"
)

// streamMark stands in the name of a target for the stream's name.
const streamMark = "{stream}"

// NewApart is New for a sink that sends records beside the uplink's own: what
// it sends may be behind what was sent before, so no far side may take its
// place in a lane for how far the lane has come.
func NewApart(c Config, home lane.Home) (Sink, error) {
	home.Rising, home.Apart = false, true
	return open(c, home)
}

// names is the text of the target's config that names where records go, and
// how to replace it in a copy of the config; nil where a target has none.
func (c *Config) names() (key, name string, set func(name string)) {
	switch {
	case c.Kinesis != nil:
		k := *c.Kinesis
		return "kinesis.stream", k.Stream, func(s string) { k.Stream = s; c.Kinesis = &k }
	case c.Firehose != nil:
		k := *c.Firehose
		return "firehose.stream", k.Stream, func(s string) { k.Stream = s; c.Firehose = &k }
	case c.Kafka != nil:
		k := *c.Kafka
		return "kafka.topic", k.Topic, func(s string) { k.Topic = s; c.Kafka = &k }
	case c.S3 != nil: // object names hold the stream's
		return "s3", streamMark, nil
	case c.NATS != nil:
		return "nats.subject", c.NATS.WithDefaults().Subject, nil
	case c.MQTT != nil:
		return "mqtt.topic", c.MQTT.WithDefaults().Topic, nil
	case c.HTTP != nil:
		return "http.url", c.HTTP.URL, nil
	case c.OpenSearch != nil:
		return "opensearch.index", c.OpenSearch.WithDefaults().Index, nil
	}
	return "", "", nil
}

// NamedByStream reports whether what the far side calls the records holds the
// name of their stream. Where it does not, a replay must be told another name.
func (c Config) NamedByStream() bool {
	_, name, _ := c.names()
	return strings.Contains(name, streamMark)
}

// Renamable reports whether a replay's records can go to another place than
// the target's own, where its name does not hold the stream's.
func (c Config) Renamable() bool {
	_, _, set := c.names()
	return set != nil
}

// Apart says why nothing can be sent beside what the uplink sends; nil: it can.
func (c Config) Apart() error {
	if c.KVS != nil {
		return errors.New("a stream of Kinesis Video takes one connection, which is the uplink's own")
	}
	if c.Sparkplug != nil {
		return errors.New("an edge node of Sparkplug has one session, which is the uplink's own")
	}
	return nil
}

// Replay is the config of a pump that sends a stream's records again, to the
// same target under another name, which is that of the stream or, where all
// streams go to one place, of that place. {stream} in it is what the stream is
// called there otherwise. The error begins with "as: ".
func (c Config) Replay(id, stream, as string) (Config, error) {
	if err := c.Apart(); err != nil {
		return c, err
	}
	if stream == RefusedStream {
		return c, fmt.Errorf("stream: what the target refused is sent again by a redrive")
	}
	far := shape.Far(c.Shape, stream)
	as = strings.ReplaceAll(as, streamMark, far)
	key, name, set := c.names()
	if err := sensible(as, key, name); err != nil {
		return c, err
	}
	c.ID, c.Streams, c.Order = conf.Name(id), []string{stream}, OrderOldest
	switch {
	case strings.Contains(name, streamMark):
		if as == far {
			return c, fmt.Errorf("as: %q is what the stream is called there already", as)
		}
	case set == nil:
		return c, fmt.Errorf("as: the records of a replay cannot be told from the others there: %s must hold %s", key, streamMark)
	case as == name:
		return c, fmt.Errorf("as: %q is where the uplink's own records go", as)
	default:
		set(as)
		as = far
	}
	c.Shape = slices.Clone(c.Shape)
	for i := range c.Shape {
		if c.Shape[i].As != "" {
			c.Shape[i].As = as
		}
	}
	c.Shape = append(c.Shape, shape.Config{Streams: []string{stream}, As: as})
	if err := c.Check(); err != nil {
		return c, fmt.Errorf("as: %q cannot be used there: %w", as, err)
	}
	return c, nil
}

// sensible says why nobody can mean such a name for what the target's config
// calls name at the key.
func sensible(as, key, name string) error {
	front, _, marked := strings.Cut(name, streamMark)
	put := ""
	if marked && name != streamMark {
		put = fmt.Sprintf("; it is put where %s = %q holds %s", key, name, streamMark)
	}
	switch {
	case strings.ContainsAny(as, "{}"):
		return fmt.Errorf("as: %q holds a mark that is not known; {stream} stands for what the stream is called there otherwise, {n} for the replay's number", as)
	case !conf.ValidStream(as):
		return fmt.Errorf("as: %q is not a stream name; use 1 to 128 of a-z, A-Z, 0-9, _, . and -%s", as, put)
	case marked && front != "" && strings.HasPrefix(as, front):
		return fmt.Errorf("as: %q begins with %q as %s = %q does, and would be put where that holds %s; say %q", as, front, key, name, streamMark, as[len(front):])
	}
	return nil
}

// Redrive is the config of a pump that sends refused records again: each goes
// where its stream goes.
func (c Config) Redrive(id string) Config {
	c.ID, c.Order = conf.Name(id), OrderOldest
	return c
}
