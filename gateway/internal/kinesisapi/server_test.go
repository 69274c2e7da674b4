package kinesisapi_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/smithy-go"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

// A clock is a wall clock that a test can move.
type clock struct {
	mu    sync.Mutex
	off   time.Duration
	still time.Time // where the clock stands; zero while it goes
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.still.IsZero() {
		return c.still.Add(c.off)
	}
	return time.Now().Add(c.off)
}

// Stop lets only Move move the clock.
func (c *clock) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.still = time.Now()
}

func (c *clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

// An inlet appends straight to the spool. Before, if it is set, may answer in
// the spool's stead.
type inlet struct {
	sp     *spool.Spool
	before func(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) (handled bool, err error)
}

func (in *inlet) PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	if in.before != nil {
		if handled, err := in.before(ctx, stream, recs, done); handled {
			return err
		}
	}
	st, err := in.sp.Stream(stream)
	if err != nil {
		return err
	}
	for i := range recs {
		recs[i].Source = "kinesis"
	}
	return st.Append(ctx, recs, done)
}

// A box is a running endpoint over a spool of its own.
type box struct {
	t     testing.TB
	sp    *spool.Spool
	in    *inlet
	srv   *kinesisapi.Server
	clock *clock
	stop  func() // ends Run and waits for it
	tls   bool
}

func start(t testing.TB, cfg kinesisapi.Config, sc spool.Config, opts ...kinesisapi.Option) *box {
	t.Helper()
	b := &box{t: t, clock: &clock{}, tls: cfg.TLSCert != ""}
	log := slog.New(slog.DiscardHandler)
	sc.Gateway, sc.Now = "test", b.clock.Now
	var err error
	if b.sp, err = spool.Open(t.Context(), t.TempDir(), sc, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.sp.Close(); err != nil {
			t.Errorf("close the spool: %v", err)
		}
	})
	b.in = &inlet{sp: b.sp}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if b.srv, err = kinesisapi.New(cfg, b.sp, b.in, b.clock.Now, log, opts...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.srv.Run(ctx) }()
	var once sync.Once
	b.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(b.stop)
	return b
}

func (b *box) url() string {
	if b.tls {
		return "https://" + b.srv.Addr()
	}
	return "http://" + b.srv.Addr()
}

// client is the real SDK's, with retries off so that each answer is seen. It
// speaks HTTP/2: over HTTP/1.1 the SDK now and then closes a connection under
// an answer that it is still reading ("use of closed network connection",
// aws-sdk-go-v2 #1825), which its retries would hide and a put would repeat.
// HTTP/1.1 is what the raw requests of these tests speak, and the uplink.
func (b *box) client(opts ...func(*kinesis.Options)) *kinesis.Client {
	b.t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), ForceAttemptHTTP2: true}
	tr.Protocols.SetUnencryptedHTTP2(true)
	tr.Protocols.SetHTTP2(true)
	b.t.Cleanup(tr.CloseIdleConnections)
	o := kinesis.Options{
		BaseEndpoint:     aws.String(b.url()),
		Region:           "eu-central-1",
		Credentials:      credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""),
		HTTPClient:       &http.Client{Transport: tr},
		RetryMaxAttempts: 1,
	}
	return kinesis.New(o, opts...)
}

func (b *box) create(name string, shards int) *spool.Stream {
	b.t.Helper()
	st, err := b.sp.CreateStream(b.t.Context(), spool.StreamConfig{Name: conf.Stream(name), Shards: shards, Class: record.ClassTelemetry})
	if err != nil {
		b.t.Fatal(err)
	}
	return st
}

// code is the error's name as the SDK gives it, "" for none.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	if err != nil {
		return "not an API error: " + err.Error()
	}
	return ""
}

// refused checks an error's name and a part of its text.
func refused(t *testing.T, err error, wantCode, wantText string) {
	t.Helper()
	if got := code(err); got != wantCode {
		t.Errorf("error is %q (%v), want %q", got, err, wantCode)
		return
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok && !strings.Contains(api.ErrorMessage(), wantText) {
		t.Errorf("%s says %q, want a text with %q", wantCode, api.ErrorMessage(), wantText)
	}
}

// eventually polls until ok or a deadline.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen within 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestConfigCheck(t *testing.T) {
	key := kinesisapi.Key{AccessKey: "AK", SecretKey: conf.NewSecret("s")}
	for _, c := range []struct {
		name, field string
		cfg         kinesisapi.Config
	}{
		{"zero", "", kinesisapi.Config{}},
		{"off", "", kinesisapi.Config{Listen: "off"}},
		{"loopback v6", "", kinesisapi.Config{Listen: "[::1]:4567"}},
		{"open with keys and certificate", "", kinesisapi.Config{Listen: "0.0.0.0:4567", Keys: []kinesisapi.Key{key}, TLSCert: "c", TLSKey: "k"}},
		{"open without keys", "listen", kinesisapi.Config{Listen: "0.0.0.0:4567"}},
		{"open without host", "listen", kinesisapi.Config{Listen: ":4567"}},
		{"open without certificate", "listen", kinesisapi.Config{Listen: "192.0.2.1:4567", Keys: []kinesisapi.Key{key}}},
		{"region", "region", kinesisapi.Config{Region: "Nowhere!"}},
		{"account", "account", kinesisapi.Config{Account: "12"}},
		{"certificate alone", "tls_key", kinesisapi.Config{TLSCert: "c"}},
		{"key alone", "tls_cert", kinesisapi.Config{TLSKey: "k"}},
		{"empty access key", "access_key", kinesisapi.Config{Keys: []kinesisapi.Key{{SecretKey: conf.NewSecret("s")}}}},
		{"twice", "access_key", kinesisapi.Config{Keys: []kinesisapi.Key{key, key}}},
		{"clock", "clock", kinesisapi.Config{Clock: "loose"}},
		{"unsynced clock", "", kinesisapi.Config{Clock: "unsynced"}},
		{"policy", "", kinesisapi.Config{Keys: []kinesisapi.Key{{AccessKey: "AK", SecretKey: conf.NewSecret("s"), Read: []string{"a", "b*", "c?", "[d-f]*"}, Admin: []string{"*"}}}}},
		{"empty pattern", "read", kinesisapi.Config{Keys: []kinesisapi.Key{{AccessKey: "AK", SecretKey: conf.NewSecret("s"), Read: []string{""}}}}},
		{"pattern that is none", "write", kinesisapi.Config{Keys: []kinesisapi.Key{{AccessKey: "AK", SecretKey: conf.NewSecret("s"), Write: []string{"a["}}}}},
		{"pattern with a slash", "admin", kinesisapi.Config{Keys: []kinesisapi.Key{{AccessKey: "AK", SecretKey: conf.NewSecret("s"), Admin: []string{"a/b"}}}}},
		{"no secret", "secret_key", kinesisapi.Config{Keys: []kinesisapi.Key{{AccessKey: "AK"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.cfg.Check()
			field := ""
			if err != nil {
				field, _, _ = strings.Cut(err.Error(), ":")
			}
			if field != c.field {
				t.Errorf("error %v, want one about %q", err, c.field)
			}
		})
	}
	if _, err := kinesisapi.New(kinesisapi.Config{Listen: "0.0.0.0:0"}, nil, nil, time.Now, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an open door without keys was made")
	}
}

func TestStop(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	entered, release := make(chan struct{}), make(chan struct{})
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
		close(entered)
		<-release
		return false, nil
	}
	answered := make(chan error, 1)
	cl := b.client()
	go func() {
		_, err := cl.PutRecord(context.Background(), putRecord("s", "k", "late"))
		answered <- err
	}()
	<-entered
	if n := b.srv.Clients(); n != 1 {
		t.Errorf("%d clients, want 1", n)
	}
	stopped := make(chan struct{})
	go func() { b.stop(); close(stopped) }()
	eventually(t, "the end of service", func() bool { state, _ := b.srv.Health(); return state == "down" })
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("a put under way at the stop: %v", err)
	}
	<-stopped
	eventually(t, "the end of the last connection", func() bool { return b.srv.Clients() == 0 })
	if _, err := cl.ListStreams(t.Context(), nil); err == nil {
		t.Error("a stopped endpoint answers")
	}
}

func TestClosedDoor(t *testing.T) {
	b := start(t, kinesisapi.Config{Listen: "off"}, spool.Config{})
	state, reason := b.srv.Health()
	if b.srv.Addr() != "" || state != "down" || reason == "" || b.srv.Clients() != 0 {
		t.Errorf("closed door: addr %q, health %s %q", b.srv.Addr(), state, reason)
	}
	if b.srv.ID() != "kinesis" || b.srv.Kind() != "kinesis" {
		t.Errorf("id %q, kind %q", b.srv.ID(), b.srv.Kind())
	}
}
