package s3

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

const (
	// parallel is how many lanes are served at a time, whatever the number of
	// Sends: each has an object in memory.
	parallel = 4
	// maxChunks is how many bytes of chunks go before the object of their
	// records, about.
	maxChunks = 64 << 20
)

// A Sink sends batches to a bucket. It is safe for concurrent use.
type Sink struct {
	cfg    Config
	home   lane.Home
	names  names
	kind   string // media type of objects of records
	store  *store
	log    *slog.Logger
	turn   chan struct{}
	urgent chan struct{} // alarms do not wait for the objects of others
	pace   pace
	spare  sync.Pool // encoder
	mu     sync.Mutex
	views  map[laneID]*view
	proven bool // the target creates only what is not there
}

// New makes a sink of a config that Check has passed. Nothing is sent before
// the first Send or Probe. Errors: the CA file cannot be read, or neither
// config nor environment says where to send.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	st, err := newStore(&cfg, home.Log)
	if err != nil {
		return nil, err
	}
	s := &Sink{
		cfg: cfg, home: home, store: st, log: home.Log,
		turn:   make(chan struct{}, parallel),
		urgent: make(chan struct{}, 1),
		views:  make(map[laneID]*view),
	}
	s.pace.limit = int(cfg.ObjectSize)
	s.pace.most = int(cfg.ObjectSize)
	ext, kind := mediaType(&cfg)
	s.kind = kind
	s.names = names{prefix: cfg.Prefix + "/", here: record.Origin{Gateway: home.ID.Gateway, Epoch: home.ID.Epoch}, ext: ext}
	enc, err := newEncoder(&cfg, home.ID)
	if err != nil {
		return nil, err
	}
	s.spare.Put(enc)
	return s, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// ClockOffset is how far the target's clock is ahead of ours; 0 until the
// target has answered.
func (s *Sink) ClockOffset() time.Duration { return s.store.client.ClockOffset() }

// Prefers says how many bytes of keys and payloads an object is to hold where
// there is a backlog, and how long a record may wait for others.
func (s *Sink) Prefers() (size int, linger time.Duration) {
	return int(s.cfg.ObjectSize), s.cfg.MaxAge.D()
}

// Close gives up idle connections. It must not be called during Send.
func (s *Sink) Close() error {
	s.store.client.Close()
	return nil
}

// encoder gives an encoder that nobody uses.
func (s *Sink) encoder() (encoder, error) {
	if e, ok := s.spare.Get().(encoder); ok {
		return e, nil
	}
	return newEncoder(&s.cfg, s.home.ID)
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	out *lane.Outcome
}

func (w *work) left() []record.Record { return w.Recs[w.out.Done:] }

func (w *work) stop(err error) {
	e := asError(err)
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

// Send makes objects of the batches, which are of different lanes, and gives
// an outcome for each, in their order. What the target holds already counts as
// done without being sent. A lane stops at its first failure, the others go
// on. The records are not used after Send has returned.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	if len(lanes) == 0 {
		return out
	}
	if err := s.prove(ctx, &work{out: &out[0]}); err != nil {
		for i := range lanes {
			w := work{Batch: &lanes[i], out: &out[i]}
			if len(w.Recs) > 0 {
				w.stop(err)
			}
		}
		return out
	}
	var wg sync.WaitGroup
	for i := range lanes {
		turn := s.turn
		if lanes[i].Urgent {
			turn = s.urgent
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			s.sendLane(ctx, &work{Batch: &lanes[i], out: &out[i]})
		})
	}
	wg.Wait()
	return out
}

// sendLane sends one batch.
func (s *Sink) sendLane(ctx context.Context, w *work) {
	enc, err := s.encoder()
	if err != nil {
		w.stop(err)
		return
	}
	defer s.spare.Put(enc)
	v := s.recall(&w.Lane)
	for len(w.left()) > 0 {
		if v, err = s.step(ctx, w, enc, v); err != nil {
			// What the target holds now it must be asked. That a record cannot
			// be sent says nothing about that.
			if asError(err).Class == lane.Poison {
				s.keep(&w.Lane, v)
			}
			w.stop(err)
			return
		}
	}
	s.keep(&w.Lane, v)
}

// step gets one object further, or over the records of one that is there.
func (s *Sink) step(ctx context.Context, w *work, enc encoder, v *view) (*view, error) {
	r := &w.left()[0]
	at := s.names.placeOf(w.Lane.Stream, r)
	seq := r.Pos.Seq
	if !v.covers(&at, seq) {
		var err error
		if v, err = s.look(ctx, w, at, seq); err != nil {
			return nil, err
		}
	}
	if n := len(v.ahead); n > 0 && v.ahead[n-1].first == seq {
		return v, s.reachEnd(ctx, w, v, v.ahead[n-1].name)
	}
	if seq < v.next {
		s.pass(w, v)
		return v, nil
	}
	if seq > v.next {
		v.lo, v.next = seq, seq // what is in between is not to be sent
	}
	recs := s.cut(w, v)
	recs, err := s.chunks(ctx, w, v, recs)
	if err != nil {
		return v, err
	}
	body := s.store.client.Buffer()
	defer body.Release()
	if err := s.encode(enc, body, w.Lane.Stream, &at, recs); err != nil {
		return v, err
	}
	last := recs[len(recs)-1].Pos.Seq
	name := s.names.object(&at, seq)
	created, err := s.create(ctx, w, name, body, recs)
	if err != nil {
		s.pace.failed(err)
		return v, err
	}
	if !created { // by an earlier try, perhaps with another end
		return v, s.reachEnd(ctx, w, v, name)
	}
	s.pace.went()
	v.reach(last)
	v.sure = true
	w.out.Done += len(recs)
	return v, nil
}

// reachEnd moves the view behind an object that is there.
func (s *Sink) reachEnd(ctx context.Context, w *work, v *view, name string) error {
	last, there, err := s.last(ctx, w, &v.place, name)
	if err != nil {
		return err
	}
	if !there { // it was removed just now
		return &lane.Error{Class: lane.Transient, Text: "the object " + name + " was there and is gone"}
	}
	v.reach(last)
	if seq := w.left()[0].Pos.Seq; v.next <= seq {
		return &lane.Error{Class: lane.Misconfigured, Text: "the object " + name + " says that it ends before it begins; move it away"}
	}
	s.pass(w, v)
	return nil
}

// pass counts the records that the target has.
func (s *Sink) pass(w *work, v *view) {
	for len(w.left()) > 0 {
		r := &w.left()[0]
		if r.Pos.Seq >= v.next || s.names.placeOf(w.Lane.Stream, r) != v.place {
			return
		}
		w.out.Done++
	}
}

// cut is how many records from the front the next object gets: all of one
// place, up to its size, and none that lies in an object ahead. A record that
// can never be sent is not among them, unless it is the first.
func (s *Sink) cut(w *work, v *view) []record.Record {
	recs := w.left()
	limit := s.pace.size()
	size, chunks := 0, int64(0)
	for i := range recs {
		r := &recs[i]
		size += len(r.Key) + len(r.Data)
		chunks += max(r.Chunk.Len, int64(len(r.Blob)))
		if i == 0 {
			continue
		}
		n := len(v.ahead)
		if size > limit || chunks > maxChunks || n > 0 && r.Pos.Seq >= v.ahead[n-1].first ||
			len(r.Data) > record.MaxData || s.names.placeOf(w.Lane.Stream, r) != v.place {
			return recs[:i]
		}
	}
	return recs
}

// A filler appends to a buffer.
type filler struct{ *aws.Buffer }

func (f filler) Write(b []byte) (int, error) {
	f.B = append(f.B, b...)
	return len(b), nil
}

// encode makes the body of an object.
func (s *Sink) encode(enc encoder, body *aws.Buffer, stream string, at *place, recs []record.Record) error {
	if len(recs[0].Data) > record.MaxData {
		return &lane.Error{Class: lane.Poison, Text: "the record is larger than 10 MiB"}
	}
	enc.begin(filler{body})
	for i := range recs {
		r := &recs[i]
		chunk := ""
		if hasChunk(r) {
			chunk = s.names.chunk(at, r)
		}
		if err := addAll(enc, stream, r, chunk); err != nil {
			return &lane.Error{Class: lane.Transient, Text: "the object cannot be made", Err: err}
		}
	}
	if err := enc.end(); err != nil {
		return &lane.Error{Class: lane.Transient, Text: "the object cannot be made", Err: err}
	}
	return nil
}

// pace is how many bytes of payload an object may have: less after one did not
// get through, so that a link that breaks often passes the next.
type pace struct {
	mu          sync.Mutex
	limit, most int
}

func (p *pace) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit
}

func (p *pace) failed(err error) {
	if c := asError(err).Class; c != lane.Ambiguous && c != lane.Offline {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = max(p.limit/2, minObject)
}

func (p *pace) went() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = min(2*p.limit, p.most)
}
