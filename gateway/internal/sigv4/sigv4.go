// Package sigv4 verifies requests that are signed with AWS Signature Version
// 4: in a header or in the URL, with the payload signed whole, signed in
// chunks, or not at all. The scheme is the one of "Create a signed AWS API
// request" in the IAM User Guide and of "Authenticating Requests" in the
// Amazon S3 API Reference. It knows of no service, and nothing of what the
// requests ask for.
//
// What is refused is an *Error with the code and in the words that AWS's
// services answer with.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Skew is how far a signature's date may be from the server's clock, either
// way.
const Skew = 5 * time.Minute

const (
	algorithm      = "AWS4-HMAC-SHA256"
	algorithmV4A   = "AWS4-ECDSA-P256-SHA256"
	terminator     = "aws4_request"
	timeLayout     = "20060102T150405Z"
	dateLayout     = "20060102"
	maxPresignLife = 7 * 24 * time.Hour

	headerContentSHA = "X-Amz-Content-Sha256"
	headerDate       = "X-Amz-Date"
)

const (
	textMismatch = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	textBadToken = "The security token included in the request is invalid."
	textNoToken  = "Missing Authentication Token"
	textNoSigned = "'%s' must be a 'SignedHeader' in the AWS Authorization."
	textBadQuery = "AWS query-string parameters must include 'X-Amz-Algorithm', 'X-Amz-Credential', 'X-Amz-Signature', 'X-Amz-SignedHeaders' and 'X-Amz-Date'. Re-examine the query-string parameters."
	textBoth     = "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header."
	textSHATwice = "'X-Amz-Content-Sha256' header must stand once."
)

// An Error is a refusal that the client is told of. Its status is 400.
type Error struct {
	Code    string // the error's name
	Message string
	Cause   error // more than the client is told; mostly nil
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Code + ": " + e.Message + ": " + e.Cause.Error()
	}
	return e.Code + ": " + e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func incomplete(format string, args ...any) *Error {
	return refuse("IncompleteSignatureException", format, args...)
}

func badSignature(format string, args ...any) *Error {
	return refuse("InvalidSignatureException", format, args...)
}

// unknownKey is the answer to an access key that there is none of.
func unknownKey() *Error { return refuse("UnrecognizedClientException", textBadToken) }

// Options are what signatures are checked against.
type Options struct {
	// Secret gives the secret of an access key, and false if there is no such
	// key. It is asked twice a request and must be quick. An error of it is
	// handed on as it is, which is no *Error. Nil means that there are no keys:
	// any well-formed signature passes.
	Secret func(accessKey string) (secret string, known bool, err error)
	// Now is the wall clock.
	Now func() time.Time
	// AnyDate is asked whether a date outside the tolerance is taken all the
	// same, because the server does not trust its own clock. It is not asked
	// about signatures in a URL, whose life is all that ends them. Nil is no.
	AnyDate func() bool
}

// A Verifier checks signatures. Its methods may be called at once from many
// goroutines.
type Verifier struct {
	secret  func(string) (string, bool, error)
	now     func() time.Time
	anyDate func() bool
	keys    signingKeys
}

// New makes a verifier.
func New(o Options) *Verifier {
	return &Verifier{secret: o.Secret, now: o.Now, anyDate: o.AnyDate}
}

// Precheck refuses, before the body is read, what no body can make right: a
// scope of another service than those given, an unknown access key, and a date
// outside the tolerance. Without keys there is nothing to check against but
// the service.
func (v *Verifier) Precheck(sig *Signature, services ...string) error {
	if !slices.Contains(services, sig.Service) {
		return badSignature("Credential should be scoped to correct service: '%s'.", strings.Join(services, "' or '"))
	}
	if v.secret == nil {
		return nil
	}
	if _, err := v.secretOf(sig.AccessKey); err != nil {
		return err
	}
	if day := sig.At.Format(dateLayout); day != sig.date {
		return badSignature("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.", sig.date, day, sig.stamp)
	}
	if err := v.checkDate(sig); err != nil && (sig.Presigned || v.anyDate == nil || !v.anyDate()) {
		return err
	}
	return nil
}

// errNoSecret keeps an empty file from being a secret that everybody knows.
var errNoSecret = errors.New("the secret is empty")

func (v *Verifier) secretOf(accessKey string) (string, error) {
	secret, known, err := v.secret(accessKey)
	switch {
	case err != nil:
		return "", err
	case !known:
		return "", unknownKey()
	case secret == "":
		return "", fmt.Errorf("access key %q: %w", accessKey, errNoSecret)
	}
	return secret, nil
}

func (v *Verifier) checkDate(sig *Signature) error {
	now := v.now().UTC()
	life := Skew
	if sig.expires > 0 {
		life = sig.expires
	}
	if oldest := now.Add(-life); sig.At.Before(oldest) {
		return badSignature("Signature expired: %s is now earlier than %s (%s - %s.)", sig.stamp, oldest.Format(timeLayout), now.Format(timeLayout), minutes(life))
	}
	if newest := now.Add(Skew); sig.At.After(newest) {
		return badSignature("Signature not yet current: %s is still later than %s (%s + %s.)", sig.stamp, newest.Format(timeLayout), now.Format(timeLayout), minutes(Skew))
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

// Verify checks the signature over the whole request, whose body has been
// read, and gives the payload: the body, or, where it came in chunks, what the
// chunks hold, written over body from its beginning. Without keys the hash and
// the checksums that the request declares are checked, and nothing else.
//
// mayBeUnsigned says whether a payload that is not signed is taken: only where
// nobody between the client and us can change it.
func (v *Verifier) Verify(r *http.Request, sig *Signature, body []byte, mayBeUnsigned bool) (payload []byte, err error) {
	hash, form, err := payloadHash(r, sig, body, mayBeUnsigned)
	if err != nil {
		return nil, err
	}
	u := unchunker{form: form}
	if v.secret != nil {
		secret, err := v.secretOf(sig.AccessKey)
		if err != nil {
			return nil, err
		}
		key, fresh := v.keys.of(sig, secret)
		want := sign(&key, sig, canonicalHash(r, sig, hash))
		if subtle.ConstantTimeCompare(want[:], sig.sum[:]) != 1 {
			return nil, badSignature(textMismatch)
		}
		if fresh {
			v.keys.keep(sig, secret, key)
		}
		u.sig, u.key, u.last = sig, &key, want
	}
	if !form.chunked {
		return body, nil
	}
	return u.payload(r, body)
}

// payloadHash is the last line of the canonical request.
func payloadHash(r *http.Request, sig *Signature, body []byte, mayBeUnsigned bool) (string, payloadForm, error) {
	if len(r.Header[headerContentSHA]) > 1 {
		return "", payloadForm{}, badSignature(textSHATwice)
	}
	declared := sig.Value(r, headerContentSHA)
	if form, special := formOf(declared); special {
		if !form.signed && !mayBeUnsigned {
			return "", form, badSignature("The payload must be signed where the connection is not encrypted.")
		}
		return declared, form, nil
	}
	if strings.HasPrefix(declared, "STREAMING-") {
		return "", payloadForm{}, badSignature("The payload form%s is not supported.", quoted(declared))
	}
	sum := sha256.Sum256(body)
	actual := hex.EncodeToString(sum[:])
	if declared != "" && declared != actual {
		e := badSignature(textMismatch)
		e.Cause = errBodyHash
		return "", payloadForm{}, e
	}
	return actual, payloadForm{signed: true}, nil
}

// A sum is a SHA-256, or an HMAC by it.
type sum = [sha256.Size]byte

func mac(key, text []byte) sum {
	h := hmac.New(sha256.New, key)
	h.Write(text)
	var out sum
	h.Sum(out[:0])
	return out
}

// sign is the signature that a request with this canonical form should carry.
func sign(key *sum, sig *Signature, canonical sum) sum {
	return mac(key[:], appendStringToSign(make([]byte, 0, 256), sig, canonical))
}

func appendStringToSign(b []byte, sig *Signature, canonical sum) []byte {
	b = sig.appendScope(append(b, algorithm...))
	return hex.AppendEncode(append(b, '\n'), canonical[:])
}

// appendScope writes the lines of a string to sign that say when and for what.
func (sig *Signature) appendScope(b []byte) []byte {
	b = append(append(b, '\n'), sig.stamp...)
	b = append(append(b, '\n'), sig.date...)
	b = append(append(b, '/'), sig.Region...)
	b = append(append(b, '/'), sig.Service...)
	return append(append(b, '/'), terminator...)
}

// quoted shows a value in a text, cut to a length that is fit to be sent back.
func quoted(v string) string {
	const most = 256
	if len(v) > most {
		v = strings.ToValidUTF8(v[:most], "") + "..."
	}
	return " '" + v + "'"
}
