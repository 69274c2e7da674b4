package kinesis

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"forebay/uplink/lane"
)

const (
	dialTimeout = 10 * time.Second
	// maxAnswer bounds an answer; 500 entries with the longest messages make
	// a tenth of it.
	maxAnswer = 4 << 20
	// slowest is the link on which a record that is larger than the pace may
	// take its time, in bytes a second.
	slowest = 16 << 10
)

func newClient(ca string) (*http.Client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", ca)
		}
	}
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       tlsConfig,
			TLSHandshakeTimeout:   dialTimeout,
			ExpectContinueTimeout: time.Second,
			ForceAttemptHTTP2:     true,
			// A dead link is found out by pings; else the next request would
			// go into the same dead connection.
			HTTP2:               &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
			MaxIdleConnsPerHost: 2 * parallel,
			IdleConnTimeout:     50 * time.Second, // the service closes after 60
			DisableCompression:  true,
		},
		// The service never redirects; a captive portal does.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// A buffer holds a request's body. The transport may still read it when the
// answer is there, so it goes back to the pool when both have let go of it.
type buffer struct {
	b    []byte
	refs atomic.Int32
	home *sync.Pool
}

func (s *Sink) buffer() *buffer {
	buf, ok := s.bodies.Get().(*buffer)
	if !ok {
		buf = &buffer{home: &s.bodies}
	}
	buf.refs.Store(1)
	return buf
}

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		b.home.Put(b)
	}
}

// reader gives the transport its own hold on the buffer.
func (b *buffer) reader() io.ReadCloser {
	b.refs.Add(1)
	return &bodyReader{Reader: bytes.NewReader(b.b), buf: b}
}

type bodyReader struct {
	*bytes.Reader
	buf  *buffer
	once sync.Once
}

func (r *bodyReader) Close() error {
	r.once.Do(r.buf.release)
	return nil
}

// call makes one request. err is an *Error unless the answer is a success that
// looks like the service's: status 200, body a JSON object. The answer's
// header is given as far as there is one.
func (s *Sink) call(ctx context.Context, op string, buf *buffer) (int, http.Header, []byte, error) {
	limit := s.timeout
	if over := len(buf.b) - 2*s.pace.size(); over > 0 {
		limit += time.Duration(over) * time.Second / slowest
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var written atomic.Bool
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { written.Store(true) },
	}), http.MethodPost, s.endpoint, nil)
	if err != nil {
		return 0, nil, nil, &Error{Class: lane.Misconfigured, Text: "the endpoint cannot be used", Err: err}
	}
	if req.URL.Path == "" {
		req.URL.Path = "/"
	}
	req.ContentLength = int64(len(buf.b))
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "Kinesis_20131202."+op)
	req.Header.Set("User-Agent", "forebay")
	if s.rising {
		req.Header.Set("X-Forebay-Lanes", "rising")
	}
	creds, err := s.creds.get(ctx)
	if err != nil {
		return 0, nil, nil, &Error{Class: lane.Auth, Text: "there are no credentials to sign with", Err: err}
	}
	sum := sha256.Sum256(buf.b)
	if err := s.signer.SignHTTP(ctx, creds, req, hex.EncodeToString(sum[:]), "kinesis", s.region, s.clock.now()); err != nil {
		return 0, nil, nil, &Error{Class: lane.Auth, Text: "the request cannot be signed", Err: err}
	}
	// From here on the transport owns a hold on the buffer. It repeats a
	// request only where nothing of it was written.
	req.Body = buf.reader()
	req.GetBody = func() (io.ReadCloser, error) { return buf.reader(), nil }
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, nil, nil, s.lost(err, written.Load())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, nil, s.lost(err, true)
	}
	if len(body) > maxAnswer {
		return 0, nil, nil, &Error{Class: lane.Offline, Text: portal(resp.StatusCode, resp.Header)}
	}
	if resp.StatusCode != http.StatusOK {
		e := failure(resp.StatusCode, resp.Header, body)
		if e.Code != "" {
			s.learn(resp.Header)
		}
		if e.Class == lane.Auth {
			s.creds.drop()
		}
		return resp.StatusCode, resp.Header, nil, e
	}
	return resp.StatusCode, resp.Header, body, nil
}

// learn takes the time from an answer that is surely the service's.
func (s *Sink) learn(h http.Header) {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		s.clock.learn(t, time.Now())
	}
}

// lost says what it means that no whole answer came.
func (s *Sink) lost(err error, written bool) *Error {
	// *url.Error repeats the method and the address.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	if written {
		e := &Error{Class: lane.Ambiguous, Text: "the connection was cut before the answer", Err: err}
		if timeout {
			e.Text, e.Err = "no answer within the request's timeout", nil
			s.client.CloseIdleConnections()
		}
		return e
	}
	e := &Error{Class: lane.Offline, Text: "cannot reach the target", Err: err}
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		dns     *net.DNSError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Text = "the target's certificate is not valid at this machine's time, " +
			time.Now().UTC().Format(time.RFC3339) + "; check the clock first"
	case errors.As(err, &unknown):
		e.Text = "the target's certificate is signed by nobody this machine trusts; set ca to the authority's file, or something stands in between"
	case errors.As(err, &host):
		e.Text = "the certificate belongs to another host; something stands in between"
	case errors.As(err, &dns):
		e.Text = "the target's name cannot be looked up"
	case timeout:
		e.Text, e.Err = "cannot reach the target in time", nil
	}
	return e
}
