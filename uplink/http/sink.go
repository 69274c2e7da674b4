package http

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// A Sink posts batches to URLs. It is safe for concurrent use.
type Sink struct {
	cfg    Config // with defaults
	id     record.Identity
	client *web.Client
	coder  *web.Coder
	pace   *web.Pace

	packers sync.Pool     // *packer
	turn    chan struct{} // a place for each request that may be under way

	mu    sync.Mutex
	known map[lane.Lane]memory
	urls  map[string]*target
	kept  int    // bytes of all controls
	last  string // the URL used last
}

// A memory is what a lane remembers from Send to Send.
type memory struct {
	// front is the record that the lane is at, and skip how many of its parts
	// the target has.
	front record.Pos
	skip  int
	// first and last are the ends of a batch that the target may have: it goes
	// out again as it was, so that its key means the same. zero: none.
	first, last place
	slow        int // times in a row that it took too long
	// narrow is how many records a request may have after a refusal, 0: any
	// number.
	narrow int
	// alone counts how often the front record was refused alone and nothing
	// proved that the target takes others.
	alone int
}

// A target is what is known of one URL.
type target struct {
	limit    *web.Limit
	largest  int     // bytes of a request that it took, as it travelled
	accepted uint64  // requests
	control  *parcel // the last one of those that was small, or the last
	// seen is what it answered to HEAD last, and normal what it answered when it
	// took a batch soon afterwards; zero: nothing.
	seen, normal greeting
	seenAt       time.Time
	doubts       int // probes that may still take it for a portal, see maxDoubts
}

const (
	// maxURLs is of how many URLs something is known at a time.
	maxURLs = 256
	// smallControl is how large a request is kept as a control rather than any
	// other, and maxKept bounds all controls together.
	smallControl, maxKept = 16 << 10, 4 << 20
)

// New makes a sink of a config that Check has passed. Nothing is sent before
// the first Send or Probe. Errors: the CA file cannot be read.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	s := &Sink{
		cfg:   cfg,
		id:    home.ID,
		pace:  web.NewPace(int(cfg.MaxBody)),
		turn:  make(chan struct{}, cfg.Connections),
		known: make(map[lane.Lane]memory),
		urls:  make(map[string]*target),
	}
	var err error
	if s.client, err = web.NewClient(cfg.Access, cfg.Connections); err != nil {
		return nil, err
	}
	if s.coder, err = web.NewCoder(cfg.Compression); err != nil {
		return nil, err
	}
	s.packers.New = func() any {
		p := &packer{cfg: cfg, id: home.ID, env: envelope.New(home.ID)}
		if home.Apart {
			p.via = home.Uplink + ":" // a target may know the keys of what was sent before
		}
		return p
	}
	return s, nil
}

// ClockOffset is how far the target's clock is ahead of ours; 0 until an
// answer over TLS has told.
func (s *Sink) ClockOffset() time.Duration { return s.client.ClockOffset() }

// Close gives up idle connections. It must not be called during Send.
func (s *Sink) Close() error {
	s.client.Drop()
	return nil
}

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. A lane has one request under way at a time and
// stops at its first failure; the others go on. Only where the target refuses
// what is in a batch are parts of it sent again, to find out what.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	var wg sync.WaitGroup
	for i := range lanes {
		if len(lanes[i].Recs) == 0 {
			continue
		}
		if name := lanes[i].Lane.Stream; strings.Trim(name, ".") == "" && strings.Contains(s.cfg.URL, streamMark) {
			e := &lane.Error{Class: lane.Misconfigured, Text: fmt.Sprintf("the stream's name %q would lead to another path of the target; leave {stream} out of url", name)}
			out[i].Class, out[i].Err = e.Class, e
			continue
		}
		s.turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-s.turn }()
			r := run{s: s, b: &lanes[i], out: &out[i], url: strings.ReplaceAll(s.cfg.URL, streamMark, lanes[i].Lane.Stream)}
			r.send(ctx)
		})
	}
	wg.Wait()
	return out
}

// A run is one batch on its way through Send.
type run struct {
	s   *Sink
	b   *lane.Batch
	out *lane.Outcome
	url string
	mem memory
	// before is how many requests the target had accepted when it refused one
	// of this run first; refusing says that it has.
	before   uint64
	refusing bool
}

func (r *run) left() []record.Record { return r.b.Recs[r.out.Done:] }

func (r *run) stop(e *lane.Error) {
	r.out.Class, r.out.Err, r.out.RetryAfter = e.Class, e, e.RetryAfter
}

func (r *run) send(ctx context.Context) {
	r.mem = r.s.recall(r.b)
	p := r.s.packers.Get().(*packer)
	defer r.s.packers.Put(p)
	for len(r.left()) > 0 {
		if !r.step(ctx, p) {
			break
		}
	}
	if left := r.left(); len(left) > 0 {
		r.mem.front = left[0].Pos
		r.out.Again = r.held(left)
	} else {
		r.mem = memory{narrow: r.mem.narrow}
	}
	r.s.remember(r.b.Lane, r.mem)
}

// step makes one request of what is left; false if the lane stops.
func (r *run) step(ctx context.Context, p *packer) bool {
	recs, s := r.left(), r.s
	parts, limit := s.cfg.MaxRecords, min(s.limit(r.url), s.pace.Size())
	until := r.again(recs)
	if until != (place{}) {
		parts = maxParts
	} else if r.mem.narrow > 0 {
		parts = min(parts, r.mem.narrow)
	}
	q, err := p.pack(r.b.Lane.Stream, recs, r.mem.skip, parts, limit, until)
	if err != nil {
		r.stop(&lane.Error{Class: lane.Poison, Text: err.Error()})
		return false
	}
	q.url = r.url
	return r.answered(ctx, &q, s.post(ctx, &q, r.out))
}

// answered draws the consequences of an answer; false if the lane stops.
func (r *run) answered(ctx context.Context, q *request, v verdict) bool {
	if v.err == nil {
		r.took(q)
		return true
	}
	switch {
	case v.refused || v.large:
		r.mem.first, r.mem.last, r.mem.slow = place{}, place{}, 0
		return r.narrow(ctx, q, v)
	case v.maybe:
		r.hold(q, v.err)
	}
	if v.err.Class == lane.Throttled && r.mem.last != (place{}) {
		// The batch must not become smaller, which is what the pump makes of
		// being throttled.
		v.err.Class = lane.Transient
	}
	r.stop(v.err)
	return false
}

// maxParts is more than any batch has.
const maxParts = 1 << 30

// again is where a batch ends that the target may have, if this one begins
// like it and holds all of it.
func (r *run) again(recs []record.Record) place {
	m := &r.mem
	if m.last == (place{}) || m.first.pos != recs[0].Pos || m.first.part > 0 && m.first.part != m.skip+1 {
		return place{}
	}
	for i := range recs {
		if recs[i].Pos == m.last.pos && sameOrigin(&recs[i], &recs[0]) {
			return m.last
		}
	}
	return place{}
}

// held counts the records in front that are in a batch which the target may
// have.
func (r *run) held(left []record.Record) int {
	if until := r.again(left); until != (place{}) {
		return 1 + slices.IndexFunc(left, func(x record.Record) bool { return x.Pos == until.pos })
	}
	return 0
}

// hold notes that the target may have the batch. One that never gets through
// in time is given up for smaller ones, with keys of their own.
func (r *run) hold(q *request, e *lane.Error) {
	if web.TimedOut(e) {
		r.mem.slow++
	}
	if r.mem.slow >= 3 {
		r.mem.first, r.mem.last, r.mem.slow = place{}, place{}, 0
		return
	}
	r.mem.first, r.mem.last = q.first, q.last
}

// took notes that a request was acknowledged.
func (r *run) took(q *request) {
	r.out.Done += q.done
	r.mem = memory{skip: q.skip, narrow: r.mem.narrow}
	if r.mem.narrow > 0 {
		if r.mem.narrow *= 2; r.mem.narrow >= r.s.cfg.MaxRecords {
			r.mem.narrow = 0
		}
	}
}

// narrow makes the next request smaller after the target refused what is in
// this one, until the record that is to blame stands alone; false if the lane
// stops.
func (r *run) narrow(ctx context.Context, q *request, v verdict) bool {
	if q.parts > 1 {
		if v.large {
			r.s.shrink(r.url, len(q.text))
		} else {
			r.mem.narrow = max(q.parts/2, 1)
		}
		r.note()
		return true
	}
	switch {
	case v.refused:
		v.err = r.blame(ctx, v.err)
		r.mem.narrow = 1
	case v.large:
		if v.err = r.tooLarge(ctx, q, v); v.err.Class != lane.Poison {
			break
		}
		// What called it too large may have gone before the proof.
		v = r.s.post(ctx, q, r.out)
		if !v.large {
			return r.answered(ctx, q, v)
		}
		r.s.refuses(r.url, v.sent)
	}
	if v.err.Class == lane.Poison {
		r.mem.skip, r.mem.alone = 0, 0
	}
	r.stop(v.err)
	return false
}

// note remembers what the target had accepted before it began to refuse.
func (r *run) note() {
	if !r.refusing {
		r.refusing, r.before = true, r.s.accepted(r.url)
	}
}

// tries is how often a record must have been refused alone to be set aside
// where nothing can prove that the target takes others.
const tries = 6

// blame says whose fault it is that a record was refused alone. It is the
// record's where the target takes others: one since it began to refuse, or the
// last batch that it took, sent again under the same key. A target that refuses
// that one too refuses everything.
func (r *run) blame(ctx context.Context, why *lane.Error) *lane.Error {
	s := r.s
	if r.refusing && s.accepted(r.url) > r.before {
		return why
	}
	r.note()
	all := *why
	all.Class = lane.Misconfigured
	control := s.control(r.url)
	if control == nil {
		if r.mem.alone++; r.mem.alone >= tries {
			return why
		}
		all.Text = "the target has taken nothing yet, and " + strings.TrimPrefix(all.Text, "the target ")
		return &all
	}
	v := s.deliver(ctx, r.url, control, r.out)
	switch {
	case v.err == nil:
		return why
	case v.refused || v.large:
		all.Text = "the target refuses everything, even what it took before: " + all.Text
		return &all
	}
	return v.err // later, then
}

// recall gives what is remembered of a lane, as far as it is about the batch.
func (s *Sink) recall(b *lane.Batch) memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.known[b.Lane]
	if m.front != b.Recs[0].Pos {
		m = memory{narrow: m.narrow}
	}
	return m
}

func (s *Sink) remember(l lane.Lane, m memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if blank := (memory{front: m.front}); m == blank {
		delete(s.known, l)
		return
	}
	s.known[l] = m
}

// at gives what is known of a URL. s.mu is held.
func (s *Sink) at(url string) *target {
	t := s.urls[url]
	if t == nil {
		for other := range s.urls {
			if len(s.urls) < maxURLs {
				break
			}
			s.keep(s.urls[other], nil)
			delete(s.urls, other)
		}
		t = &target{limit: web.NewLimit(int(s.cfg.MaxBody))}
		s.urls[url] = t
	}
	s.last = url
	return t
}

func (s *Sink) limit(url string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(url).limit.Size()
}

// shrink notes that a request of n bytes was too large.
func (s *Sink) shrink(url string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.at(url)
	if t.limit.Refused(n); t.control != nil && t.control.size > t.limit.Size() {
		s.keep(t, nil)
	}
}

// keep makes a request the control of a target. s.mu is held.
func (s *Sink) keep(t *target, p *parcel) {
	if t.control != nil {
		s.kept -= len(t.control.body)
	}
	if t.control = p; p != nil {
		s.kept += len(p.body)
	}
}

func (s *Sink) accepted(url string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(url).accepted
}

func (s *Sink) control(url string) *parcel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(url).control
}

func (s *Sink) accept(url string, p *parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.at(url)
	t.accepted++
	t.settled()
	t.largest = max(t.largest, len(p.body))
	t.limit.Took(p.size)
	old := 0
	if t.control != nil {
		old = len(t.control.body)
	}
	if n := len(p.body); n <= smallControl || (old == 0 || old > smallControl) && s.kept-old+n <= maxKept {
		s.keep(t, p)
	}
}
