package web_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"forebay/uplink/web"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-5": 0, "x": 0, "999999999": 24 * time.Hour, "99999999999999999999": 0,
		"Mon, 23 Nov 2026 08:00:30 GMT": 30 * time.Second, "Mon, 23 Nov 2026 07:00:00 GMT": 0,
	} {
		a := web.Answer{Header: http.Header{"Retry-After": {in}}}
		if got := a.RetryAfter(now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	// The target's clock counts, not ours.
	a := web.Answer{Header: http.Header{"Retry-After": {"Mon, 23 Nov 2026 08:00:30 GMT"}, "Date": {"Mon, 23 Nov 2026 08:00:20 GMT"}}}
	if got := a.RetryAfter(now.AddDate(10, 0, 0)); got != 10*time.Second {
		t.Errorf("by the target's clock: %s", got)
	}
}

func TestPage(t *testing.T) {
	for _, c := range []struct {
		kind, body string
		page       bool
	}{
		{"text/html", "", true},
		{"TEXT/HTML; charset=utf-8", "x", true},
		{"application/xhtml+xml", "", true},
		{"", "\xef\xbb\xbf\n <!DOCTYPE HTML PUBLIC", true},
		{"application/json", "<Html><body>", true},
		{"application/json", `{"a":"<html>"}`, false},
		{"text/plain", "ok", false},
		{"", "", false},
		{"text/xml", "<ok/>", false},
		{";;", "<h", false},
	} {
		a := web.Answer{Header: http.Header{"Content-Type": {c.kind}}, Body: []byte(c.body)}
		if a.Page() != c.page {
			t.Errorf("%q %q: %v", c.kind, c.body, a.Page())
		}
	}
}

func TestCoder(t *testing.T) {
	text := []byte(strings.Repeat(`{"value":21.5}`, 1000))
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"off":  func(r io.Reader) (io.Reader, error) { return r, nil },
		"gzip": func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		"zstd": func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) },
	} {
		if err := web.CheckCompression(name); err != nil {
			t.Error(err)
		}
		c, err := web.NewCoder(name)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time with memory of the first
			b, err := c.Encode(text)
			if err != nil {
				t.Fatal(err)
			}
			r, err := open(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, text) {
				t.Errorf("%s: %d bytes came back: %v", name, len(got), err)
			}
			if name != "off" && len(b) > len(text)/10 || (c.Encoding() == "") != (name == "off") {
				t.Errorf("%s: %d bytes, encoding %q", name, len(b), c.Encoding())
			}
		}
	}
	if web.CheckCompression("br") == nil {
		t.Error("br is taken")
	}
}

// A request may become larger only where the last ones were quick, and is
// never smaller than a record needs.
func TestPace(t *testing.T) {
	p := web.NewPace(1 << 20)
	for range 10 {
		p.Took(p.Size(), time.Millisecond, 30*time.Second, true)
	}
	if p.Size() != 1<<20 {
		t.Errorf("grew to %d", p.Size())
	}
	p.Took(p.Size(), 12*time.Second, 30*time.Second, true)
	if p.Size() != 1<<19 {
		t.Errorf("a slow request: %d", p.Size())
	}
	for range 10 {
		p.Took(p.Size(), 30*time.Second, 30*time.Second, false)
	}
	if p.Size() != 16<<10 {
		t.Errorf("shrank to %d", p.Size())
	}
	p.Took(100, time.Millisecond, 30*time.Second, true)
	if p.Size() != 16<<10 {
		t.Errorf("a small request tells nothing: %d", p.Size())
	}
}
