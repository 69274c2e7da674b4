package aws_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

func class(err error) lane.Class {
	if err == nil {
		return lane.OK
	}
	var e *lane.Error
	if !errors.As(err, &e) {
		return lane.Transient
	}
	return e.Class
}

// offBy: not even about right; a Date has seconds.
func offBy(c *aws.Client, want time.Duration) bool {
	return (c.ClockOffset() - want).Abs() > time.Minute
}

// A box whose clock is wrong signs with the service's time after one refusal.
func TestSkew(t *testing.T) {
	bare(t)
	for name, skew := range map[string]time.Duration{"a day behind": -day, "a day ahead": day, "ten years behind": -10 * year, "ten years ahead": 10 * year} {
		for _, silent := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				s := newStand(t)
				s.silent = silent
				wall := &wallClock{skew: skew}
				c := open(t, static(s.URL), wall.now)
				if err := post(t, c); class(err) != lane.ClockSkew || !strings.Contains(err.Error(), "clock is wrong") {
					t.Fatalf("the first request: %v", err)
				}
				if err := post(t, c); err != nil {
					t.Fatalf("the second request: %v", err)
				}
				if offBy(c, -skew) {
					t.Errorf("offset %v, the clock is off by %v", c.ClockOffset(), skew)
				}
				wall.set(-skew) // it jumps to the other side while we run
				if err := post(t, c); err != nil {
					t.Errorf("after a jump: %v", err)
				}
				if offBy(c, skew) {
					t.Errorf("after a jump: offset %v, the clock is off by %v", c.ClockOffset(), -skew)
				}
			})
		}
	}
}

// Over TLS the certificate comes first: a clock behind is moved forward by it,
// a clock years ahead is named, with what to do.
func TestSkewTLS(t *testing.T) {
	bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	for name, c := range map[string]struct {
		skew time.Duration
		lost bool
	}{
		"a day behind":     {-day, false},
		"a day ahead":      {day, false},
		"ten years behind": {-10 * year, false},
		"ten years ahead":  {10 * year, true},
	} {
		t.Run(name, func(t *testing.T) {
			cert := ca.issue(t, "127.0.0.1", now.Add(-30*day), now.Add(60*day))
			s := tlsStand(t, cert)
			a := static(s.URL)
			a.CA = ca.file
			wall := &wallClock{skew: c.skew}
			cl := open(t, a, wall.now)
			err := post(t, cl)
			if c.lost {
				until := now.Add(60 * day).UTC().Format(time.RFC3339)
				if class(err) != lane.Offline || !strings.Contains(err.Error(), until) || !strings.Contains(err.Error(), "timedatectl set-ntp true") {
					t.Fatalf("%v", err)
				}
				if cl.ClockOffset() != 0 {
					t.Errorf("an offset was learned: %v", cl.ClockOffset())
				}
				wall.set(0)
				if err := post(t, cl); err != nil {
					t.Errorf("after the clock was set: %v", err)
				}
				return
			}
			if class(err) != lane.ClockSkew {
				t.Fatalf("the first request: %v", err)
			}
			if err := post(t, cl); err != nil {
				t.Fatalf("the second request: %v", err)
			}
			if offBy(cl, -c.skew) {
				t.Errorf("offset %v, the clock is off by %v", cl.ClockOffset(), c.skew)
			}
		})
	}
}

// Once the service has told the time over TLS, the wall clock may go where it
// likes: new connections are judged by the service's time.
func TestJumpTLS(t *testing.T) {
	bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	s := tlsStand(t, ca.issue(t, "127.0.0.1", now.Add(-30*day), now.Add(60*day)))
	a := static(s.URL)
	a.CA = ca.file
	wall := &wallClock{}
	c := open(t, a, wall.now)
	if err := post(t, c); err != nil {
		t.Fatal(err)
	}
	for _, skew := range []time.Duration{10 * year, -10 * year, day, -day} {
		wall.set(skew)
		c.Close()
		s.CloseClientConnections()
		if err := post(t, c); err != nil {
			t.Errorf("off by %v: %v", skew, err)
		}
		if offBy(c, -skew) {
			t.Errorf("offset %v, the clock is off by %v", c.ClockOffset(), skew)
		}
	}
}

// What is wrong with a certificate besides its time moves no clock.
func TestNoFalseEvidence(t *testing.T) {
	bare(t)
	now := time.Now()
	ca, other := newAuthority(t, now.Add(-20*year), now.Add(20*year)), newAuthority(t, now.Add(-20*year), now.Add(20*year))
	late := other.issue(t, "127.0.0.1", now.Add(5*year), now.Add(6*year)).Certificate[0]
	with := ca.issue(t, "127.0.0.1", now.Add(-3*year), now.Add(-2*year))
	with.Certificate = append(with.Certificate, late)
	for name, c := range map[string]struct {
		cert tls.Certificate
		skew time.Duration
		want time.Time
	}{
		"another authority": {other.issue(t, "127.0.0.1", now.Add(-30*day), now.Add(60*day)), -10 * year, now.Add(-10 * year)},
		"another host":      {ca.issue(t, "other.example", now.Add(-30*day), now.Add(60*day)), -10 * year, now.Add(-10 * year)},
		"expired":           {ca.issue(t, "127.0.0.1", now.Add(-3*year), now.Add(-2*year)), 0, now},
		"a stranger beside": {with, -10 * year, now.Add(-3 * year)},
	} {
		t.Run(name, func(t *testing.T) {
			s := tlsStand(t, c.cert)
			// No answer is to teach the time.
			s.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			a := static(s.URL)
			a.CA = ca.file
			cl := open(t, a, (&wallClock{skew: c.skew}).now)
			for range 2 {
				if err := post(t, cl); err == nil {
					t.Fatal("sent")
				}
			}
			if cl.Now().Sub(c.want).Abs() > day {
				t.Errorf("the clock was moved to %v, want %v", cl.Now(), c.want)
			}
		})
	}
}

// An expired certificate does not take back what the service told before.
func TestExpiredLater(t *testing.T) {
	bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	good := tlsStand(t, ca.issue(t, "127.0.0.1", now.Add(-30*day), now.Add(60*day)))
	old := tlsStand(t, ca.issue(t, "127.0.0.1", now.Add(-3*year), now.Add(-2*year)))
	a := static(good.URL)
	a.CA = ca.file
	wall := &wallClock{}
	c := open(t, a, wall.now)
	if err := post(t, c); err != nil {
		t.Fatal(err)
	}
	wall.set(-10 * year)
	for range 2 {
		if _, err := c.Send(t.Context(), &aws.Request{URL: old.URL + "/"}); class(err) != lane.Offline {
			t.Fatalf("%v", err)
		}
	}
	if offBy(c, 10*year) {
		t.Errorf("offset %v", c.ClockOffset())
	}
}

// A time that came without TLS signs requests, and judges no certificate.
func TestPlainTimeIsNotCertain(t *testing.T) {
	bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	// A proxy that speaks for the service over plain HTTP, then a certificate
	// that was valid at the time that it told.
	var told http.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", now.Add(-3*year).UTC().Format(http.TimeFormat))
		w.WriteHeader(400)
		_, _ = w.Write([]byte(`{"__type":"InvalidSignatureException","message":"Signature expired: x"}`))
	})
	plain := newStand(t)
	plain.Config.Handler = told
	a := static(plain.URL)
	a.CA = ca.file
	c := open(t, a, nil)
	if err := post(t, c); class(err) != lane.ClockSkew || offBy(c, -3*year) {
		t.Fatalf("%v, offset %v", err, c.ClockOffset())
	}
	s := tlsStand(t, ca.issue(t, "127.0.0.1", now.Add(-4*year), now.Add(-2*year)))
	_, err := c.Send(t.Context(), &aws.Request{URL: s.URL + "/"})
	if class(err) != lane.Offline || !strings.Contains(err.Error(), "not valid at this machine's time") {
		t.Errorf("%v", err)
	}
}
