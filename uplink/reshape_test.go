package uplink_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink/lane"
)

// A shard is split, and a child of it merged with another shard; what is in a
// child goes out behind all that its parents hold, and at once then.
func TestChildrenGoOutBehindTheirParents(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 9))
			log, sink := newLog(t), newSink(t)
			first, other := log.shard("s"), log.shard("s")
			lower, upper, merged := log.shard("s"), log.shard("s"), log.shard("s")
			lower.parents, upper.parents = []*memCursor{first}, []*memCursor{first}
			merged.parents = []*memCursor{upper, other}
			for _, c := range log.cursors {
				c.put(3000, "k")
			}
			for _, c := range []*memCursor{first, other, upper} {
				c.end()
			}
			sink.act = func(b lane.Batch) lane.Outcome {
				for _, c := range log.cursors {
					for _, p := range c.parents {
						if c.lane.Shard == b.Lane.Shard && !p.drained() {
							t.Errorf("lane %d is sent before its parent %d is", b.Lane.Shard, p.lane.Shard)
						}
					}
				}
				if rng.IntN(3) == 0 {
					return lane.Outcome{Done: rng.IntN(len(b.Recs)), Class: lane.Transient, Err: errFake}
				}
				return lane.Outcome{Done: len(b.Recs)}
			}
			p, stop := start(t, config(), sink, log)
			time.Sleep(10 * time.Minute)
			if s := p.Status(); s.Lanes != 2 || s.Waiting.Records != 0 {
				t.Errorf("the status is %+v", s)
			}
			stop()
			if twice := sink.inOrder(t, log, nil); twice != 0 || log.pending() != 0 {
				t.Errorf("%d twice, %d pending", twice, log.pending())
			}
		})
	}
}

// Children are not waited for longer than it takes to hear of their parent's end.
func TestChildrenBeginAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		parent, child := log.shard("s"), log.shard("s")
		child.parents = []*memCursor{parent}
		parent.put(10, "k")
		child.put(10, "k")
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		if s := p.Status(); s.Delivered != 10 || s.Waiting.Records != 10 || s.Lanes != 1 {
			t.Errorf("before the end the status is %+v", s)
		}
		parent.end()
		time.Sleep(time.Second) // less than the lanes are listed anyway
		if s := p.Status(); s.Delivered != 20 || s.Waiting.Records != 0 || s.Lanes != 1 {
			t.Errorf("after it the status is %+v", s)
		}
		stop()
	})
}

// What was read of a stream that is deleted then is not sent for ever.
func TestADeletedStreamIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		gone, idle, stays := log.shard("gone"), log.shard("gone"), log.shard("stays")
		gone.put(10, "k")
		stays.put(10, "k")
		sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Transient, Err: errFake} }, nil)
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		gone.remove()
		idle.remove()
		time.Sleep(10 * time.Second)
		sent := sink.sent()
		sink.set(nil, nil)
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.Lanes != 1 || s.Delivered != 10 || s.Waiting.Records != 0 || s.State != "up" {
			t.Errorf("the status is %+v", s)
		}
		if n := sink.sent() - sent; n != 1 {
			t.Errorf("%d batches are sent after the deletion", n)
		}
		stop()
		if n := len(sink.took[gone.lane.Shard]); n != 0 {
			t.Errorf("%d records of the deleted stream are taken", n)
		}
	})
}
