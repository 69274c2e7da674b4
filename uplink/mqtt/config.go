// Package mqtt is the uplink to any MQTT broker: QoS 1, MQTT 3.1.1, a message
// a record.
//
// Order: a lane's messages go out in sequence on one connection, with a window
// of unacknowledged ones; a PUBACK counts when those of all before it in the
// lane have come. Delivery is at least once: what was not acknowledged when
// the connection ended is sent again, in the same envelope.
//
// A broker of MQTT 3.1.1 has no word for "I do not take this message": it ends
// the connection, and again when the message comes back. Which message it is
// shows in that the broker ends the connection on it alone; see trial.go. What
// a broker acknowledges and drops, nobody can see: see docs/uplinks/mqtt.md.
//
// An aggregate in the KPL's format that was stored as one record is opened:
// each record in it is a message. What another gateway has put into an
// envelope travels as it is. MQTT cannot be read back: there is no ReadBack.
package mqtt

import (
	"errors"
	"fmt"

	"forebay/gateway/conf"
)

// Limits of MQTT 3.1.1, and of AWS IoT Core's message broker.
const (
	maxTopic   = 65535     // bytes, 1.5.3
	maxPacket  = 268435455 // bytes behind the fixed header, 2.2.3
	maxWindow  = 65535     // packet identifiers
	awsTopic   = 256
	awsSlashes = 7
	awsPayload = 128 << 10
	awsUnit    = 5 << 10 // what one message is billed for

	defaultWindow = 100 // what AWS IoT Core lets wait
	defaultTopic  = "{gateway}/{stream}/{key}"
)

// Config is the table [uplink.mqtt] of the config file. Zero means the
// documented default.
type Config struct {
	Link
	// Topic is where a record is published: a text with {gateway}, {stream},
	// {shard}, {source} and {key} in it, and {key:2} for the second level of a
	// key with slashes, {key:2-} for all from there on. "acme/plant1/area2/{stream}/{key}"
	// gives topics in the order of ISA-95. Characters that no topic may hold
	// come as %23 for #. Default "{gateway}/{stream}/{key}".
	Topic string `toml:"topic"`
	// Format is what a message holds: "envelope" (JSON with id, times, source,
	// attributes and data) or "raw" (the payload alone; ids, times and
	// attributes are lost, so a consumer cannot tell repeated records).
	// Default "envelope".
	Format string `toml:"format"`
	// Retain has the broker keep the last message of each topic. Default false.
	Retain bool `toml:"retain"`
	// Window is how many messages may wait for their acknowledgement at a
	// time, of all lanes together. Default 100.
	Window int `toml:"window"`
	// MaxPayload is the largest message that the broker takes, MaxTopic the
	// longest topic in bytes, MaxSlashes how many levels beyond the first it
	// may have. A record that makes more goes to the stream "refused". Default:
	// 128KiB, 256 and 7 for AWS IoT Core, else what MQTT allows.
	MaxPayload conf.Size `toml:"max_payload"`
	MaxTopic   int       `toml:"max_topic"`
	MaxSlashes int       `toml:"max_slashes"`
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if err := c.Link.Check(); err != nil {
		return err
	}
	t, err := c.template()
	if err != nil {
		return err
	}
	for _, p := range t.parts {
		for i := range len(p.text) {
			if b := p.text[i]; b == '+' || b == '#' || b < 0x20 || b == 0x7f {
				return fmt.Errorf("topic: %q may not stand in a topic", b)
			}
		}
	}
	switch c.Format {
	case "", "envelope", "raw":
	default:
		return fmt.Errorf("format: %q is not \"envelope\" or \"raw\"", c.Format)
	}
	switch {
	case c.Window < 0 || c.Window > maxWindow:
		return fmt.Errorf("window: %d is not between 1 and %d", c.Window, maxWindow)
	case c.MaxPayload < 0 || c.MaxPayload > maxPacket:
		return fmt.Errorf("max_payload: %s is more than MQTT's 256MiB", c.MaxPayload)
	case c.MaxTopic < 0 || c.MaxTopic > maxTopic:
		return fmt.Errorf("max_topic: %d is not between 1 and %d", c.MaxTopic, maxTopic)
	case c.MaxSlashes < 0:
		return errors.New("max_slashes: is less than 0")
	}
	return nil
}

func (c Config) template() (Template, error) {
	s := c.Topic
	if s == "" {
		s = defaultTopic
	}
	t, err := ParseTemplate(s, "gateway", "stream", "shard", "source", "key")
	if err != nil {
		return t, fmt.Errorf("topic: %w", err)
	}
	return t, nil
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	t := c.Topic
	if t == "" {
		t = defaultTopic
	}
	return c.Broker + ", topic " + t
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	c.Link = c.Defaults()
	if c.Topic == "" {
		c.Topic = defaultTopic
	}
	if c.Format == "" {
		c.Format = "envelope"
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	payload, topic := int64(maxPacket), maxTopic
	if c.AWS() {
		payload, topic = awsPayload, awsTopic
		if c.MaxSlashes == 0 {
			c.MaxSlashes = awsSlashes
		}
	}
	c.MaxPayload = conf.Size(c.MaxPayload.Or(payload))
	if c.MaxTopic == 0 {
		c.MaxTopic = topic
	}
	return c
}
