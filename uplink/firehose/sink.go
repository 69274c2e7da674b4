package firehose

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// A Sink sends batches to delivery streams. It is safe for concurrent use.
type Sink struct {
	cfg     Config
	timeout time.Duration
	aws     *aws.Client
	pace    aws.Pace
	log     *slog.Logger

	packers sync.Pool // *packer

	mu      sync.Mutex
	checked map[string]time.Time // delivery streams that take records, and since when we know
	last    string               // the delivery stream used last
	begun   map[lane.Lane]begun
}

// begun is a record in many parts of which the target has the first few. It is
// remembered from Send to Send, so that one that needs many requests gets on
// over a link that breaks or is throttled after each.
type begun struct {
	pos  record.Pos
	skip int
}

// parallel is how many delivery streams one Send serves at a time.
const parallel = 4

// New makes a sink. Nothing is sent before the first Send or Probe. Errors:
// what Check says, the CA file cannot be read, or neither config nor
// environment says where to send.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Sink{
		cfg:     cfg,
		timeout: cfg.RequestTimeout.Or(defaultTimeout),
		pace:    aws.Pace{Most: maxRequest},
		log:     home.Log,
		checked: make(map[string]time.Time),
		begun:   make(map[lane.Lane]begun),
	}
	var err error
	s.aws, err = aws.NewClient(cfg.Access, aws.Options{
		Service: "firehose", Name: "Firehose", Conns: 2 * parallel, Classify: classify, Log: home.Log,
	})
	if err != nil {
		return nil, err
	}
	s.packers.New = func() any { return newPacker(cfg, home) }
	return s, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// ClockOffset is how far the target's clock is ahead of ours; 0 until the
// target has answered. Requests are signed with the target's time.
func (s *Sink) ClockOffset() time.Duration { return s.aws.ClockOffset() }

// Close gives up idle connections. It must not be called during Send.
func (s *Sink) Close() error {
	s.aws.Close()
	return nil
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	out *lane.Outcome

	sent    int  // records that are complete with the request under way
	cut     int  // where that is none: parts of the front record in it
	size    int  // bytes of its Firehose record
	skip    int  // parts of the front record that the target has
	most    int  // records a Firehose record may hold; 0: as many as fit
	alone   bool // goes in a request of its own
	stopped bool
}

func (w *work) left() []record.Record { return w.Recs[w.out.Done:] }
func (w *work) open() bool            { return !w.stopped && w.out.Done < len(w.Recs) }

func (w *work) stop(e *lane.Error) {
	w.stopped = true
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. It sends every record once, in requests that hold
// one Firehose record of a lane at most: a lane stops at its first failure,
// the others go on. Only where the target says that something in a request is
// not valid are parts of it sent again, to find out what. The records are not
// used after Send has returned.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	groups := make(map[string][]*work)
	for i := range lanes {
		b := &lanes[i]
		name := s.cfg.stream(b.Lane.Stream)
		groups[name] = append(groups[name], &work{Batch: b, out: &out[i], skip: s.resume(b)})
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, parallel)
	for name, works := range groups {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			s.sendStream(ctx, name, works)
			s.leave(works)
		})
	}
	wg.Wait()
	return out
}

// resume is how many parts of the batch's first record the target has.
func (s *Sink) resume(b *lane.Batch) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.begun[b.Lane]; ok && len(b.Recs) > 0 && b.Recs[0].Pos == p.pos {
		return p.skip
	}
	return 0
}

// leave remembers what was begun.
func (s *Sink) leave(works []*work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range works {
		if w.skip > 0 && w.out.Done < len(w.Recs) {
			s.begun[w.Lane] = begun{pos: w.left()[0].Pos, skip: w.skip}
		} else {
			delete(s.begun, w.Lane)
		}
	}
}

// sendStream sends what goes to one delivery stream.
func (s *Sink) sendStream(ctx context.Context, stream string, works []*work) {
	if err := s.prepare(ctx, stream); err != nil {
		failAll(works, asError(err))
		return
	}
	p := s.packers.Get().(*packer)
	defer s.packers.Put(p)
	for {
		buf := s.aws.Buffer()
		req := s.fill(buf, p, stream, works)
		if len(req) == 0 { // every lane is through, or has stopped
			buf.Release()
			return
		}
		answer, err := s.put(ctx, buf, len(req))
		buf.Release()
		req[0].out.Requests++
		if err == nil {
			s.settle(req, answer)
			continue
		}
		e := asError(err)
		if e.Class == lane.Poison {
			narrow(req, e)
			continue
		}
		if e.Code == "ResourceNotFoundException" {
			s.forget(stream)
		}
		failAll(works, e)
		return
	}
}

// fill writes the next request into buf: a Firehose record of each lane that
// still has records. It gives the lanes that are in it; none means that
// nothing is left.
func (s *Sink) fill(buf *aws.Buffer, p *packer, stream string, works []*work) []*work {
	buf.B = append(append(append(buf.B, `{"DeliveryStreamName":`...), strconv.Quote(stream)...), `,"Records":[`...)
	room := s.pace.Size()
	var req []*work
	for _, w := range works {
		if !w.open() || (w.alone && len(req) > 0) {
			continue
		}
		if len(req) == maxEntries || room < unit && len(req) > 0 {
			break
		}
		recs := w.left()
		if w.most > 0 {
			recs = recs[:min(w.most, len(recs))]
		}
		u, err := p.pack(&w.Lane, recs, w.skip, max(room, unit))
		if err != nil {
			w.stop(&lane.Error{Class: lane.Poison, Text: err.Error()})
			continue
		}
		if len(u.data) > room && len(req) > 0 {
			continue // its turn comes with the next request
		}
		if len(req) > 0 {
			buf.B = append(buf.B, ',')
		}
		before := len(buf.B)
		buf.B = appendEntry(buf.B, u.data)
		w.out.Bytes += len(buf.B) - before
		w.sent, w.cut, w.size = u.n, u.cut, len(u.data)
		room -= len(u.data)
		req = append(req, w)
		if w.alone {
			break
		}
	}
	buf.B = append(buf.B, `]}`...)
	return req
}

// settle takes the answer's entries, one for each lane of the request.
func (s *Sink) settle(req []*work, answer []entry) {
	for i, w := range req {
		e := s.outcome(&answer[i])
		if e != nil && e.Class == lane.Poison && w.sent > 1 {
			w.most = w.sent / 2
			continue
		}
		if e != nil {
			w.stop(e)
			continue
		}
		w.out.Units += max(1, (w.size+unit-1)/unit)
		if w.sent == 0 {
			w.skip += w.cut
		} else {
			w.out.Done += w.sent
			w.skip = 0
		}
	}
}

// narrow makes the next requests smaller after the target called this one
// invalid: first each lane alone, then half of its records, until the record
// that is to blame stands alone.
func narrow(req []*work, e *lane.Error) {
	w := req[0]
	switch {
	case len(req) > 1:
		for _, w := range req {
			w.alone = true
		}
	case w.sent > 1:
		w.most = w.sent / 2
	default:
		w.stop(e)
	}
}

func failAll(works []*work, e *lane.Error) {
	for _, w := range works {
		if w.open() {
			w.stop(e)
		}
	}
}

// asError is err as a *lane.Error; one that is none is Transient.
func asError(err error) *lane.Error {
	if e, ok := errors.AsType[*lane.Error](err); ok {
		return e
	}
	return &lane.Error{Class: lane.Transient, Text: "the request failed", Err: err}
}
