package stranger

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// A Peer is who was meant, and where the config says so.
type Peer struct {
	// Who is the far side: "the broker".
	Who string
	// Key names it in the config: "endpoint".
	Key string
	// Plain and Secure are what to write for a far side without TLS, and for
	// one with it: `tls = "off"`.
	Plain, Secure string
}

// Web is a far side that speaks HTTP.
func Web(key string) Peer {
	return Peer{Who: "the target", Key: key, Plain: "http:// in " + key, Secure: "https:// in " + key}
}

// Explain says what it means that a far side was met and no TLS came about, or
// no HTTP, and what to change in the config; "" where err is about something
// else.
func (p Peer) Explain(err error) string {
	if err == nil {
		return ""
	}
	var (
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		record  tls.RecordHeaderError
	)
	text := err.Error()
	_, malformed, isMalformed := strings.Cut(text, "malformed HTTP ")
	switch {
	case errors.As(err, &unknown):
		by := ""
		if unknown.Cert != nil {
			by = fmt.Sprintf(" (it names %q)", unknown.Cert.Issuer.String())
		}
		return p.Who + "'s certificate is signed by nobody this machine trusts" + by + "; set ca to the authority's file, or something stands in between"
	case errors.As(err, &host):
		return fmt.Sprintf("the certificate belongs to another host (%s), and not to %s; write a name that it has in %s, or something stands in between", names(host.Certificate), host.Host, p.Key)
	case errors.As(err, &record), strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return "what answers there does not speak TLS; write " + p.Plain + ", or the port that has TLS"
	case isMalformed && strings.HasPrefix(malformed, `response "\x15\x03`): // an alert, RFC 8446, 5.1 and 6
		return p.Who + " wants TLS; write " + p.Secure
	case isMalformed:
		return "what answers there is no web server: malformed HTTP " + malformed + "; look at " + p.Key
	}
	return ""
}

// Closed reports whether the far side has ended the connection: a server that
// takes something else for nonsense may close it, or reset it.
func Closed(err error) bool {
	for _, is := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

// Instead says who answered in place of it, and what to change in the config.
func (p Peer) Instead(other *Error) string {
	if other.WantsTLS() {
		return other.Error() + "; write " + p.Secure
	}
	return other.Error() + "; look at " + p.Key
}

// names is whom a certificate is for.
func names(c *x509.Certificate) string {
	if c == nil {
		return "unknown"
	}
	all := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return c.Subject.String()
	}
	if len(all) > 3 {
		all = append(all[:3], "…")
	}
	return strings.Join(all, ", ")
}

// WantsTLS reports whether an answer in plain HTTP is that of a server that
// takes HTTP over TLS only, as Go's, nginx, Apache, Jetty and Envoy word it.
func WantsTLS(status int, body []byte) bool {
	if status != 400 && status != 497 {
		return false
	}
	body = bytes.ToLower(body[:min(len(body), 2048)])
	for _, words := range []string{
		"http request to an https server", "plain http request was sent to https port", "speaking plain http to an ssl-enabled server port",
		"http request to https port", "combination of host and port requires tls",
	} {
		if bytes.Contains(body, []byte(words)) {
			return true
		}
	}
	return false
}

// Wanted is what to say then.
func (p Peer) Wanted() string { return p.Who + " wants TLS at this address; write " + p.Secure }
