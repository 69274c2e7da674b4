package http_test

import (
	"net/http"
	"strings"
	"testing"

	httpuplink "forebay/uplink/http"
	"forebay/uplink/lane"
)

func large(n int) string { return `"` + strings.Repeat("x", n) + `"` }

func above(limit int) func(http.ResponseWriter, post) {
	return func(w http.ResponseWriter, p post) {
		if len(p.text) > limit {
			w.WriteHeader(413)
		}
	}
}

// Who calls everything too large gets nothing set aside: neither at the
// beginning, nor after it took others.
func TestWhoCallsEverythingTooLarge(t *testing.T) {
	srv := newServer(t, above(-1))
	s := open(t, httpuplink.Config{URL: srv.URL})
	for range 8 {
		want(t, send(t, s, batch(1, numbers(100)...)), 0, lane.Misconfigured, "takes nothing now")
	}
	srv.become(nil)
	want(t, send(t, s, batch(1, numbers(100)...)), 100, lane.OK, "")
	srv.become(above(-1))
	for range 8 {
		// Smaller than one that was taken.
		want(t, send(t, s, batch(101, numbers(100)...)), 0, lane.Misconfigured, "calls one of")
		// Larger, but what it took before is refused now, too.
		want(t, send(t, s, batch(101, large(5000), "1")), 0, lane.Misconfigured, "too large")
	}
	srv.become(nil)
	want(t, send(t, s, batch(101, numbers(100)...)), 100, lane.OK, "")
	if p := srv.came(); len(p) > 40 {
		t.Errorf("%d requests for 100 records afterwards", len(p))
	}
}

// A record that is too large for a target that takes others is set aside at
// once; one that may well be too large for any, also where nothing was taken.
func TestARecordThatIsTooLarge(t *testing.T) {
	srv := newServer(t, above(4000))
	s := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, s, batch(1, "1", large(5000), "2")), 1, lane.Poison, "larger than the target takes")
	want(t, send(t, s, batch(3, large(5000))), 0, lane.Poison, "larger than the target takes")
	fresh := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, fresh, batch(1, large(100_000))), 0, lane.Poison, "larger than the target takes")
}

// After a refusal requests grow again where the target takes more.
func TestRequestsGrowAgain(t *testing.T) {
	const limit = 8 << 10
	srv := newServer(t, above(limit))
	s := open(t, httpuplink.Config{URL: srv.URL, MaxBody: 32 << 10})
	payloads := make([]string, 400)
	for i := range payloads {
		payloads[i] = large(300)
	}
	next := 1
	round := func(n int) (largest, refused int) {
		srv.mu.Lock()
		srv.posts = nil
		srv.mu.Unlock()
		for range n {
			want(t, send(t, s, batch(next, payloads...)), len(payloads), lane.OK, "")
			next += len(payloads)
		}
		for _, p := range srv.came() {
			if len(p.text) > limit {
				refused++
			}
			largest = max(largest, len(p.text))
		}
		return largest, refused
	}
	if _, refused := round(1); refused == 0 || refused > 6 {
		t.Errorf("%d requests were too large", refused)
	}
	round(10)
	if _, refused := round(20); refused > 4 {
		t.Errorf("%d requests of many are too large again", refused)
	}
	srv.turn(nil)
	if largest, _ := round(60); largest < 28<<10 {
		t.Errorf("the largest has %d bytes when the limit is gone", largest)
	}
}
