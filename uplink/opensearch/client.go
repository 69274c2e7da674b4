package opensearch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// maxAnswer bounds an answer: 100,000 items with an error each make half of it.
const maxAnswer = 64 << 20

// client speaks to a cluster.
type client struct {
	cfg  Config // with defaults
	base string // the URL without a slash at the end
	web  *web.Client
	code *web.Coder
	aws  *aws.Client // nil: requests are not signed
}

func newClient(cfg Config) (*client, error) {
	c := &client{cfg: cfg, base: strings.TrimSuffix(cfg.URL, "/")}
	var err error
	if c.web, err = web.NewClient(cfg.Access, parallel); err != nil {
		return nil, err
	}
	if c.code, err = web.NewCoder(cfg.Compression); err != nil {
		return nil, err
	}
	if cfg.AWS != nil {
		access := cfg.AWS.Access
		service, region := cfg.service()
		access.Endpoint, access.Region = cfg.URL, region
		if c.aws, err = aws.NewClient(access, aws.Options{Service: service, Name: "OpenSearch"}); err != nil {
			return nil, fmt.Errorf("aws.%w", err)
		}
	}
	return c, nil
}

func (c *client) close() {
	c.web.Drop()
	if c.aws != nil {
		c.aws.Close()
	}
}

// serverless reports whether it is OpenSearch Serverless, which lacks some of
// the API.
func (c *client) serverless() bool {
	service, _ := c.cfg.service()
	return service == "aoss"
}

// call makes a request: path begins with a slash, body is JSON or lines of it,
// or nil. n is the number of bytes that went out. err is nil for a 2xx that is
// JSON; else the answer, where there is one, holds what the service says.
func (c *client) call(ctx context.Context, method, path string, body []byte) (a *web.Answer, n int, err *lane.Error) {
	req, bad := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if bad != nil {
		return nil, 0, &lane.Error{Class: lane.Misconfigured, Text: "the address cannot be used (url)"}
	}
	if body != nil {
		if body, bad = c.code.Encode(body); bad != nil {
			return nil, 0, &lane.Error{Class: lane.Transient, Text: "the request cannot be made", Err: bad}
		}
		req.Header.Set("Content-Type", "application/json")
		if strings.HasPrefix(path, "/_bulk") {
			req.Header.Set("Content-Type", "application/x-ndjson")
		}
		if enc := c.code.Encoding(); enc != "" {
			req.Header.Set("Content-Encoding", enc)
		}
	}
	refused, err := c.authorize(ctx, req, body)
	if err != nil {
		return nil, 0, err
	}
	a, err = c.web.Do(ctx, req, body, maxAnswer)
	if err != nil {
		return nil, len(body), err
	}
	if err = c.judge(a); err == nil {
		c.learn(a)
		return a, len(body), nil
	}
	switch err.Class {
	case lane.Auth:
		refused()
		c.web.Drop() // the next connection shows the certificate anew
	case lane.ClockSkew:
		c.learn(a)
	}
	return a, len(body), err
}

// learn takes the time from an answer that is the service's.
func (c *client) learn(a *web.Answer) {
	if a.TLS || c.aws != nil {
		c.web.Learn(a.Header)
	}
	if c.aws != nil {
		c.aws.LearnTime(a.Header, a.TLS)
	}
}

// authorize sets the credentials, which are read anew each time.
func (c *client) authorize(ctx context.Context, req *http.Request, body []byte) (refused func(), _ *lane.Error) {
	refused = func() {}
	unread := func(what string, err error) (func(), *lane.Error) {
		return nil, &lane.Error{Class: lane.Auth, Text: what + " cannot be read", Err: err}
	}
	switch {
	case c.aws != nil:
		refused, err := c.aws.Sign(ctx, req, body)
		if err != nil {
			return nil, &lane.Error{Class: lane.Auth, Err: err}
		}
		return refused, nil
	case c.cfg.APIKey.IsSet():
		key, err := c.cfg.APIKey.Reveal()
		if err != nil {
			return unread("the API key", err)
		}
		req.Header.Set("Authorization", "ApiKey "+key)
	case c.cfg.User != "":
		password, err := c.cfg.Password.Reveal()
		if err != nil {
			return unread("the password", err)
		}
		req.SetBasicAuth(c.cfg.User, password)
	}
	return refused, nil
}

// A cause is why something was not done, in the service's words.
type cause struct {
	Type, Reason string
	CausedBy     *cause `json:"caused_by"`
}

// text is the reason, and the one behind it where that tells more.
func (c *cause) text() string {
	s := c.Reason
	for b, n := c.CausedBy, 0; b != nil && n < 3; b, n = b.CausedBy, n+1 {
		if b.Reason != "" && !strings.Contains(s, b.Reason) {
			s += ": " + b.Reason
		}
	}
	return web.Short(s)
}

// causeOf reads the error of an answer; nil if it tells of none. It may be an
// object, a text, or AWS's message.
func causeOf(body []byte) *cause {
	var in struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	if json.Unmarshal(body, &in) != nil {
		return nil
	}
	var e cause
	switch {
	case json.Unmarshal(in.Error, &e) == nil && (e.Type != "" || e.Reason != ""):
		return &e
	case json.Unmarshal(in.Error, &e.Reason) == nil && e.Reason != "":
		return &e
	case in.Message != "":
		return &cause{Reason: in.Message}
	}
	return nil
}

// judge says what a whole answer means. What is no JSON is not the service's.
func (c *client) judge(a *web.Answer) *lane.Error {
	if a.Status >= 200 && a.Status < 300 {
		if a.Page() || a.Cut || !json.Valid(a.Body) {
			return a.Portal()
		}
		return nil
	}
	why := causeOf(a.Body)
	if why == nil {
		if e := a.Failure(); e != nil {
			return e
		}
		why = &cause{Reason: "it does not say why"}
	}
	e := &lane.Error{Code: web.Short(why.Type), Text: why.text(), RetryAfter: a.RetryAfter(c.web.Now())}
	if e.Code == "" {
		e.Code = fmt.Sprintf("HTTP %d", a.Status)
	}
	low := strings.ToLower(why.Reason)
	switch s := a.Status; {
	case strings.Contains(low, "signature expired"), strings.Contains(low, "signature not yet current"):
		e.Class, e.Text = lane.ClockSkew, "the target says that this machine's clock is wrong: "+e.Text
	case s == http.StatusUnauthorized, s == http.StatusForbidden && !strings.Contains(why.Type, "block"):
		e.Class, e.Text = lane.Auth, "the target refuses the credentials, or they may not write: "+e.Text
	case s == http.StatusTooManyRequests:
		e.Class = lane.Throttled
	case s == http.StatusServiceUnavailable:
		e.Class = lane.Transient
	case s == http.StatusRequestEntityTooLarge:
		e.Class = lane.Poison
	case s >= 500:
		e.Class = lane.Ambiguous
	case s == http.StatusRequestTimeout:
		e.Class = lane.Transient
	default:
		e.Class = lane.Misconfigured
	}
	return e
}
