// Package web is what the targets share that are reached by plain HTTP: a
// client with its certificates and its proxy, what it means that no answer
// came, and how to tell a target's answer from a captive portal's.
//
// Nothing here repeats a request, follows a redirect, or puts a secret into an
// error.
package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
	"forebay/uplink/stranger"
)

const (
	dialTimeout = 10 * time.Second
	// DefaultTimeout bounds a request where the config says nothing.
	DefaultTimeout = 30 * time.Second
	// slowest is the link on which a large body may take its time, in bytes a
	// second.
	slowest = 8 << 10
)

// Access is the part of a target's table that says how to get there. Targets
// embed it. Zero means the documented default.
type Access struct {
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// ClientCert and ClientKey are PEM files of a certificate to show to the
	// target, and of its key. They are read anew for each new connection.
	ClientCert string `toml:"client_cert"`
	ClientKey  string `toml:"client_key"`
	// Proxy is the way out: "http://HOST:PORT", "https://HOST:PORT" or
	// "socks5://HOST:PORT"; "off" for none. Default: what HTTPS_PROXY,
	// HTTP_PROXY and NO_PROXY say.
	Proxy string `toml:"proxy"`
	// ProxyUser and ProxyPassword are for a proxy that asks for them.
	ProxyUser     string      `toml:"proxy_user"`
	ProxyPassword conf.Secret `toml:"proxy_password"`
	// RequestTimeout bounds one request. One with a large body has a second
	// more for each 8 KiB of it. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (a Access) Check() error {
	for _, f := range []struct{ name, path string }{{"ca", a.CA}, {"client_cert", a.ClientCert}, {"client_key", a.ClientKey}} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if a.ClientCert == "" && a.ClientKey != "" {
		return errors.New("client_key: client_cert is missing beside it")
	}
	if a.ClientCert != "" && a.ClientKey == "" {
		return errors.New("client_cert: client_key is missing beside it")
	}
	if a.Proxy != "" && a.Proxy != "off" {
		u, err := url.Parse(a.Proxy)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5") || u.Host == "" || u.User != nil ||
			(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("proxy: this is not a proxy; write for example \"http://10.0.0.8:3128\", with user and password in proxy_user and proxy_password, or \"off\"")
		}
	}
	if a.ProxyUser == "" && a.ProxyPassword.IsSet() {
		return errors.New("proxy_password: proxy_user is missing beside it")
	}
	if a.ProxyUser != "" && (a.Proxy == "" || a.Proxy == "off") {
		return errors.New("proxy_user: proxy is missing beside it")
	}
	if d := a.RequestTimeout.D(); d != 0 && d < time.Second {
		return fmt.Errorf("request_timeout: %s is less than 1s", a.RequestTimeout)
	}
	return nil
}

// A Client makes requests, one at a time each. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	timeout time.Duration
	clock   clock
	met     atomic.Bool // something has answered in HTTP
}

// target is who a client was told to ask.
var target = stranger.Web("url")

// NewClient makes a client for as many connections at a time to a host. Errors:
// the CA file cannot be read.
func NewClient(a Access, conns int) (*Client, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CA != "" {
		pem, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", a.CA)
		}
	}
	if a.ClientCert != "" {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(a.ClientCert, a.ClientKey)
			if err != nil {
				return nil, &lane.Error{Class: lane.Auth, Text: "the client certificate cannot be read", Err: err}
			}
			return &c, nil
		}
	}
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return &Client{
		timeout: a.RequestTimeout.Or(DefaultTimeout),
		http: &http.Client{
			Transport: &http.Transport{
				Proxy:                 a.proxy,
				DialContext:           dialer.DialContext,
				TLSClientConfig:       t,
				TLSHandshakeTimeout:   dialTimeout,
				ExpectContinueTimeout: time.Second,
				ForceAttemptHTTP2:     true,
				// A dead link is found out by pings; else the next request
				// would go into the same dead connection.
				HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
				MaxIdleConnsPerHost: conns,
				IdleConnTimeout:     50 * time.Second, // most servers close after 60
				DisableCompression:  true,
				OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
					if resp.StatusCode == http.StatusProxyAuthRequired {
						return proxyAuth()
					}
					return nil
				},
			},
			// Who redirects a batch is a captive portal, or a url that is not quite right.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func proxyAuth() *lane.Error {
	return &lane.Error{Class: lane.Misconfigured, Code: "HTTP 407", Text: "the proxy asks for a user and a password, or refuses them; set proxy_user and proxy_password"}
}

func (a Access) proxy(req *http.Request) (*url.URL, error) {
	switch a.Proxy {
	case "":
		return http.ProxyFromEnvironment(req)
	case "off":
		return nil, nil
	}
	u, err := url.Parse(a.Proxy)
	if err != nil || a.ProxyUser == "" {
		return u, err
	}
	password, err := a.ProxyPassword.Reveal()
	if err != nil {
		return nil, &lane.Error{Class: lane.Auth, Text: "the proxy's password cannot be read", Err: err}
	}
	u.User = url.UserPassword(a.ProxyUser, password)
	return u, nil
}

// Timeout is how long a small request may take.
func (c *Client) Timeout() time.Duration { return c.timeout }

// Drop gives up the connections that are idle, so that the next request makes
// a new one.
func (c *Client) Drop() { c.http.CloseIdleConnections() }

// ClockOffset is how far the target's clock is ahead of ours; 0 until Learn.
func (c *Client) ClockOffset() time.Duration { return c.clock.offset() }

// Learn takes the time from an answer that is surely the target's.
func (c *Client) Learn(h http.Header) {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		c.clock.learn(t, time.Now())
	}
}

// Now is the target's time as far as it is known, else ours.
func (c *Client) Now() time.Time { return c.clock.now() }

// An Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	// Cut says that the body is longer than was asked for.
	Cut bool
	// TLS says that the target has proved its name.
	TLS bool
	// Took is how long it took.
	Took time.Duration
}

// An errTime is the cause of a deadline that is ours.
var errTime = errors.New("no answer in time")

// Do makes a request with a body, which must not change any more: the
// transport may read it even after the answer. Of the answer at most `most`
// bytes are kept. The error is a *lane.Error: Offline where nothing of the
// request can have arrived, Ambiguous where it may have.
//
// The transport repeats a request by itself only where it went into a
// connection that was closed before anything of the body was written.
func (c *Client) Do(ctx context.Context, req *http.Request, body []byte, most int64) (*Answer, *lane.Error) {
	limit := c.timeout + time.Duration(len(body))*time.Second/slowest
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errTime)
	defer cancel()
	var written, shaking atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders:      func() { written.Store(true) },
		TLSHandshakeStart: func() { shaking.Store(true) },
	}))
	if len(body) > 0 {
		// No GetBody: a header Idempotency-Key would make the transport repeat
		// what was written already, and the sink decides about that.
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
	}
	req.Header.Set("User-Agent", "forebay")
	start := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		e := c.lost(ctx, err, written.Load())
		switch {
		case !written.Load() && TimedOut(e) && shaking.Load():
			e.Text = "something takes the connection, and nothing answers to TLS there; look at url"
		case written.Load() && stranger.Closed(err) && req.URL.Scheme == "http" && !c.met.Load():
			e.Text += "; it may want TLS (" + target.Secure + ")"
		}
		return nil, e
	}
	c.met.Store(true)
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, c.lost(ctx, err, true)
	}
	if resp.TLS == nil && stranger.WantsTLS(resp.StatusCode, got) {
		return nil, &lane.Error{Class: lane.Misconfigured, Code: fmt.Sprintf("HTTP %d", resp.StatusCode), Text: target.Wanted()}
	}
	a := &Answer{Status: resp.StatusCode, Header: resp.Header, Body: got, TLS: resp.TLS != nil, Took: time.Since(start)}
	if int64(len(got)) > most {
		a.Body, a.Cut = got[:most], true
	}
	return a, nil
}

// TimedOut reports whether a request was given up for want of an answer.
func TimedOut(e *lane.Error) bool { return errors.Is(e, errTime) }

// lost says what it means that no whole answer came.
func (c *Client) lost(ctx context.Context, err error, written bool) *lane.Error {
	// *url.Error repeats the method and the address, which may hold a token.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if e := (*lane.Error)(nil); errors.As(err, &e) && !written {
		return e
	}
	// In TLS 1.3 a server tells only after the request that it wants another
	// certificate; it has not read the request then.
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" && (!written || strings.Contains(op.Err.Error(), "certificate")) {
		return &lane.Error{Class: lane.Auth, Text: "the target refuses the TLS connection: it may want another certificate of this gateway (client_cert)", Err: err}
	}
	timeout := errors.Is(context.Cause(ctx), errTime) || errors.Is(err, os.ErrDeadlineExceeded)
	if written {
		e := &lane.Error{Class: lane.Ambiguous, Text: "the connection was cut before the answer", Err: err}
		if timeout {
			e.Text, e.Err = "the request took too long (request_timeout)", errTime
			c.Drop()
			if !c.met.Load() {
				e.Text += "; nothing has ever answered there: look at url"
			}
		} else if why := target.Explain(err); why != "" {
			e.Text, e.Err = why, nil
		}
		return e
	}
	e := &lane.Error{Class: lane.Offline, Text: "cannot reach the target", Err: err}
	var (
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Text = "the target's certificate is not valid at this machine's time, " +
			time.Now().UTC().Format(time.RFC3339) + "; check the clock first"
	case target.Explain(err) != "":
		e.Text, e.Err = target.Explain(err), nil
	case errors.As(err, &dns):
		e.Text = "the target's name cannot be looked up"
	case timeout:
		e.Text, e.Err = "cannot reach the target in time", errTime
	}
	return e
}

// Short keeps what a stranger wrote printable, and within a line of a log.
func Short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strings.TrimSpace(s)
}
