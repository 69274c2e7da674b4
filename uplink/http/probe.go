package http

import (
	"context"
	"net/http"
	"strings"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// A greeting is what an answer to HEAD looks like.
type greeting struct {
	status int
	page   bool
}

const (
	// maxDoubts is how many probes in a row may say that there is a portal only
	// because HEAD is answered otherwise than before. Then a batch decides: the
	// target itself may answer otherwise by now.
	maxDoubts = 3
	// freshTime is how soon after an answer to HEAD a batch must be taken for
	// both to be of the same one.
	freshTime = 2 * time.Minute
)

// Probe asks whether the target is there. nil means, of probe_url, that it
// answered with success and no page. Without one it means no more than that
// something answers and nothing tells that it is another one than took the
// last batch: over plain HTTP a redirect or a page may be anybody's, but is
// likely a portal's where the same address has answered otherwise to HEAD and
// then taken a batch. That is said only after a batch that did not get through,
// and of at most maxDoubts probes until the next one.
func (s *Sink) Probe(ctx context.Context) error {
	if s.cfg.ProbeURL != "" {
		a, e := s.ask(ctx, http.MethodGet, s.cfg.ProbeURL)
		if e == nil && (a.Status < 200 || a.Status >= 300 || a.Page()) {
			e = a.Portal()
		}
		return asError(e)
	}
	s.mu.Lock()
	url := s.last
	s.mu.Unlock()
	if url == "" {
		url = strings.ReplaceAll(s.cfg.URL, streamMark, "forebay")
	}
	a, e := s.ask(ctx, http.MethodHead, url)
	switch {
	case e != nil:
		return e
	case a.Status == http.StatusNetworkAuthenticationRequired:
		return a.Portal()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.at(url)
	t.seen, t.seenAt = greeting{a.Status, a.Page()}, time.Now()
	redirect := a.Status >= 300 && a.Status < 400
	page := t.seen.page && a.Status < 300
	if !a.TLS && (redirect || page) && t.normal != (greeting{}) && t.normal != t.seen && t.doubts > 0 {
		t.seen = greeting{}
		t.doubts--
		return a.Portal()
	}
	return nil
}

// doubt notes that a batch was not taken. What was answered to HEAD last need
// not have been the target.
func (s *Sink) doubt(url string, class lane.Class) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.at(url)
	t.seen = greeting{}
	if class == lane.Offline || class == lane.Ambiguous {
		t.doubts = maxDoubts
	}
}

// settled takes what was answered to HEAD just before a batch was taken for the
// target's own answer. s.mu is held.
func (t *target) settled() {
	if t.seen != (greeting{}) && time.Since(t.seenAt) < freshTime {
		t.normal = t.seen
	}
	t.doubts = 0
}

// ask makes a request without a body.
func (s *Sink) ask(ctx context.Context, method, url string) (*web.Answer, *lane.Error) {
	req, e := s.request(ctx, method, url)
	if e != nil {
		return nil, e
	}
	a, e := s.client.Do(ctx, req, nil, maxAnswer)
	if e != nil && e.Class == lane.Ambiguous {
		e.Class = lane.Offline // nothing was to be committed
	}
	return a, e
}

// asError is e as an error: nil, if it is nil.
func asError(e *lane.Error) error {
	if e == nil {
		return nil
	}
	return e
}
