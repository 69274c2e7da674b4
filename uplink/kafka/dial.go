package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
	"forebay/uplink/stranger"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const dialTimeout = 10 * time.Second

// options are what every client of the sink has in common. Tries are few: the
// pump is the one who waits.
func (s *Sink) options(w *wire) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(s.cfg.Brokers...),
		kgo.ClientID(orDefault(s.cfg.ClientID, defaultClient)),
		kgo.SoftwareNameAndVersion("forebay", "1"),
		kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			return s.watch(ctx, w, network, addr)
		}),
		kgo.WithHooks(w),
		kgo.RequestTimeoutOverhead(min(dialTimeout, s.timeout)),
		kgo.RetryTimeout(s.timeout),
		kgo.RequestRetries(4),
		kgo.AlwaysRetryEOF(), // a cut link looks like a broker that wants a login
		kgo.RetryBackoffFn(func(n int) time.Duration {
			return min(50*time.Millisecond<<min(n, 5), time.Second)
		}),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.DisableClientMetrics(),
	}
	if m := s.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// dial opens a connection. Certificates are read anew each time, so that a
// changed file takes effect without a restart.
func (s *Sink) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{
		Timeout:         min(dialTimeout, s.timeout),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil || !s.cfg.secure() {
		return c, err
	}
	cfg, err := s.tlsConfig()
	if err != nil {
		_ = c.Close()
		return nil, &lane.Error{Class: lane.Auth, Text: "the certificates cannot be used", Err: err}
	}
	if cfg.ServerName, _, err = net.SplitHostPort(addr); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("dial %q: %w", addr, err)
	}
	hctx, cancel := context.WithTimeout(ctx, min(dialTimeout, s.timeout))
	defer cancel()
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(hctx); err != nil {
		_ = c.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, errNoTLS
		}
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return t, nil
}

// A foreigner has answered in place of a broker.
type foreigner struct {
	addr string
	err  error
	at   time.Time
}

// afresh is for how long a foreigner is not asked again: the client's own tries
// follow each other quickly.
const afresh = 2 * time.Second

// watch dials, and finds out where no broker answers. An answer begins with its
// length, which is never as much as 256 MiB (the protocol's guide, message size).
func (s *Sink) watch(ctx context.Context, w *wire, network, addr string) (net.Conn, error) {
	if f := w.other.Load(); f != nil && f.addr == addr && time.Since(f.at) < afresh {
		return nil, f.err
	}
	conn, err := s.dial(ctx, network, addr)
	if err == nil || ctx.Err() == nil { // one that was given up says nothing
		w.stood.Store(err == nil)
	}
	if err != nil {
		return nil, err
	}
	return stranger.Watch(conn, stranger.Options{
		Meant: "a Kafka broker",
		Known: func(first byte) bool { return first < 0x10 },
		Dial:  func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, network, addr) },
		Tell:  func(err error) { w.other.Store(&foreigner{addr, err, time.Now()}) },
	}), nil
}

func (s *Sink) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.cfg.CA != "" {
		pem, err := os.ReadFile(s.cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", s.cfg.CA)
		}
	}
	if s.cfg.Cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cfg.Cert, s.cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// mechanism is how we say who we are, nil if nobody asks. The secret is read
// anew for each connection.
func (s *Sink) mechanism() sasl.Mechanism {
	user := s.cfg.Username
	login := func(context.Context) (scram.Auth, error) {
		pass, err := reveal(s.cfg.Password)
		return scram.Auth{User: user, Pass: pass}, err
	}
	switch s.cfg.SASL {
	case "plain":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := reveal(s.cfg.Password)
			return plain.Auth{User: user, Pass: pass}, err
		})
	case "scram-sha-256":
		return scram.Sha256(login)
	case "scram-sha-512":
		return scram.Sha512(login)
	case "oauthbearer":
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			token, err := reveal(s.cfg.Password)
			return oauth.Auth{Zid: user, Token: token}, err
		})
	}
	return nil
}

func reveal(secret conf.Secret) (string, error) {
	text, err := secret.Reveal()
	if err != nil {
		return "", &lane.Error{Class: lane.Auth, Text: "the password cannot be read", Err: err}
	}
	return text, nil
}

// A wire watches a client's connections.
type wire struct {
	bytes    atomic.Int64 // of produce requests
	requests atomic.Int64 // that carry records or end a transaction
	// last is why the newest connect failed, nil if it worked.
	last atomic.Pointer[error]
	// other is who has answered in place of a broker, nil if one has since.
	other atomic.Pointer[foreigner]
	// stood says that the newest connection came about, TLS and all.
	stood atomic.Bool
	// throttled is until when a broker wants us to wait, in Unix nanoseconds.
	throttled atomic.Int64
}

// Keys of the requests that are counted (the protocol's guide, API keys).
const (
	keyProduce       = 0
	keyAddPartitions = 24
	keyEndTxn        = 26
)

var (
	_ kgo.HookBrokerWrite    = (*wire)(nil)
	_ kgo.HookBrokerConnect  = (*wire)(nil)
	_ kgo.HookBrokerThrottle = (*wire)(nil)
	_ kgo.HookBrokerRead     = (*wire)(nil)
)

// OnBrokerWrite counts what goes out.
func (w *wire) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, n int, _, _ time.Duration, _ error) {
	switch key {
	case keyProduce:
		w.bytes.Add(int64(n))
		w.requests.Add(1)
	case keyAddPartitions, keyEndTxn:
		w.requests.Add(1)
	}
}

// OnBrokerRead notes that a broker has answered.
func (w *wire) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err == nil {
		w.other.Store(nil)
	}
}

// OnBrokerConnect remembers why there is no connection.
func (w *wire) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil {
		w.last.Store(nil)
		return
	}
	w.last.Store(&err)
}

// OnBrokerThrottle remembers a broker's wish for less.
func (w *wire) OnBrokerThrottle(_ kgo.BrokerMetadata, d time.Duration, _ bool) {
	w.throttled.Store(time.Now().Add(d).UnixNano())
}

// refused is why the newest connect failed, nil if it worked.
func (w *wire) refused() error {
	if p := w.last.Load(); p != nil {
		return *p
	}
	return nil
}

// wait is how long a broker wants us to wait.
func (w *wire) wait() time.Duration {
	until := w.throttled.Load()
	if until == 0 {
		return 0
	}
	return max(time.Until(time.Unix(0, until)), 0)
}
