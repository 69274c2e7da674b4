package http_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	httpuplink "forebay/uplink/http"
	"forebay/uplink/lane"
)

// A target that answers otherwise to HEAD from some day on is no portal: while
// nothing is to be sent no probe says so, and after an outage few do before a
// batch shows what it is.
func TestATargetMayAnswerOtherwiseToHEAD(t *testing.T) {
	var mu sync.Mutex
	plain := func(w http.ResponseWriter) { w.WriteHeader(405) }
	asks, gone := plain, false
	become := func(head func(http.ResponseWriter), away bool) {
		mu.Lock()
		defer mu.Unlock()
		asks, gone = head, away
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case gone:
			panic(http.ErrAbortHandler)
		case r.Method == http.MethodHead:
			asks(w)
		}
	}))
	defer srv.Close()
	s := open(t, httpuplink.Config{URL: srv.URL})
	next := 1
	probe := func(there bool) {
		t.Helper()
		if err := s.Probe(t.Context()); (err == nil) != there {
			t.Errorf("before batch %d: %v", next, err)
		}
	}
	taken := func() {
		t.Helper()
		want(t, send(t, s, batch(next, "1")), 1, lane.OK, "")
		next++
	}
	probe(true)
	taken()
	for _, head := range []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/html") },
		func(w http.ResponseWriter) {
			w.Header().Set("Location", "/login")
			w.WriteHeader(302)
		},
	} {
		become(head, false)
		for range 10 { // idle
			probe(true)
		}
		become(plain, false)
		probe(true)
		taken()
		become(plain, true)
		want(t, send(t, s, batch(next, "1")), 0, lane.Ambiguous, "")
		probe(false)
		become(head, false)
		for range 3 {
			probe(false)
		}
		probe(true)
		taken()
		// From now on this is how it answers.
		want(t, send(t, s, batch(next, "1")), 1, lane.OK, "")
		become(head, true)
		want(t, send(t, s, batch(next, "1")), 0, lane.Ambiguous, "")
		become(head, false)
		probe(true)
		taken()
	}
}

// Behind a portal that stays, each batch that fails is followed by few probes.
func TestAPortalIsDoubtedAnewAfterEachBatch(t *testing.T) {
	portal := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if portal {
			http.Redirect(w, r, "http://portal.test/", http.StatusFound)
		}
	}))
	defer srv.Close()
	s := open(t, httpuplink.Config{URL: srv.URL})
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, send(t, s, batch(1, "1")), 1, lane.OK, "")
	portal = true
	for range 4 {
		want(t, send(t, s, batch(2, "1")), 0, lane.Offline, "portal")
		said := 0
		for s.Probe(t.Context()) != nil && said < 10 {
			said++
		}
		if said != 3 {
			t.Errorf("%d probes in a row say that there is a portal", said)
		}
	}
	portal = false
	want(t, send(t, s, batch(2, "1")), 1, lane.OK, "")
}
