package sparkplug

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

// Bounds of what goes out before the next barrier, and of one message of data.
const (
	chunkRecords = 500
	chunkBytes   = 256 << 10
	messageBytes = 32 << 10
	// fresh is how young a record is that is never history.
	fresh = 5 * time.Second
	// maxWitness is the largest record that is kept as a witness.
	maxWitness = 64 << 10
)

// A Sink is an edge node. It is safe for concurrent use.
type Sink struct {
	cfg     Config // settled
	log     *slog.Logger
	device  mqtt.Template
	metric  mqtt.Template
	gateway string
	timeout time.Duration

	// gate is held for reading while data flows, and for writing while a lane
	// is on trial, alone on the connection.
	gate    sync.RWMutex
	trials  mqtt.Trials[[]sample]
	refused atomic.Uint64

	opening sync.Mutex // one makes a session at a time
	poked   chan struct{}
	running sync.WaitGroup

	// mu guards what is said: the numbers of messages, and what is known.
	mu          sync.Mutex
	now         *session
	bdSeq       uint8 // of the next CONNECT
	stillbirths int
	known       registry
}

// New makes a sink. Nothing is sent before the first Send or Probe.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.settled(home)
	device, metric, err := cfg.templates()
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, log: home.Log, device: device, metric: metric, gateway: home.ID.Gateway,
		timeout: cfg.RequestTimeout.D(),
		poked:   make(chan struct{}, 1),
		known:   registry{limit: cfg.MaxMetrics},
	}, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// CommandsRefused counts the commands that hosts gave and that were not obeyed.
func (s *Sink) CommandsRefused() uint64 { return s.refused.Load() }

// Probe makes the session, if there is none, and says whether data can be
// sent; with a primary host, whether that is online.
func (s *Sink) Probe(ctx context.Context) error {
	_, err := s.ready(ctx)
	return err
}

// Close publishes the node's death and ends the session. It must not be called
// during Send.
func (s *Sink) Close() error {
	s.mu.Lock()
	x := s.now
	s.now = nil
	s.mu.Unlock()
	if x != nil {
		x.die()
	}
	s.running.Wait()
	return nil
}

// poke tells whoever waits for news of the host.
func (s *Sink) poke() {
	select {
	case s.poked <- struct{}{}:
	default:
	}
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	out    *lane.Outcome
	next   int   // record to send next
	cause  error // why that one can never travel
	failed bool
}

func (w *work) open() bool { return !w.failed && w.cause == nil && w.next < len(w.Recs) }

func (w *work) fail(e *lane.Error) {
	if !w.failed && w.out.Done < len(w.Recs) {
		w.failed = true
		w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
	}
}

// Send publishes the batches as data and gives an outcome for each, in their
// order. A session that ends is not made anew within Send; what was on its way
// is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	var calm, suspects []*work
	for i := range lanes {
		w := &work{Batch: &lanes[i], out: &out[i]}
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

func (s *Sink) reader() *reader {
	return &reader{device: s.device, metric: s.metric, raw: s.cfg.Format == "raw", gateway: s.gateway}
}

// frontTopic is where a batch's first record goes.
func (s *Sink) frontTopic(w *work) string {
	ss := s.reader().samples(nil, &w.Lane, &w.Recs[0])
	return s.cfg.topic("DDATA", ss[0].device)
}

// flow sends chunk after chunk.
func (s *Sink) flow(ctx context.Context, works []*work) {
	x, err := s.ready(ctx)
	if err != nil {
		for _, w := range works {
			w.fail(failure(err))
		}
		return
	}
	rd := s.reader()
	for {
		c := s.fill(rd, x, works, chunkRecords)
		if len(c) == 0 {
			break
		}
		if err := s.push(ctx, x, c); err != nil {
			s.failed(x, works, c, err)
			return
		}
	}
	for _, w := range works {
		if w.cause != nil {
			w.fail(&lane.Error{Class: lane.Poison, Text: w.cause.Error()})
		}
	}
}

// failed makes the outcomes of a chunk that was not acknowledged.
func (s *Sink) failed(x *session, works []*work, c []run, err error) {
	why, far := x.c.Why()
	if x.c.Alive() {
		x.c.HangUp()
	}
	s.leave(x)
	for i := range c {
		w := c[i].w
		w.fail(lost(x, lane.Ambiguous, "the acknowledgement is missing", err, why))
		if far {
			s.trials.Died(w.Lane, w.Recs[w.out.Done].Pos, c[i].n)
		}
	}
	for _, w := range works {
		w.fail(lost(x, lane.Transient, "not sent", err, why))
	}
}

// lost says what became of what a session was to carry.
func lost(x *session, class lane.Class, text string, err, why error) *lane.Error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		text += ": given up"
	case !x.online():
		text += ": the primary host went offline"
	case why != nil:
		text += ": the connection to the broker has ended"
		err = why
	}
	return &lane.Error{Class: class, Text: text, Err: err}
}

func failure(err error) *lane.Error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	return &lane.Error{Class: lane.Transient, Text: "not sent: given up", Err: err}
}

// A run is consecutive records of a lane within a chunk.
type run struct {
	w       *work
	n       int // records
	samples []sample
	last    []sample // those of its last record
	ends    bool     // nothing waits behind it
}

// fill takes the next records of the lanes, and learns what metrics they have.
func (s *Sink) fill(rd *reader, x *session, works []*work, most int) []run {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c []run
	records, bytes := 0, 0
	for _, w := range works {
		r := run{w: w}
		for w.open() && records < most && (bytes < chunkBytes || records == 0) {
			from := len(r.samples)
			in := &w.Recs[w.next]
			r.samples = rd.samples(r.samples, &w.Lane, in)
			mine := r.samples[from:]
			size := 0
			for i := range mine {
				mine[i].historical = s.historical(x, w.Batch, in)
				size += weight(mine[i].metric, &mine[i].value)
			}
			err := error(nil)
			if size > int(s.cfg.MaxPayload) {
				err = fmt.Errorf("the record makes a message of about %d bytes, the broker takes %d (max_payload)", size, int64(s.cfg.MaxPayload))
			}
			if err == nil {
				err = s.known.learn(mine)
			}
			if err != nil {
				w.cause = err
				r.samples = r.samples[:from]
				break
			}
			r.last = mine
			r.n++
			w.next++
			records++
			bytes += size
		}
		if r.n > 0 {
			r.ends = !w.Backlog && w.next == len(w.Recs)
			c = append(c, r)
		}
	}
	return c
}

// historical reports whether a record is history: it is from before the node's
// birth, or old while more are waiting behind it. Its arrival counts, which is
// by our clock, as the birth is.
func (s *Sink) historical(x *session, b *lane.Batch, r *record.Record) bool {
	age := time.Since(r.Arrived)
	if r.Arrived.IsZero() || age < fresh {
		return false
	}
	return r.Arrived.Before(x.bornAt) || b.Backlog && age > s.cfg.HistoricalAfter.D()
}

// push sends a chunk and waits until the broker has it.
func (s *Sink) push(ctx context.Context, x *session, c []run) error {
	all := 0
	if err := s.announce(ctx, x); err != nil {
		return err
	}
	for i := range c {
		r := &c[i]
		n, err := s.say(ctx, x, r, r.samples)
		if err == nil && r.ends {
			s.mu.Lock()
			again := s.known.restate(idOf(&r.w.Lane))
			s.mu.Unlock()
			var m int
			m, err = s.say(ctx, x, r, again)
			n += m
		}
		r.w.out.Bytes += n
		all += n
		if err != nil {
			return err
		}
	}
	if err := x.barrier(ctx, all); err != nil {
		return err
	}
	if !x.online() {
		return errors.New("the primary host is offline")
	}
	for i := range c {
		r := &c[i]
		r.w.out.Done += r.n
		size := 0
		for k := range r.last {
			size += weight(r.last[k].metric, &r.last[k].value)
		}
		s.trials.Took(r.w.Lane, s.cfg.topic("DDATA", r.last[0].device), r.last, size <= maxWitness)
	}
	return nil
}

// announce publishes the births of devices that have metrics none told of.
func (s *Sink) announce(ctx context.Context, x *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.known.list {
		if d.unborn {
			if err := x.birth(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// say publishes samples, several in a message where they are of one device,
// and gives the bytes. Values that are not history stay in the order of their
// times within a message (5.15), and one metric has one value for a time.
func (s *Sink) say(ctx context.Context, x *session, r *run, ss []sample) (int, error) {
	total := 0
	for len(ss) > 0 {
		n, size, newest := 0, 0, uint64(0)
		seen := make(map[string]uint64)
		for n < len(ss) && ss[n].device == ss[0].device && (n == 0 || size < messageBytes) {
			v := &ss[n]
			if t, twice := seen[v.metric]; twice && t == v.time || !v.historical && v.time < newest {
				break
			}
			if !v.historical {
				newest = v.time
			}
			seen[v.metric] = v.time
			size += weight(v.metric, &v.value)
			n++
		}
		sent, err := s.data(ctx, x, idOf(&r.w.Lane), ss[:n])
		if err != nil {
			return total, err
		}
		total += sent
		r.w.out.Requests++
		ss = ss[n:]
	}
	return total, nil
}

// data publishes one message of a device. The types stand in it too, although
// 6.4.5 would rather leave them to the births: decoders in use read nothing
// without them.
func (s *Sink) data(ctx context.Context, x *session, l laneID, ss []sample) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.known.devices[ss[0].device]; d.unborn { // another Send has widened a type since
		if err := x.birth(ctx, d); err != nil {
			return 0, err
		}
	}
	p := &Payload{Time: uint64(time.Now().UnixMilli())}
	for i := range ss {
		v := &ss[i]
		m := s.known.say(l, v)
		out := Metric{Name: m.name, Time: v.time, Type: m.typ, Historical: v.historical, Value: v.value.as(m.typ)}
		if s.cfg.Aliases {
			out.Name, out.Alias = "", m.alias
		}
		if out.Type == Unknown {
			out.Type = String
		}
		out.Null = v.value.Type == Unknown
		p.Metrics = append(p.Metrics, out)
	}
	return x.publish(ctx, "DDATA", ss[0].device, p)
}

// try sends a suspect's records alone, each behind a barrier. The gate is held.
func (s *Sink) try(ctx context.Context, w *work) {
	x, err := s.ready(ctx)
	if err != nil {
		w.fail(failure(err))
		return
	}
	witness, have, count := s.trials.Witness(w.Lane)
	if have {
		if err := s.testify(ctx, x, w, witness); err != nil {
			why, far := x.c.Why()
			e := lost(x, lane.Transient, "not sent", err, why)
			if far {
				if told := s.trials.WitnessRefused(w.Lane, why); told != nil {
					e = told
				}
			}
			s.leave(x)
			w.fail(e)
			return
		}
	}
	rd := s.reader()
	for range count {
		c := s.fill(rd, x, []*work{w}, 1)
		if len(c) == 0 {
			break
		}
		if err := s.push(ctx, x, c); err != nil {
			w.fail(s.judge(ctx, x, w, &c[0], err, have))
			return
		}
		have = true
	}
	s.flow(ctx, []*work{w})
}

// testify says again what the broker took before.
func (s *Sink) testify(ctx context.Context, x *session, w *work, witness []sample) error {
	r := run{w: w}
	n, err := s.say(ctx, x, &r, witness)
	if err == nil {
		err = x.barrier(ctx, n)
	}
	w.out.Bytes += n
	return err
}

// judge says what it means that the broker did not take a record that was
// alone on its way.
func (s *Sink) judge(ctx context.Context, x *session, w *work, r *run, err error, have bool) *lane.Error {
	why, far := x.c.Why()
	early := lost(x, lane.Ambiguous, "the acknowledgement is missing", err, why)
	s.leave(x)
	if !far {
		return early
	}
	topic, size := s.cfg.topic("DDATA", r.samples[0].device), 0
	for i := range r.samples {
		size += weight(r.samples[i].metric, &r.samples[i].value)
	}
	e := s.trials.Refused(w.Lane, topic, size, have, why)
	if e == nil {
		return early
	}
	if e.Class == lane.Poison {
		witness, _, _ := s.trials.Witness(w.Lane)
		again, err := s.ready(ctx)
		if err == nil {
			err = s.testify(ctx, again, w, witness)
		}
		if err != nil {
			return early
		}
		s.trials.Blame(w.Lane, topic)
	}
	return e
}
