package kinesisapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Signature Version 4, the server's side. The scheme is the one of "Create a
// signed AWS API request" in the IAM User Guide; the texts of the refusals are
// those that AWS's services answer with.

const (
	sigAlgorithm    = "AWS4-HMAC-SHA256"
	sigTerminator   = "aws4_request"
	sigService      = "kinesis"
	sigTime         = "20060102T150405Z"
	sigDate         = "20060102"
	sigSkew         = 5 * time.Minute
	maxPresignLife  = 7 * 24 * time.Hour
	unsignedPayload = "UNSIGNED-PAYLOAD"

	headerContentSHA = "X-Amz-Content-Sha256"
	headerTarget     = "X-Amz-Target"
	headerDate       = "X-Amz-Date"
)

const (
	textMismatch   = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	textBadToken   = "The security token included in the request is invalid."
	textNoToken    = "Missing Authentication Token"
	textNoSigned   = "'%s' must be a 'SignedHeader' in the AWS Authorization."
	textBadQuery   = "AWS query-string parameters must include 'X-Amz-Algorithm', 'X-Amz-Credential', 'X-Amz-Signature', 'X-Amz-SignedHeaders' and 'X-Amz-Date'. Re-examine the query-string parameters."
	textBothForms  = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
	textWrongScope = "Credential should be scoped to correct service: '" + sigService + "'."
)

func incomplete(format string, args ...any) *apiError {
	return refuse("IncompleteSignatureException", format, args...)
}

func badSignature(format string, args ...any) *apiError {
	return refuse("InvalidSignatureException", format, args...)
}

// A signature is what a request says about its signing: parsed, complete and
// well formed, not yet verified.
type signature struct {
	accessKey string
	date      string // of the scope, YYYYMMDD
	region    string
	service   string
	headers   []string // signed headers, lower case, sorted as sent
	sum       [sha256.Size]byte
	at        time.Time
	stamp     string        // at as it was sent
	presigned bool          // query form
	expires   time.Duration // of a presigned request; 0 if it gave none
	query     []queryParam  // decoded, in the order of the URL
}

// A queryParam is one name=value of the URL, percent-decoded. "+" is kept: a
// signed URL writes a space as %20.
type queryParam struct{ name, value string }

// A verifier holds what signatures are checked against.
type verifier struct {
	keys map[string]Key // by access key; empty: any well-formed signature passes
	now  func() time.Time
}

// parse reads the signature's parts, in the header or the query form.
func (v *verifier) parse(r *http.Request) (*signature, error) {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, incomplete("The query string is malformed.")
	}
	auth := r.Header.Values("Authorization")
	_, inQuery := lookup(query, "X-Amz-Algorithm")
	if !inQuery {
		_, inQuery = lookup(query, "X-Amz-Signature")
	}
	var sig *signature
	switch {
	case len(auth) > 0 && inQuery:
		return nil, badSignature(textBothForms)
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
	return sig, sig.checkScope(r)
}

func parseAuthorization(auth string, h http.Header) (*signature, error) {
	algorithm, rest, _ := strings.Cut(strings.TrimSpace(auth), " ")
	if algorithm != sigAlgorithm {
		return nil, incomplete("Unsupported AWS 'algorithm':%s; use '%s'.", quoted(algorithm), sigAlgorithm)
	}
	parts := make(map[string]string, 3)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, incomplete("%s not a valid key=value pair (missing equal-sign) in Authorization header.", quoted(part)[1:])
		}
		if _, twice := parts[name]; twice {
			return nil, incomplete("Authorization header has%s twice.", quoted(name))
		}
		parts[name] = value
	}
	var missing []string
	for _, name := range []string{"Credential", "Signature", "SignedHeaders"} {
		if parts[name] == "" {
			missing = append(missing, "Authorization header requires '"+name+"' parameter.")
		}
	}
	stamp := ""
	switch dates := h.Values(headerDate); {
	case len(dates) > 1:
		return nil, incomplete("'X-Amz-Date' header must stand once.")
	case len(dates) == 1:
		stamp = strings.TrimSpace(dates[0])
	default:
		missing = append(missing, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
		if d, err := http.ParseTime(h.Get("Date")); err == nil {
			missing = missing[:len(missing)-1]
			stamp = d.UTC().Format(sigTime)
		}
	}
	if len(missing) > 0 {
		return nil, incomplete("%s", strings.Join(missing, " "))
	}
	return newSignature(parts["Credential"], parts["SignedHeaders"], parts["Signature"], stamp)
}

func parsePresigned(query []queryParam) (*signature, error) {
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
	if get("X-Amz-Algorithm") != sigAlgorithm {
		return nil, incomplete("Unsupported AWS 'algorithm':%s; use '%s'.", quoted(get("X-Amz-Algorithm")), sigAlgorithm)
	}
	sig, err := newSignature(get("X-Amz-Credential"), get("X-Amz-SignedHeaders"), get("X-Amz-Signature"), get("X-Amz-Date"))
	if err != nil {
		return nil, err
	}
	sig.presigned = true
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
func newSignature(credential, headers, sum, stamp string) (*signature, error) {
	scope := strings.Split(credential, "/")
	if len(scope) < 5 {
		return nil, incomplete("Credential must have at least 5 slash-delimited elements, e.g. keyid/date/region/service/term.")
	}
	// An access key may hold slashes; the scope is the last four.
	n := len(scope) - 4
	sig := &signature{
		accessKey: strings.Join(scope[:n], "/"),
		date:      scope[n], region: scope[n+1], service: scope[n+2],
		headers: strings.Split(headers, ";"),
		stamp:   stamp,
	}
	if sig.accessKey == "" || sig.region == "" {
		return nil, incomplete("Credential must name an access key and a region.")
	}
	if _, err := time.Parse(sigDate, sig.date); err != nil {
		return nil, incomplete("Date in Credential scope must be YYYYMMDD.")
	}
	if scope[n+3] != sigTerminator {
		return nil, badSignature("Credential should be scoped with a valid terminator: '%s', not%s.", sigTerminator, quoted(scope[n+3]))
	}
	for i, h := range sig.headers {
		if !validSignedHeader(h) || slices.Contains(sig.headers[:i], h) {
			return nil, incomplete("SignedHeaders must be lower-case header names, each once, separated by ';'.")
		}
	}
	if len(sum) != hex.EncodedLen(len(sig.sum)) || strings.ToLower(sum) != sum {
		return nil, incomplete("Signature must be %d lower-case hexadecimal digits.", hex.EncodedLen(len(sig.sum)))
	}
	if _, err := hex.Decode(sig.sum[:], []byte(sum)); err != nil {
		return nil, incomplete("Signature must be %d lower-case hexadecimal digits.", hex.EncodedLen(len(sig.sum)))
	}
	at, err := time.Parse(sigTime, stamp)
	if err != nil {
		return nil, incomplete("Date must be in ISO-8601 'basic format'. Got%s. See http://en.wikipedia.org/wiki/ISO_8601", quoted(stamp))
	}
	sig.at = at
	return sig, nil
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

// checkScope holds the rules about what a signature must cover: the service,
// the host, and every x-amz- header of the request, so that none of them can
// be added or changed on the way.
func (sig *signature) checkScope(r *http.Request) error {
	if sig.service != sigService {
		return badSignature(textWrongScope)
	}
	if !slices.Contains(sig.headers, "host") && !slices.Contains(sig.headers, ":authority") {
		return badSignature(textNoSigned, "Host' or ':authority")
	}
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if !strings.HasPrefix(lower, "x-amz-") || slices.Contains(sig.headers, lower) {
			continue
		}
		// A presigned URL carries such headers as parameters; one that repeats
		// its parameter changes nothing.
		if v, ok := lookup(sig.query, name); ok && sig.presigned && len(values) == 1 && values[0] == v {
			continue
		}
		return badSignature(textNoSigned, lower)
	}
	return nil
}

// precheck refuses, before the body is read, what no body can make right: an
// unknown access key, and a date outside the tolerance. Without keys there is
// nothing to check against, not even a time.
func (v *verifier) precheck(sig *signature) error {
	if len(v.keys) == 0 {
		return nil
	}
	if _, ok := v.keys[sig.accessKey]; !ok {
		return refuse("UnrecognizedClientException", textBadToken)
	}
	if day := sig.at.Format(sigDate); day != sig.date {
		return badSignature("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.", sig.date, day, sig.stamp)
	}
	now := v.now().UTC()
	life := sigSkew
	if sig.expires > 0 {
		life = sig.expires
	}
	if oldest := now.Add(-life); sig.at.Before(oldest) {
		return badSignature("Signature expired: %s is now earlier than %s (%s - %s.)", sig.stamp, oldest.Format(sigTime), now.Format(sigTime), minutes(life))
	}
	if newest := now.Add(sigSkew); sig.at.After(newest) {
		return badSignature("Signature not yet current: %s is still later than %s (%s + %s.)", sig.stamp, newest.Format(sigTime), now.Format(sigTime), minutes(sigSkew))
	}
	return nil
}

func minutes(d time.Duration) string {
	if d%time.Minute == 0 {
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}

// errBodyHash says that the body is not the one whose hash was declared.
var errBodyHash = errors.New("the body's SHA-256 is not the declared one")

// verify checks the signature over the whole request. Without keys the
// declared hash of the body is checked, if there is one, and nothing else.
// mayBeUnsigned says whether UNSIGNED-PAYLOAD is taken: only where nobody
// between the client and us can change the body.
func (v *verifier) verify(r *http.Request, sig *signature, body []byte, mayBeUnsigned bool) error {
	payload, err := payloadHash(r, sig, body, mayBeUnsigned)
	if err != nil {
		return err
	}
	if len(v.keys) == 0 {
		return nil
	}
	secret, err := v.keys[sig.accessKey].SecretKey.Reveal()
	if err != nil {
		return internalFailure(fmt.Errorf("read the secret of access key %q: %w", sig.accessKey, err))
	}
	want := sign(secret, sig, canonicalRequest(r, sig, payload))
	if subtle.ConstantTimeCompare(want[:], sig.sum[:]) != 1 {
		return badSignature(textMismatch)
	}
	return nil
}

// payloadHash is the last line of the canonical request.
func payloadHash(r *http.Request, sig *signature, body []byte, mayBeUnsigned bool) (string, error) {
	declared := r.Header.Get(headerContentSHA)
	if declared == "" && sig.presigned {
		declared, _ = lookup(sig.query, headerContentSHA) // absent is "" too
	}
	switch {
	case declared == unsignedPayload && mayBeUnsigned:
		return unsignedPayload, nil
	case declared == unsignedPayload:
		return "", badSignature("The payload must be signed where the connection is not encrypted.")
	case strings.HasPrefix(declared, "STREAMING-"):
		return "", badSignature("The payload form%s is not supported.", quoted(declared))
	}
	sum := sha256.Sum256(body)
	actual := hex.EncodeToString(sum[:])
	if declared != "" && declared != actual {
		e := badSignature(textMismatch)
		e.cause = errBodyHash
		return "", e
	}
	return actual, nil
}

// sign is the signature that the request should carry.
func sign(secret string, sig *signature, canonical string) [sha256.Size]byte {
	sum := sha256.Sum256([]byte(canonical))
	text := sigAlgorithm + "\n" + sig.stamp + "\n" +
		sig.date + "/" + sig.region + "/" + sig.service + "/" + sigTerminator + "\n" +
		hex.EncodeToString(sum[:])
	key := []byte("AWS4" + secret)
	for _, part := range []string{sig.date, sig.region, sig.service, sigTerminator, text} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return [sha256.Size]byte(key)
}

func lookup(query []queryParam, name string) (string, bool) {
	for _, p := range query {
		if p.name == name {
			return p.value, true
		}
	}
	return "", false
}

// parseQuery splits and decodes a raw query, keeping the order.
func parseQuery(raw string) ([]queryParam, error) {
	if raw == "" {
		return nil, nil
	}
	var out []queryParam
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
		out = append(out, queryParam{n, v})
	}
	return out, nil
}
