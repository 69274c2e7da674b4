package opensearch

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/web"
)

const (
	// parallel is how many connections are kept.
	parallel = 4
	// maxItems is how many documents a request may have.
	maxItems = 20_000
	// maxControl is how large a document may be that is kept as a control.
	maxControl = 64 << 10
	// tries is how often a document must have been refused to be set aside
	// where nothing can prove that the target takes others.
	tries = 6
)

// A Sink sends records to a cluster as documents. It is safe for concurrent
// use.
type Sink struct {
	cfg  Config // with defaults
	home lane.Home
	log  *slog.Logger
	to   *client
	name name
	pace *web.Pace

	packers sync.Pool // *packer

	mu       sync.Mutex
	limit    *web.Limit // bytes of a request that the target takes
	largest  int        // bytes of a request that it took, as it travelled
	known    map[lane.Lane]memory
	controls map[string][]byte // by stream: a document that the target took last, as a request
	ready    bool              // the template is there, or nobody's business
	version  string
}

// A memory is what a lane remembers from Send to Send.
type memory struct {
	front record.Pos
	skip  int // parts of the front record that the target has
	alone int // times that the front record was refused and nothing proved whose fault it is
}

// New makes a sink of a config that Check has passed. Nothing is sent before
// the first Send or Probe. Errors: a CA file cannot be read, or neither config
// nor environment says what to sign for.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	n, err := parseName(cfg.Index)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	s := &Sink{
		cfg: cfg, home: home, log: home.Log, name: n,
		pace: web.NewPace(int(cfg.MaxBody)), limit: web.NewLimit(int(cfg.MaxBody)),
		known: make(map[lane.Lane]memory), controls: make(map[string][]byte),
		ready: cfg.Template == "off",
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.to, err = newClient(cfg); err != nil {
		return nil, err
	}
	s.packers.New = func() any { return &packer{w: writer{id: home.ID, index: n, op: cfg.Op}} }
	return s, nil
}

// ClockOffset is how far the target's clock is ahead of ours; 0 until the
// target has told.
func (s *Sink) ClockOffset() time.Duration {
	if s.to.aws != nil {
		return s.to.aws.ClockOffset()
	}
	return s.to.web.ClockOffset()
}

// Close gives up idle connections. It must not be called during Send.
func (s *Sink) Close() error {
	s.to.close()
	return nil
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	out     *lane.Outcome
	mem     memory
	stopped bool
}

func (w *work) left() []record.Record { return w.Recs[w.out.Done:] }
func (w *work) open() bool            { return !w.stopped && w.out.Done < len(w.Recs) }

func (w *work) stop(e *lane.Error) {
	w.stopped = true
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

func stopAll(works []*work, e *lane.Error) {
	for _, w := range works {
		if w.open() {
			w.stop(e)
		}
	}
}

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. Lanes share requests; a lane stops at its first
// document that was not taken, the others go on. What the target took behind
// that document is sent again with it, and is then there already.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	works := make([]*work, 0, len(lanes))
	for i := range lanes {
		if len(lanes[i].Recs) > 0 {
			works = append(works, &work{Batch: &lanes[i], out: &out[i], mem: s.recall(&lanes[i])})
		}
	}
	if len(works) == 0 {
		return out
	}
	if e := s.prepare(ctx); e != nil {
		stopAll(works, e)
		return out
	}
	p := s.packers.Get().(*packer)
	defer s.packers.Put(p)
	for s.step(ctx, p, works) {
	}
	for _, w := range works {
		s.remember(w)
	}
	return out
}

// step makes one request of what is left; false if nothing is, or the target
// is not to be asked again now.
func (s *Sink) step(ctx context.Context, p *packer, works []*work) bool {
	if p.fill(works, min(s.limit.Size(), s.pace.Size())); len(p.entries) == 0 {
		return false
	}
	p.entries[0].w.out.Requests++
	items, e := s.bulk(ctx, p.text, len(p.entries), p)
	switch {
	case e == nil:
		s.passed(ctx, p, items)
		return true
	case e.Class == lane.Poison && len(p.entries) > 1: // 413
		s.limit.Refused(len(p.text))
		return true
	case e.Class == lane.Poison:
		s.large(ctx, p, e)
		return true
	}
	stopAll(works, e)
	return false
}

// passed learns from a request that was answered document by document.
func (s *Sink) passed(ctx context.Context, p *packer, items []item) {
	s.limit.Took(len(p.text))
	s.mu.Lock()
	s.largest = max(s.largest, p.sent)
	s.mu.Unlock()
	s.settle(ctx, p, items)
}

// bulkPath asks for no more than is read of an answer.
func (c *client) bulkPath() string {
	if c.serverless() {
		return "/_bulk"
	}
	return "/_bulk?filter_path=errors,items.*.status,items.*.error"
}

// bulk makes a bulk request of n documents. p, which may be nil, is told what
// went over the link.
func (s *Sink) bulk(ctx context.Context, text []byte, n int, p *packer) ([]item, *lane.Error) {
	a, sent, e := s.to.call(ctx, http.MethodPost, s.to.bulkPath(), text)
	if p != nil {
		p.share(sent)
	}
	if e != nil {
		if web.TimedOut(e) {
			s.pace.Took(len(text), s.to.web.Timeout(), s.to.web.Timeout(), false)
		}
		return nil, e
	}
	s.pace.Took(len(text), a.Took, s.to.web.Timeout(), true)
	items, err := parseBulk(a.Body, n)
	if err != nil {
		e := a.Portal()
		e.Err = err
		return nil, e
	}
	return items, nil
}

// settle takes the answer's items in the order of the request.
func (s *Sink) settle(ctx context.Context, p *packer, items []item) {
	good := make(map[string]bool) // indices that took a document of this request
	for i := range items {
		if e, _ := items[i].outcome(s.cfg.Op); e == nil {
			good[p.entries[i].index] = true
		}
	}
	for i := range items {
		x := &p.entries[i]
		if x.w.stopped {
			continue
		}
		e, document := items[i].outcome(s.cfg.Op)
		if e == nil {
			x.take()
			s.took(x.w.Lane.Stream, p.text[x.from:x.to])
			continue
		}
		if document && !good[x.index] {
			e = s.blame(ctx, x.w, e)
		}
		if e.Class == lane.Poison {
			x.w.mem = memory{}
		}
		x.w.stop(e)
	}
}

// blame says whose fault it is that a document was refused where the request
// proves nothing: the target's if it refuses one, too, that it took before. An
// operation that creates what is there changes nothing.
func (s *Sink) blame(ctx context.Context, w *work, why *lane.Error) *lane.Error {
	s.mu.Lock()
	control := s.controls[w.Lane.Stream]
	s.mu.Unlock()
	all := *why
	all.Class = lane.Misconfigured
	if control == nil {
		if w.mem.alone++; w.mem.alone >= tries {
			return why
		}
		all.Text = "the target has taken no document of this stream yet, and refuses this one: " + all.Text
		return &all
	}
	w.out.Requests++
	w.out.Bytes += len(control)
	items, e := s.bulk(ctx, control, 1, nil)
	if e != nil && e.Class == lane.Poison { // 413
		all.Text = "the target refuses everything of this stream, even what it took before: " + all.Text
		return &all
	}
	if e != nil {
		return e // later, then
	}
	e, document := items[0].outcome(s.cfg.Op)
	switch {
	case e == nil:
		return why
	case document:
		all.Text = "the target refuses everything of this stream, even what it took before: " + all.Text
		return &all
	}
	return e
}

// took keeps a document that the target took, as a control.
func (s *Sink) took(stream string, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(text) > maxControl {
		return
	}
	s.controls[stream] = append(s.controls[stream][:0:0], text...)
}

// recall gives what is remembered of a lane, as far as it is about the batch.
func (s *Sink) recall(b *lane.Batch) memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.known[b.Lane]; m.front == b.Recs[0].Pos {
		return m
	}
	return memory{}
}

func (s *Sink) remember(w *work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := w.left(); len(left) > 0 && (w.mem.skip > 0 || w.mem.alone > 0) {
		w.mem.front = left[0].Pos
		s.known[w.Lane] = w.mem
		return
	}
	delete(s.known, w.Lane)
}

// A packer fills bulk requests. It keeps its memory and is not safe for
// concurrent use.
type packer struct {
	w       writer
	text    []byte
	entries []entry
	sent    int // bytes of the last request as it travelled
}

// An entry is a document of a request.
type entry struct {
	w        *work
	index    string
	from, to int  // its bytes in the request
	part     int  // of its record, from 1; 0: it is the whole of it
	last     bool // the record is complete with it
}

// take notes that the document is there.
func (x *entry) take() {
	x.w.mem.alone = 0
	if x.last {
		x.w.out.Done++
		x.w.mem.skip = 0
		return
	}
	x.w.mem.skip = x.part
}

// fill writes the next request: of each lane that has records left as many as
// there is room for, but one document at least.
func (p *packer) fill(works []*work, limit int) {
	p.text, p.entries = p.text[:0], p.entries[:0]
	for _, w := range works {
		if !w.open() {
			continue
		}
		recs, skip := w.left(), w.mem.skip
		for i := range recs {
			if !p.record(w, &recs[i], skip, limit) {
				return
			}
			skip = 0
		}
	}
}

// record adds what is left of a record; false if the request is full.
func (p *packer) record(w *work, r *record.Record, skip, limit int) bool {
	parts := nested(r)
	if parts == nil {
		return p.add(w, r, 0, true, limit)
	}
	for i := min(skip, len(parts)-1); i < len(parts); i++ {
		if !p.add(w, &parts[i], i+1, i == len(parts)-1, limit) {
			return false
		}
	}
	return true
}

func (p *packer) add(w *work, r *record.Record, part int, last bool, limit int) bool {
	from := len(p.text)
	text, index := p.w.append(p.text, w.Lane.Stream, r, part)
	if from > 0 && len(text) > limit || len(p.entries) == maxItems {
		p.text = text[:from]
		return false
	}
	p.text = text
	p.entries = append(p.entries, entry{w: w, index: index, from: from, to: len(text), part: part, last: last})
	return true
}

// share divides what went over the link among the lanes of the request, by
// what they have in it.
func (p *packer) share(sent int) {
	p.sent = sent
	left := sent
	for i := range p.entries {
		x := &p.entries[i]
		n := int(int64(sent) * int64(x.to-x.from) / int64(len(p.text)))
		if i == len(p.entries)-1 {
			n = left
		}
		x.w.out.Bytes += n
		left -= n
	}
}
