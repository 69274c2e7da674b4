package rules

import (
	"context"
	"errors"
	"fmt"

	"forebay/spool/record"
)

const (
	// sendMax is how many transitions go to the log in one call. No more than
	// these can be in the alarm stream and in the outbox at once.
	sendMax = 256
	// tailLen is how much of the alarm stream is compared.
	tailLen = 4 * sendMax
	// outboxAttr names a transition's outbox row in its record's attributes, so
	// that it is known again.
	outboxAttr = "outbox"
)

// dispatch appends what is in the outbox to the alarm stream, in order, and
// removes it after the commit. Before the first and after a failed call it
// compares with what the stream holds, so that nothing is appended twice.
func (l *Loop) dispatch(ctx context.Context) {
	compare := true
	wait := retryMin
	for {
		front := l.front()
		if len(front) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-l.send:
			}
			continue
		}
		err := l.deliver(ctx, front, compare)
		if ctx.Err() != nil {
			return
		}
		compare = err != nil
		l.sent(err)
		if err == nil {
			wait = retryMin
			continue
		}
		wait = pause(ctx, wait)
	}
}

func (l *Loop) front() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outbox[:min(len(l.outbox), sendMax)]
}

func (l *Loop) sent(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil && l.sendFail == nil {
		l.slog.Error("alarms wait for the log; trying again", "error", err)
	}
	l.sendFail = err
}

func (l *Loop) deliver(ctx context.Context, front []entry, compare bool) error {
	there := map[string]bool{}
	if compare {
		recs, err := l.log.Tail(ctx, AlarmStream, tailLen)
		if err != nil && !errors.Is(err, record.ErrNoStream) {
			return fmt.Errorf("read the newest alarms: %w", err)
		}
		for i := range recs {
			if name := recs[i].Attrs[outboxAttr]; l.store.mine(name) {
				there[name] = true
			}
		}
	}
	var recs []record.Record
	refused := 0
	for _, x := range front {
		name := l.store.name(x.id)
		if there[name] {
			continue
		}
		r := record.Record{
			Key: x.key, At: x.at, TimeQ: record.TimeDevice, Source: "rules", Type: "application/json",
			Attrs: map[string]string{outboxAttr: name}, Data: x.data,
		}
		if err := r.Check(); err != nil {
			l.slog.Error("an alarm's record is refused", "key", x.key, "error", err)
			refused++
			continue
		}
		recs = append(recs, r)
	}
	repeated := len(front) - len(recs) - refused
	if err := l.append(ctx, recs); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.store.delivered(context.WithoutCancel(ctx), front[len(front)-1].id); err != nil {
		return err
	}
	if l.outbox = l.outbox[len(front):]; len(l.outbox) == 0 {
		l.outbox = nil // lets go of what was sent
	}
	l.counts.sent += uint64(len(recs))
	l.counts.repeated += uint64(repeated)
	l.counts.refused += uint64(refused)
	return nil
}

// append waits until the records are on disk.
func (l *Loop) append(ctx context.Context, recs []record.Record) error {
	if len(recs) == 0 {
		return nil
	}
	results := make(chan error, 1)
	err := l.log.Append(ctx, AlarmStream, recs, func(rs []record.Result) {
		var errs error
		for _, r := range rs {
			if r.Err != nil {
				errs = r.Err // the last will do
			}
		}
		results <- errs
	})
	if err != nil {
		return fmt.Errorf("append alarms: %w", err)
	}
	select {
	case err := <-results:
		if err != nil {
			return fmt.Errorf("append alarms: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
