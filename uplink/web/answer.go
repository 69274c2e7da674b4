package web

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"time"

	"forebay/uplink/lane"
)

// Page reports whether an answer is a web page: what a captive portal, a proxy
// or a login says to everybody, and no target to a batch of records. One
// without a media type is known by how it begins.
func (a *Answer) Page() bool {
	kind := a.kind()
	if kind == "text/html" || kind == "application/xhtml+xml" {
		return true
	}
	b := bytes.TrimLeft(bytes.TrimPrefix(a.Body, []byte("\xef\xbb\xbf")), " \t\r\n")
	b = bytes.ToLower(b[:min(len(b), 32)])
	return bytes.HasPrefix(b, []byte("<!doctype html")) || bytes.HasPrefix(b, []byte("<html"))
}

func (a *Answer) kind() string {
	kind, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// Portal is the error for an answer that is not the target's.
func (a *Answer) Portal() *lane.Error {
	kind := a.kind()
	if kind == "" {
		kind = "no media type"
	}
	e := &lane.Error{Class: lane.Offline, Text: fmt.Sprintf("something that is not the target answered (HTTP %d, %s)", a.Status, Short(kind))}
	switch {
	case a.Status >= 300 && a.Status < 400:
		e.Text += " with a redirect to " + a.where() + ": captive portal?"
	case a.Status == http.StatusNetworkAuthenticationRequired:
		e.Text = "the network wants a login first (HTTP 511)"
	case a.TLS:
		e.Text += ": a login page, or the address of a page and not of the target"
	default:
		e.Text += ": captive portal?"
	}
	return e
}

// where is the host that a redirect leads to.
func (a *Answer) where() string {
	r := http.Response{Header: a.Header}
	u, err := r.Location()
	if err != nil || u.Host == "" {
		return "another address of it"
	}
	return Short(u.Host)
}

// Failure is what a status that is no success means, for any HTTP server; nil
// where that is for the target's own code to say: 2xx, 400, 409, 413 and 422.
func (a *Answer) Failure() *lane.Error {
	e := &lane.Error{Code: fmt.Sprintf("HTTP %d", a.Status), Text: http.StatusText(a.Status), RetryAfter: a.RetryAfter(time.Now())}
	switch s := a.Status; {
	case s >= 200 && s < 300, s == http.StatusBadRequest, s == http.StatusConflict, s == http.StatusRequestEntityTooLarge, s == http.StatusUnprocessableEntity:
		return nil
	case s >= 300 && s < 400:
		if !a.TLS {
			return a.Portal()
		}
		e.Class, e.Text = lane.Misconfigured, "the target redirects to "+a.where()+"; a redirect is never followed, so set the address that it means"
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		e.Class, e.Text = lane.Auth, "the target refuses the credentials, or they may not write"
	case s == http.StatusProxyAuthRequired:
		return proxyAuth()
	case s == http.StatusTooManyRequests:
		e.Class, e.Text = lane.Throttled, "the target asks for less"
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusMisdirectedRequest, s == http.StatusInsufficientStorage:
		e.Class = lane.Transient
	case s == http.StatusServiceUnavailable:
		e.Class = lane.Transient
		if e.RetryAfter > 0 {
			e.Class = lane.Throttled
		}
	case s == http.StatusNetworkAuthenticationRequired:
		return a.Portal()
	case s == http.StatusNotImplemented, s == http.StatusHTTPVersionNotSupported:
		e.Class, e.Text = lane.Misconfigured, e.Text+": the address is not that of a target that takes records"
	case s >= 500:
		// The server, or a gateway in between, may have passed the batch on.
		e.Class = lane.Ambiguous
	case s == http.StatusUnsupportedMediaType:
		e.Class, e.Text = lane.Misconfigured, "the target does not take this media type or compression"
	case s == http.StatusNotFound, s == http.StatusGone, s == http.StatusMethodNotAllowed:
		e.Class, e.Text = lane.Misconfigured, e.Text+": the address or the method is not what the target takes records by"
	default:
		e.Class = lane.Misconfigured
	}
	if said := a.Said(); said != "" {
		e.Text += ": " + said
	}
	return e
}

// Said is how the body begins, for an operator; "" for a web page and what
// is no text.
func (a *Answer) Said() string {
	if len(a.Body) == 0 || a.Page() {
		return ""
	}
	return Short(string(a.Body[:min(len(a.Body), 200)]))
}

// maxWait is the longest wish that is heard; the pump bounds it further.
const maxWait = 24 * time.Hour

// RetryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date,
// which counts from the answer's own Date where it has one.
func (a *Answer) RetryAfter(now time.Time) time.Duration {
	v := a.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxWait)
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	if t, err := http.ParseTime(a.Header.Get("Date")); err == nil {
		now = t
	}
	return min(max(at.Sub(now), 0), maxWait)
}
