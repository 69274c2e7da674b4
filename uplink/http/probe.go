package http

import (
	"context"
	"net/http"
	"strings"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// A greeting is what an answer to HEAD looks like.
type greeting struct {
	status int
	page   bool
}

// Probe asks whether the target is there. nil means, of probe_url, that it
// answered with success and no page. Without one it means no more than that
// something answers and nothing tells that it is another one than took the
// last batch: over plain HTTP a redirect or a page may be anybody's, but is a
// portal's where the same address has answered otherwise to HEAD and then taken
// a batch.
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
	t.seen = greeting{a.Status, a.Page()}
	redirect := a.Status >= 300 && a.Status < 400
	if page := t.seen.page && a.Status < 300; !a.TLS && (redirect || page) && t.normal != (greeting{}) && t.normal != t.seen {
		t.seen = greeting{}
		return a.Portal()
	}
	return nil
}

// doubt forgets what was answered to HEAD last: it need not have been the
// target.
func (s *Sink) doubt(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(url).seen = greeting{}
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
