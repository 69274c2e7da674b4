package aws

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"forebay/uplink/lane"
	"forebay/uplink/stranger"
)

const (
	dialTimeout    = 10 * time.Second
	defaultTimeout = 30 * time.Second
	defaultConns   = 8
	// defaultAnswer bounds an answer that is read whole.
	defaultAnswer = 4 << 20
)

// Options say which service a Client speaks to.
type Options struct {
	// Service is what requests are signed for: "kinesis", "firehose", "s3".
	Service string
	// Prefix is the service's name in its AWS endpoint. Default: Service.
	Prefix string
	// Name is what an operator calls it: "Kinesis".
	Name string
	// Timeout bounds a request that does not say. Default 30s.
	Timeout time.Duration
	// Conns is how many connections are kept for the next request. Default 8.
	Conns int
	// Classify knows the codes of the service, false for the ones that mean
	// what they mean everywhere; message is in lower case, status that of the
	// whole answer. It may be nil.
	Classify func(code, message string, status int) (lane.Class, bool)
	// Now is the wall clock. Default time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// A Client makes signed requests to one service. It is safe for concurrent
// use.
type Client struct {
	name, service    string
	region, endpoint string
	timeout          time.Duration
	classify         func(code, message string, status int) (lane.Class, bool)

	http    *http.Client
	roots   *x509.CertPool // nil: the system's
	signer  *v4.Signer
	short   *shortSigner
	creds   *credentials
	clock   *clock
	bodies  sync.Pool   // *Buffer
	answers sync.Pool   // *Buffer
	met     atomic.Bool // something has answered in HTTP
}

// NewClient makes a client of an Access that Check has passed. Nothing is
// sent. Errors: the CA file cannot be read, or neither config nor environment
// says where to send.
func NewClient(a Access, o Options) (*Client, error) {
	c := &Client{
		name: o.Name, service: o.Service, timeout: o.Timeout, classify: o.Classify,
		signer: v4.NewSigner(), clock: newClock(o.Now),
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	if o.Service == "s3" { // its paths are escaped once
		c.signer = v4.NewSigner(func(s *v4.SignerOptions) { s.DisableURIPathEscaping = true })
	}
	if o.Prefix == "" {
		o.Prefix = o.Service
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if c.region, err = regionOf(a); err != nil {
		return nil, err
	}
	if c.endpoint = strings.TrimSuffix(a.Endpoint, "/"); c.endpoint == "" {
		c.endpoint = EndpointOf(o.Prefix, c.region)
	}
	if a.CA != "" {
		if c.roots, err = readCA(a.CA, x509.NewCertPool()); err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
	}
	c.short = &shortSigner{service: o.Service, region: c.region}
	proxy, err := a.proxy()
	if err != nil {
		return nil, err
	}
	conns := o.Conns
	if conns == 0 {
		conns = defaultConns
	}
	c.http = &http.Client{
		Transport: transport(c.tls(), proxy, conns),
		// The services never redirect; a captive portal does.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.creds = newCredentials(a, c.clock, proxy, o.Log)
	return c, nil
}

// tls judges certificates by the service's time.
func (c *Client) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.roots, Time: c.clock.certain}
}

func transport(t *tls.Config, proxy proxyFunc, conns int) *http.Transport {
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return &http.Transport{
		Proxy:                  proxy,
		OnProxyConnectResponse: proxyAnswer,
		DialContext:            wholeBodies(dialer.DialContext),
		TLSClientConfig:        t,
		TLSHandshakeTimeout:    dialTimeout,
		ExpectContinueTimeout:  time.Second,
		ForceAttemptHTTP2:      true,
		// A dead link is found out by pings; else the next request would
		// go into the same dead connection.
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		MaxIdleConnsPerHost: conns,
		IdleConnTimeout:     50 * time.Second, // the services close after 60
		DisableCompression:  true,
	}
}

// readCA adds the authorities of a PEM file to a pool.
func readCA(path string, pool *x509.CertPool) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return pool, nil
}

// Endpoint is where requests go, without a slash at the end.
func (c *Client) Endpoint() string { return c.endpoint }

// Region is what requests are signed for.
func (c *Client) Region() string { return c.region }

// ClockOffset is how far the service's clock is ahead of ours, to the second
// and half a round trip; 0 until the service has answered. Requests are signed
// with the service's time, so an offset is an alarm and not an outage.
func (c *Client) ClockOffset() time.Duration { return c.clock.offset() }

// Now is the service's time as far as it is known, else ours.
func (c *Client) Now() time.Time { return c.clock.now() }

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// A Request is one request to the service. The zero value posts nothing to
// the endpoint.
type Request struct {
	Method string // default POST
	// URL is absolute. Default: the endpoint's root.
	URL string
	// Header may be nil; it is the client's from now on.
	Header http.Header
	// Body is the body, or else Stream opens one of Size bytes (-1: as many as
	// come) whose SHA-256 in hex, or "UNSIGNED-PAYLOAD", is Sum. Neither: none.
	Body   *Buffer
	Stream func() (io.ReadCloser, error)
	Size   int64
	Sum    string
	// Timeout bounds the whole request, its answer's body included; 0 means
	// the client's, less than 0 none but ctx.
	Timeout time.Duration
	// Bare says that it holds no record, as those of GET and HEAD never do:
	// where no answer comes, nothing can have been taken.
	Bare bool
}

func (r *Request) bare() bool {
	return r.Bare || r.Method == http.MethodGet || r.Method == http.MethodHead
}

// An Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	secure bool
	buf    *Buffer // that Body is in
}

// Release gives the body's memory back for other answers; it must not be used
// any more. Who does not call it leaves it to the collector.
func (a *Answer) Release() {
	if a != nil && a.buf != nil {
		a.buf.B, a.Body = a.Body[:0], nil
		a.buf.Release()
		a.buf = nil
	}
}

// Send makes one request, and repeats nothing of which the service may have
// seen a part. err is a *lane.Error unless the answer's status is 2xx; the
// answer is nil only if there was none, and has a body only on success.
// Whether a success is the service's the caller finds out, and then tells the
// client by Learn.
func (c *Client) Send(ctx context.Context, r *Request) (*Answer, error) {
	resp, err := c.Open(ctx, r)
	if resp == nil {
		return nil, err
	}
	a := &Answer{Status: resp.StatusCode, Header: resp.Header, secure: resp.Request.URL.Scheme == "https"}
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	size := resp.ContentLength
	if resp.Request.Method == http.MethodHead {
		size = 0 // it is that of the body which a GET would have
	}
	a.buf = takeBuffer(&c.answers)
	if a.Body, err = readAll(a.buf.B, resp.Body, size); err != nil {
		a.Release()
		return nil, c.lost(err, true, r.bare())
	}
	if len(a.Body) > defaultAnswer {
		a.Release()
		return a, &lane.Error{Class: lane.Offline, Text: c.Portal(a.Status, a.Header)}
	}
	return a, nil
}

// readAll appends what r gives to b, and stops where it is too much for an
// answer. size is how much it will be, -1 if nobody said.
func readAll(b []byte, r io.Reader, size int64) ([]byte, error) {
	b = slices.Grow(b, int(min(max(size, 512), defaultAnswer))+1) // and a byte in which its end is found
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b, err
		case len(b) > defaultAnswer:
			return b, nil
		case len(b) == cap(b):
			b = slices.Grow(b, len(b))
		}
	}
}

// Open is Send for an answer that is not read whole: the caller reads and
// closes its body, which ends with the request's timeout.
func (c *Client) Open(ctx context.Context, r *Request) (*http.Response, error) {
	cancel := func() {}
	if limit := c.limit(r); limit > 0 {
		ctx, cancel = context.WithTimeout(ctx, limit)
	}
	resp, moved, err := c.once(ctx, r)
	if moved { // nothing was sent: the certificate told that it is later than we thought
		resp, _, err = c.once(ctx, r)
	}
	if err != nil {
		cancel()
		return resp, err
	}
	resp.Body = &ending{resp.Body, cancel}
	return resp, nil
}

// ending ends a request's context with its answer.
type ending struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (e *ending) Close() error {
	defer e.cancel()
	return e.ReadCloser.Close()
}

func (c *Client) limit(r *Request) time.Duration {
	if r.Timeout == 0 {
		return c.timeout
	}
	return r.Timeout
}

// once makes the request. moved reports that it was not made because of a
// certificate that is valid now that the clock was moved.
func (c *Client) once(ctx context.Context, r *Request) (resp *http.Response, moved bool, err error) {
	var written, shaking atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders:      func() { written.Store(true) },
		TLSHandshakeStart: func() { shaking.Store(true) },
	})
	req, err := c.request(traced, r)
	if err != nil {
		return nil, false, err
	}
	keys, err := c.sign(ctx, req, r) // not traced: it may ask others for credentials
	if err != nil {
		return nil, false, err
	}
	// From here on the transport owns a hold on the body. It repeats a request
	// only where nothing of it was written.
	switch {
	case r.Body != nil:
		req.ContentLength = int64(len(r.Body.B))
		req.Body = r.Body.reader()
		req.GetBody = func() (io.ReadCloser, error) { return r.Body.reader(), nil }
	case r.Stream != nil && r.Size != 0:
		if req.Body, err = r.Stream(); err != nil {
			return nil, false, &lane.Error{Class: lane.Transient, Text: "the body cannot be read", Err: err}
		}
		req.GetBody = r.Stream
	}
	resp, err = c.http.Do(req)
	if err != nil {
		moved = !written.Load() && c.moved(err, req.URL.Hostname())
		e := c.lost(err, written.Load(), r.bare())
		if !written.Load() && shaking.Load() && e.Text == tooLate {
			e.Text = "something takes the connection, and nothing answers to TLS there; look at " + c.peer().Key
		}
		return nil, moved, e
	}
	c.met.Store(true)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, false, nil
	}
	return resp, false, c.refused(resp, r, keys)
}

// request is the request without its body.
func (c *Client) request(ctx context.Context, r *Request) (*http.Request, error) {
	method, url := r.Method, r.URL
	if method == "" {
		method = http.MethodPost
	}
	if url == "" {
		url = c.endpoint + "/"
	}
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, &lane.Error{Class: lane.Misconfigured, Text: "the endpoint cannot be used", Err: err}
	}
	if r.Header != nil {
		req.Header = r.Header
	}
	req.Header.Set("User-Agent", "forebay")
	switch {
	case r.Body != nil:
		req.ContentLength = int64(len(r.Body.B))
	case r.Stream != nil:
		req.ContentLength = r.Size
	}
	return req, nil
}

const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// sign signs the request with the service's time.
func (c *Client) sign(ctx context.Context, req *http.Request, r *Request) (sdk.Credentials, error) {
	sum := r.Sum
	switch {
	case r.Body != nil:
		s := sha256.Sum256(r.Body.B)
		sum = hex.EncodeToString(s[:])
	case r.Stream == nil:
		sum = emptySum
	}
	keys, err := c.creds.get(ctx)
	if err != nil {
		return keys, err
	}
	if c.service == "s3" {
		req.Header.Set("X-Amz-Content-Sha256", sum)
	} else if c.short.plain(req) {
		c.short.sign(keys, req, sum, c.clock.now())
		return keys, nil
	}
	if err := c.signer.SignHTTP(ctx, keys, req, sum, c.service, c.region, c.clock.now()); err != nil {
		return keys, &lane.Error{Class: lane.Auth, Text: "the request cannot be signed", Err: err}
	}
	return keys, nil
}

// refused reads an answer that is not a success, and learns from it.
func (c *Client) refused(resp *http.Response, req *Request, keys sdk.Credentials) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil && resp.StatusCode < 400 {
		return c.lost(err, true, req.bare())
	}
	r := read(resp.Header, body)
	known := r.code != ""
	plain := resp.Request.URL.Scheme == "http"
	if plain && !known && stranger.WantsTLS(resp.StatusCode, body) {
		return &lane.Error{Class: lane.Misconfigured, Code: fmt.Sprintf("HTTP %d", resp.StatusCode), Text: c.peer().Wanted()}
	}
	if !known && resp.Request.Method == http.MethodHead {
		r.code = headCodes[resp.StatusCode]
	}
	e := c.judge(resp.StatusCode, resp.Header, r)
	if plain && !known && resp.StatusCode == http.StatusBadRequest && len(body) == 0 && e.Class == lane.Offline {
		e.Text += " Or it wants TLS (" + c.peer().Secure + ")"
	}
	if t := timeIn(resp.Header, r); known && !t.IsZero() {
		c.clock.learn(t, resp.Request.URL.Scheme == "https")
	}
	if e.Class == lane.Auth {
		c.creds.refused(keys)
	}
	return e
}

// headCodes are the codes of answers that have no room for one.
var headCodes = map[int]string{
	http.StatusBadRequest: "BadRequest", http.StatusForbidden: "AccessDenied", http.StatusNotFound: "NotFound",
	http.StatusConflict: "ConditionalRequestConflict", http.StatusPreconditionFailed: "PreconditionFailed",
	http.StatusMovedPermanently: "PermanentRedirect",
}

// Learn takes the time from an answer that is surely the service's.
func (c *Client) Learn(a *Answer) {
	if t, err := http.ParseTime(a.Header.Get("Date")); err == nil {
		c.clock.learn(t, a.secure)
	}
}
