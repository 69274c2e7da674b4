package spool

import (
	"context"
	"errors"
	"io"
	"sort"
	"time"

	"forebay/spool/record"
)

// resolve turns a start into a sequence number.
func (sh *shard) resolve(ctx context.Context, from Start) (uint64, error) {
	next, first := sh.end()
	switch from.kind {
	case startNewest:
		return next, nil
	case startAfter:
		if from.seq >= next {
			return next, nil
		}
		return from.seq + 1, nil
	case startSince:
		return sh.sinceTime(ctx, from.at)
	case startSinceEvent:
		return sh.sinceEvent(ctx, from.at)
	}
	return first, nil
}

// sinceTime is the first kept record whose arrival is t or later; the shard's
// end if there is none.
func (sh *shard) sinceTime(ctx context.Context, at time.Time) (uint64, error) {
	l := sh.log
	if err := l.sp.enter(); err != nil {
		return 0, err
	}
	defer l.sp.leave()
	next, first := sh.end()
	switch y := at.Year(); {
	case y < 1700:
		return first, nil
	case y > 2250:
		return next, nil
	}
	t := at.UnixNano()
	l.mu.RLock()
	segs, newest := l.segs, l.maxArr
	l.mu.RUnlock()
	if newest < t {
		return next, nil
	}
	// The greatest arrival up to a segment's end rises from segment to segment,
	// whatever the clock did.
	var failed error
	k := sort.Search(len(segs)-1, func(i int) bool {
		m, err := segs[i+1].loadMeta(ctx)
		l.sp.handles.used(segs[i+1])
		if err != nil {
			failed = err
			return true
		}
		return m.maxArr >= t
	})
	if failed != nil && !isDamage(failed) {
		return 0, failed
	}
	for ; k < len(segs); k++ {
		seq, ok, err := sh.sinceIn(ctx, segs, k, t, first)
		if ok {
			return min(seq, next), nil
		}
		if err != nil && !isDamage(err) && !isForeign(segs[k].path) && !errors.Is(err, errGone) {
			return 0, err
		}
	}
	return next, nil
}

// sinceEvent is the first kept record whose event time is t or later; the
// shard's end if there is none. What cannot be read is passed over, as a reader
// that meets it will say.
func (sh *shard) sinceEvent(ctx context.Context, at time.Time) (uint64, error) {
	next, first := sh.end()
	if at.IsZero() {
		return first, nil
	}
	scan, err := sh.stream.Scanner(Span{Shards: []record.ShardID{sh.id}, SinceEvent: at, WithoutData: true})
	if err != nil {
		return 0, err
	}
	for {
		switch p, err := scan.Next(ctx); {
		case errors.Is(err, io.EOF):
			return next, nil
		case err == nil:
			return p.Recs[0].Pos.Seq, nil
		case !isLoss(err):
			return 0, err
		}
	}
}

// sinceIn looks for the first record with an arrival of t or later in one
// segment.
func (sh *shard) sinceIn(ctx context.Context, segs []*segment, k int, t int64, first uint64) (uint64, bool, error) {
	last, err := sh.log.blocksOf(ctx, segs, k)
	if err != nil {
		return 0, false, err
	}
	x, err := sh.log.indexOf(ctx, segs[k])
	if err != nil {
		return 0, false, err
	}
	for id := x.byTime(t); id <= last; {
		run, err := segs[k].readRun(ctx, id, last)
		if err != nil {
			return 0, false, err
		}
		if len(run) == 0 {
			break
		}
		for _, st := range run {
			id = st.id + 1
			if st.err != nil || st.blk.maxArr < t {
				continue
			}
			g, ok := st.blk.group(sh.id)
			if !ok {
				continue
			}
			gr := newGroupReader(st.blk, g, sh.log.num)
			var rec record.Record
			for gr.left() > 0 {
				if _, err := gr.next(&rec); err != nil {
					break
				}
				if rec.Arrived.UnixNano() >= t && rec.Pos.Seq >= first {
					return rec.Pos.Seq, true, nil
				}
			}
		}
	}
	return 0, false, nil
}

// arrival is when the record seq arrived, minTime if it cannot be told. It is
// remembered for the last one asked for.
func (sh *shard) arrival(seq uint64) int64 {
	sh.log.mu.RLock()
	o := sh.oldest
	sh.log.mu.RUnlock()
	if o.seq == seq {
		return o.arr
	}
	arr := sh.readArrival(seq)
	sh.log.mu.Lock()
	sh.oldest = oldestArrival{seq, arr}
	sh.log.mu.Unlock()
	return arr
}

func (sh *shard) readArrival(seq uint64) int64 {
	r := newReader(sh, seq)
	b, err := r.Poll(context.Background(), 1)
	if err != nil || len(b.Recs) == 0 {
		return minTime
	}
	return b.Recs[0].Arrived.UnixNano()
}
