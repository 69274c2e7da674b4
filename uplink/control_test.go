package uplink_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink"
)

// Paused, nothing is sent or asked; what was under way counts; resumed, it
// goes on in order and nothing goes twice.
func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(100_000, "k")
		sink.delay = time.Second
		p, stop := start(t, config(), sink, log)
		time.Sleep(1500 * time.Millisecond)
		p.Pause()
		at := time.Now()
		time.Sleep(2 * time.Second) // what was under way
		before, _ := c.committed()
		sends, probes := sink.sent(), len(sink.probes())
		c.put(10, "k")
		time.Sleep(time.Hour)
		s := p.Status()
		if n, _ := c.committed(); n != before || sink.sent() != sends || len(sink.probes()) != probes {
			t.Errorf("paused: %d committed, %d sends, %d probes; want %d, %d, %d", n, sink.sent(), len(sink.probes()), before, sends, probes)
		}
		if s.State != uplink.StatePaused || !s.Since.Equal(at) || s.Error != "" || !s.RetryAt.IsZero() || s.ETAKnown || s.Waiting.Records != 100_010-before {
			t.Errorf("status %+v", s)
		}
		p.RetryNow()
		time.Sleep(time.Second)
		if sink.sent() != sends {
			t.Error("RetryNow ended the pause")
		}
		p.Resume()
		time.Sleep(30 * time.Second)
		if s := p.Status(); s.State != "up" || s.Waiting.Records != 0 {
			t.Errorf("status %+v", s)
		}
		stop()
		if twice := sink.inOrder(t, log, nil); twice != 0 {
			t.Errorf("%d came twice", twice)
		}
	})
}

// A pump that begins paused stays so, and a pause that comes while the link
// is down ends with a try at once.
func TestBeginsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(10, "k")
		p := uplink.NewPump(config(), sink, log, uplink.Options{Logger: slog.New(slog.DiscardHandler), Paused: true})
		if s := p.Status(); s.State != uplink.StatePaused {
			t.Errorf("before Run: %+v", s)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(time.Minute)
		if s := p.Status(); s.State != uplink.StatePaused || sink.sent()+len(sink.probes()) != 0 || s.Waiting.Records != 10 {
			t.Errorf("%d sends, %d probes, status %+v", sink.sent(), len(sink.probes()), s)
		}
		sink.set(nil, func() error { return errFake })
		p.Resume()
		time.Sleep(20 * time.Minute)
		if s := p.Status(); s.State != uplink.StateDown {
			t.Errorf("status %+v", s)
		}
		p.Pause()
		time.Sleep(time.Second)
		sink.set(nil, nil)
		p.Resume()
		time.Sleep(time.Second)
		if s := p.Status(); s.State != uplink.StateUp || s.Waiting.Records != 0 {
			t.Errorf("a second after Resume: %+v", s)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
