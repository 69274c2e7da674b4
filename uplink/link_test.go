package uplink_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink"
	"forebay/uplink/lane"
)

var errPortal = errors.New("captive portal")

// A target that answers probes but takes nothing, as behind a captive portal
// that answers HEAD, is down all the while: no state and no line in the log
// changes with each probe, and it is up when a record got through.
func TestProbedButTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink, lines := newLog(t), newSink(t), &lockedBuffer{}
		c := log.shard("s")
		p := uplink.NewPump(config(), sink, log, uplink.Options{Logger: slog.New(slog.NewTextHandler(lines, nil))})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		c.put(10, "k")
		time.Sleep(time.Second)
		sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Offline, Err: errPortal} }, nil)
		c.put(10, "k")
		time.Sleep(2 * time.Second)
		since := p.Status().Since
		for range 600 {
			if s := p.Status(); s.State != uplink.StateDown || s.Error != errPortal.Error() || s.Class != "offline" || !s.Since.Equal(since) {
				t.Fatalf("down since %v, then %+v", since, s)
			}
			time.Sleep(time.Second)
		}
		if n := strings.Count(lines.String(), "uplink state"); n > 4 {
			t.Errorf("%d lines in the log:\n%s", n, lines)
		}
		sink.set(nil, nil)
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.State != uplink.StateUp || s.Error != "" || s.Waiting.Records != 0 {
			t.Errorf("after: %+v", s)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What other lanes delivered before a refusal does not hide it; what they
// deliver after it shows that only a part is held.
func TestRefusalIsShownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		a, b := log.shard("s"), log.shard("s")
		p, stop := start(t, config(), sink, log)
		a.put(10, "k")
		b.put(10, "k")
		time.Sleep(5 * time.Second)
		sink.set(func(got lane.Batch) lane.Outcome {
			if got.Lane.Shard == a.lane.Shard {
				return lane.Outcome{Class: lane.Auth, Err: authError{}}
			}
			return lane.Outcome{Done: len(got.Recs)}
		}, nil)
		a.put(10, "k")
		time.Sleep(2 * time.Second)
		if s := p.Status(); s.State != uplink.StateDown || s.Class != "auth" {
			t.Errorf("refused: %+v", s)
		}
		b.put(10, "k")
		time.Sleep(2 * time.Second)
		if s := p.Status(); s.State != uplink.StateUp || s.Class != "auth" {
			t.Errorf("another lane goes on: %+v", s)
		}
		sink.set(nil, nil)
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.State != uplink.StateUp || s.Error != "" {
			t.Errorf("after: %+v", s)
		}
		stop()
	})
}

// The first failures after a long outage are not paid for with pauses as long
// as the outage's.
func TestPausesBeginAnewAfterAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		p, stop := start(t, config(), sink, log)
		sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Offline, Err: errPortal} }, nil)
		c.put(10, "k")
		for range 20 {
			time.Sleep(30 * time.Minute)
			fails := 0
			sink.set(func(b lane.Batch) lane.Outcome {
				if fails++; fails < 3 {
					return lane.Outcome{Class: lane.Transient, Err: errFake}
				}
				return lane.Outcome{Done: len(b.Recs)}
			}, nil)
			p.RetryNow()
			time.Sleep(5 * time.Second)
			if s := p.Status(); s.State != uplink.StateUp || s.Waiting.Records != 0 {
				t.Fatalf("5 s after the outage: %+v", s)
			}
			sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Offline, Err: errPortal} }, nil)
			c.put(10, "k")
		}
		stop()
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
