// Package kafka is the uplink to Apache Kafka and to what speaks its protocol.
//
// Order: a record goes to the partition that its key's murmur2 picks, as with
// Kafka's own clients, and the records of a lane are produced in sequence.
//
// Exactly once: with transactions, what a Send produces and the uplink's
// place in each lane, a record of a compacted topic, become visible together
// or not at all. A sink that starts, or that does not know what became of a
// transaction, first takes over its transactional id, which ends what was
// pending and shuts out an older sink, then reads its places back and skips
// what the target holds (docs/decisions/0019-kafka-transactions.md).
package kafka

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/conf"
)

const (
	defaultLimit  = 30 * time.Second
	defaultCursor = "forebay-cursors"
	defaultClient = "forebay"
	streamMark    = "{stream}"
	// defaultMessage is what a topic takes where it does not let us ask, a
	// little less than Kafka's own default of 1048588.
	defaultMessage = 1_000_012
	maxMessage     = 64 << 20
)

// Config is the table [uplink.kafka] of the config file. Zero means the
// documented default.
type Config struct {
	// Brokers are a few brokers to ask first, "HOST:PORT"; the others are
	// found through them. Required.
	Brokers []string `toml:"brokers"`
	// Topic is the target's name. "{stream}" in it stands for the local
	// stream's name. Required.
	Topic string `toml:"topic"`
	// CreatePartitions is how many partitions to create a topic with if it
	// does not exist. Default 0: never create it.
	CreatePartitions int `toml:"create_partitions"`
	// CreateReplication is in how many copies topics are created. Default: as
	// many as the cluster says, which Kafka knows from 2.4 on.
	CreateReplication int `toml:"create_replication"`
	// Format is the value of a record: "envelope" (JSON with id, times,
	// source, attributes and data; what came here in an envelope keeps that
	// one) or "raw" (the payload alone; the rest are headers). Default
	// "envelope".
	Format string `toml:"format"`
	// Transactions is "on" (exactly once for consumers that read committed
	// records only) or "off" (at least once, where the cluster's access rules
	// forbid transactions). Default "on".
	Transactions string `toml:"transactions"`
	// TransactionalID is what the uplink's transactions are called; "-" and a
	// number follow it. Whoever takes it over shuts out the one before.
	// Default "forebay.GATEWAY.UPLINK".
	TransactionalID string `toml:"transactional_id"`
	// CursorTopic keeps the uplink's places; it is created if it does not
	// exist, must be compacted and may be shared by any number of gateways.
	// Default "forebay-cursors".
	CursorTopic string `toml:"cursor_topic"`
	// Compression is "zstd", "lz4", "snappy", "gzip" or "none". Default "zstd".
	Compression string `toml:"compression"`
	// ClientID is what the brokers' logs and quotas call us. Default "forebay".
	ClientID string `toml:"client_id"`
	// TLS is "on" or "off". Default "on" where ca, cert, or sasl "plain" or
	// "oauthbearer" is given, else "off".
	TLS string `toml:"tls"`
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// Cert and Key are PEM files of the certificate that we show, and its key.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// SASL is "plain", "scram-sha-256", "scram-sha-512" or "oauthbearer".
	// Default: none.
	SASL string `toml:"sasl"`
	// Username and Password are for SASL; oauthbearer takes the password as
	// the token, best "file:PATH" of one that is kept fresh.
	Username string      `toml:"username"`
	Password conf.Secret `toml:"password"`
	// MaxMessage is the largest batch that the topic takes, and so the
	// largest record, before compression; 1KiB to 64MiB. Default: what the
	// topic's max.message.bytes says, 1000012 bytes if we may not ask.
	MaxMessage conf.Size `toml:"max_message"`
	// RequestTimeout bounds one transaction, or where there are none one round
	// of requests; 1s to 5m. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

var (
	topicRE = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)
	txnRE   = regexp.MustCompile(`^[!-~]{1,200}$`)
)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	for _, f := range []func() error{c.checkBrokers, c.checkTopics, c.checkWords, c.checkTLS, c.checkSASL} {
		if err := f(); err != nil {
			return err
		}
	}
	if n := int64(c.MaxMessage); n != 0 && (n < 1<<10 || n > maxMessage) {
		return fmt.Errorf("max_message: %s is not between 1KiB and 64MiB", c.MaxMessage)
	}
	if d := c.RequestTimeout.D(); d != 0 && (d < time.Second || d > 5*time.Minute) {
		return fmt.Errorf("request_timeout: %s is not between 1s and 5m", c.RequestTimeout)
	}
	return nil
}

func (c Config) checkBrokers() error {
	if len(c.Brokers) == 0 {
		return fmt.Errorf("brokers: is missing; write for example [\"10.0.0.5:9092\"]")
	}
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return fmt.Errorf("brokers: %q is not HOST:PORT; write for example \"10.0.0.5:9092\"", b)
		}
	}
	return nil
}

func (c Config) checkTopics() error {
	if c.Topic == "" {
		return fmt.Errorf("topic: the name of the target topic is missing")
	}
	for name, topic := range map[string]string{"topic": strings.ReplaceAll(c.Topic, streamMark, "x"), "cursor_topic": c.cursorTopic()} {
		if !topicRE.MatchString(topic) || topic == "." || topic == ".." {
			return fmt.Errorf("%s: %q is not the name of a topic; use 1 to 249 of a-z, A-Z, 0-9, ., _ and -", name, topic)
		}
	}
	if c.Topic == c.cursorTopic() {
		return fmt.Errorf("cursor_topic: %q is the target topic; give the places a topic of their own", c.Topic)
	}
	if c.CreatePartitions < 0 || c.CreatePartitions > 10_000 {
		return fmt.Errorf("create_partitions: %d is not between 0 (never create) and 10000", c.CreatePartitions)
	}
	if c.CreateReplication < 0 || c.CreateReplication > 100 {
		return fmt.Errorf("create_replication: %d is not between 0 (as the cluster says) and 100", c.CreateReplication)
	}
	if c.TransactionalID != "" && !txnRE.MatchString(c.TransactionalID) {
		return fmt.Errorf("transactional_id: %q is not 1 to 200 printable characters without spaces", c.TransactionalID)
	}
	return nil
}

func (c Config) checkWords() error {
	switch c.Format {
	case "", "envelope", "raw":
	default:
		return fmt.Errorf("format: %q is not \"envelope\" or \"raw\"", c.Format)
	}
	switch c.Transactions {
	case "", "on", "off":
	default:
		return fmt.Errorf("transactions: %q is not \"on\" or \"off\"", c.Transactions)
	}
	switch c.Compression {
	case "", "zstd", "lz4", "snappy", "gzip", "none":
	default:
		return fmt.Errorf("compression: %q is not \"zstd\", \"lz4\", \"snappy\", \"gzip\" or \"none\"", c.Compression)
	}
	return nil
}

func (c Config) checkTLS() error {
	switch c.TLS {
	case "", "on":
	case "off":
		if c.CA != "" || c.Cert != "" {
			return fmt.Errorf("tls: is \"off\", but ca or cert is given")
		}
	default:
		return fmt.Errorf("tls: %q is not \"on\" or \"off\"", c.TLS)
	}
	if c.Cert != "" && c.Key == "" {
		return fmt.Errorf("cert: key is missing beside it")
	}
	if c.Cert == "" && c.Key != "" {
		return fmt.Errorf("key: cert is missing beside it")
	}
	for name, path := range map[string]string{"ca": c.CA, "cert": c.Cert, "key": c.Key} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (c Config) checkSASL() error {
	switch c.SASL {
	case "":
		if c.Username != "" || c.Password.IsSet() {
			return fmt.Errorf("sasl: is missing beside username and password; write for example \"scram-sha-512\"")
		}
	case "plain", "scram-sha-256", "scram-sha-512":
		if c.Username == "" {
			return fmt.Errorf("username: is missing; sasl %q needs one", c.SASL)
		}
		if !c.Password.IsSet() {
			return fmt.Errorf("password: is missing; sasl %q needs one", c.SASL)
		}
	case "oauthbearer":
		if !c.Password.IsSet() {
			return fmt.Errorf("password: is missing; sasl %q takes its token from it", c.SASL)
		}
	default:
		return fmt.Errorf("sasl: %q is not \"plain\", \"scram-sha-256\", \"scram-sha-512\" or \"oauthbearer\"", c.SASL)
	}
	return nil
}

// secure reports whether connections use TLS.
func (c Config) secure() bool {
	if c.TLS != "" {
		return c.TLS == "on"
	}
	return c.CA != "" || c.Cert != "" || c.SASL == "plain" || c.SASL == "oauthbearer"
}

func (c Config) transactional() bool { return c.Transactions != "off" }

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	where := "Kafka"
	if len(c.Brokers) > 0 {
		where += " " + c.Brokers[0]
	}
	return where + ", topic " + c.Topic
}

// topic is the target's name for a local stream.
func (c Config) topic(stream string) string {
	return strings.ReplaceAll(c.Topic, streamMark, stream)
}

func (c Config) cursorTopic() string {
	if c.CursorTopic == "" {
		return defaultCursor
	}
	return c.CursorTopic
}

func (c Config) replication() int16 {
	if c.CreateReplication == 0 {
		return -1
	}
	return int16(c.CreateReplication)
}

// WithDefaults fills in what was left out and does not depend on the machine
// or the cluster.
func (c Config) WithDefaults() Config {
	for _, f := range []struct {
		at  *string
		def string
	}{
		{&c.Format, "envelope"},
		{&c.Transactions, "on"},
		{&c.CursorTopic, defaultCursor},
		{&c.Compression, "zstd"},
		{&c.ClientID, defaultClient},
	} {
		if *f.at == "" {
			*f.at = f.def
		}
	}
	if c.TLS == "" {
		c.TLS = "off"
		if c.secure() {
			c.TLS = "on"
		}
	}
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultLimit))
	return c
}
