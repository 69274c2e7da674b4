package uplink

import "time"

// A Gatherer is a Sink that is better served by few large batches than by
// prompt ones: one that makes objects, each of which costs.
type Gatherer interface {
	// Prefers is how many bytes of keys and data a batch should have, and how
	// long a record may wait for that.
	Prefers() (bytes int, linger time.Duration)
}

// A Spreader is a Sink that may have one record of a lane in a request: the
// more lanes a Send has, and the more alike they are, the fuller its requests.
type Spreader interface {
	// Spreads reports whether this one does so.
	Spreads() bool
}

// gathering is what a Gatherer asks for, zero without one.
type gathering struct {
	bytes  int
	linger time.Duration
}

// prefer asks the sink how it is best served. What stands in the config beats
// its linger. The bandwidth of a link is not shared out by the size of its
// batches; alarms and evidence go alone and promptly all the same.
func (p *Pump) prefer() {
	p.hold = maxHold
	if s, ok := p.sink.(Spreader); ok {
		p.spreads = s.Spreads()
	}
	g, ok := p.sink.(Gatherer)
	if !ok {
		return
	}
	p.gather.bytes, p.gather.linger = g.Prefers()
	if p.cfg.Linger != 0 {
		p.gather.linger = p.linger
	}
	p.hold = min(max(p.gather.bytes, maxHold), memory/4)
	p.pace.fixed = true
}

// worth is how many bytes make a batch that does not wait for more.
func (p *Pump) worth(t turn) int {
	if t == bulk && p.gather.bytes > 0 {
		return p.gather.bytes
	}
	return unit
}

// lingerOf is how long a lane's records wait for others.
func (p *Pump) lingerOf(t turn) time.Duration {
	if t == bulk && p.gather.linger > 0 {
		return p.gather.linger
	}
	return p.linger
}
