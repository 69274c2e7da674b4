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
			late, err := s.late(p)
			for _, l := range late {
				s.storeAnswer(ctx, in, l)
			}
			if ctx.Err() != nil {
				s.dropPartial(ReasonStopped)
				return nil
			}
			var answer *line
			if err == nil {
				answer, err = s.ask(ctx, p)
			}
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

// late takes what the device said without being asked, or after the time for
// its answer was over. It is a reading like any other and goes on disk before
// the device is asked again: a device that keeps its readings until the next
// query counts that query as the acknowledgement of all it sent.
func (s *Source) late(p *port) ([]line, error) {
	var out []line
	buf := make([]byte, readBuffer)
	for rounds := 0; ; rounds++ {
		for f, ok := s.cut.Next(); ok; f, ok = s.cut.Next() {
			s.count.unasked.Add(1)
			if l := s.answered(f); l != nil {
				out = append(out, *l)
			}
		}
		// Where the port does not say what is unread, one read is worth its
		// wait only after an answer did not come in time.
		n, known := p.waiting()
		if known && n == 0 || !known && (rounds > 0 || !s.quiet()) || rounds == lateRounds {
			break
		}
		n, err := p.read(buf)
		if err != nil && !errors.Is(err, errFlushed) {
			return out, err
		}
		s.count.bytes.Add(uint64(n))
		s.cut.Push(buf[:n])
	}
	s.dropPartial(ReasonNoAnswer)
	return out, nil
}

// lateRounds bounds how long a device that never stops talking can put off the
// next query, in reads.
const lateRounds = 64

// quiet reports whether the last query had no answer in time.
func (s *Source) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.silent > 0
}

// ask writes the query and reads one frame; nil if none came in time. An error
// means that the port is gone.
func (s *Source) ask(ctx context.Context, p *port) (*line, error) {
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
	ctx, cancel := lastWait(ctx)
	defer cancel()
	s.storeLast(ctx, in, []line{answer})
}
