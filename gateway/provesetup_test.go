package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/config"
)

const provable = `
[bandwidth]
limit_kbit = 900
[[uplink]]
id = "kinesis"
streams = ["mqtt"]
[uplink.kinesis]
endpoint = "https://kinesis.example.com"
region = "us-east-1"
stream = "press-shop"
access_key = "any"
secret_key = "very secret"
[[uplink.shape]]
when = "false"
[[uplink]]
id = "s3"
[uplink.s3]
endpoint = "http://s3.example.com:9000"
region = "us-east-1"
bucket = "lake"
prefix = "plant"
access_key = "any"
secret_key = "any"
[[uplink]]
id = "kafka"
[uplink.kafka]
brokers = ["k.example.com:9092"]
topic = "plant-{stream}"
[[uplink]]
id = "nats"
[uplink.nats]
servers = ["nats://n.example.com:4222"]
stream = "PLANT"
[[uplink]]
id = "search"
[uplink.opensearch]
url = "http://o.example.com:9200"
data_stream = true
[[uplink]]
id = "http"
[uplink.http]
url = "http://h.example.com/in"
`

// TestProofSetUp: the gateway under test has the customer's credentials and
// limits, writes to nothing but what bears the test's name, and goes over the
// link that the test can cut.
func TestProofSetUp(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "forebay.toml")
	if err := os.WriteFile(file, []byte(provable), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	const name = "prove-20261123-080000"
	for _, c := range []struct {
		id     string
		byHand bool
		has    []string // stands in the config
		err    string
	}{
		{"kinesis", false, []string{`secret_key = 'very secret'`, "stream = '" + name + "'", "create_shards = 2", "proxy = 'http://127.0.0.1:", "https://kinesis.example.com", "limit_kbit = 900"}, ""},
		{"kinesis", true, []string{"https://kinesis.example.com"}, ""},
		{"s3", false, []string{"endpoint = 'http://127.0.0.1:", "prefix = '" + name + "'", "bucket = 'lake'"}, ""},
		{"kafka", false, nil, "--by-hand"},
		{"kafka", true, []string{"topic = '" + name + "'", "cursor_topic = '" + name + "-cursors'", "transactional_id = '" + name + "'", "k.example.com:9092"}, ""},
		{"nats", true, []string{"stream = '" + name + "'", "subject = '" + name + ".{gateway}.{stream}.{shard}'", "create_stream = true"}, ""},
		{"search", false, []string{"url = 'http://127.0.0.1:", "index = '" + name + "'"}, ""},
		{"http", true, nil, "cannot be read back"},
	} {
		up, err := uplinkNamed(cfg, c.id)
		if err != nil {
			t.Fatal(err)
		}
		s, err := setUp(t.Context(), file, t.TempDir(), t.TempDir(), name, "", c.byHand, up)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.id, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.id, err)
			continue
		}
		text, err := os.ReadFile(s.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range append(c.has, "streams = ['"+name+"']") {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: %q is not in\n%s", c.id, want, text)
			}
		}
		for _, not := range []string{"press-shop", "'plant", "PLANT", "shape", "data_stream"} {
			if strings.Contains(string(text), not) {
				t.Errorf("%s: %q is in\n%s", c.id, not, text)
			}
		}
		if strings.Contains(s.direct.Target(), "127.0.0.1") || !strings.Contains(s.left, name) || (s.link == nil) != c.byHand {
			t.Errorf("%s: read back at %s, left %s", c.id, s.direct.Target(), s.left)
		}
		if s.link != nil {
			if err := s.link.close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestCutLink: a request passes by TCP and by CONNECT; while the link is cut
// nothing comes back and nothing is told; then it passes again.
func TestCutLink(t *testing.T) {
	far := func(tls bool) *httptest.Server {
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
		if tls {
			return httptest.NewTLSServer(h)
		}
		return httptest.NewServer(h)
	}
	for _, tls := range []bool{false, true} {
		srv := far(tls)
		t.Cleanup(srv.Close)
		to := ""
		if !tls {
			to = srv.Listener.Addr().String()
		}
		l, err := newCutLink(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		cl, target := srv.Client(), "http://"+l.addr()
		if tls {
			tr := cl.Transport.(*http.Transport)
			tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: l.addr()})
			target = srv.URL
		}
		ask := func(within time.Duration) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := cl.Do(req)
			if err != nil {
				return "", err
			}
			b, err := io.ReadAll(resp.Body)
			return string(b), errors.Join(err, resp.Body.Close())
		}
		for range 2 {
			if text, err := ask(10 * time.Second); err != nil || text != "here" {
				t.Errorf("tls %v: %q, %v", tls, text, err)
			}
			l.cut()
			if text, err := ask(200 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("tls %v, cut: %q, %v", tls, text, err)
			}
			l.mend()
		}
		if l.cuts.Load() == 0 {
			t.Errorf("tls %v: nothing vanished", tls)
		}
		cl.CloseIdleConnections()
		if err := l.close(); err != nil {
			t.Error(err)
		}
	}
}
