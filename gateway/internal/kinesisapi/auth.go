package kinesisapi

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"forebay/gateway/internal/sigv4"
)

const (
	headerTarget = "X-Amz-Target"

	targetKinesis  = "Kinesis_20131202."
	targetFirehose = "Firehose_20150804."

	serviceKinesis  = "kinesis"
	serviceFirehose = "firehose"

	// What Config.Clock may be.
	clockStrict   = "strict"
	clockUnsynced = "unsynced"
)

// identify reads who signed the request and what it asks for, before its body
// is read, and refuses what no body can make right. Without keys the signature
// says nothing, and a web page could write one as well as anybody.
func (c *call) identify(r *http.Request) error {
	if len(c.s.cfg.Keys) == 0 && byBrowser(r) && c.fromPage(r) {
		return refuse("AccessDeniedException", "Requests of web pages are not taken without a [[kinesis.key]] to sign them with.")
	}
	sig, err := sigv4.Parse(r)
	if err != nil {
		return asRefusal(err)
	}
	c.sig, c.target = sig, sig.Value(r, headerTarget)
	return asRefusal(c.s.verifier.Precheck(sig, servicesOf(c.target)...))
}

// verify checks the signature over the request and its body, and gives the
// payload, which lies in body. From here on c.key is known.
func (c *call) verify(r *http.Request, body []byte) ([]byte, error) {
	mayBeUnsigned := r.TLS != nil || c.s.cfg.Listen.Loopback()
	payload, err := c.s.verifier.Verify(r, c.sig, body, mayBeUnsigned)
	if err != nil {
		return nil, asRefusal(err)
	}
	c.key = c.s.keys.key(c.sig.AccessKey)
	return payload, nil
}

// identifyPlain is identify for a door that is used without an SDK: HTTP Basic
// with an access key and its secret will do, and where no keys are configured
// nothing is asked. signed says that the body must go through verify. What a
// web page has a browser send is refused, unless it is signed: the page may be
// anybody's, and the browser runs on this machine or knows its password.
func (c *call) identifyPlain(r *http.Request) (signed bool, err error) {
	switch {
	case (sigv4.Basic(r) || len(c.s.cfg.Keys) == 0) && c.fromPage(r):
		return false, refuse("AccessDeniedException", "Requests of web pages must be signed.")
	case sigv4.Basic(r):
		accessKey, err := c.s.verifier.VerifyBasic(r)
		if err != nil {
			return false, asRefusal(err)
		}
		c.key = c.s.keys.key(accessKey)
		return false, nil
	case len(c.s.cfg.Keys) == 0 && r.Header.Get("Authorization") == "":
		return false, nil
	}
	if c.sig, err = sigv4.Parse(r); err != nil {
		return false, asRefusal(err)
	}
	return true, asRefusal(c.s.verifier.Precheck(c.sig, serviceKinesis, serviceFirehose))
}

// byBrowser reports whether a browser sent the request for a page. No SDK sends
// such headers outside of one.
func byBrowser(r *http.Request) bool {
	return r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
}

// fromPage reports whether a request may come from a web page: a browser says
// so, or, for an endpoint without keys, the page's own name has been pointed at
// this machine.
func (c *call) fromPage(r *http.Request) bool {
	if new(http.CrossOriginProtection).Check(r) != nil {
		return true
	}
	if len(c.s.cfg.Keys) > 0 {
		return false
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host // without a port
	}
	return host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil
}

// servicesOf are the services that a request may be signed for.
func servicesOf(target string) []string {
	switch {
	case strings.HasPrefix(target, targetKinesis):
		return []string{serviceKinesis}
	case strings.HasPrefix(target, targetFirehose):
		return []string{serviceFirehose}
	}
	return []string{serviceKinesis, serviceFirehose}
}

// asRefusal makes an answer of what the verifier refused.
func asRefusal(err error) error {
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return &apiError{code: e.Code, message: e.Message, status: http.StatusBadRequest, cause: e.Cause}
	}
	return err
}

// newVerifier makes the verifier of the configured keys.
func (s *Server) newVerifier() *sigv4.Verifier {
	o := sigv4.Options{Now: s.now, AnyDate: s.anyDate}
	if len(s.cfg.Keys) > 0 {
		o.Secret = s.keys.secret
	}
	return sigv4.New(o)
}

// secretLife is how long a secret is used before its file is read again.
const secretLife = time.Second

// A keyring holds the configured keys, by access key.
type keyring struct {
	now  func() time.Time
	keys map[string]*heldKey
}

// A heldKey is a key with its secret as it was read last.
type heldKey struct {
	Key
	mu     sync.Mutex
	at     time.Time // when it was read; zero: never
	secret string
	err    error
}

func newKeyring(keys []Key, now func() time.Time) *keyring {
	k := &keyring{now: now, keys: make(map[string]*heldKey, len(keys))}
	for _, key := range keys {
		k.keys[key.AccessKey] = &heldKey{Key: key}
	}
	return k
}

// key is nil if there is no such key, which is so for all where none are
// configured.
func (k *keyring) key(accessKey string) *Key {
	if h, ok := k.keys[accessKey]; ok {
		return &h.Key
	}
	return nil
}

// secret is what sigv4.Options asks for. A changed file takes effect within
// secretLife.
func (k *keyring) secret(accessKey string) (string, bool, error) {
	h, ok := k.keys[accessKey]
	if !ok {
		return "", false, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := k.now()
	if age := now.Sub(h.at); h.at.IsZero() || age < 0 || age >= secretLife {
		h.secret, h.err = h.SecretKey.Reveal()
		h.at = now
	}
	return h.secret, true, h.err
}

// ClockSynced hands in the machine's word on whether its wall clock is right.
// It is asked by requests whose date is outside the tolerance, if the
// configuration has clock = "unsynced". Without it the clock counts as right.
func ClockSynced(synced func() bool) Option { return func(s *Server) { s.synced = synced } }

// anyDate reports whether a signature's date is not looked at now. It says so
// in the log, once for each time that the clock is lost.
func (s *Server) anyDate() bool {
	if s.cfg.Clock != clockUnsynced || s.synced == nil {
		return false
	}
	if s.synced() {
		s.dateless.Store(false)
		return false
	}
	if s.dateless.CompareAndSwap(false, true) {
		s.log.Warn("signatures of any date are taken until the clock is synchronised")
	}
	return true
}

// checkSecrets says which secrets cannot be had; their keys are refused until
// they can.
func (s *Server) checkSecrets() {
	for _, k := range s.cfg.Keys {
		secret, _, err := s.keys.secret(k.AccessKey)
		switch {
		case err != nil:
			s.log.Warn("an access key has no secret", "access_key", k.AccessKey, "error", err)
		case secret == "":
			s.log.Warn("the secret of an access key is empty", "access_key", k.AccessKey)
		}
	}
}
