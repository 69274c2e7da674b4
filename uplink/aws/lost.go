package aws

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/stranger"
)

type proxyFunc = func(*http.Request) (*url.URL, error)

// proxy is the way out: the config's, else the environment's.
func (a Access) proxy() (proxyFunc, error) {
	if a.Proxy == "" {
		return http.ProxyFromEnvironment, nil
	}
	u, err := url.Parse(a.Proxy)
	if err != nil {
		return nil, fmt.Errorf("proxy: this is not a proxy")
	}
	return func(*http.Request) (*url.URL, error) {
		if a.ProxyUser == "" {
			return u, nil
		}
		password, err := a.ProxyPassword.Reveal()
		if err != nil {
			return nil, fmt.Errorf("proxy_password: %w", err)
		}
		with := *u
		with.User = url.UserPassword(a.ProxyUser, password)
		return &with, nil
	}, nil
}

// near takes addresses of this machine and its host out of a proxy's way:
// that is where instance and container credentials are.
func near(proxy proxyFunc) proxyFunc {
	return func(r *http.Request) (*url.URL, error) {
		host := r.URL.Hostname()
		ip := net.ParseIP(host)
		if host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsLinkLocalUnicast() || hostNet.Contains(ip)) {
			return nil, nil
		}
		return proxy(r)
	}
}

// hostNet is where EC2 and EKS answer over IPv6.
var hostNet = &net.IPNet{IP: net.ParseIP("fd00:ec2::"), Mask: net.CIDRMask(32, 128)}

// A proxyError is a proxy's answer to CONNECT.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy answered HTTP %d %s", e.status, http.StatusText(e.status))
}

func proxyAnswer(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return &proxyError{resp.StatusCode}
	}
	return nil
}

// moved looks whether a request failed because of our clock alone, and moves
// it where that is certain.
func (c *Client) moved(err error, host string) bool {
	v, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok && c.clock.evidence(v.UnverifiedCertificates, c.roots, host)
}

// tooLate is what is said of a timeout before anything was sent.
const tooLate = "cannot reach the target in time"

// lost says what it means that no whole answer came to a request, which was
// written or not, and held records unless it is bare.
func (c *Client) lost(err error, written, bare bool) *lane.Error {
	// *url.Error repeats the method and the address.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	timeout := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	if written {
		e := &lane.Error{Class: lane.Ambiguous, Text: "the connection was cut before the answer", Err: err}
		if timeout {
			e.Text, e.Err = "no answer within the request's timeout", nil
			c.http.CloseIdleConnections()
			if !c.met.Load() {
				e.Text += ", and there never was one; look at " + c.peer().Key
			}
		} else if why := c.peer().Explain(err); why != "" {
			e.Text, e.Err = why, nil
		} else if stranger.Closed(err) && !c.met.Load() && strings.HasPrefix(c.endpoint, "http:") {
			e.Text += "; it may want TLS (" + c.peer().Secure + ")"
		}
		if bare {
			e.Class = lane.Offline
		}
		return e
	}
	return unreached(err, timeout, c.clock.certain(), c.peer())
}

// peer is who the client was told to ask.
func (c *Client) peer() stranger.Peer {
	if c.name == "OpenSearch" {
		return stranger.Web("url")
	}
	return stranger.Web("endpoint")
}

// unreached says why nothing was sent. now is what the certificate was held
// against.
func unreached(err error, timeout bool, now time.Time, peer stranger.Peer) *lane.Error {
	e := &lane.Error{Class: lane.Offline, Text: "cannot reach the target", Err: err}
	var (
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
		op      *net.OpError
		proxy   *proxyError
	)
	switch {
	case errors.As(err, &proxy):
		e.Text, e.Err = "the proxy does not let us through", proxy
		switch proxy.status {
		case http.StatusProxyAuthRequired:
			e.Class, e.Text, e.Err = lane.Misconfigured, proxyWants, nil
		case http.StatusForbidden, http.StatusMethodNotAllowed:
			e.Class, e.Text = lane.Misconfigured, "the proxy does not let us through; allow CONNECT to the target there"
		}
	case errors.As(err, &op) && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		e.Text = "the proxy cannot be reached"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Text, e.Err = outOfTime(invalid.Cert, now), nil
	case peer.Explain(err) != "":
		e.Text, e.Err = peer.Explain(err), nil
	case errors.As(err, &dns):
		e.Text = "the target's name cannot be looked up"
	case timeout:
		e.Text, e.Err = tooLate, nil
	}
	return e
}

// outOfTime says what to do about a certificate that is not valid now.
func outOfTime(cert *x509.Certificate, now time.Time) string {
	at := now.UTC().Format(time.RFC3339)
	if now.Before(cert.NotBefore) {
		return "the target's certificate is not valid at this machine's time, " + at + ", but from " + cert.NotBefore.UTC().Format(time.RFC3339) +
			"; check the clock first, and set it where it is wrong (timedatectl set-ntp true, or date -u -s TIME)"
	}
	return "the target's certificate is not valid at this machine's time, " + at + ", but was until " + cert.NotAfter.UTC().Format(time.RFC3339) +
		"; check the clock first, and set it where it is wrong (timedatectl set-ntp true, or date -u -s TIME); where it is right the target needs a new certificate"
}
