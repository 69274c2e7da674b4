package uplink

import "time"

const (
	// occupy is how long what is under way should have the link for itself.
	occupy = 500 * time.Millisecond
	// firstSend is what is tried first after the link came up; leastSend is the
	// least that is tried on any link.
	firstSend, leastSend = 32 << 10, 2 << 10
	// remeasure is how often the way there and back is measured anew.
	remeasure = 30 * time.Second
)

// A pace is how many bytes of keys and data one Send may have so that it does
// not have the link for much longer than half a second. It learns from how
// long Sends take beyond the way there and back, which it measures by a small
// one that goes alone. It is used under the pump's mutex.
type pace struct {
	limit    int
	way      time.Duration // there and back; 0: not known
	measured time.Time
	fixed    bool // it learns nothing: every Send may have all
}

// begin forgets what is known: the link came up, maybe another one.
func (p *pace) begin() {
	*p = pace{limit: firstSend, fixed: p.fixed}
	if p.fixed {
		p.limit = maxSend
	}
}

// due reports whether the way is to be measured. Where nothing bounds what a
// Send has, it makes no difference.
func (p *pace) due(now time.Time) bool {
	return p.limit < maxSend && now.Sub(p.measured) >= remeasure
}

// alone learns from a small Send that went alone.
func (p *pace) alone(d time.Duration, whole bool, now time.Time) {
	if whole {
		p.way = max(d, time.Microsecond)
	}
	p.measured = now
}

// took learns from a Send of n bytes.
func (p *pace) took(n int, d time.Duration, whole bool) {
	if p.fixed {
		return
	}
	if whole && n > 0 && d < p.way {
		p.way = max(d, time.Microsecond)
	}
	// A way that is long in itself is not made longer by half of it.
	most := max(occupy, p.way)
	switch over := d - p.way; {
	case !whole && d < 10*occupy: // it may have ended early
	case n < p.limit/2: // what made it slow or fast are others
	case over > most:
		// Several may land that were sent before the first of them was learnt from.
		f := max(float64(most)/float64(over), 0.25)
		p.limit = max(min(p.limit, int(f*float64(n))), leastSend)
	case whole && over < most/4:
		p.limit = min(2*p.limit, maxSend)
	case whole && over < most*2/3:
		p.limit = min(p.limit*3/2, maxSend)
	}
}
