package uplink_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/rand/v2"
	nethttp "net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/http"
	"forebay/uplink/lane"
)

// collector takes batches as an HTTP target may, misbehaves as it is told, and
// holds its client to the promise that a key always means the same bytes.
type collector struct {
	t   *testing.T
	cfg http.Config
	srv *httptest.Server

	mu    sync.Mutex
	fault func() string
	keys  map[string]uint32 // the checksum of what came under a key
	taken map[string]bool   // keys that are committed
	ids   map[string]bool
	recs  []envelope.Opened
}

const collectorLimit = 1 << 20

// newCollector starts one, and completes a config that leads to it.
func newCollector(t *testing.T, cfg *http.Config) *collector {
	c := &collector{t: t, keys: map[string]uint32{}, taken: map[string]bool{}, ids: map[string]bool{}}
	c.srv = httptest.NewServer(c)
	t.Cleanup(c.srv.Close)
	cfg.URL = c.srv.URL + "/in/{stream}"
	cfg.Expect = http.Expect{Field: "status", Equals: "taken"}
	c.cfg = cfg.WithDefaults()
	return c
}

// misbehave makes it fail in the ways that f names.
func (c *collector) misbehave(f func() string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

var collectorFaults = []string{"429", "429", "500 after", "cut after", "cut before", "429", "503", "html", "html after", "redirect", "511", "other answer", "502 before", "408"}

func httpFar(t *testing.T, cfg http.Config) (uplink.Sink, *far) {
	c := newCollector(t, &cfg)
	s, err := uplink.New(uplink.Config{ID: "x", HTTP: &cfg}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, &far{
		payloads: func(l lane.Lane) (out []string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, r := range c.recs {
				if r.Stream == l.Stream && strings.Contains(r.ID, fmt.Sprintf("/%d/", l.Shard)) {
					out = append(out, string(r.Data))
				}
			}
			return out
		},
		flaky: func(on bool) {
			rng := rand.New(rand.NewPCG(5, 6))
			c.misbehave(func() string {
				if !on || rng.IntN(5) == 0 {
					return ""
				}
				return collectorFaults[rng.IntN(len(collectorFaults))]
			})
		},
		gone:     c.srv.Close,
		largest:  700 << 10,
		tooLarge: collectorLimit,
	}
}

func (c *collector) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	if r.Method == nethttp.MethodHead {
		w.WriteHeader(nethttp.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fault := ""
	if c.fault != nil {
		fault = c.fault()
	}
	switch fault {
	case "cut before":
		panic(nethttp.ErrAbortHandler)
	case "429":
		w.WriteHeader(429)
		return
	case "503":
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(503)
		return
	case "502 before":
		w.WriteHeader(502)
		return
	case "408":
		w.WriteHeader(408)
		return
	case "511":
		w.WriteHeader(511)
		return
	case "redirect":
		nethttp.Redirect(w, r, "http://portal.invalid/login", nethttp.StatusFound)
		return
	case "html":
		fmt.Fprint(w, "<!DOCTYPE html><title>Welcome</title>")
		return
	}
	status := c.take(r, body)
	switch fault {
	case "500 after":
		status = 500
	case "cut after":
		panic(nethttp.ErrAbortHandler)
	case "html after":
		fmt.Fprint(w, "<html>gateway</html>")
		return
	case "other answer":
		fmt.Fprint(w, `{"status":"welcome"}`)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, `{"status":"taken"}`)
}

// take commits a batch as a whole, or not at all.
func (c *collector) take(r *nethttp.Request, body []byte) int {
	text, err := decoded(r.Header.Get("Content-Encoding"), body)
	if err != nil {
		c.t.Errorf("body: %v", err)
		return 400
	}
	key := r.Header.Get("Idempotency-Key")
	sum := crc32.ChecksumIEEE(text)
	if was, known := c.keys[key]; key == "" || known && was != sum {
		c.t.Errorf("key %q has stood for other bytes before", key)
	}
	c.keys[key] = sum
	switch {
	case len(text) > collectorLimit:
		return 413
	case bytes.Contains(text, []byte("<<invalid>>")):
		return 422
	}
	if c.taken[key] {
		return 200
	}
	c.taken[key] = true
	var lines [][]byte
	switch want := c.cfg.Body; want {
	case "ndjson":
		lines = bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	case "single":
		lines = [][]byte{text}
	case "json":
		var all []json.RawMessage
		if err := json.Unmarshal(text, &all); err != nil {
			c.t.Errorf("the body is no array: %v", err)
		}
		for _, one := range all {
			lines = append(lines, one)
		}
	}
	for _, line := range lines {
		o, err := envelope.Open(line)
		if err != nil {
			c.t.Errorf("record %.80q: %v", line, err)
			return 400
		}
		if c.ids[o.ID] {
			c.t.Errorf("%s came a second time under another key", o.ID)
		}
		if c.ids[o.ID] = true; r.URL.Path != "/in/"+o.Stream {
			c.t.Errorf("a record of %s came to %s", o.Stream, r.URL.Path)
		}
		c.recs = append(c.recs, o)
	}
	return 200
}

func decoded(encoding string, body []byte) ([]byte, error) {
	switch encoding {
	case "":
		return body, nil
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	case "zstd":
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return z.DecodeAll(slices.Clone(body), nil)
	}
	return nil, fmt.Errorf("encoding %q", encoding)
}
