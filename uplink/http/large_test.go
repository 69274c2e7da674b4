package http_test

import (
	"encoding/hex"
	"math/rand/v2"
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
		// Smaller than one that was taken, and larger.
		want(t, send(t, s, batch(101, numbers(100)...)), 0, lane.Misconfigured, "too large")
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

// What was taken says nothing of what is too large: a proxy counts what
// travels, and limits are lowered. Where the target takes others, the record
// goes out once more and is then set aside.
func TestTooLargeThoughLargerWasTaken(t *testing.T) {
	for name, c := range map[string]struct {
		compression    string
		taken, refused string
		before, after  int // the limits
	}{
		"compressed": {"gzip", large(600_000), `"` + noise(200_000) + `"`, 64 << 10, 64 << 10},
		"lowered":    {"off", large(300_000), large(200_000), 1 << 20, 100_000},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t, above(c.before))
			s := open(t, httpuplink.Config{URL: srv.URL, Compression: c.compression})
			want(t, send(t, s, batch(1, c.taken)), 1, lane.OK, "")
			want(t, send(t, s, batch(2, "1")), 1, lane.OK, "")
			srv.become(above(c.after))
			want(t, send(t, s, batch(3, c.refused, "1")), 0, lane.Poison, "larger than the target takes")
			sizes := []int(nil)
			for _, p := range srv.came() {
				sizes = append(sizes, len(p.text))
			}
			if n := len(sizes); n < 3 || sizes[n-1] != sizes[n-3] || sizes[n-2] > 1000 {
				t.Errorf("requests of %d bytes; want the record, the control, the record", sizes)
			}
			want(t, send(t, s, batch(4, "1", "2")), 2, lane.OK, "")
		})
	}
}

// What called everything too large may be gone when the control is taken; then
// the record is not set aside.
func TestWhatCalledItTooLargeIsGone(t *testing.T) {
	srv := newServer(t, nil)
	s := open(t, httpuplink.Config{URL: srv.URL})
	want(t, send(t, s, batch(1, "1")), 1, lane.OK, "")
	first := true
	srv.become(func(w http.ResponseWriter, _ post) {
		if first {
			first = false
			w.WriteHeader(413)
		}
	})
	want(t, send(t, s, batch(2, large(5000))), 1, lane.OK, "")
	if n := len(srv.came()); n != 3 {
		t.Errorf("%d requests", n)
	}
	// And where the next answer is another one, that counts.
	n := 0
	srv.become(func(w http.ResponseWriter, _ post) {
		if n++; n != 2 {
			w.WriteHeader([]int{0, 413, 0, 503}[n])
		}
	})
	want(t, send(t, s, batch(3, large(5000))), 0, lane.Transient, "503")
}

// One lane, whose first record is too large for a target that has taken
// nothing yet: white space is the proof, after some tries. What calls that too
// large, too, gets nothing set aside.
func TestTheFirstRecordIsTooLarge(t *testing.T) {
	for _, body := range []string{"ndjson", "json", "single"} {
		for _, blank := range []int{200, 400} {
			srv := newServer(t, nil)
			limit := func(w http.ResponseWriter, p post) {
				if above(32<<10)(w, p); strings.Trim(p.text, " \n[]") == "" {
					w.WriteHeader(blank)
				}
			}
			srv.become(limit)
			s := open(t, httpuplink.Config{URL: srv.URL, Body: body})
			for range 5 {
				want(t, send(t, s, batch(1, large(40_000), "1", "2")), 0, lane.Misconfigured, "look at the limits")
			}
			srv.become(above(500))
			want(t, send(t, s, batch(1, large(40_000), "1", "2")), 0, lane.Misconfigured, "look at the limits")
			srv.become(limit)
			want(t, send(t, s, batch(1, large(40_000), "1", "2")), 0, lane.Poison, "larger than the target takes")
			want(t, send(t, s, batch(2, "1", "2")), 2, lane.OK, "")
		}
	}
	srv := newServer(t, above(500))
	s := open(t, httpuplink.Config{URL: srv.URL})
	for range 20 {
		want(t, send(t, s, batch(1, large(100_000), "1")), 0, lane.Misconfigured, "look at the limits")
	}
}

// What acknowledges batches in words of its own may have other words for none.
func TestAnEmptyBatchNeedsNoAcknowledgement(t *testing.T) {
	srv := newServer(t, func(w http.ResponseWriter, p post) {
		switch {
		case len(p.text) > 4000:
			w.WriteHeader(413)
		case strings.TrimSpace(p.text) == "":
			_, _ = w.Write([]byte(`{"error":"empty"}`))
		default:
			_, _ = w.Write([]byte(`{"ok":true}`))
		}
	})
	s := open(t, httpuplink.Config{URL: srv.URL, Expect: httpuplink.Expect{Field: "ok"}})
	for range 5 {
		want(t, send(t, s, batch(1, large(5000), "1")), 0, lane.Misconfigured, "look at the limits")
	}
	want(t, send(t, s, batch(1, large(5000), "1")), 0, lane.Poison, "larger than the target takes")
	want(t, send(t, s, batch(2, "1")), 1, lane.OK, "")
}

// Where white space is a record there is no proof to be had: the first record
// blocks its lane no longer than one that is refused with 400.
func TestTheFirstRecordIsTooLargeAndNothingCanProveIt(t *testing.T) {
	srv := newServer(t, above(4000))
	s := open(t, httpuplink.Config{URL: srv.URL, Body: "single", Format: "raw"})
	for range 5 {
		want(t, send(t, s, batch(1, large(5000), "1")), 0, lane.Misconfigured, "look at the limits")
	}
	want(t, send(t, s, batch(1, large(5000), "1")), 0, lane.Poison, "larger than the target takes")
	want(t, send(t, s, batch(2, "1")), 1, lane.OK, "")
	srv.become(above(-1))
	for range 8 { // what it took before is too large, too
		want(t, send(t, s, batch(3, large(5000))), 0, lane.Misconfigured, "refuses everything")
	}
}

// The limit falls below the only control there is.
func TestALimitBelowTheControl(t *testing.T) {
	for text, payloads := range map[string][]string{
		"refuses everything": {large(200_000)},      // also its control
		"calls one of":       {large(200_000), "1"}, // where what is too large is no control
	} {
		srv := newServer(t, above(1<<20))
		s := open(t, httpuplink.Config{URL: srv.URL})
		want(t, send(t, s, batch(1, large(300_000))), 1, lane.OK, "")
		srv.become(above(100_000))
		for range 5 {
			want(t, send(t, s, batch(2, payloads...)), 0, lane.Misconfigured, text)
		}
		want(t, send(t, s, batch(2, payloads...)), 0, lane.Poison, "larger than the target takes")
		want(t, send(t, s, batch(3, "1")), 1, lane.OK, "")
	}
}

// noise is a payload that no compression makes smaller than half.
func noise(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // it never fails
	return hex.EncodeToString(b)
}
