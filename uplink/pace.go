package uplink

import (
	"slices"
	"time"
)

const (
	// occupy is how long what is under way should have the link for itself under
	// a bandwidth cap, and fill where the link is the limit: it is to have enough
	// to pass while one of the Sends waits for what it has lost or for its answer.
	occupy, fill = 500 * time.Millisecond, 800 * time.Millisecond
	// firstSend is what is tried first after the link came up; leastSend is the
	// least that is tried on any link.
	firstSend, leastSend = 32 << 10, 2 << 10
	// remeasure is how often the way there and back is measured anew, for which
	// the link has to be idle; rarely, where Sends are of a size that says that
	// it is known well enough.
	remeasure, rarely = 30 * time.Second, 2 * time.Minute
)

// A pace is how many bytes of keys and data one Send may have so that it does
// not have the link for much longer than most of a second. It learns from how
// long Sends take beyond the way there and back, which it measures by a small
// one that goes alone. It is used under the pump's mutex.
type pace struct {
	limit    int
	way      time.Duration // there and back; 0: not known
	measured time.Time
	round    []int // for the Sends since limit was set, what would have taken as long as they should
	fixed    bool  // it learns nothing: every Send may have all
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
	often := remeasure
	if p.limit > 4*leastSend {
		often = rarely
	}
	return p.limit < maxSend && now.Sub(p.measured) >= often
}

// alone learns from a small Send that went alone.
func (p *pace) alone(d time.Duration, whole bool, now time.Time) {
	if whole {
		p.way = max(d, time.Microsecond)
	}
	p.measured = now
}

// took learns from a Send of n bytes. On a link that loses packets some Sends
// take several times as long as others that go beside them, so what shortens
// the next ones is a few of them together, and of these not the slowest.
func (p *pace) took(n int, d time.Duration, whole bool) {
	if p.fixed {
		return
	}
	if whole && n > 0 && d < p.way {
		p.way = max(d, time.Microsecond)
	}
	// A way that is long in itself is not made longer by half of it.
	most := max(fill, p.way)
	over := max(d-p.way, time.Microsecond)
	fits := int(min(float64(n)*float64(most)/float64(over), 2*float64(p.limit))) // what would have taken that long
	switch {
	case !whole && d < 10*fill: // it may have ended early
	case n < p.limit/2: // what made it slow or fast are others
	case over > 8*most:
		// Several may land that were sent before the first of them was learnt from.
		p.limit, p.round = max(min(p.limit, max(fits, n/4)), leastSend), p.round[:0]
	case whole && over < most/4:
		p.limit, p.round = min(2*p.limit, maxSend), p.round[:0]
	default:
		if p.round = append(p.round, fits); len(p.round) == slowSends {
			slices.Sort(p.round)
			p.limit = min(max((p.limit+p.round[slowSends/2])/2, leastSend), maxSend)
			p.round = p.round[:0]
		}
	}
}
