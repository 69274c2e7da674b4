// Package nats is the uplink to NATS JetStream.
//
// Order and exactly once: every lane has a subject, or a family of them, of its
// own, and every write to it names the sequence number of the last message that
// it must stand behind. The records of a lane travel in atomic batches, stored
// as a whole or not at all, so that nothing behind a failure is stored. What
// the stream holds already is read from the lane's last message, whose
// Nats-Msg-Id is a record's id; it never depends on the duplicate window. See
// docs/decisions/0020-jetstream.md.
package nats

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"forebay/gateway/conf"
)

const (
	defaultSubject = "forebay.{gateway}.{stream}.{shard}"
	defaultTimeout = 10 * time.Second
)

// Config is the table [uplink.nats] of the config file. Zero means the
// documented default.
type Config struct {
	// Servers are where to connect, "nats://HOST:4222" or "tls://HOST:4222",
	// the first one first. Other members of their cluster are learned from
	// them. Required.
	Servers []string `toml:"servers"`
	// Stream is the JetStream stream that takes the subjects. Required.
	Stream string `toml:"stream"`
	// Subject is where a record goes. {gateway}, {stream} and {shard} stand for
	// the gateway's name, the local stream's and the number of its shard; {key}
	// at the end for the record's key, whose slashes become dots. {gateway} and
	// {shard} must be in it, so that no two lanes share a subject. Default
	// "forebay.{gateway}.{stream}.{shard}".
	Subject string `toml:"subject"`
	// CreateStream creates the stream if it does not exist, on disk, with
	// atomic batches allowed. One that exists is not changed. Default false.
	CreateStream bool `toml:"create_stream"`
	// Replicas, MaxBytes and MaxAge are those of a stream that is created; the
	// oldest messages go first. Default 1 replica and no limits.
	Replicas int           `toml:"replicas"`
	MaxBytes conf.Size     `toml:"max_bytes"`
	MaxAge   conf.Duration `toml:"max_age"`
	// Format is what a message's payload is: "envelope" (JSON with id, times,
	// source, attributes and data; what came here in an envelope keeps that
	// one) or "raw" (the payload alone; the rest stands in headers). The id is
	// the header Nats-Msg-Id in both. Default "envelope".
	Format string `toml:"format"`
	// User and Password log in.
	User     string      `toml:"user"`
	Password conf.Secret `toml:"password"`
	// Token logs in where the server wants a token.
	Token conf.Secret `toml:"token"`
	// Creds is a credentials file (a user's JWT and its seed).
	Creds string `toml:"creds"`
	// NKey is a file with an nkey's seed.
	NKey string `toml:"nkey"`
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// Cert and Key are PEM files of a client certificate.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// TLSFirst begins with TLS, before the server has said a word, as servers
	// with handshake_first want it. Default false.
	TLSFirst bool `toml:"tls_first"`
	// Domain is the JetStream domain, where the stream lies beyond a leaf node.
	Domain string `toml:"domain"`
	// InboxPrefix is what answers are addressed to, where the account may not
	// subscribe to "_INBOX". Default "_INBOX".
	InboxPrefix string `toml:"inbox_prefix"`
	// RequestTimeout bounds the wait for an answer. Default 10s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

var (
	nameRE   = regexp.MustCompile(`^[^\s.*>/\\]{1,255}$`)
	prefixRE = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if len(c.Servers) == 0 {
		return fmt.Errorf("servers: is missing; write for example [\"nats://10.0.0.5:4222\"]")
	}
	for _, s := range c.Servers {
		if err := checkServer(s); err != nil {
			return err
		}
	}
	if c.Stream == "" {
		return fmt.Errorf("stream: the name of the JetStream stream is missing")
	}
	if !nameRE.MatchString(c.Stream) {
		return fmt.Errorf("stream: %q is not the name of a JetStream stream; it holds no white space, no slash and none of . * >", c.Stream)
	}
	if err := checkSubject(c.subject()); err != nil {
		return err
	}
	if err := c.checkStream(); err != nil {
		return err
	}
	switch c.Format {
	case "", "envelope", "raw":
	default:
		return fmt.Errorf("format: %q is not \"envelope\" or \"raw\"", c.Format)
	}
	if err := c.checkLogin(); err != nil {
		return err
	}
	for field, v := range map[string]string{"domain": c.Domain, "inbox_prefix": c.InboxPrefix} {
		if v != "" && !prefixRE.MatchString(v) {
			return fmt.Errorf("%s: %q is not letters, digits, - and _, with dots between", field, v)
		}
	}
	if d := c.RequestTimeout.D(); d != 0 && (d < time.Second || d > 5*time.Minute) {
		return fmt.Errorf("request_timeout: %s is not between 1s and 5m", c.RequestTimeout)
	}
	return nil
}

func checkServer(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "nats" && u.Scheme != "tls") || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("servers: one is not an address; write for example \"nats://10.0.0.5:4222\" or \"tls://nats.example.com:4222\"")
	}
	if u.User != nil {
		return fmt.Errorf("servers: %s holds a password or a token; give user and password, or token, beside servers", net.JoinHostPort(u.Hostname(), u.Port()))
	}
	return nil
}

func (c Config) checkStream() error {
	switch {
	case c.Replicas < 0 || c.Replicas > 5:
		return fmt.Errorf("replicas: %d is not between 1 and 5", c.Replicas)
	case c.CreateStream:
		return nil
	case c.Replicas != 0:
		return fmt.Errorf("replicas: is for a stream that is created; set create_stream, or leave it out")
	case c.MaxBytes != 0:
		return fmt.Errorf("max_bytes: is for a stream that is created; set create_stream, or leave it out")
	case c.MaxAge != 0:
		return fmt.Errorf("max_age: is for a stream that is created; set create_stream, or leave it out")
	}
	return nil
}

func (c Config) checkLogin() error {
	if c.User != "" && !c.Password.IsSet() {
		return fmt.Errorf("user: password is missing beside it")
	}
	if c.User == "" && c.Password.IsSet() {
		return fmt.Errorf("password: user is missing beside it")
	}
	ways := 0
	for _, set := range []bool{c.User != "", c.Token.IsSet(), c.Creds != "", c.NKey != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return fmt.Errorf("user: give one of user, token, creds and nkey")
	}
	if c.Cert != "" && c.Key == "" {
		return fmt.Errorf("cert: key is missing beside it")
	}
	if c.Cert == "" && c.Key != "" {
		return fmt.Errorf("key: cert is missing beside it")
	}
	for _, f := range []struct{ field, path string }{
		{"creds", c.Creds},
		{"nkey", c.NKey},
		{"ca", c.CA},
		{"cert", c.Cert},
		{"key", c.Key},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.field, err)
		}
	}
	return nil
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	where := "NATS"
	if len(c.Servers) > 0 {
		where = c.Servers[0]
	}
	return where + ", stream " + c.Stream
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	c.Subject = c.subject()
	if c.CreateStream && c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Format == "" {
		c.Format = "envelope"
	}
	if c.InboxPrefix == "" {
		c.InboxPrefix = "_INBOX"
	}
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultTimeout))
	return c
}

func (c Config) subject() string {
	if c.Subject == "" {
		return defaultSubject
	}
	return c.Subject
}

// api is the subject of a JetStream request.
func (c Config) api(op string) string {
	prefix := "$JS.API."
	if c.Domain != "" {
		prefix = "$JS." + c.Domain + ".API."
	}
	return prefix + op + "." + c.Stream
}

const keyMark = ".{key}"

func checkSubject(s string) error {
	rest := strings.TrimSuffix(s, keyMark)
	tokens := strings.Split(rest, ".")
	for _, m := range []string{"{gateway}", "{shard}"} {
		if !slices.Contains(tokens, m) {
			return fmt.Errorf("subject: %q lacks the token %s; without it two lanes could share a subject, and neither order nor exactly once could be kept", s, m)
		}
	}
	for _, t := range tokens {
		switch {
		case t == "{gateway}", t == "{stream}", t == "{shard}":
		case strings.ContainsAny(t, "{}"):
			return fmt.Errorf("subject: %q may hold the tokens {gateway}, {stream} and {shard}, and {key} as the last one", s)
		case t == "" || strings.ContainsAny(t, " \t\r\n*>"):
			return fmt.Errorf("subject: %q has a token that is empty or holds white space or one of * >", s)
		}
	}
	if strings.HasPrefix(rest, "$") || strings.HasPrefix(rest, "_INBOX.") {
		return fmt.Errorf("subject: %q begins with what NATS keeps for itself", s)
	}
	return nil
}
