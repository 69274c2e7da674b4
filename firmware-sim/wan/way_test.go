package wan

import (
	"context"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// An end is one end of a path without a device: what is sent is read as
// packets, and what arrives is noted.
type end struct {
	in     chan []byte
	closed chan struct{}
	got    []time.Time
	data   []byte // the second byte of each packet that arrived
}

func newEnd() *end { return &end{in: make(chan []byte), closed: make(chan struct{})} }

func (e *end) Read(b []byte) (int, error) {
	select {
	case p := <-e.in:
		return copy(b, p), nil
	case <-e.closed:
		return 0, io.EOF
	}
}

func (e *end) Write(b []byte) (int, error) {
	e.got = append(e.got, time.Now())
	e.data = append(e.data, b[1])
	return len(b), nil
}

// packetOf is an IPv4 packet of n bytes as far as a path looks into it.
func packetOf(n int, mark byte) []byte {
	p := make([]byte, n)
	p[0], p[1] = 0x45, mark
	return p
}

// Packets arrive in order, after their wait, their length and the delay; what
// is no IPv4 does not.
func TestPacketsArriveInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWay(Path{Rate: 10_000, Delay: 100 * time.Millisecond}, 1)
		near, far := newEnd(), newEnd()
		ended := make(chan error)
		go func() { ended <- w.carry(t.Context(), far, near) }()
		begin := time.Now()
		for i := range 3 {
			near.in <- packetOf(1000, byte(i))
		}
		near.in <- []byte{0x60, 9, 0, 0}
		close(near.closed)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		var late []time.Duration
		for _, at := range far.got {
			late = append(late, at.Sub(begin))
		}
		if want := []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 400 * time.Millisecond}; !slices.Equal(late, want) {
			t.Errorf("they came after %v, want %v", late, want)
		}
		if string(far.data) != "\x00\x01\x02" {
			t.Errorf("the order is % x", far.data)
		}
		if c := w.counts(); c != (Counts{Packets: 3, Bytes: 3000}) {
			t.Errorf("%+v", c)
		}
	})
}

// A path that ends delivers nothing more.
func TestAPathThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		near, far := newEnd(), newEnd()
		ended := make(chan error)
		go func() { ended <- newWay(Path{Delay: time.Hour}, 1).carry(ctx, far, near) }()
		near.in <- packetOf(100, 1)
		stop()
		close(near.closed)
		if err := <-ended; err != nil || len(far.got) > 0 {
			t.Errorf("%d packets, %v", len(far.got), err)
		}
	})
}

// The queue is bounded in bytes, and empties at the rate.
func TestAFullQueueDrops(t *testing.T) {
	w, now := newWay(Path{Rate: 1000, Queue: 3000}, 1), time.Unix(0, 0)
	taken := 0
	for range 10 {
		if _, ok := w.take(1000, now); ok {
			taken++
		}
	}
	if c := w.counts(); taken != 3 || c.Full != 7 || c.Packets != 3 {
		t.Errorf("%d taken, %+v", taken, c)
	}
	if due, ok := w.take(1000, now.Add(time.Second)); !ok || due != now.Add(4*time.Second) {
		t.Errorf("a second later: %v %v", due, ok)
	}
}

// The share that is lost is what was asked for, the same with the same seed and
// another with another; what is lost has had its time on the link.
func TestLossBySeed(t *testing.T) {
	const n = 100_000
	lots := func(seed, stream uint64) (lost []bool, w *way) {
		w = newWay(Path{Rate: 1000, Loss: 0.01, Seed: seed}, stream)
		for range n {
			_, ok := w.take(1, time.Unix(0, 0))
			lost = append(lost, !ok)
		}
		return lost, w
	}
	a, w := lots(1, 1)
	if share := float64(w.counts().Lost) / n; math.Abs(share-0.01) > 0.002 {
		t.Errorf("%.4f of the packets are lost", share)
	}
	if took := w.free.Sub(time.Unix(0, 0)); took != n*time.Millisecond {
		t.Errorf("they had the link for %v", took)
	}
	again, _ := lots(1, 1)
	other, _ := lots(2, 1)
	back, _ := lots(1, 2)
	if !slices.Equal(a, again) || slices.Equal(a, other) || slices.Equal(a, back) {
		t.Error("the lots do not go by the seed and the direction")
	}
}

func TestPathCheck(t *testing.T) {
	for _, c := range []struct {
		p    Path
		says string
	}{
		{Path{Rate: -1}, "rate: "},
		{Path{Delay: -1}, "delay: "},
		{Path{Loss: 1}, "loss: "},
		{Path{Loss: math.Inf(-1)}, "loss: "},
		{Path{Queue: -1}, "queue: "},
	} {
		if err := c.p.Check(); err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.p, err, c.says)
		}
	}
	if err := (Path{Rate: 1, Loss: 0.5}).Check(); err != nil {
		t.Error(err)
	}
}

// What a closed device says is the end, and no error.
func TestAClosedDeviceIsTheEnd(t *testing.T) {
	near := newEnd()
	if err := newWay(Path{}, 1).carry(t.Context(), near, closedDevice{}); err != nil {
		t.Error(err)
	}
}

type closedDevice struct{}

func (closedDevice) Read([]byte) (int, error) { return 0, &os.PathError{Op: "read", Err: os.ErrClosed} }
