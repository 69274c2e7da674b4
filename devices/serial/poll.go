package serial

import (
	"context"
	"errors"
	"time"
)

// runPolled asks a device and stores its answer, in turn: the device is asked
// again only when the answer is on disk.
func (s *Source) runPolled(ctx context.Context, in Inlet) {
	s.eachPort(ctx, func(ctx context.Context, p *port) error {
		for next := time.Now(); ; {
			pause(ctx, time.Until(next))
			if ctx.Err() != nil {
				s.dropPartial(ReasonStopped)
				return nil
			}
			next = later(next.Add(s.cfg.Interval.D()), time.Now())
			answer, err := s.ask(ctx, p)
			if err != nil {
				s.count.noAnswers.Add(1)
				s.dropPartial(ReasonUnplugged)
				return err
			}
			if answer != nil {
				s.storeAnswer(ctx, in, *answer)
			}
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// ask writes the query and reads one frame; nil if none came in time. An error
// means that the port is gone.
func (s *Source) ask(ctx context.Context, p *port) (*line, error) {
	for _, ok := s.cut.Next(); ok; _, ok = s.cut.Next() {
		s.lose(&s.count.unasked, 1, ReasonUnasked)
	}
	s.dropPartial(ReasonNoAnswer)
	// A late answer to the last query must not pass for the answer to this one.
	if err := p.t.Flush(); err != nil {
		return nil, errors.Join(ErrUnplugged, err)
	}
	if err := p.write(s.query); err != nil {
		return nil, err
	}
	s.count.queries.Add(1)
	buf := make([]byte, readBuffer)
	for deadline := time.Now().Add(s.cfg.Timeout.D()); ctx.Err() == nil; {
		n, err := p.read(buf)
		switch {
		case errors.Is(err, errFlushed):
			s.dropPartial(ReasonFlushed)
			pause(ctx, ReadTimeout)
		case err != nil:
			return nil, err
		case n > 0:
			s.count.bytes.Add(uint64(n))
			s.cut.Push(buf[:n])
			if f, ok := s.cut.Next(); ok {
				return s.answered(f), nil
			}
		}
		if time.Now().After(deadline) {
			s.noAnswer()
			break
		}
	}
	return nil, nil
}

func (s *Source) answered(f Frame) *line {
	if f.Err != nil {
		s.lose(&s.count.oversize, 1, ReasonOversize)
		return nil
	}
	s.mu.Lock()
	s.silent = 0
	s.mu.Unlock()
	s.count.frames.Add(1)
	s.counted()
	return &line{f.Data, s.now()}
}

func (s *Source) noAnswer() {
	s.count.noAnswers.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent++
	if s.silent == 1 {
		s.log.Warn("device does not answer", "timeout", s.cfg.Timeout.D())
	}
}

// storeAnswer returns when the answer is on disk, or can never be, or ctx
// ended and one last try failed.
func (s *Source) storeAnswer(ctx context.Context, in Inlet, answer line) {
	wait := backoff{cap: 30 * time.Second}
	for ctx.Err() == nil {
		again, err := s.store(ctx, in, []line{answer})
		if len(again) == 0 {
			s.holdBack(nil)
			return
		}
		if ctx.Err() == nil {
			s.holdBack(err)
			wait.sleep(ctx)
		}
	}
	s.storeLast(ctx, in, []line{answer})
}
