package mqtt

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"forebay/uplink/lane"
)

// maxFlight is how many bytes may be on their way at a time, unless it is one
// message: more would only stand in the way of pings on a slow link.
const maxFlight = 256 << 10

// A Sink publishes records. It is safe for concurrent use.
type Sink struct {
	cfg  Config // with defaults
	home lane.Home
	t    Template
	log  *slog.Logger

	// gate is held for reading while messages flow, and for writing while a
	// lane is on trial, alone on the connection.
	gate   sync.RWMutex
	trials Trials[message]

	dial sync.Mutex // one connects at a time

	mu   sync.Mutex
	conn *line
	done sync.WaitGroup // connections being closed
}

// A line is a connection and the places in its window.
type line struct {
	*Conn
	slots chan struct{}
}

// New makes a sink. Nothing is sent before the first Send or Probe.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	t, err := cfg.template()
	if err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, home: home, t: t, log: home.Log}, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// Close ends the connection. It must not be called during Send.
func (s *Sink) Close() error {
	s.mu.Lock()
	c := s.conn
	s.conn = nil
	s.mu.Unlock()
	if c != nil {
		c.Close()
	}
	s.done.Wait()
	return nil
}

// Probe connects, if there is no connection. Pings find out whether one that
// stands still lives.
func (s *Sink) Probe(ctx context.Context) error {
	_, err := s.connect(ctx)
	return err
}

// connect gives the connection, and makes it where there is none.
func (s *Sink) connect(ctx context.Context) (*line, error) {
	s.dial.Lock()
	defer s.dial.Unlock()
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil && c.Alive() {
		return c, nil
	}
	s.drop(c)
	conn, err := s.cfg.Dial(ctx, Session{ClientID: s.cfg.Name(s.home), Log: s.log})
	if err != nil {
		return nil, err
	}
	c = &line{Conn: conn, slots: make(chan struct{}, s.cfg.Window)}
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	return c, nil
}

// drop gives a connection up; others may be using it and find it gone.
func (s *Sink) drop(c *line) {
	if c == nil {
		return
	}
	s.mu.Lock()
	if s.conn != c {
		s.mu.Unlock()
		return
	}
	s.conn = nil
	s.done.Add(1)
	s.mu.Unlock()
	c.HangUp()
	go func() {
		defer s.done.Done() // Close waits
		c.Close()
	}()
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	out *lane.Outcome

	next   int       // record to publish next
	parts  []message // of it that are left; nil before it is begun
	wait   int       // messages without an acknowledgement
	missed bool      // one of them will not come: later ones count no more
	cause  error     // why the record next can never travel
	failed bool
}

func (w *work) open() bool {
	return !w.failed && w.cause == nil && (w.next < len(w.Recs) || len(w.parts) > 0)
}

// flight is a message that waits for its acknowledgement.
type flight struct {
	w    *work
	p    *Pending
	m    message
	last bool // it completes its record
}

// Send publishes the batches and gives an outcome for each, in their order. A
// lane stops at its first failure. A connection that ends is not made anew
// within Send; all that was on its way is then Ambiguous. ctx ends the wait
// for acknowledgements, and the connection with it.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	works := make([]*work, len(lanes))
	for i := range lanes {
		works[i] = &work{Batch: &lanes[i], out: &out[i]}
	}
	if len(lanes) == 0 {
		return out
	}
	var calm, suspects []*work
	for _, w := range works {
		if len(w.Recs) > 0 && s.trials.Suspect(w.Lane, w.Recs[0].Pos, func() string { return s.frontTopic(w) }) {
			suspects = append(suspects, w)
		} else {
			calm = append(calm, w)
		}
	}
	if len(calm) > 0 {
		s.gate.RLock()
		s.flow(ctx, calm)
		s.gate.RUnlock()
	}
	for _, w := range suspects {
		s.gate.Lock()
		s.try(ctx, w)
		s.gate.Unlock()
	}
	return out
}

// frontTopic is the topic of a batch's first record.
func (s *Sink) frontTopic(w *work) string {
	m, err := newWriter(s.cfg, s.t, s.home.ID).messages(nil, &w.Lane, &w.Recs[0])
	if err != nil {
		return ""
	}
	return m[0].topic
}

// flow publishes the records of lanes, in turn.
func (s *Sink) flow(ctx context.Context, works []*work) {
	c, err := s.connect(ctx)
	if err != nil {
		for _, w := range works {
			w.fail(failure(err, lane.Offline))
		}
		return
	}
	f := &flow{s: s, c: c, w: newWriter(s.cfg, s.t, s.home.ID)}
	f.run(ctx, works)
	var cut []*work
	for _, w := range works {
		if w.wait > 0 {
			cut = append(cut, w)
		}
	}
	why, far := c.Why()
	if f.err != nil {
		s.drop(c)
	}
	for _, w := range works {
		w.settle(f.err, why)
	}
	for _, w := range cut {
		if f.err != nil && far {
			s.trials.Died(w.Lane, w.Recs[w.out.Done].Pos, w.wait)
		}
	}
}

// fail ends a batch.
func (w *work) fail(e *lane.Error) {
	w.failed = true
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

// settle makes the outcome. err is why the flow ended early, why what the
// connection says of its end.
func (w *work) settle(err, why error) {
	switch {
	case w.failed || w.out.Done == len(w.Recs):
	case err == nil && w.cause != nil && w.wait == 0:
		w.fail(&lane.Error{Class: lane.Poison, Text: w.cause.Error()})
	case w.wait > 0:
		w.fail(lost(lane.Ambiguous, "acknowledgements are missing", err, why))
	default:
		w.fail(lost(lane.Transient, "not sent", err, why))
	}
}

// lost says what became of what a connection was to carry.
func lost(class lane.Class, text string, err, why error) *lane.Error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		text += ": given up"
	case errors.Is(err, errSlow):
		text += ": the broker does not answer"
	case why != nil:
		text += ": the connection to the broker has ended"
		err = why
	}
	return &lane.Error{Class: class, Text: text, Err: err}
}

// failure makes a *lane.Error of what Dial says.
func failure(err error, class lane.Class) *lane.Error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &lane.Error{Class: lane.Transient, Text: "not sent: given up", Err: err}
	}
	return &lane.Error{Class: class, Text: "not sent", Err: err}
}

// A flow is one Send's messages on one connection.
type flow struct {
	s     *Sink
	c     *line
	w     *writer
	fifo  []flight
	bytes int // in fifo
	err   error
}

func (f *flow) run(ctx context.Context, works []*work) {
	turn := 0
	for f.err == nil {
		w := next(works, &turn)
		if w == nil && len(f.fifo) == 0 {
			return
		}
		if w == nil {
			f.collect(ctx)
			continue
		}
		m, last, ok := f.message(w)
		if !ok {
			continue
		}
		for f.err == nil && len(f.fifo) > 0 && f.bytes+m.size() > maxFlight {
			f.collect(ctx)
		}
		if f.err == nil && f.slot(ctx) {
			f.publish(ctx, w, m, last)
		}
	}
	for len(f.fifo) > 0 {
		f.collect(ctx) // what has come before the end still counts
	}
}

// next is the lane whose turn it is, nil if none has anything to send.
func next(works []*work, turn *int) *work {
	for range works {
		w := works[*turn%len(works)]
		*turn++
		if w.open() {
			return w
		}
	}
	return nil
}

// message takes the lane's next message; last says that it completes its
// record. false: its record can never travel.
func (f *flow) message(w *work) (m message, last, ok bool) {
	if len(w.parts) == 0 {
		parts, err := f.w.messages(nil, &w.Lane, &w.Recs[w.next])
		if err != nil {
			w.cause = err
			return m, false, false
		}
		w.parts = parts
		w.next++
	}
	m, w.parts = w.parts[0], w.parts[1:]
	return m, len(w.parts) == 0, true
}

// slot takes a place in the connection's window.
func (f *flow) slot(ctx context.Context) bool {
	for f.err == nil {
		select {
		case f.c.slots <- struct{}{}:
			return true
		default:
		}
		if len(f.fifo) > 0 {
			f.collect(ctx)
			continue
		}
		select { // others have all places
		case f.c.slots <- struct{}{}:
			return true
		case <-f.c.Lost():
			f.err = errLost
		case <-ctx.Done():
			f.err = ctx.Err()
		}
	}
	return false
}

func (f *flow) publish(ctx context.Context, w *work, m message, last bool) {
	p, err := f.c.Publish(ctx, m.topic, 1, f.s.cfg.Retain, m.payload)
	if err != nil {
		<-f.c.slots
		f.err = err
		return
	}
	w.wait++
	w.out.Bytes += m.size()
	w.out.Requests++
	if f.s.cfg.AWS() {
		w.out.Units += (len(m.payload) + awsUnit - 1) / awsUnit
	}
	f.fifo = append(f.fifo, flight{w: w, p: p, m: m, last: last})
	f.bytes += m.size()
}

// collect waits for the acknowledgement of the message that is on its way the
// longest. A lane counts to its first that does not come.
func (f *flow) collect(ctx context.Context) {
	x := f.fifo[0]
	f.fifo = slices.Delete(f.fifo, 0, 1)
	f.bytes -= x.m.size()
	if err := x.p.Wait(ctx, f.bytes); err != nil {
		if f.err == nil {
			f.err = err
			// Nothing is waited for twice, and nothing more goes out.
			f.c.HangUp()
		}
		x.w.missed = true
		return
	}
	<-f.c.slots
	if x.w.missed {
		return
	}
	x.w.wait--
	if x.last {
		x.w.out.Done++
		f.s.took(x.w, x.m)
	}
}
