package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/proof"
)

// A passage is what an uplink has had to do until now, by the ledger, in records:
// what came for it, what waits, and what the target has taken.
type passage struct{ in, pending, delivered uint64 }

// passed is what waits no more.
func (f passage) passed() uint64 { return f.in - min(f.pending, f.in) }

// An outage is a time without a link that is over.
type outage struct {
	back   time.Time // when the link was there again
	before passage   // the last that was seen while it was not
	in     uint64    // how many records had come for the uplink when it was there again
}

// waited is how many records the link's return found waiting.
func (o outage) waited() uint64 { return o.in - min(o.before.passed(), o.in) }

// left is how many of them wait still.
func (o outage) left(f passage) uint64 {
	if f.pending == 0 {
		return 0
	}
	return o.in - min(f.passed(), o.in)
}

// drains reports whether the backlog has begun to go and has not gone.
func (o outage) drains(f passage) bool {
	left := o.left(f)
	return left > 0 && left < o.waited()
}

// errNoCursor says that the uplink of a gateway that has just started has not
// found its place yet.
var errNoCursor = errors.New("the uplink under test has no cursor yet")

// flow reads the ledger.
func (p *prover) flow(ctx context.Context) (f passage, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	l, err := p.client.Ledger(ctx)
	if err != nil {
		return f, err
	}
	err = errNoCursor
	for _, u := range l.Uplinks {
		if u.Stream == p.setup.name {
			f, err = passage{f.in + u.In, f.pending + u.Pending, f.delivered + u.Delivered}, nil
		}
	}
	p.rep.Figures.Backlog = max(p.rep.Figures.Backlog, f.pending)
	return f, err
}

// flowNow reads the ledger of a gateway that may have just started.
func (p *prover) flowNow(ctx context.Context) (passage, error) {
	for deadline := time.Now().Add(startWithin); ; {
		f, err := p.flow(ctx)
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			return f, fmt.Errorf("read the ledger of the gateway under test: %w", err)
		}
		if err := linger(ctx, 20*time.Millisecond); err != nil {
			return f, err
		}
	}
}

// look reads the ledger and the uplink.
func (p *prover) look(ctx context.Context) (passage, api.Uplink, error) {
	f, err := p.flow(ctx)
	if err != nil {
		return f, api.Uplink{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ups, err := p.client.Uplinks(ctx)
	if err == nil && len(ups) != 1 {
		err = fmt.Errorf("the gateway under test has %d uplinks, not one", len(ups))
	}
	if err != nil {
		return f, api.Uplink{}, err
	}
	return f, ups[0], nil
}

// mend gives the link back, or asks for that.
func (p *prover) mend(ctx context.Context) (o outage, err error) {
	if o.before, err = p.flowNow(ctx); err != nil {
		return o, err
	}
	o.in = o.before.in
	if l := p.setup.link; l != nil {
		l.mend()
		o.back = time.Now()
		p.event("the link is there again; %s", waits(o.waited()))
	} else {
		p.event("PUT THE CABLE BACK now")
		if err := p.backByHand(ctx, &o); err != nil {
			return o, fmt.Errorf("wait for the cable to be put back: %w", err)
		}
		p.event("the uplink is up again; %s", waits(o.waited()))
	}
	p.rep.Figures.CutFor = o.back.Sub(p.cutAt).Seconds()
	return o, nil
}

func waits(n uint64) string { return count(n, "record waits", "records wait") }

// backByHand waits until the uplink has its link again, as it says itself or as
// what it delivers shows.
func (p *prover) backByHand(ctx context.Context, o *outage) error {
	return p.when(ctx, time.Hour, 20*time.Millisecond, func(f passage, up api.Uplink) bool {
		o.back, o.in = time.Now(), f.in
		return up.State == "up" || up.State == "throttled" || f.passed() > o.before.passed()
	})
}

// when waits until what the uplink shows is so.
func (p *prover) when(ctx context.Context, within, every time.Duration, so func(passage, api.Uplink) bool) error {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		if f, up, err := p.look(ctx); err == nil && so(f, up) {
			return nil
		}
		if err := linger(ctx, every); err != nil {
			return err
		}
	}
	return fmt.Errorf("not within %s", within)
}

// killDraining kills the gateway as soon as some of the backlog is delivered,
// and some is not. Where the backlog goes quicker than that can be seen the
// report says so.
func (p *prover) killDraining(ctx context.Context, o outage) error {
	k := &proof.DrainKill{Waited: o.waited()}
	p.rep.Figures.DrainKill = k
	for deadline := o.back.Add(p.cmd.Drain); ; {
		f, err := p.flow(ctx)
		if err == nil && (o.drains(f) || o.left(f) == 0) {
			return p.killAt(ctx, o, f, k)
		}
		if time.Now().After(deadline) {
			k.Why = fmt.Sprintf("none of the %s was delivered within %s of the link's return", count(k.Waited, "record that waited", "records that waited"), p.cmd.Drain)
			p.event("%s; the gateway is not killed once more", k.Why)
			return nil
		}
		if err := linger(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

// killAt is the kill of killDraining; f was seen just before.
func (p *prover) killAt(ctx context.Context, o outage, f passage, k *proof.DrainKill) error {
	while := o.atKill(f, time.Since(o.back), k)
	p.killed = f.delivered
	return p.kill(ctx, f, while)
}

// atKill notes a kill so long after the link's return, and says in words what
// was under way.
func (o outage) atKill(f passage, after time.Duration, k *proof.DrainKill) (while string) {
	k.Shown, k.After = o.drains(f), after.Seconds()
	k.Waiting, k.Before = f.pending, f.delivered-min(o.before.delivered, f.delivered)
	switch {
	case k.Shown:
		return fmt.Sprintf("the backlog drains, %.2f s after the link's return", k.After)
	case k.Waited == 0:
		k.Why = "no record waited when the link came back"
		return "records are delivered: none had waited for the link"
	}
	gone := fmt.Sprintf("the backlog of %s had gone %.2f s after the link's return, before that was seen", count(k.Waited, "record", "records"), k.After)
	k.Why = gone + "; a larger --records makes a larger backlog"
	return "records are delivered: " + gone
}

// drained notes when all that the link's return found waiting had gone: as many
// have passed, and none that waits is as old.
func (p *prover) drained(o outage, f passage, up api.Uplink) {
	if !p.rep.Figures.Drained && o.left(f) == 0 && (f.pending == 0 || up.Oldest == nil || up.Oldest.After(o.back)) {
		p.rep.Figures.Drained = true
		p.rep.Figures.Drain = time.Since(o.back).Seconds()
		p.event("the backlog has gone, %.2f s after the link's return", p.rep.Figures.Drain)
	}
}

// write waits until the last record is written, and looks at the drain meanwhile.
func (p *prover) write(ctx context.Context, o outage) error {
	for {
		select {
		case <-p.feed.over:
			p.event("all records are written, the last at %s", p.feed.ended.UTC().Format("15:04:05 UTC"))
			p.feed.figures(&p.rep.Figures)
			return nil
		default:
		}
		if f, up, err := p.look(ctx); err == nil {
			p.drained(o, f, up)
		}
		if err := linger(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// drain waits until everything is delivered.
func (p *prover) drain(ctx context.Context, o outage) error {
	from := p.feed.ended
	deadline := from.Add(p.cmd.Drain)
	if o.back.After(from) {
		deadline = o.back.Add(p.cmd.Drain)
	}
	for {
		f, up, err := p.look(ctx)
		if err == nil {
			p.drained(o, f, up)
			p.noteRest(f)
		}
		if err == nil && f.pending == 0 {
			p.rep.Figures.Rest = time.Since(from).Seconds()
			p.event("everything is delivered")
			return nil
		}
		if time.Now().After(deadline) {
			p.rep.Figures.Undelivered, p.rep.Figures.Rest = max(f.pending, 1), time.Since(from).Seconds()
			if !p.rep.Figures.Drained {
				p.rep.Figures.Drain = time.Since(o.back).Seconds()
			}
			p.event("not everything was delivered within %s; the uplink is %s%s", p.cmd.Drain, up.State, why(up))
			return nil
		}
		if err := linger(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// noteRest notes what was delivered after the kill in the drain.
func (p *prover) noteRest(f passage) {
	if k := p.rep.Figures.DrainKill; k != nil && k.After > 0 {
		k.Rest = f.delivered - min(p.killed, f.delivered)
	}
}
