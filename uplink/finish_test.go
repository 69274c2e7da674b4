package uplink_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
)

func takenOf(s *scripted, c *memCursor) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.took[c.lane.Shard])
}

// A cursor that cannot be moved at the end of a shard is moved when it can be:
// the shards that came of it wait for that.
func TestTheLastCommitOfAShardIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		parent, child := log.shard("s"), log.shard("s")
		child.parents = []*memCursor{parent}
		parent.put(50, "k")
		child.put(20, "k")
		parent.noCmt = errFake
		parent.end()
		_, stop := start(t, config(), sink, log)
		defer stop()
		time.Sleep(30 * time.Second)
		if done, _ := parent.committed(); done != 0 || takenOf(sink, parent) != 50 || takenOf(sink, child) != 0 {
			t.Fatalf("committed %d, took %d and %d", done, takenOf(sink, parent), takenOf(sink, child))
		}
		parent.mu.Lock()
		parent.noCmt = nil
		parent.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if done, tally := parent.committed(); done != 50 || tally.Delivered != 50 || takenOf(sink, child) != 20 || log.pending() != 0 {
			t.Errorf("committed %d, %+v; took %d of the child", done, tally, takenOf(sink, child))
		}
	})
}

// Where nothing comes any more, a cursor that could not be moved is tried again
// all the same; and at the end it stops nobody.
func TestACommitThatFailedIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(5, "k")
		c.noCmt = errFake
		_, stop := start(t, config(), sink, log)
		time.Sleep(5 * time.Second)
		c.mu.Lock()
		c.noCmt = nil
		c.mu.Unlock()
		time.Sleep(5 * time.Second)
		if done, _ := c.committed(); done != 5 {
			t.Errorf("committed %d", done)
		}
		c.mu.Lock()
		c.noCmt = errFake
		c.mu.Unlock()
		c.put(5, "k")
		time.Sleep(5 * time.Second)
		begun := time.Now()
		stop()
		if d := time.Since(begun); d > time.Second {
			t.Errorf("the end took %v", d)
		}
	})
}

// leaver is a cursor that passes records by itself, and cannot at first.
type leaver struct {
	*memCursor
	fails int
}

func (l *leaver) Finish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails > 0 {
		l.fails--
		return errFake
	}
	l.done = uint64(len(l.recs))
	return nil
}

func (l *leaver) Next(context.Context, int) (record.Batch, error) {
	return record.Batch{}, &record.ShardEndError{Shard: l.lane.Shard}
}

// leaving is a log whose first lane is a leaver.
type leaving struct {
	*memLog
	first *leaver
}

func (l leaving) Lanes(ctx context.Context) ([]uplink.LaneCursor, error) {
	out, err := l.memLog.Lanes(ctx)
	for i := range out {
		if out[i].Shard == l.first.lane.Shard {
			out[i].Cursor = l.first
		}
	}
	return out, err
}

func TestWhatACursorPassesIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		parent, child := log.shard("s"), log.shard("s")
		child.parents = []*memCursor{parent}
		parent.put(50, "k")
		child.put(20, "k")
		parent.end()
		_, stop := start(t, config(), sink, leaving{log, &leaver{parent, 7}})
		defer stop()
		time.Sleep(2 * time.Minute)
		if done, _ := parent.committed(); done != 50 || takenOf(sink, child) != 20 {
			t.Errorf("passed %d, took %d of the child", done, takenOf(sink, child))
		}
	})
}
