package opensearch_test

import (
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"forebay/uplink/lane"
	"forebay/uplink/opensearch"
)

// above has a cluster answer 413 to requests with more than so many bytes, and
// note the largest that it took, and how many it did not.
func (c *cluster) above(limit int, largest, refused *int) {
	*largest, *refused = 0, 0
	c.answer = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		switch {
		case r.URL.Path != "/_bulk":
			return false
		case len(body) > limit:
			*refused++
			w.WriteHeader(413)
			return true
		}
		*largest = max(*largest, len(body))
		return false
	}
}

// Who calls everything too large gets nothing set aside; a document that is too
// large for a target that takes others is, and one that may be for any.
func TestTooLarge(t *testing.T) {
	c := newCluster(t)
	var largest, refused int
	text := func(n int) string { return `{"text":"` + strings.Repeat("x", n) + `"}` }
	s := open(t, opensearch.Config{URL: c.URL})
	c.above(-1, &largest, &refused)
	for range 8 {
		want(t, send(t, s, batch(3, 1, numbers(100)...)), 0, lane.Misconfigured, "takes nothing of this stream now")
	}
	c.above(4000, &largest, &refused)
	want(t, send(t, s, batch(3, 1, numbers(100)...)), 100, lane.OK, "")
	want(t, send(t, s, batch(3, 101, text(5000))), 0, lane.Poison, "larger than the target takes")
	c.above(-1, &largest, &refused)
	for range 8 {
		want(t, send(t, s, batch(3, 102, numbers(100)...)), 0, lane.Misconfigured, "refuses everything")
		want(t, send(t, s, batch(3, 102, text(5000), "1")), 0, lane.Misconfigured, "refuses everything")
	}
	c.above(1<<20, &largest, &refused)
	want(t, send(t, s, batch(3, 102, numbers(100)...)), 100, lane.OK, "")
	c.above(4000, &largest, &refused)
	fresh := open(t, opensearch.Config{URL: c.URL})
	want(t, send(t, fresh, batch(3, 1, text(100_000))), 0, lane.Poison, "larger than the target takes")
}

func TestRequestsGrowAgain(t *testing.T) {
	c := newCluster(t)
	var largest, refused int
	s := open(t, opensearch.Config{URL: c.URL, MaxBody: 128 << 10})
	payloads, next := make([]string, 400), 1
	for i := range payloads {
		payloads[i] = strings.Repeat("x", 1000)
	}
	round := func(n int) {
		for range n {
			want(t, send(t, s, batch(3, next, payloads...)), len(payloads), lane.OK, "")
			next += len(payloads)
		}
	}
	c.above(20<<10, &largest, &refused)
	round(2)
	if refused == 0 || refused > 6 {
		t.Errorf("%d requests were too large", refused)
	}
	c.above(20<<10, &largest, &refused)
	round(10)
	if refused > 6 {
		t.Errorf("%d requests of many are too large again", refused)
	}
	c.above(1<<20, &largest, &refused)
	round(60)
	if largest < 120<<10 {
		t.Errorf("the largest has %d bytes when the limit is gone", largest)
	}
}

// travels has a proxy answer 413 to bulk requests with more than so many bytes
// as they travel.
func (c *cluster) travels(limit int64) {
	c.answer = func(w http.ResponseWriter, r *http.Request, _ []byte) bool {
		if r.URL.Path != "/_bulk" || r.ContentLength <= limit {
			return false
		}
		w.WriteHeader(413)
		return true
	}
}

// What was taken says nothing of what is too large: a proxy counts what
// travels, and limits are lowered.
func TestTooLargeThoughLargerWasTaken(t *testing.T) {
	text := func(s string) string { return `{"text":"` + s + `"}` }
	noise := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // it never fails
	for _, compression := range []string{"gzip", "off"} {
		for _, control := range []bool{true, false} {
			c := newCluster(t)
			s := open(t, opensearch.Config{URL: c.URL, Compression: compression})
			want(t, send(t, s, batch(3, 1, text(strings.Repeat("x", 600_000)))), 1, lane.OK, "")
			if control {
				want(t, send(t, s, batch(4, 1, "1")), 1, lane.OK, "")
			}
			c.travels(64 << 10)
			if hard := text(hex.EncodeToString(noise)); control || compression == "gzip" {
				want(t, send(t, s, batch(3, 2, hard, "1")), 0, lane.Poison, "larger than the target takes")
			} else {
				// Nothing proves that it takes others, but white space.
				for range 5 {
					want(t, send(t, s, batch(3, 2, hard, "1")), 0, lane.Misconfigured, "calls one of")
				}
				want(t, send(t, s, batch(3, 2, hard, "1")), 0, lane.Poison, "larger than the target takes")
			}
			want(t, send(t, s, batch(3, 3, "1")), 1, lane.OK, "")
		}
	}
}

// What called a document too large may be gone when the control is taken.
func TestWhatCalledItTooLargeIsGone(t *testing.T) {
	c := newCluster(t)
	s := open(t, opensearch.Config{URL: c.URL})
	want(t, send(t, s, batch(3, 1, "1")), 1, lane.OK, "")
	for i, then := range []int{200, 503} {
		n := 0
		c.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
			status := []int{413, 200, then}[n]
			n++
			if status != 200 {
				w.WriteHeader(status)
			}
			return status != 200
		}
		o := send(t, s, batch(3, 2+i, strings.Repeat("x", 5000)))
		if then == 200 {
			want(t, o, 1, lane.OK, "")
		} else {
			want(t, o, 0, lane.Transient, "503")
		}
	}
}

// One lane, whose first document is too large for a target that has taken
// nothing yet.
func TestTheFirstDocumentIsTooLarge(t *testing.T) {
	c := newCluster(t)
	s := open(t, opensearch.Config{URL: c.URL})
	limit := func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		switch {
		case r.URL.Path != "/_bulk":
			return false
		case len(body) > 32<<10:
			w.WriteHeader(413)
		case !strings.HasSuffix(string(body), "\n"):
			fail(w, 400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
		default:
			return false
		}
		return true
	}
	c.answer = limit
	for range 5 {
		want(t, send(t, s, batch(3, 1, strings.Repeat("x", 40_000), "1")), 0, lane.Misconfigured, "http.max_content_length")
	}
	c.travels(500)
	for range 8 {
		want(t, send(t, s, batch(3, 1, strings.Repeat("x", 40_000), "1")), 0, lane.Misconfigured, "http.max_content_length")
		want(t, send(t, s, batch(3, 1, strings.Repeat("x", 100_000), "1")), 0, lane.Misconfigured, "http.max_content_length")
	}
	c.answer = func(w http.ResponseWriter, r *http.Request, body []byte) bool {
		if strings.TrimSpace(string(body)) != "" {
			return limit(w, r, body)
		}
		_, _ = w.Write([]byte("<!DOCTYPE html><title>Welcome</title>"))
		return true
	}
	want(t, send(t, s, batch(3, 1, strings.Repeat("x", 40_000), "1")), 0, lane.Offline, "portal")
	c.answer = limit
	want(t, send(t, s, batch(3, 1, strings.Repeat("x", 40_000), "1")), 0, lane.Poison, "larger than the target takes")
	want(t, send(t, s, batch(3, 2, "1")), 1, lane.OK, "")
}
