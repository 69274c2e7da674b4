package rules

import (
	"context"
	"time"
)

// dirty reports whether rules.db lacks anything.
func (l *Loop) dirty() bool {
	if len(l.pending)+len(l.engine.changed)+len(l.engine.gone)+len(l.engine.moved)+len(l.newName)+len(l.dropped) > 0 {
		return true
	}
	for _, f := range l.feeds {
		if f.next != f.stored {
			return true
		}
	}
	every := time.Minute
	if l.engine.Timers() > 0 {
		every = 5 * time.Second
	}
	return l.tick.Sub(l.stored) >= every
}

// trySave is save with the failure noted, to be tried again.
func (l *Loop) trySave(ctx context.Context) bool {
	before := len(l.pending)
	err := l.save(context.WithoutCancel(ctx))
	if (err == nil) != (l.failing == nil) {
		if err != nil {
			l.slog.Error("the rules' state could not be stored; trying again", "error", err)
		} else {
			l.slog.Info("the rules' state is stored again")
		}
	}
	l.failing = err
	if err != nil {
		l.retryAt = time.Now().Add(time.Second)
		if before > 0 {
			l.announce()
		}
	}
	return err == nil
}

// save commits everything that rules.db lacks, in one transaction.
func (l *Loop) save(ctx context.Context) error {
	e := l.engine
	c := change{states: e.changed, gone: e.gone, firsts: map[string]uint64{}, streams: l.newName, cursors: map[spot]uint64{}, dropped: l.dropped, outbox: l.pending}
	for r := range e.moved {
		c.firsts[r] = e.first[r]
	}
	for at, f := range l.feeds {
		if f.next != f.stored {
			c.cursors[at] = f.next
		}
	}
	if !l.tick.Equal(l.stored) {
		c.tick = l.tick
	}
	if len(c.states)+len(c.gone)+len(c.firsts)+len(c.streams)+len(c.cursors)+len(c.dropped)+len(c.outbox) == 0 && c.tick.IsZero() {
		return nil
	}
	if err := l.store.commit(ctx, &c); err != nil {
		return err
	}
	clear(e.changed)
	clear(e.gone)
	clear(e.moved)
	for at, n := range c.cursors {
		l.feeds[at].stored = n
	}
	l.dropped = nil
	l.newName, l.stored, l.commit = nil, l.tick, time.Now()
	if len(l.pending) > 0 {
		l.outbox = append(l.outbox, l.pending...)
		l.pending = nil
		l.announce()
		select {
		case l.send <- struct{}{}:
		default:
		}
	}
	return nil
}
