// Package wan is a long, narrow and lossy path for the kernel's own TCP, on
// one machine: every packet goes through it, so windows, retransmissions and
// full queues are those of a real one.
package wan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrUnsupported says that no such path can be made on this system.
var ErrUnsupported = errors.New("wan: it needs Linux, root and /dev/net/tun")

// A Path says how one is, each way alike.
type Path struct {
	Rate  int           // bytes of IP packets a second; 0: no limit
	Delay time.Duration // of a packet, beside its wait and its length
	Loss  float64       // share of the packets that is lost
	Queue int           // bytes that may wait before the link; more are dropped. 0: no limit
	Seed  uint64        // of the lots
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (p Path) Check() error {
	switch {
	case p.Rate < 0:
		return fmt.Errorf("rate: %d is negative", p.Rate)
	case p.Delay < 0:
		return fmt.Errorf("delay: %v is negative", p.Delay)
	case p.Loss < 0 || p.Loss >= 1:
		return fmt.Errorf("loss: %v is not a share from 0 to below 1", p.Loss)
	case p.Queue < 0:
		return fmt.Errorf("queue: %d is negative", p.Queue)
	}
	return nil
}

// Counts is what became of the packets of one way.
type Counts struct {
	Packets uint64 `json:"packets"` // that had the link, those that are lost on it among them
	Bytes   uint64 `json:"bytes"`   // of these, with their headers
	Lost    uint64 `json:"lost"`
	Full    uint64 `json:"full"` // dropped before the link, as too many waited
}

// A way is one direction of a path.
type way struct {
	path Path
	lots *rand.Rand
	free time.Time // when the link has passed all that it took

	packets, bytes, lost, full atomic.Uint64
}

func newWay(p Path, stream uint64) *way {
	return &way{path: p, lots: rand.New(rand.NewPCG(p.Seed, stream))}
}

func (w *way) counts() Counts {
	return Counts{Packets: w.packets.Load(), Bytes: w.bytes.Load(), Lost: w.lost.Load(), Full: w.full.Load()}
}

// take says when a packet of n bytes that comes now is at the other end; false:
// it never is. One that is lost has had its time on the link.
func (w *way) take(n int, now time.Time) (time.Time, bool) {
	if w.free.Before(now) {
		w.free = now
	}
	if w.path.Rate > 0 {
		waits := w.free.Sub(now).Seconds() * float64(w.path.Rate)
		if w.path.Queue > 0 && waits+float64(n) > float64(w.path.Queue) {
			w.full.Add(1)
			return time.Time{}, false
		}
		w.free = w.free.Add(time.Duration(float64(n) / float64(w.path.Rate) * float64(time.Second)))
	}
	w.packets.Add(1)
	w.bytes.Add(uint64(n))
	if w.lots.Float64() < w.path.Loss {
		w.lost.Add(1)
		return time.Time{}, false
	}
	return w.free.Add(w.path.Delay), true
}

// A packet on its way.
type packet struct {
	data []byte
	due  time.Time
}

// under is how many packets are under way at most, whatever the path is.
const under = 16 << 10

// carry takes packets, one a Read, from src to dst until ctx ends or src does.
// Who ends ctx closes src.
func (w *way) carry(ctx context.Context, dst io.Writer, src io.Reader) error {
	line := make(chan packet, under)
	var wg sync.WaitGroup
	var werr error
	wg.Go(func() { werr = deliver(ctx, dst, line) })
	buf := make([]byte, 64<<10)
	var err error
	for err == nil {
		var n int
		if n, err = src.Read(buf); n == 0 || buf[0]>>4 != 4 { // IPv4 alone: the rest is the system's own talk
			continue
		}
		if due, ok := w.take(n, time.Now()); ok {
			line <- packet{append([]byte(nil), buf[:n]...), due}
		}
	}
	close(line)
	wg.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, werr)
}

// deliver writes each packet at its time.
func deliver(ctx context.Context, dst io.Writer, line <-chan packet) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var err error
	for p := range line {
		timer.Reset(time.Until(p.due))
		select {
		case <-ctx.Done():
			continue // the path is gone, and what is on it
		case <-timer.C:
		}
		if err != nil {
			continue
		}
		if _, err = dst.Write(p.data); errors.Is(err, os.ErrClosed) && ctx.Err() != nil {
			err = nil
		}
	}
	return err
}
