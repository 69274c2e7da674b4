// Package firehose is the uplink to Amazon Data Firehose, and to another
// gateway's Firehose door.
//
// Order: PutRecordBatch fails record by record and goes on behind a failure,
// so a request holds one Firehose record of a lane at most, with as many of
// the lane's records in it as there are and fit, one behind the other, each
// with a delimiter. A lane stops at the first Firehose record that failed. What
// Firehose then writes at its destination is in the order in which it took it,
// as a rule: it promises none.
//
// Delivery is at least once; the envelope carries the ids by which a consumer
// drops what came twice. A record that came from another gateway travels on in
// the envelope that the first one wrote, and an aggregate that was stored as
// one record is opened.
package firehose

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
)

// Limits of the service (API reference, PutRecordBatch).
const (
	maxEntries     = 500
	maxData        = 1000 << 10 // bytes of one Firehose record, before base64
	maxRequest     = 3 << 20    // of all of a request, before base64: 4 MiB after it
	unit           = 5 << 10    // each Firehose record is billed in steps of it
	defaultTimeout = 30 * time.Second
)

// Config is the table [uplink.firehose] of the config file. Zero means the
// documented default.
type Config struct {
	// Access says where Firehose is, and who we are there.
	aws.Access
	// Stream is the delivery stream's name. "{stream}" in it stands for the
	// local stream's name. Required.
	Stream string `toml:"stream"`
	// Format is what a record looks like at the far end: "envelope" (JSON with
	// id, times, source, attributes and data; what came here in an envelope
	// keeps that one) or "raw" (the payload alone; ids, times and attributes
	// are lost, so a consumer cannot tell repeated records). Default
	// "envelope".
	Format string `toml:"format"`
	// Delimiter stands behind every record that does not end with it; "none"
	// for nothing. Default a newline.
	Delimiter string `toml:"delimiter"`
	// PerRecord is how many of our records one Firehose record may hold. 1 is
	// slow, and dear: one record of a lane a request, billed as 5 KB. A
	// delivery stream that splits them again takes 500. Default 0: as many as
	// fit into 1000 KiB.
	PerRecord int `toml:"per_record"`
	// Compression is "none" or "gzip": each Firehose record is a gzip file of
	// its own, and so is what a delivery stream that changes nothing makes of
	// them at its destination. Default "none".
	Compression string `toml:"compression"`
	// RequestTimeout bounds one request. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

const (
	streamMark  = "{stream}"
	noDelimiter = "none"
)

var streamRE = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if c.Stream == "" {
		return fmt.Errorf("stream: the name of the delivery stream is missing")
	}
	if !streamRE.MatchString(c.stream("x")) {
		return fmt.Errorf("stream: %q is not the name of a delivery stream; use 1 to 64 of a-z, A-Z, 0-9, _, . and -, and {stream} for the local stream's name", c.Stream)
	}
	if err := c.Access.Check(); err != nil {
		return err
	}
	if err := c.CheckWhere(); err != nil {
		return err
	}
	switch c.Format {
	case "", "envelope", "raw":
	default:
		return fmt.Errorf("format: %q is not \"envelope\" or \"raw\"", c.Format)
	}
	if len(c.Delimiter) > 16 {
		return fmt.Errorf("delimiter: %q is longer than 16 bytes", c.Delimiter)
	}
	if c.PerRecord < 0 || c.PerRecord > 100_000 {
		return fmt.Errorf("per_record: %d is not between 0 (as many as fit) and 100000", c.PerRecord)
	}
	if c.Delimiter == noDelimiter && c.PerRecord != 1 {
		return fmt.Errorf("delimiter: without one, records in the same Firehose record cannot be told apart; set per_record = 1 too")
	}
	switch c.Compression {
	case "", "none", "gzip":
	default:
		return fmt.Errorf("compression: %q is not \"none\" or \"gzip\"", c.Compression)
	}
	if d := c.RequestTimeout.D(); d != 0 && d < time.Second {
		return fmt.Errorf("request_timeout: %s is less than 1s", c.RequestTimeout)
	}
	return nil
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	return c.Where("Amazon Data Firehose") + ", delivery stream " + c.Stream
}

// stream is the delivery stream's name for a local stream.
func (c Config) stream(local string) string {
	return strings.ReplaceAll(c.Stream, streamMark, local)
}

// WithDefaults fills in what was left out and does not depend on the machine.
func (c Config) WithDefaults() Config {
	if c.Format == "" {
		c.Format = "envelope"
	}
	if c.Delimiter == "" {
		c.Delimiter = "\n"
	}
	if c.Compression == "" {
		c.Compression = "none"
	}
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultTimeout))
	return c
}
