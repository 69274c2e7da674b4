package sigv4

import (
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Signature is what a request says about its signing: parsed, complete and
// well formed, not yet verified.
type Signature struct {
	AccessKey string
	Region    string
	Service   string
	At        time.Time
	Presigned bool // it came in the URL

	date    string   // of the scope, YYYYMMDD
	headers []string // signed headers, lower case, in the order as sent
	sum     sum
	stamp   string        // At as it was sent
	expires time.Duration // of a presigned request; 0 if it gave none
	query   []param       // decoded, in the order of the URL
}

// A param is one name=value of the URL, percent-decoded. "+" is kept: a signed
// URL writes a space as %20.
type param struct{ name, value string }

// Value is a header of the request or, in a presigned request without that
// header, the parameter of the same name; "" if there is neither. name is in
// its canonical form, as in "X-Amz-Target".
func (sig *Signature) Value(r *http.Request, name string) string {
	v := r.Header.Get(name)
	if v == "" && sig.Presigned {
		v, _ = lookup(sig.query, name) // absent is "" too
	}
	return v
}

// Parse reads the signature's parts, in the header or in the URL, and checks
// that it covers what it must.
func Parse(r *http.Request) (*Signature, error) {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, incomplete("The query string is malformed.")
	}
	auth := r.Header["Authorization"]
	_, inQuery := lookup(query, "X-Amz-Algorithm")
	if !inQuery {
		_, inQuery = lookup(query, "X-Amz-Signature")
	}
	var sig *Signature
	switch {
	case len(auth) > 0 && inQuery:
		return nil, badSignature(textBoth)
	case len(auth) > 1:
		return nil, incomplete("Authorization header must stand once.")
	case len(auth) == 1 && strings.TrimSpace(auth[0]) != "":
		sig, err = parseAuthorization(auth[0], r.Header)
	case inQuery:
		sig, err = parsePresigned(query)
	default:
		return nil, refuse("MissingAuthenticationTokenException", textNoToken)
	}
	if err != nil {
		return nil, err
	}
	sig.query = query
	return sig, sig.covers(r)
}

func checkAlgorithm(given string) error {
	switch given {
	case algorithm:
		return nil
	case algorithmV4A:
		return incomplete("Unsupported AWS 'algorithm':%s (Signature Version 4A); use '%s'.", quoted(given), algorithm)
	}
	return incomplete("Unsupported AWS 'algorithm':%s; use '%s'.", quoted(given), algorithm)
}

func parseAuthorization(auth string, h http.Header) (*Signature, error) {
	given, rest, _ := strings.Cut(strings.TrimSpace(auth), " ")
	if err := checkAlgorithm(given); err != nil {
		return nil, err
	}
	names := [...]string{"Credential", "Signature", "SignedHeaders"}
	var values [len(names)]string
	var seen [len(names)]bool
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, incomplete("%s not a valid key=value pair (missing equal-sign) in Authorization header.", quoted(part)[1:])
		}
		i := slices.Index(names[:], name)
		switch {
		case i < 0: // a part that we do not know changes nothing
			continue
		case seen[i]:
			return nil, incomplete("Authorization header has%s twice.", quoted(name))
		}
		seen[i], values[i] = true, value
	}
	var missing []string
	for i, name := range names {
		if values[i] == "" {
			missing = append(missing, "Authorization header requires '"+name+"' parameter.")
		}
	}
	stamp := ""
	switch dates := h[headerDate]; {
	case len(dates) > 1:
		return nil, incomplete("'X-Amz-Date' header must stand once.")
	case len(dates) == 1:
		stamp = strings.TrimSpace(dates[0])
	default:
		if d, err := http.ParseTime(h.Get("Date")); err == nil {
			stamp = d.UTC().Format(timeLayout)
		} else {
			missing = append(missing, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
		}
	}
	if len(missing) > 0 {
		return nil, incomplete("%s", strings.Join(missing, " "))
	}
	return newSignature(values[0], values[2], values[1], stamp)
}

func parsePresigned(query []param) (*Signature, error) {
	get := func(name string) string { v, _ := lookup(query, name); return v }
	for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date"} {
		if get(name) == "" {
			return nil, incomplete(textBadQuery)
		}
	}
	seen := make(map[string]bool, len(query))
	for _, p := range query {
		if strings.HasPrefix(p.name, "X-Amz-") && seen[p.name] {
			return nil, incomplete("The query-string parameter%s stands twice.", quoted(p.name))
		}
		seen[p.name] = true
	}
	if err := checkAlgorithm(get("X-Amz-Algorithm")); err != nil {
		return nil, err
	}
	sig, err := newSignature(get("X-Amz-Credential"), get("X-Amz-SignedHeaders"), get("X-Amz-Signature"), get("X-Amz-Date"))
	if err != nil {
		return nil, err
	}
	sig.Presigned = true
	if e, given := lookup(query, "X-Amz-Expires"); given {
		n, err := strconv.ParseUint(e, 10, 32)
		if err != nil || n == 0 || time.Duration(n)*time.Second > maxPresignLife {
			return nil, incomplete("X-Amz-Expires must be a number of seconds from 1 to %d.", int(maxPresignLife/time.Second))
		}
		sig.expires = time.Duration(n) * time.Second
	}
	return sig, nil
}

// newSignature checks the form of the parts that both forms share.
func newSignature(credential, headers, signature, stamp string) (*Signature, error) {
	scope := strings.Split(credential, "/")
	if len(scope) < 5 {
		return nil, incomplete("Credential must have at least 5 slash-delimited elements, e.g. keyid/date/region/service/term.")
	}
	// An access key may hold slashes; the scope is the last four.
	n := len(scope) - 4
	sig := &Signature{
		AccessKey: strings.Join(scope[:n], "/"),
		date:      scope[n], Region: scope[n+1], Service: scope[n+2],
		headers: strings.Split(headers, ";"),
		stamp:   stamp,
	}
	if sig.AccessKey == "" || sig.Region == "" {
		return nil, incomplete("Credential must name an access key and a region.")
	}
	if _, err := time.Parse(dateLayout, sig.date); err != nil {
		return nil, incomplete("Date in Credential scope must be YYYYMMDD.")
	}
	if scope[n+3] != terminator {
		return nil, badSignature("Credential should be scoped with a valid terminator: '%s', not%s.", terminator, quoted(scope[n+3]))
	}
	if len(sig.headers) > maxSignedHeaders {
		return nil, incomplete("SignedHeaders must not name more than %d headers.", maxSignedHeaders)
	}
	for i, h := range sig.headers {
		if !validSignedHeader(h) || slices.Contains(sig.headers[:i], h) {
			return nil, incomplete("SignedHeaders must be lower-case header names, each once, separated by ';'.")
		}
	}
	if !decodeSum(&sig.sum, signature) {
		return nil, incomplete("Signature must be %d lower-case hexadecimal digits.", hex.EncodedLen(len(sig.sum)))
	}
	at, err := time.Parse(timeLayout, stamp)
	if err != nil {
		return nil, incomplete("Date must be in ISO-8601 'basic format'. Got%s. See http://en.wikipedia.org/wiki/ISO_8601", quoted(stamp))
	}
	sig.At = at
	return sig, nil
}

// maxSignedHeaders bounds the work on a header field of the largest size.
const maxSignedHeaders = 256

// decodeSum reads a signature: lower-case hexadecimal digits.
func decodeSum(to *sum, from string) bool {
	if len(from) != hex.EncodedLen(len(to)) || strings.ToLower(from) != from {
		return false
	}
	_, err := hex.Decode(to[:], []byte(from))
	return err == nil
}

// validSignedHeader reports whether h can stand in SignedHeaders: a field name
// in lower case, or the pseudo header that HTTP/2 clients sign for the host.
func validSignedHeader(h string) bool {
	if h == ":authority" {
		return true
	}
	for i := range len(h) {
		switch c := h[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return h != "" && len(h) <= 128
}

// covers holds the rules about what a signature must cover: the host, and
// every x-amz- header of the request, so that none of them can be added or
// changed on the way.
func (sig *Signature) covers(r *http.Request) error {
	if !slices.Contains(sig.headers, "host") && !slices.Contains(sig.headers, ":authority") {
		return badSignature(textNoSigned, "Host' or ':authority")
	}
	const prefix = "x-amz-"
	for name, values := range r.Header {
		if len(name) < len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		lower := strings.ToLower(name)
		if slices.Contains(sig.headers, lower) {
			continue
		}
		// A presigned URL carries such headers as parameters; one that repeats
		// its parameter changes nothing.
		if v, ok := lookup(sig.query, name); ok && sig.Presigned && len(values) == 1 && values[0] == v {
			continue
		}
		return badSignature(textNoSigned, lower)
	}
	return nil
}

func lookup(query []param, name string) (string, bool) {
	for _, p := range query {
		if p.name == name {
			return p.value, true
		}
	}
	return "", false
}

// parseQuery splits and decodes a raw query, keeping the order.
func parseQuery(raw string) ([]param, error) {
	if raw == "" {
		return nil, nil
	}
	var out []param
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, err := url.PathUnescape(name)
		if err != nil {
			return nil, err
		}
		v, err := url.PathUnescape(value)
		if err != nil {
			return nil, err
		}
		out = append(out, param{n, v})
	}
	return out, nil
}
