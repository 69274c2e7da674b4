package uplink

import (
	"math/rand/v2"
	"time"
)

// backoff gives growing, jittered pauses without end: each is drawn between
// the base and three times the one before ("decorrelated jitter"), up to max.
type backoff struct {
	prev time.Duration
}

func (b *backoff) next(base, max time.Duration) time.Duration {
	base = min(base, max)
	hi := min(3*b.prev, max)
	d := base
	if hi > base {
		d += rand.N(hi - base)
	}
	b.prev = d
	return d
}

func (b *backoff) reset() { b.prev = 0 }
