package http

import (
	"context"
	"net/http"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// A parcel is a request as it can be sent again.
type parcel struct {
	key, contentType string
	extra            map[string]string
	body             []byte // as it travels
	size             int    // of it before compression
}

// post sends a request, and keeps it as the target's control if it is taken.
func (s *Sink) post(ctx context.Context, q *request, out *lane.Outcome) verdict {
	body, err := s.coder.Encode(q.text)
	if err != nil {
		return verdict{err: &lane.Error{Class: lane.Transient, Text: "the request cannot be made", Err: err}}
	}
	p := &parcel{key: q.key, contentType: q.contentType, extra: q.extra, body: body, size: len(q.text)}
	v := s.deliver(ctx, q.url, p, out)
	if v.err == nil {
		s.accept(q.url, p)
	} else {
		s.doubt(q.url, v.err.Class)
	}
	v.sent = len(body)
	return v
}

// deliver sends a parcel and says what the answer means.
func (s *Sink) deliver(ctx context.Context, url string, p *parcel, out *lane.Outcome) verdict {
	req, e := s.request(ctx, s.cfg.Method, url)
	if e != nil {
		return verdict{err: e}
	}
	req.Header.Set("Content-Type", p.contentType)
	if enc := s.coder.Encoding(); enc != "" {
		req.Header.Set("Content-Encoding", enc)
	}
	req.Header.Set(s.cfg.IDHeader, p.key)
	for name, value := range p.extra {
		req.Header.Set(name, value)
	}
	out.Requests++
	out.Bytes += len(p.body)
	a, e := s.client.Do(ctx, req, p.body, maxAnswer)
	if e != nil {
		if web.TimedOut(e) {
			s.pace.Took(p.size, s.client.Timeout(), s.client.Timeout(), false)
		}
		return verdict{err: e, maybe: e.Class == lane.Ambiguous}
	}
	v := s.cfg.judge(a)
	s.pace.Took(p.size, a.Took, s.client.Timeout(), v.err == nil)
	switch {
	case v.err == nil && a.TLS:
		s.client.Learn(a.Header)
	case v.err != nil && v.err.Class == lane.Auth:
		s.client.Drop() // the next connection shows the certificate anew
	}
	return v
}

// request makes a request with the headers that go with every one. Secrets are
// read anew each time.
func (s *Sink) request(ctx context.Context, method, url string) (*http.Request, *lane.Error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, &lane.Error{Class: lane.Misconfigured, Text: "the address cannot be used (url)"}
	}
	for name, secret := range s.cfg.Headers {
		v, err := secret.Reveal()
		if err != nil {
			return nil, &lane.Error{Class: lane.Auth, Text: "the header " + name + " cannot be read", Err: err}
		}
		if !printable(v) {
			return nil, &lane.Error{Class: lane.Auth, Text: "the header " + name + " holds what may not stand in a header"}
		}
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = v
			continue
		}
		req.Header.Set(name, v)
	}
	switch {
	case s.cfg.Token.IsSet():
		v, err := s.cfg.Token.Reveal()
		if err != nil {
			return nil, &lane.Error{Class: lane.Auth, Text: "the token cannot be read", Err: err}
		}
		if !printable(v) {
			return nil, &lane.Error{Class: lane.Auth, Text: "the token holds what may not stand in a header"}
		}
		req.Header.Set("Authorization", "Bearer "+v)
	case s.cfg.User != "":
		v, err := s.cfg.Password.Reveal()
		if err != nil {
			return nil, &lane.Error{Class: lane.Auth, Text: "the password cannot be read", Err: err}
		}
		req.SetBasicAuth(s.cfg.User, v)
	}
	return req, nil
}
