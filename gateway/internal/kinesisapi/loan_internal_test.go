package kinesisapi

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
)

// TestStalledGiveWay: where there is no room, those whose client keeps them
// waiting are cut off, the longest first and no more than needed; those that
// hold as much for another reason are not.
func TestStalledGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pool{most: 100}
		newLoan := func(n int64) *loan {
			l := &loan{held: p}
			if !l.take(n) {
				t.Fatalf("no %d of %d, %d are held", n, p.most, p.Load())
			}
			return l
		}
		var cut []string
		stall := func(name string, l *loan) {
			l.stall(func(at time.Time) error {
				if !at.Before(time.Now()) {
					t.Errorf("%s is given until %v", name, at)
				}
				if slices.Contains(cut, name) { // one that was slow to go is cut off again
					return errors.New("over")
				}
				cut = append(cut, name)
				go func() { // as the request does that was cut off
					l.goOn()
					l.giveBack()
				}()
				return errors.New("over")
			})
		}
		busy := newLoan(30)
		first, second, third := newLoan(10), newLoan(10), newLoan(40)
		stall("first", first)
		time.Sleep(time.Second)
		stall("second", second)
		stall("third", third)
		done := newLoan(10)
		stall("done", done)
		done.goOn()

		begun := time.Now()
		small := newLoan(5) // first has stalled for one second of two
		if waited := time.Since(begun); waited != time.Second || len(cut) != 1 || cut[0] != "first" {
			t.Errorf("cut off after %v: %v", waited, cut)
		}
		large := &loan{held: p}
		if large.take(60) { // there is not as much, all stalled together
			t.Error("more was taken than there is")
		}
		if len(cut) != 3 || p.Load() != busy.n.Load()+small.n.Load()+done.n.Load() {
			t.Errorf("cut off %v, %d are held", cut, p.Load())
		}
		if !large.take(55) {
			t.Error("what was given back was not to be had")
		}
		begun = time.Now()
		if large.take(1) || time.Since(begun) != roomPatience {
			t.Errorf("waited %v", time.Since(begun))
		}
		begun = time.Now()
		if large.take(101) || large.takeWithin(1, 50) || time.Since(begun) != 0 {
			t.Error("one waited who had no hope, or no right to")
		}
		woken := make(chan bool)
		waiting := &loan{held: p}
		go func() { woken <- waiting.take(10) }()
		synctest.Wait()
		begun = time.Now()
		done.giveBack()
		if !<-woken || time.Since(begun) != 0 {
			t.Error("one who waited was not woken")
		}
		for _, l := range []*loan{busy, small, large, waiting} {
			l.giveBack()
		}
		if p.Load() != 0 || len(p.stalled) != 0 {
			t.Errorf("%d are held and %d stalled at the end", p.Load(), len(p.stalled))
		}
	})
}

// TestSubscriptionLimit: the most that are pushed at a time; who takes over
// another's place finds one.
func TestSubscriptionLimit(t *testing.T) {
	var l subscriptions
	now := time.Now()
	key := func(i int) subscriptionKey { return subscriptionKey{consumer: "app", shard: record.ShardID(i)} }
	var ended []error
	end := func(err error) { ended = append(ended, err) }
	var all []*subscription
	for i := range maxSubscriptions {
		sub, err := l.claim(key(i), now, end)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sub)
	}
	limited := func(i int) bool {
		_, err := l.claim(key(i), now.Add(subscribeAgain), end)
		e, ok := errors.AsType[*apiError](err)
		return ok && e.code == "LimitExceededException"
	}
	if !limited(maxSubscriptions) {
		t.Error("one more than the most was let in")
	}
	if limited(3) || len(ended) != 1 || !errors.Is(ended[0], errTakenOver) || l.live != maxSubscriptions {
		t.Errorf("a call that takes over was refused; ended %v, %d live", ended, l.live)
	}
	l.release(all[3]) // the one that was taken over counts no more
	if !limited(maxSubscriptions) {
		t.Error("the end of one that was taken over made room")
	}
	l.release(all[4])
	if limited(maxSubscriptions) {
		t.Error("there was room, and one was refused")
	}
	l.stop()
	if len(ended) != 1+maxSubscriptions {
		t.Errorf("%d were ended at the stop", len(ended)-1)
	}
	if _, err := l.claim(key(-1), now, end); err == nil {
		t.Error("one was let in after the stop")
	}
}
