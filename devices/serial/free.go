package serial

import (
	"context"
	"errors"
	"sync"
	"time"
)

// batchLines is how many lines one Put carries at most.
const batchLines = 256

// readBuffer is more than a port of 4 Mbaud sends between two reads that keep up.
const readBuffer = 4096

// runFree reads a device that sends by itself. It cannot be told to wait, so
// lines gather in a bounded ring while the log holds back.
func (s *Source) runFree(ctx context.Context, in Inlet) {
	waiting := newRing(int(s.cfg.Buffer))
	var reader sync.WaitGroup
	reader.Go(func() {
		s.eachPort(ctx, func(ctx context.Context, p *port) error { return s.readLines(ctx, p, waiting) })
	})
	s.feed(ctx, in, waiting)
	reader.Wait()
	ctx, cancel := lastWait(ctx) // one for all batches: a stop must not wait for each of them
	defer cancel()
	for {
		last := waiting.take(batchLines)
		if len(last) == 0 {
			return
		}
		s.storeLast(ctx, in, last)
	}
}

// readLines fills the ring until the port goes away or ctx ends.
func (s *Source) readLines(ctx context.Context, p *port, to *ring) error {
	buf := make([]byte, readBuffer)
	for ctx.Err() == nil {
		n, err := p.read(buf)
		switch {
		case errors.Is(err, errFlushed):
			s.dropPartial(ReasonFlushed)
			pause(ctx, ReadTimeout)
		case err != nil:
			s.dropPartial(ReasonUnplugged)
			return err
		case n > 0:
			s.count.bytes.Add(uint64(n))
			s.cut.Push(buf[:n])
			s.takeLines(to)
		}
	}
	s.dropPartial(ReasonStopped)
	return nil
}

func (s *Source) takeLines(to *ring) {
	at := s.now()
	for f, ok := s.cut.Next(); ok; f, ok = s.cut.Next() {
		if f.Err != nil {
			s.lose(&s.count.oversize, 1, ReasonOversize)
			continue
		}
		s.count.frames.Add(1)
		s.lose(&s.count.heldBack, to.push(line{f.Data, at}), ReasonHeldBack)
	}
	s.counted()
}

// feed moves lines from the ring to the log, one batch at a time, so that a
// batch that failed keeps its place in front of what came later.
func (s *Source) feed(ctx context.Context, in Inlet, from *ring) {
	wait := backoff{cap: 30 * time.Second}
	for {
		batch := from.wait(ctx, batchLines)
		if batch == nil {
			return
		}
		again, err := s.store(ctx, in, batch)
		if len(again) == 0 {
			wait.reset()
			s.holdBack(nil)
			continue
		}
		s.lose(&s.count.heldBack, from.putBack(again), ReasonHeldBack)
		if ctx.Err() == nil {
			s.holdBack(err)
			wait.sleep(ctx)
		}
	}
}
