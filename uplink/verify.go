package uplink

import (
	"context"
	"fmt"
	"time"

	"forebay/uplink/lane"
)

// A Verifier is a Sink whose far side can be read back.
type Verifier interface {
	// ReadBack calls held for every record that the far side holds of this
	// gateway, and perhaps of others, in the far side's order where it has one,
	// within [from, to) by arrival where the target can tell (zero: no bound).
	// An error of held ends it and is returned. Nothing is changed at the far
	// side. under is the name that the record lies under, as Under writes it: a
	// replay's copy has the same id and another name.
	ReadBack(ctx context.Context, from, to time.Time, held func(under, id string) error) error
	// Under is the name that the records of a stream lie under, given what the
	// stream is called at the far side (lane.Lane.Stream). It may be that of the
	// target's stream or topic, or a part of the target's names; empty where all
	// streams lie in one place and nothing tells them apart.
	Under(stream string) string
}

// A Keeper is a Verifier whose far side forgets: it keeps what arrived since
// the time given. Zero means that it keeps everything, as far as it says.
type Keeper interface {
	Keeps(ctx context.Context) (time.Time, error)
}

// A Reading is a far side that can be read back.
type Reading struct {
	Verifier
	sink Sink
	// Ordered says that the far side gives each lane in the order in which it
	// took it.
	Ordered bool
}

// Close frees what the reading holds.
func (r *Reading) Close() error { return r.sink.Close() }

// Keeps is since when the far side keeps what arrived there; zero: it says
// nothing of it.
func (r *Reading) Keeps(ctx context.Context) (time.Time, error) {
	if k, ok := r.Verifier.(Keeper); ok {
		return k.Keeps(ctx)
	}
	return time.Time{}, nil
}

// OpenReading makes ready to read back the far side of an uplink, or says in
// words why that cannot be. It does not disturb a gateway that sends there.
func OpenReading(c Config, home lane.Home) (*Reading, error) {
	if why := unread(&c); why != "" {
		return nil, fmt.Errorf("uplink %q cannot be read back: %s", c.ID, why)
	}
	s, err := New(c, home)
	if err != nil {
		return nil, err
	}
	v, ok := s.(Verifier)
	if !ok {
		err := fmt.Errorf("uplink %q cannot be read back: the target %s gives nothing back that could be compared", c.ID, c.Kind())
		if e := s.Close(); e != nil {
			return nil, fmt.Errorf("%w; and closing it: %w", err, e)
		}
		return nil, err
	}
	kind := c.Kind()
	return &Reading{Verifier: v, sink: s, Ordered: c.Order != OrderLive && (kind == "kinesis" || kind == "nats")}, nil
}

// unread is why the far side of a config has nothing to read, "" where it has.
func unread(c *Config) string {
	switch c.Kind() {
	case "firehose":
		return "Firehose hands records on and lets nobody read them; verify what it delivers to, for example with an uplink of the kind s3 beside it, or in the place where it writes"
	case "mqtt":
		return "an MQTT broker hands messages on and keeps none; verify the next gateway or store behind it"
	case "sparkplug":
		return "a Sparkplug host has no way to be asked what it has taken; verify the historian behind it"
	case "http":
		return "an HTTP endpoint has no way to be asked what it has taken; verify the store behind it"
	case "kvs":
		return "Kinesis Video keeps fragments and not records; its own acknowledgements are the proof"
	case "kinesis":
		if c.Kinesis.Format == "raw" {
			return "with format = \"raw\" its records carry no ids; only the count of payloads could be told. Use format = \"envelope\", the default, or verify by a consumer that knows the payloads"
		}
	}
	return ""
}
