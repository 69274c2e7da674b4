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
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"forebay/gateway/conf"
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
	// Endpoint is where to send, "https://HOST" or "http://HOST:PORT".
	// Default: the AWS endpoint of the region.
	Endpoint string `toml:"endpoint"`
	// Region is the AWS region, and what requests are signed for. Default:
	// what the AWS environment and profile say; "us-east-1" where an endpoint
	// is given and they say nothing.
	Region string `toml:"region"`
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
	// AccessKey and SecretKey are static credentials. Default: the AWS chain
	// (environment, shared files, credential_process, IMDS).
	AccessKey string      `toml:"access_key"`
	SecretKey conf.Secret `toml:"secret_key"`
	// Profile picks a profile of the shared AWS files.
	Profile string `toml:"profile"`
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// MaxRecord is the largest Kinesis record that the target takes, data and
	// partition key together; 32KiB to 10MiB. Default 1MiB.
	MaxRecord conf.Size `toml:"max_record"`
	// RequestTimeout bounds one request. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

const streamMark = "{stream}"

var regionRE = regexp.MustCompile(`^[a-z]{2,8}(-[a-z0-9]+)+$`)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if c.Stream == "" {
		return fmt.Errorf("stream: the name of the target stream is missing")
	}
	if !conf.ValidStream(strings.ReplaceAll(c.Stream, streamMark, "x")) {
		return fmt.Errorf("stream: %q is not a stream name; use 1 to 128 of a-z, A-Z, 0-9, _, . and -, and {stream} for the local stream's name", c.Stream)
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("endpoint: this is not an endpoint; write for example \"https://kinesis.eu-central-1.amazonaws.com\" or \"http://10.0.0.5:4567\"")
		}
	}
	if c.Region != "" && !regionRE.MatchString(c.Region) {
		return fmt.Errorf("region: %q is not a region; write for example \"eu-central-1\"", c.Region)
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
	if c.AccessKey != "" && !c.SecretKey.IsSet() {
		return fmt.Errorf("access_key: secret_key is missing beside it")
	}
	if c.AccessKey == "" && c.SecretKey.IsSet() {
		return fmt.Errorf("secret_key: access_key is missing beside it")
	}
	if c.AccessKey != "" && c.Profile != "" {
		return fmt.Errorf("profile: give either access_key and secret_key, or a profile")
	}
	if c.CA != "" {
		if _, err := os.Stat(c.CA); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
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
	where := c.Endpoint
	if where == "" {
		where = "Amazon Kinesis"
		if c.Region != "" {
			where += " " + c.Region
		}
	}
	return where + ", stream " + c.Stream
}

// stream is the target's name for a local stream.
func (c Config) stream(local string) string {
	return strings.ReplaceAll(c.Stream, streamMark, local)
}

// endpointOf is the AWS endpoint of a region.
func endpointOf(region string) string {
	domain := "amazonaws.com"
	switch {
	case strings.HasPrefix(region, "cn-"):
		domain = "amazonaws.com.cn"
	case strings.HasPrefix(region, "eusc-"):
		domain = "amazonaws.eu"
	}
	return "https://kinesis." + region + "." + domain
}

// WithDefaults fills in what was left out and does not depend on the machine.
func (c Config) WithDefaults() Config {
	if c.Format == "" {
		c.Format = "envelope"
	}
	if c.Aggregate == "" {
		c.Aggregate = "on"
	}
	c.MaxRecord = conf.Size(c.MaxRecord.Or(defaultUnit))
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultLimit))
	return c
}
