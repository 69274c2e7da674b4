package opensearch_test

import (
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
		want(t, send(t, s, batch(3, 102, numbers(100)...)), 0, lane.Misconfigured, "calls one of")
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
