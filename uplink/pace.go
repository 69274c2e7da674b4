package uplink

import "time"

const (
	// occupy is how long one Send should have the link for itself.
	occupy = 500 * time.Millisecond
	// firstSend is what is tried first after the link came up; leastSend is the
	// least that is tried on any link.
	firstSend, leastSend = 32 << 10, 8 << 10
)

// A pace is how many bytes of keys and data one Send may have so that it does
// not have the link for much longer than half a second. It learns from how
// long Sends take beyond the shortest, which is the way there and back. It is
// used under the pump's mutex.
type pace struct {
	limit int
	least time.Duration // that a Send took since the link came up; 0: none
}

// begin forgets what is known: the link came up, maybe another one.
func (p *pace) begin() { *p = pace{limit: firstSend} }

// took learns from a Send of n bytes.
func (p *pace) took(n int, d time.Duration, whole bool) {
	if whole && n > 0 && (p.least == 0 || d < p.least) {
		p.least = max(d, time.Microsecond)
	}
	// A way that is long in itself is not made longer by half of it.
	most := max(occupy, p.least)
	switch over := d - p.least; {
	case !whole && d < 10*occupy: // it may have ended early
	case n < p.limit/2: // what made it slow or fast are others
	case over > most:
		// Several may land that were sent before the first of them was learnt from.
		f := max(float64(most)/float64(over), 0.25)
		p.limit = max(min(p.limit, int(f*float64(n))), leastSend)
	case whole && over < most/2:
		p.limit = min(2*p.limit, maxSend)
	}
}
