package sigv4

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
)

// Basic reports whether a request comes with HTTP Basic (RFC 7617) rather than
// a signature.
func Basic(r *http.Request) bool {
	_, _, ok := r.BasicAuth()
	return ok
}

// VerifyBasic checks an access key and its secret that came as user and
// password, and gives the access key. Without keys any pair passes. An unknown
// key and a wrong secret get the same answer, in the same time. The caller
// sees to it that nobody else can read the request.
func (v *Verifier) VerifyBasic(r *http.Request) (accessKey string, err error) {
	accessKey, given, ok := r.BasicAuth()
	if !ok {
		return "", refuse("MissingAuthenticationTokenException", textNoToken)
	}
	if v.secret == nil {
		return accessKey, nil
	}
	secret, err := v.secretOf(accessKey)
	if _, refused := errors.AsType[*Error](err); err != nil && !refused {
		return "", err
	}
	// The hashes have one length, so that the time says nothing of the secret's.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(secret))
	if same := subtle.ConstantTimeCompare(a[:], b[:]) == 1; !same || err != nil {
		return "", unknownKey()
	}
	return accessKey, nil
}
