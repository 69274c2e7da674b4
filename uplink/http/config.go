// Package http is the uplink to anything that takes batches of records by
// HTTP: a collector, a webhook, a function behind a gateway, another Forebay's
// door for plain HTTP.
//
// Order: a lane has one request under way at a time, and a later record goes
// out only when what lies before it is acknowledged. Delivery is at least
// once: a batch of which nobody knows whether it arrived is sent again with
// the same records and the same Idempotency-Key, and in the envelope every
// record carries its id.
package http

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"forebay/gateway/conf"
	"forebay/uplink/web"
)

const (
	defaultBody    = 1 << 20
	mostBody       = 64 << 20
	leastBody      = 1 << 10
	defaultRecords = 10_000
	defaultHeader  = "Idempotency-Key"
	defaultConns   = 4
	streamMark     = "{stream}"
)

// Config is the table [uplink.http] of the config file. Zero means the
// documented default.
type Config struct {
	// URL is where to send, "https://HOST/PATH". "{stream}" in it stands for
	// the local stream's name. Required.
	URL string `toml:"url"`
	// Method is "POST" or "PUT". Default "POST".
	Method string `toml:"method"`
	// Body is how a batch looks: "ndjson" (a record a line), "json" (an array)
	// or "single" (one record a request). Default "ndjson".
	Body string `toml:"body"`
	// Format is what a record looks like: "envelope" (JSON with id, times,
	// source, attributes and data) or "raw" (the payload alone; ids, times and
	// attributes are lost, but for what body "single" sends in headers).
	// Default "envelope".
	Format string `toml:"format"`
	// ContentType is the media type of a request. Default: that of the body,
	// "application/x-ndjson" or "application/json"; of a single raw record its
	// own.
	ContentType string `toml:"content_type"`
	// Compression is "off", "gzip" or "zstd". Default "off": a target need not
	// take another.
	Compression string `toml:"compression"`
	// MaxBody is how many bytes a request may have before it is compressed;
	// 1KiB to 64MiB. A larger record goes alone. Default 1MiB.
	MaxBody conf.Size `toml:"max_body"`
	// MaxRecords is how many records a request may have. Default 10000.
	MaxRecords int `toml:"max_records"`
	// Connections is how many requests may be under way at a time, each for a
	// lane of its own. Default 4.
	Connections int `toml:"connections"`
	// IDHeader names the header that tells one batch from another. Default
	// "Idempotency-Key".
	IDHeader string `toml:"id_header"`
	// Headers are sent with every request. A value may be "env:NAME" or
	// "file:PATH".
	Headers map[string]conf.Secret `toml:"headers"`
	// Token is sent as "Authorization: Bearer TOKEN".
	Token conf.Secret `toml:"token"`
	// User and Password are sent as HTTP Basic.
	User     string      `toml:"user"`
	Password conf.Secret `toml:"password"`
	// Accept lists the statuses that acknowledge a batch. Default: every 2xx
	// but 207, which tells of each record by itself.
	Accept []int `toml:"accept"`
	// Expect is what an acknowledgement has beside its status. Default: it is
	// no web page.
	Expect Expect `toml:"expect"`
	// ProbeURL is asked with GET whether the target is there; any 2xx that is
	// no web page says so. Default: url is asked with HEAD, and every answer
	// says so; over plain HTTP, after a batch that did not get through, a
	// redirect or a web page where url has answered otherwise before only at the
	// fourth time: then a batch decides.
	ProbeURL string `toml:"probe_url"`

	web.Access
}

// Expect is the table expect of a target: what an answer must have to be an
// acknowledgement, beside its status. What is left out is not looked at.
type Expect struct {
	// Header names a header that it must have, and Value is what that holds;
	// left out, it may hold anything.
	Header string `toml:"header"`
	Value  string `toml:"value"`
	// Field is a dotted path into its body, which must be JSON ("result.status",
	// "items.0.ok"), and Equals is the value there as text; left out, it may be
	// any but null, false, 0 and the empty text.
	Field  string `toml:"field"`
	Equals string `toml:"equals"`
}

// taken are headers that have keys of their own in the config, or that only
// the transport may set.
var taken = []string{
	"Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Trailer", "Te", "Upgrade", "Expect", "Proxy-Authorization",
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if c.URL == "" {
		return errors.New("url: the target's address is missing")
	}
	if !validURL(c.URL) {
		return errors.New("url: this is not an address; write for example \"https://ingest.example.com/v1/{stream}\"; user, password and token have keys of their own")
	}
	if c.ProbeURL != "" && !validURL(c.ProbeURL) {
		return errors.New("probe_url: this is not an address; write for example \"https://ingest.example.com/health\"")
	}
	for _, f := range []struct {
		name, value string
		of          []string
	}{
		{"method", c.Method, []string{"POST", "PUT"}},
		{"body", c.Body, []string{"ndjson", "json", "single"}},
		{"format", c.Format, []string{"envelope", "raw"}},
	} {
		if f.value != "" && !slices.Contains(f.of, f.value) {
			return fmt.Errorf("%s: %q is not one of %s", f.name, f.value, strings.Join(f.of, ", "))
		}
	}
	if err := web.CheckCompression(c.Compression); err != nil {
		return err
	}
	if n := int64(c.MaxBody); n != 0 && (n < leastBody || n > mostBody) {
		return fmt.Errorf("max_body: %s is not between 1KiB and 64MiB", c.MaxBody)
	}
	if c.MaxRecords < 0 {
		return fmt.Errorf("max_records: %d is less than 1", c.MaxRecords)
	}
	if c.Connections < 0 || c.Connections > 64 {
		return fmt.Errorf("connections: %d is not between 1 and 64", c.Connections)
	}
	if !printable(c.ContentType) {
		return errors.New("content_type: holds what may not stand in a header")
	}
	for _, s := range c.Accept {
		if s < 200 || s > 599 || s >= 300 && s < 400 {
			return fmt.Errorf("accept: %d is not a status that can acknowledge; a redirect never does", s)
		}
	}
	if err := c.checkHeaders(); err != nil {
		return err
	}
	return c.Access.Check()
}

func (c Config) checkHeaders() error {
	if c.IDHeader != "" && !validHeader(c.IDHeader) {
		return fmt.Errorf("id_header: %q is not the name of a header that may be set", c.IDHeader)
	}
	for name := range c.Headers {
		if !validHeader(name) {
			return fmt.Errorf("headers: %q is not the name of a header that may be set here", name)
		}
		if strings.EqualFold(name, "Authorization") && (c.Token.IsSet() || c.User != "") {
			return errors.New("headers: give Authorization here, or token, or user and password; not two of them")
		}
	}
	if c.Token.IsSet() && c.User != "" {
		return errors.New("token: give either a token, or user and password")
	}
	if c.User == "" && c.Password.IsSet() {
		return errors.New("password: user is missing beside it")
	}
	if strings.Contains(c.User, ":") {
		return errors.New("user: a name for HTTP Basic has no colon")
	}
	e := c.Expect
	switch {
	case e.Header == "" && e.Value != "":
		return errors.New("expect: header is missing beside value")
	case e.Field == "" && e.Equals != "":
		return errors.New("expect: field is missing beside equals")
	case e.Header != "" && !token(e.Header):
		return fmt.Errorf("expect: %q is not the name of a header", e.Header)
	}
	return nil
}

func validURL(s string) bool {
	u, err := url.Parse(strings.ReplaceAll(s, streamMark, "x"))
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.Fragment == ""
}

func validHeader(name string) bool {
	return token(name) && !slices.Contains(taken, http.CanonicalHeaderKey(name))
}

// token reports whether s is a token of RFC 9110, section 5.6.2.
func token(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// printable reports whether s may be the value of a header.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	// A query may hold a token that was put there for want of a better place.
	where, _, _ := strings.Cut(c.URL, "?")
	return where
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	for _, f := range []struct {
		field *string
		value string
	}{
		{&c.Method, "POST"},
		{&c.Body, "ndjson"},
		{&c.Format, "envelope"},
		{&c.Compression, "off"},
		{&c.IDHeader, defaultHeader},
	} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	c.MaxBody = conf.Size(c.MaxBody.Or(defaultBody))
	if c.MaxRecords == 0 {
		c.MaxRecords = defaultRecords
	}
	if c.Connections == 0 {
		c.Connections = defaultConns
	}
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(web.DefaultTimeout))
	return c
}
