package aws

import (
	"crypto/x509"
	"net/http"
	"regexp"
	"runtime/debug"
	"sync"
	"time"
)

// A clock tells the service's time: what its last answer said, plus what has
// passed since by the monotonic clock. The wall clock may jump meanwhile; a
// box without a battery wakes years away, and a signature is good for five
// minutes.
type clock struct {
	wall func() time.Time

	mu     sync.Mutex
	server time.Time // the service's time at the moment `local`; zero: not known
	local  time.Time // with its monotonic reading
	sure   bool      // learned over TLS
	floor  time.Time // it is this late at least
}

func newClock(wall func() time.Time) *clock {
	if wall == nil {
		wall = time.Now
	}
	return &clock{wall: wall, floor: built()}
}

// built is when this program's source was committed, zero where the build does
// not say: no time before it can be now.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t
			}
		}
	}
	return time.Time{}
}

// learn takes the service's word for the time; overTLS says that nobody else
// can have said it.
func (c *clock) learn(server time.Time, overTLS bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server, c.local, c.sure = server, time.Now(), overTLS
}

// now is the service's time as far as it is known, else ours.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at(true)
}

// certain is now for what must not rest on a word that anybody can have
// said: whether a certificate is valid.
func (c *clock) certain() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at(c.sure)
}

// at is the service's time if it is known and may be used. c.mu is held.
func (c *clock) at(learned bool) time.Time {
	if learned && !c.server.IsZero() {
		return c.server.Add(time.Since(c.local))
	}
	if wall := c.wall(); wall.After(c.floor) {
		return wall
	}
	return c.floor
}

// offset is how far the service's clock is ahead of our wall clock.
func (c *clock) offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	if c.server.IsZero() && wall.After(c.floor) {
		return 0
	}
	// Round(0) drops the monotonic readings, so that both are wall times.
	return c.at(true).Round(0).Sub(wall.Round(0))
}

// evidence looks at a certificate that was refused because it is not valid
// yet. One that is in order in everything else was signed by an authority no
// later than now, so now is not earlier than that: the clock is moved forward
// to it, and true is given. It is never moved back: that a certificate has
// expired may be just what is wrong with it.
func (c *clock) evidence(certs []*x509.Certificate, roots *x509.CertPool, host string) bool {
	if len(certs) == 0 || !c.certain().Before(certs[0].NotBefore) {
		return false
	}
	opts := x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: certs[0].NotBefore, Intermediates: x509.NewCertPool()}
	for _, ca := range certs[1:] {
		opts.Intermediates.AddCert(ca)
	}
	if _, err := certs[0].Verify(opts); err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.floor.Before(certs[0].NotBefore) {
		c.floor = certs[0].NotBefore
	}
	if c.sure { // it has said less than what is certain now
		c.server = time.Time{}
	}
	return true
}

// serverTimeRE finds the service's time in "Signature expired: T1 is now
// earlier than T2 (T3 - 5 min.)" and "Signature not yet current: T1 is still
// later than T2 (T3 + 5 min.)": it is T3.
var serverTimeRE = regexp.MustCompile(`\((\d{8}T\d{6}Z) [+-] \d+ min`)

// timeIn is the service's time as an answer tells it: its Date (RFC 9110,
// section 6.6.1), else what it says itself about a signature that is too old
// or too new. Zero where it says nothing.
func timeIn(h http.Header, r refusal) time.Time {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		return t
	}
	if t, err := time.Parse(time.RFC3339, r.serverTime); err == nil {
		return t
	}
	if m := serverTimeRE.FindStringSubmatch(r.message); m != nil {
		if t, err := time.Parse("20060102T150405Z", m[1]); err == nil {
			return t
		}
	}
	return time.Time{}
}
