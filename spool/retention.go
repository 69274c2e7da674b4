package spool

import (
	"fmt"
	"time"

	"forebay/spool/record"
)

// An OnFull says what happens when undelivered records of a stream fill the
// quota.
type OnFull string

const (
	// DropOldest lets the oldest go, counted, for records of the same class or
	// a higher one.
	DropOldest OnFull = "drop"
	// HoldProducer keeps all and holds the producer back: record.ErrFull.
	HoldProducer OnFull = "hold"
)

// UnmarshalText reads the word from a config file.
func (f *OnFull) UnmarshalText(b []byte) error {
	switch v := OnFull(b); v {
	case "", DropOldest, HoldProducer:
		*f = v
		return nil
	}
	return fmt.Errorf("%q is not one of drop and hold", string(b))
}

// MarshalText writes the word.
func (f OnFull) MarshalText() ([]byte, error) { return []byte(f), nil }

// holds reports whether a stream's producers are held back rather than its
// oldest dropped: what it says, else what its class does.
func (f OnFull) holds(class record.Class) bool {
	if f == "" {
		return class.HoldsBack()
	}
	return f == HoldProducer
}

// retention is what the log's streams ask for together: it keeps as long as
// the one that keeps longest, holds back if one does, and erases as early as
// the strictest legal limit asks for.
type retention struct {
	class    record.Class
	maxAge   time.Duration // 0: no limit
	maxBytes int64         // 0: no limit
	expire   bool          // age removes undelivered records too
	hold     bool          // undelivered records never go for room
	hard     time.Duration // 0: no limit; else older records go, whatever they are
}

func retentionOf(c StreamConfig) retention {
	return retention{c.Class, c.MaxAge.D(), int64(c.MaxBytes), c.ExpireUndelivered, c.OnFull.holds(c.Class), c.MaxAgeHard.D()}
}

func (l *commitLog) retention() retention { return *l.keeps.Load() }

// reckon works out the retention again, after a stream was added or changed.
func (l *commitLog) reckon() {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var r retention
	var before *Stream
	for _, sh := range l.slots {
		if sh.stream == before || sh.stream.shape.Load().gone {
			continue // where nobody asks any more it all may go: see sweepDead
		}
		one := retentionOf(sh.stream.Config())
		if before == nil {
			before, r = sh.stream, one
			continue
		}
		before = sh.stream
		r.class = max(r.class, one.class)
		r.maxAge = longest(r.maxAge, one.maxAge)
		r.maxBytes = longest(r.maxBytes, one.maxBytes)
		r.expire = r.expire && one.expire
		r.hold = r.hold || one.hold
		if r.hard == 0 || (one.hard > 0 && one.hard < r.hard) {
			r.hard = one.hard
		}
	}
	l.keeps.Store(&r)
}

// longest is the greater limit, where 0 is no limit at all.
func longest[T ~int64](a, b T) T {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// roll is how long a segment stays active. What lies in it goes together, so
// it is also by how much a record may outlive its limit.
func (r retention) roll() time.Duration {
	d := time.Hour
	if r.maxAge > 0 {
		d = min(d, r.maxAge/8)
	}
	if r.hard > 0 {
		d = min(d, r.hard/8)
	}
	return max(d, time.Second)
}
