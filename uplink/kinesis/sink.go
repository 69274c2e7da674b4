package kinesis

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
)

// A Sink sends batches to Kinesis streams. It is safe for concurrent use.
type Sink struct {
	cfg     Config
	maxUnit int
	timeout time.Duration
	aws     *aws.Client
	pace    aws.Pace
	log     *slog.Logger
	many    bool   // the target's name follows the local stream's
	rising  bool   // a lane's envelopes come in rising order: another gateway may drop what comes twice
	series  string // for which that holds

	born time.Time
	json atomic.Int64 // the age at which requests with records stop being JSON
	cbor atomic.Bool  // the target has understood one in CBOR

	packers sync.Pool // *packer
	slabs   sync.Pool // *[]work

	mu      sync.Mutex
	checked map[string]time.Time // target streams that exist and keep keys together, and since when we know
	last    string               // the target stream used last
	begun   map[lane.Lane]begun
}

// begun is a record in many parts of which the target has the first few. It
// is remembered from Send to Send, so that one that needs many requests gets
// on over a link that breaks or is throttled after each.
type begun struct {
	pos  record.Pos
	skip int
}

// parallel is how many target streams one Send serves at a time.
const parallel = 4

// New makes a sink of a config that Check has passed. Nothing is sent before the first Send or Probe. Errors: the CA file cannot
// be read, or neither config nor environment says where to send.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Sink{
		cfg:     cfg,
		maxUnit: int(cfg.MaxRecord.Or(defaultUnit)),
		timeout: cfg.RequestTimeout.Or(defaultLimit),
		pace:    aws.Pace{Most: maxRequest},
		log:     home.Log,
		born:    time.Now(),
		rising:  home.Rising && cfg.Format != "raw",
		series:  cmp.Or(home.Series, "0"),
		many:    strings.Contains(cfg.Stream, streamMark),
		checked: make(map[string]time.Time),
		begun:   make(map[lane.Lane]begun),
	}
	var err error
	s.aws, err = aws.NewClient(cfg.Access, aws.Options{
		Service: "kinesis", Name: "Kinesis", Conns: 2 * parallel, Classify: classify, Log: home.Log,
	})
	if err != nil {
		return nil, err
	}
	if cfg.Wire == "json" {
		s.json.Store(math.MaxInt64)
	}
	s.slabs.New = func() any { return new([]work) }
	s.packers.New = func() any {
		p := &packer{aggregate: cfg.Aggregate != "off", maxUnit: s.maxUnit, claims: s.rising}
		if cfg.Format != "raw" {
			p.env = envelope.NewBeside(home.ID)
		}
		return p
	}
	return s, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// ClockOffset is how far the target's clock is ahead of ours, to the second
// and half a round trip; 0 until the target has answered. Requests are signed
// with the target's time, so an offset is an alarm and not an outage.
func (s *Sink) ClockOffset() time.Duration { return s.aws.ClockOffset() }

// Close gives up idle connections. It must not be called during Send.
func (s *Sink) Close() error {
	s.aws.Close()
	return nil
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	hash [mostDigits]byte // explicit hash key in decimal
	ends int              // where it ends
	out  *lane.Outcome

	sent    int // records that are complete with the request under way
	cut     int // where that is none: parts of the front record in it
	size    int // bytes of the unit under way, data and key
	via     string
	skip    int  // parts of the front record that the target has
	most    int  // records a unit may hold; 0: as many as fit
	alone   bool // goes in a request of its own
	stopped bool
}

func (w *work) left() []record.Record { return w.Recs[w.out.Done:] }
func (w *work) digits() []byte        { return w.hash[:w.ends] }
func (w *work) open() bool            { return !w.stopped && w.out.Done < len(w.Recs) }

func (w *work) stop(e *Error) {
	w.stopped = true
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

// Spreads reports whether a request holds one record of a lane.
func (s *Sink) Spreads() bool { return s.cfg.Aggregate == "off" }

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. It sends every record once, in requests that hold
// one Kinesis record of a lane at most: a lane stops at its first failure, the
// others go on. Only where the target says that something in a request is not
// valid are parts of it sent again, to find out what. The records are not used
// after Send has returned.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	slab := s.slabs.Get().(*[]work)
	all := (*slab)[:0]
	for i := range lanes {
		all = append(all, work{Batch: &lanes[i], out: &out[i]})
		w := &all[i]
		w.ends = len(appendDecimal(w.hash[:0], w.Lane.Hash))
	}
	defer func() {
		clear(all)
		*slab = all
		s.slabs.Put(slab)
	}()
	s.resume(all)
	groups := s.group(all)
	if len(groups) == 1 {
		s.sendStream(ctx, groups[0])
		s.leave(all)
		return out
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, parallel)
	for _, g := range groups {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			s.sendStream(ctx, g)
		})
	}
	wg.Wait()
	s.leave(all)
	return out
}

// A group is what goes to one target stream.
type group struct {
	stream string
	works  []*work
}

func (s *Sink) group(all []work) []group {
	var groups []group
	places := map[string]int{}
	for i := range all {
		name := s.cfg.Stream
		if s.many {
			name = s.cfg.stream(all[i].Lane.Stream)
		}
		at, ok := places[name]
		if !ok {
			at = len(groups)
			places[name] = at
			groups = append(groups, group{name, make([]*work, 0, len(all)-i)})
		}
		groups[at].works = append(groups[at].works, &all[i])
	}
	return groups
}

// resume finds how many parts of each batch's first record the target has.
func (s *Sink) resume(all []work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.begun) == 0 {
		return
	}
	for i := range all {
		w := &all[i]
		if p, ok := s.begun[w.Lane]; ok && len(w.Recs) > 0 && w.Recs[0].Pos == p.pos {
			w.skip = p.skip
		}
	}
}

// leave remembers what was begun.
func (s *Sink) leave(all []work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range all {
		w := &all[i]
		if w.skip > 0 && w.out.Done < len(w.Recs) {
			s.begun[w.Lane] = begun{pos: w.left()[0].Pos, skip: w.skip}
		} else if len(s.begun) > 0 {
			delete(s.begun, w.Lane)
		}
	}
}

// sendStream sends what goes to one target stream.
func (s *Sink) sendStream(ctx context.Context, g group) {
	stream, works := g.stream, g.works
	p := s.packers.Get().(*packer)
	defer func() {
		clear(p.req)
		s.packers.Put(p)
	}()
	if err := s.prepare(ctx, stream); err != nil {
		failAll(works, asError(err))
		return
	}
	for {
		form := s.wire()
		req, status, err := s.request(ctx, p, g, form)
		if err != nil && s.unread(form, status, asError(err)) {
			// Nothing of it was done: what counts is what becomes of this one.
			if req, _, err = s.request(ctx, p, g, jsonWire{}); err == nil {
				s.speaksJSON()
			}
		}
		if len(req) == 0 {
			for _, w := range works {
				if w.open() { // fill packs one unit at least, or stops its lane
					w.stop(&Error{Class: lane.Transient, Text: "nothing could be packed"})
				}
			}
			return
		}
		if err == nil {
			s.settle(req, p.entries)
			continue
		}
		e := asError(err)
		if e.Class == lane.Poison {
			narrow(req, e)
			continue
		}
		if e.Code == "ResourceNotFoundException" {
			s.forget(stream)
			if s.cfg.CreateShards > 0 {
				e.Class = lane.Transient // the next Send creates it
			}
		}
		failAll(works, e)
		return
	}
}

// request makes the next request and takes its answer, which is in p.entries
// then. It gives the lanes that are in it; none means that nothing is left. The
// same is made again until the answer is settled.
func (s *Sink) request(ctx context.Context, p *packer, g group, form wire) (req []*work, status int, err error) {
	buf := s.aws.Buffer()
	defer buf.Release()
	if req = s.fill(buf, p, g, form); len(req) == 0 {
		return nil, 0, nil
	}
	req[0].out.Requests++
	status, err = s.put(ctx, buf, p, req, form)
	return req, status, err
}

// unitRoom is about what a unit has besides its key and data.
const unitRoom = 100

// fill writes the next request into buf: a unit of each lane that still has
// records.
func (s *Sink) fill(buf *aws.Buffer, p *packer, g group, form wire) []*work {
	// The lanes' records lie far apart in memory: what is asked for in one go
	// comes in one go.
	size := 0
	for _, w := range g.works[:min(len(g.works), maxEntries)] {
		if w.open() {
			size += unitRoom + len(w.left()[0].Key) + len(w.left()[0].Data)
		}
	}
	buf.B = form.open(slices.Grow(buf.B[:0], min(size, maxRequest)), g.stream)
	at := len(buf.B)
	room := s.pace.Size()
	most := max(room, unitCurrent)
	req := p.req[:0]
	defer func() { p.req = req }()
	for _, w := range g.works {
		if !w.open() || (w.alone && len(req) > 0) {
			continue
		}
		if len(req) == maxEntries || room < unitCurrent && len(req) > 0 {
			break
		}
		limit := room
		if !w.Backlog {
			limit = min(limit, unitCurrent-1)
		}
		recs := w.left()
		if w.most > 0 {
			recs = recs[:min(w.most, len(recs))]
		}
		hash := ""
		if p.aggregate { // they hold it too
			hash = string(w.digits())
		}
		u, err := p.pack(&w.Lane, hash, recs, w.skip, limit, most)
		if err != nil {
			w.stop(&Error{Class: lane.Poison, Text: err.Error()})
			continue
		}
		if u.size() > room && len(req) > 0 {
			continue // its turn comes with the next request
		}
		before := len(buf.B)
		buf.B = form.appendUnit(buf.B, len(req), u, w.digits())
		w.out.Bytes += len(buf.B) - before
		w.out.Plain += u.plain(form, len(buf.B)-before)
		w.sent, w.cut, w.size, w.via = u.n, u.cut, u.size(), u.via
		room -= u.size()
		req = append(req, w)
		if w.alone {
			break
		}
	}
	buf.B = form.seal(buf.B, at, len(req))
	return req
}

// settle takes the answer's entries, one for each lane of the request.
func (s *Sink) settle(req []*work, answer []entry) {
	for i, w := range req {
		e := s.outcome(&answer[i])
		if e == nil {
			w.out.Units += Units(w.size)
			w.out.Billed += Billed(w.size)
		}
		switch {
		case e == nil && w.sent == 0:
			w.skip += w.cut
		case e == nil:
			w.out.Done += w.sent
			w.skip = 0
		case e.Class == lane.Poison && w.sent > 1:
			w.most = w.sent / 2
		default:
			w.stop(e)
		}
	}
}

// narrow makes the next requests smaller after the target called this one
// invalid: first each lane alone, then half of its records, until the record
// that is to blame stands alone.
func narrow(req []*work, e *Error) {
	if len(req) > 1 {
		for _, w := range req {
			w.alone = true
		}
		return
	}
	w := req[0]
	if w.sent > 1 {
		w.most = w.sent / 2
		return
	}
	w.stop(e)
}

func failAll(works []*work, e *Error) {
	for _, w := range works {
		if w.open() {
			w.stop(e)
		}
	}
}

// put sends a PutRecords request, of an entry for each lane. The answer's
// entries are in p.entries then.
func (s *Sink) put(ctx context.Context, buf *aws.Buffer, p *packer, req []*work, form wire) (status int, err error) {
	start := time.Now()
	a, err := s.call(ctx, "PutRecords", buf, form.media(), s.claim(req))
	defer a.Release()
	s.pace.Took(len(buf.B), time.Since(start), s.timeout, err)
	if err != nil {
		if a != nil {
			status = a.Status
		}
		return status, err
	}
	var asJSON bool
	if p.entries, asJSON, err = parsePutRecords(p.entries[:0], a.Body, len(req)); errors.Is(err, errFailed) {
		return a.Status, &Error{Class: lane.Ambiguous, Text: "the answer does not tell which record failed", Err: err}
	} else if err != nil {
		return a.Status, &Error{Class: lane.Offline, Text: s.aws.Portal(a.Status, a.Header), Err: err}
	}
	switch {
	case form.media() != cborMedia:
	case asJSON && s.cbor.Load(): // the request was taken, and was CBOR
	case asJSON:
		s.speaksJSON()
	default:
		s.cbor.Store(true)
	}
	s.aws.Learn(a)
	return a.Status, nil
}
