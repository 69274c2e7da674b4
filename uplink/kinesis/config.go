// Package kinesis is the uplink to Amazon Kinesis Data Streams and to
// whatever speaks its protocol: another Forebay, kinesalite, LocalStack.
//
// Order: a lane's records go out one Kinesis record at a time, each an
// aggregate in the KPL's format with one explicit hash key inside and out, so
// that PutRecords, which keeps no order among its entries, has nothing to
// reorder. Delivery is at least once; the envelope carries the ids by which a
// consumer drops what came twice.
//
// Chains: a record that came from another gateway travels on in the envelope
// that the first one wrote. An aggregate that was stored as one record is
// opened: what is no envelope in it gets one, with the stored record's id,
// "/" and its place in the aggregate from 1. A stored record is acknowledged
// as a whole, with its last part.
package kinesis

import (
	"fmt"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
)

// Limits of the service (API reference, PutRecords).
const (
	maxEntries   = 500      // records of a request
	maxUnit      = 10 << 20 // bytes of one Kinesis record's data and key, where the stream allows it
	unitCurrent  = 25_000   // a PUT payload unit: what is below costs one
	maxRequest   = 5 << 20  // bytes of data and keys that we put into one request; the service takes 10 MiB
	defaultUnit  = 1 << 20  // what a stream takes unless UpdateMaxRecordSize was called
	defaultLimit = 30 * time.Second
)

// Config is the table [uplink.kinesis] of the config file. Zero means the
// documented default.
type Config struct {
	// Access says where Kinesis is, and who we are there.
	aws.Access
	// Stream is the target's name. "{stream}" in it stands for the local
	// stream's name. Required.
	Stream string `toml:"stream"`
	// CreateShards is how many shards to create the target stream with if it
	// does not exist. Default 0: never create it.
	CreateShards int `toml:"create_shards"`
	// Format is what a record looks like at the far end: "envelope" (JSON
	// with id, times, source, attributes and data; what came here in an
	// envelope keeps that one) or "raw" (the payload alone; ids, times and
	// attributes are lost, so a consumer cannot tell repeated records).
	// Default "envelope".
	Format string `toml:"format"`
	// Aggregate is "on" or "off". Off, every record travels as a Kinesis
	// record of its own, one per lane and request: slow, and dear. Default "on".
	Aggregate string `toml:"aggregate"`
	// Wire is the form of requests that hold records: "cbor", what AWS's SDK for
	// Java speaks, with a quarter fewer bytes, or "json". A target that does not
	// understand CBOR gets JSON by itself. Default "cbor".
	Wire string `toml:"wire"`
	// MaxRecord is the largest Kinesis record that the target takes, data and
	// partition key together; 32KiB to 10MiB. Default 1MiB.
	MaxRecord conf.Size `toml:"max_record"`
	// RequestTimeout bounds one request. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

const streamMark = "{stream}"

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if c.Stream == "" {
		return fmt.Errorf("stream: the name of the target stream is missing")
	}
	if !conf.ValidStream(strings.ReplaceAll(c.Stream, streamMark, "x")) {
		return fmt.Errorf("stream: %q is not a stream name; use 1 to 128 of a-z, A-Z, 0-9, _, . and -, and {stream} for the local stream's name", c.Stream)
	}
	if err := c.Access.Check(); err != nil {
		return err
	}
	if err := c.CheckWhere(); err != nil {
		return err
	}
	if c.CreateShards < 0 || c.CreateShards > 10_000 {
		return fmt.Errorf("create_shards: %d is not between 0 (never create) and 10000", c.CreateShards)
	}
	switch c.Format {
	case "", "envelope", "raw":
	default:
		return fmt.Errorf("format: %q is not \"envelope\" or \"raw\"", c.Format)
	}
	switch c.Aggregate {
	case "", "on", "off":
	default:
		return fmt.Errorf("aggregate: %q is not \"on\" or \"off\"", c.Aggregate)
	}
	switch c.Wire {
	case "", "cbor", "json":
	default:
		return fmt.Errorf("wire: %q is not \"cbor\" or \"json\"", c.Wire)
	}
	if n := int64(c.MaxRecord); n != 0 && (n < 32<<10 || n > maxUnit) {
		return fmt.Errorf("max_record: %s is not between 32KiB and 10MiB", c.MaxRecord)
	}
	if d := c.RequestTimeout.D(); d != 0 && d < time.Second {
		return fmt.Errorf("request_timeout: %s is less than 1s", c.RequestTimeout)
	}
	return nil
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	return c.Where("Amazon Kinesis") + ", stream " + c.Stream
}

// stream is the target's name for a local stream.
func (c Config) stream(local string) string {
	return strings.ReplaceAll(c.Stream, streamMark, local)
}

// WithDefaults fills in what was left out and does not depend on the machine.
func (c Config) WithDefaults() Config {
	if c.Format == "" {
		c.Format = "envelope"
	}
	if c.Aggregate == "" {
		c.Aggregate = "on"
	}
	if c.Wire == "" {
		c.Wire = "cbor"
	}
	c.MaxRecord = conf.Size(c.MaxRecord.Or(defaultUnit))
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultLimit))
	return c
}
