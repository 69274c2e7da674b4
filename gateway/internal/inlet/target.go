package inlet

import (
	"context"
	"errors"
	"sync/atomic"

	"forebay/spool"
	"forebay/spool/record"
)

// A target is a stream that is kept at hand. It may be deleted, and made anew
// under its name.
type target struct {
	atomic.Pointer[spool.Stream]
}

func newTarget(sp *spool.Spool, name string) (*target, error) {
	st, err := sp.Stream(name)
	if err != nil {
		return nil, err
	}
	t := &target{}
	t.Store(st)
	return t, nil
}

// put waits for the commit.
func (t *target) put(ctx context.Context, sp *spool.Spool, recs []record.Record) ([]record.Result, error) {
	st := t.Load()
	res, err := st.Put(ctx, recs)
	if again := namesake(sp, st, err); again != nil {
		t.CompareAndSwap(st, again)
		return again.Put(ctx, recs)
	}
	return res, err
}

// namesake is the stream that has a deleted one's name now; nil where there is
// none, or err does not say that it was deleted.
func namesake(sp *spool.Spool, st *spool.Stream, err error) *spool.Stream {
	if !errors.Is(err, record.ErrNoStream) {
		return nil
	}
	again, err := sp.Stream(st.Name())
	if err != nil || again == st {
		return nil
	}
	return again
}

// append numbers records and hands them to their stream, or to the one that was
// made in its place.
func (p *Port) append(ctx context.Context, t *spool.Stream, recs []record.Record, done func([]record.Result)) error {
	err := p.appendTo(ctx, t, recs, done)
	if !errors.Is(err, record.ErrNoStream) {
		return err
	}
	p.lanes.Delete(t)
	again := namesake(p.in.sp, t, err)
	if again == nil {
		return err
	}
	p.in.quarantine.CompareAndSwap(t, again)
	for _, routed := range p.in.routed {
		routed.CompareAndSwap(t, again)
	}
	return p.appendTo(ctx, again, recs, done)
}

func (p *Port) appendTo(ctx context.Context, t *spool.Stream, recs []record.Record, done func([]record.Result)) error {
	l := p.lane(t)
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.leave()
	last := p.seq.Add(uint64(len(recs)))
	for i := range recs {
		recs[i].SourceSeq = last - uint64(len(recs)-1-i)
	}
	return t.Append(ctx, recs, done)
}
