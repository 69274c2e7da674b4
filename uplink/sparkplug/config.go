// Package sparkplug is the uplink to SCADA as a Sparkplug B 3.0 edge node:
// births with all metrics that are known, data, death as the MQTT will, rebirth
// when a host asks for it, and history marked as such. Clauses in this package
// are those of the Sparkplug specification 3.0.0.
//
// Order: what a node sends is one sequence (seq), in which a lane's records
// keep their order. Acknowledgement: births and data are QoS 0 by the
// specification, which has none. So behind a few of them a message of QoS 1
// goes out on the same connection, to a topic of our own; its PUBACK says that
// the broker has read all that was sent before it, and only then are the
// records done, and only if the primary host, where there is one, was online
// all the while. Delivery is at least once; a value that comes twice has the
// same name and time. See docs/decisions/0021-sparkplug.md.
//
// The plant is not written to: of all commands only "Node Control/Rebirth" is
// obeyed. MQTT cannot be read back: there is no ReadBack.
package sparkplug

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

const (
	namespace = "spBv1.0"

	defaultDevice     = "{stream}"
	defaultMetric     = "{key}/{field}"
	defaultHistorical = time.Minute
	defaultPayload    = 1 << 20
	defaultMetrics    = 20_000
	maxPacket         = 268435455 // bytes, MQTT 3.1.1, 2.2.3
)

// Config is the table [uplink.sparkplug] of the config file. Zero means the
// documented default.
type Config struct {
	mqtt.Link
	// Group is the group id. Required.
	Group string `toml:"group"`
	// Node is the edge node id, one in its group. Default: the gateway's name.
	Node string `toml:"node"`
	// Device is which device a record's values belong to: a text with
	// {gateway}, {stream}, {shard}, {source} and {key} in it, and {key:2} for
	// the second level of a key with slashes, {key:2-} for all from there on.
	// Characters that no id may hold come as _. Default "{stream}".
	Device string `toml:"device"`
	// Metric is what a value is called: as in Device, and {field} for its place
	// in a payload that is a JSON object ("motor/speed"). Default "{key}/{field}".
	Metric string `toml:"metric"`
	// PrimaryHost is the id of the host that must be online for anything to be
	// sent; until it says so records are kept. Default: none.
	PrimaryHost string `toml:"primary_host"`
	// Format is "metrics" (a payload in JSON becomes a metric for each of its
	// values, any other one metric) or "raw" (the payload as bytes in one
	// metric). Default "metrics".
	Format string `toml:"format"`
	// Aliases has data name metrics by a number that their birth gave them.
	// Default false.
	Aliases bool `toml:"aliases"`
	// HistoricalAfter is how old a record is that counts as history while more
	// are waiting behind it. One from before the node's birth does anyway, if
	// it is older than 5s. Default 1m.
	HistoricalAfter conf.Duration `toml:"historical_after"`
	// BarrierTopic gets a message of QoS 1 behind a few of data; nobody needs
	// to read it. Default "forebay/GATEWAY/UPLINK/barrier".
	BarrierTopic string `toml:"barrier_topic"`
	// MaxPayload is the largest message that the broker takes; a record that
	// makes more goes to the stream "refused". Default 1MiB.
	MaxPayload conf.Size `toml:"max_payload"`
	// MaxMetrics is how many metrics the node has at most; a record that would
	// add another goes to the stream "refused". Default 20000.
	MaxMetrics int `toml:"max_metrics"`
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if err := c.Link.Check(); err != nil {
		return err
	}
	if c.Group == "" {
		return errors.New("group: is missing; write for example \"Plant 1\"")
	}
	for _, id := range []struct{ field, value string }{{"group", c.Group}, {"node", c.Node}, {"primary_host", c.PrimaryHost}} {
		if !validID(id.value) {
			return fmt.Errorf("%s: %q is not an id; /, + and # may not stand in one", id.field, id.value)
		}
	}
	if c.Group == "STATE" {
		return errors.New("group: STATE is where hosts say that they are online")
	}
	if strings.ContainsAny(c.BarrierTopic, "+#\x00") || !utf8.ValidString(c.BarrierTopic) || strings.HasPrefix(c.BarrierTopic, namespace+"/") {
		return fmt.Errorf("barrier_topic: %q is not a topic to publish to; it may not begin with %s/", c.BarrierTopic, namespace)
	}
	if _, _, err := c.templates(); err != nil {
		return err
	}
	switch c.Format {
	case "", "metrics", "raw":
	default:
		return fmt.Errorf("format: %q is not \"metrics\" or \"raw\"", c.Format)
	}
	if d := c.HistoricalAfter.D(); d < 0 || d != 0 && d < time.Second {
		return fmt.Errorf("historical_after: %s is less than 1s", c.HistoricalAfter)
	}
	if n := int64(c.MaxPayload); n != 0 && (n < 1<<10 || n > maxPacket) {
		return fmt.Errorf("max_payload: %s is not between 1KiB and 256MiB", c.MaxPayload)
	}
	if c.MaxMetrics < 0 || c.MaxMetrics > 1_000_000 {
		return fmt.Errorf("max_metrics: %d is not between 1 and 1000000", c.MaxMetrics)
	}
	return nil
}

func validID(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsAny(s, "/+#\x00")
}

func (c Config) templates() (device, metric mqtt.Template, err error) {
	c = c.WithDefaults()
	if device, err = mqtt.ParseTemplate(c.Device, "gateway", "stream", "shard", "source", "key"); err != nil {
		return device, metric, fmt.Errorf("device: %w", err)
	}
	if metric, err = mqtt.ParseTemplate(c.Metric, "gateway", "stream", "shard", "source", "key", "field"); err != nil {
		return device, metric, fmt.Errorf("metric: %w", err)
	}
	if c.Format != "raw" && !metric.Has("field") {
		return device, metric, errors.New("metric: {field} is missing; without it the values of a payload have one name")
	}
	return device, metric, nil
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	t := c.Broker + ", Sparkplug group " + c.Group
	if c.Node != "" {
		t += ", node " + c.Node
	}
	return t
}

// WithDefaults fills in what was left out and does not depend on the gateway.
func (c Config) WithDefaults() Config {
	c.Link = c.Defaults()
	if c.Device == "" {
		c.Device = defaultDevice
	}
	if c.Metric == "" {
		c.Metric = defaultMetric
	}
	if c.Format == "" {
		c.Format = "metrics"
	}
	if c.MaxMetrics == 0 {
		c.MaxMetrics = defaultMetrics
	}
	c.HistoricalAfter = conf.Duration(c.HistoricalAfter.Or(defaultHistorical))
	c.MaxPayload = conf.Size(c.MaxPayload.Or(defaultPayload))
	return c
}

// settled is the config with what the gateway says.
func (c Config) settled(home lane.Home) Config {
	c = c.WithDefaults()
	c.ClientID = c.Name(home)
	if c.Node == "" {
		c.Node = string(cleanID(nil, home.ID.Gateway))
	}
	if c.BarrierTopic == "" {
		c.BarrierTopic = "forebay/" + string(cleanID(nil, home.ID.Gateway)) + "/" + home.Uplink + "/barrier"
	}
	return c
}

// topic is that of a message of the node, or of one of its devices.
func (c *Config) topic(verb, device string) string {
	t := namespace + "/" + c.Group + "/" + verb + "/" + c.Node
	if device != "" {
		t += "/" + device
	}
	return t
}
