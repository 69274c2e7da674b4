package nats

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
)

const (
	// parallel is how many lanes are under way at a time. A server takes 50
	// open batches of a stream, from all who write to it.
	parallel = 24
	// looks is how often a Send looks anew where a lane ends before it leaves
	// that to the next one.
	looks = 3
	// settles is the pause before that, while a run that was cut off may still
	// be on its way through the cluster.
	settles = 50 * time.Millisecond
	// patience is how long a Send goes on where every message is a round trip.
	patience = 2 * time.Second
)

// A Sink writes to a JetStream stream. It is safe for concurrent use.
type Sink struct {
	cfg      Config
	id       record.Identity
	home     lane.Home
	uplink   string
	apart    string // stands before message ids
	subjects subjects
	timeout  time.Duration
	log      *slog.Logger

	packers sync.Pool // *packer
	turn    chan struct{}
	batches atomic.Uint64
	name    string // of this sink, in its batches' ids

	dialing sync.Mutex
	asking  sync.Mutex // for the stream's config

	mu      sync.Mutex
	link    *link
	learned []string // members of the cluster that a server has told of
	places  map[string]*place
	advised bool
}

// A place is where a lane ends in the stream, as far as is known.
type place struct {
	known  bool
	seq    uint64 // of the lane's last message, 0 if there is none
	mark   mark
	cover  lane.Cover // of the mark
	looked int        // since something was stored
	most   int        // messages a batch may hold, fewer after it was refused; 0: as many as fit
}

// New makes a sink of a config that Check has passed. Nothing is sent before
// the first Send or Probe.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Sink{
		cfg:      cfg,
		id:       home.ID,
		home:     home,
		uplink:   home.Uplink,
		subjects: newSubjects(cfg, home.ID.Gateway),
		timeout:  cfg.RequestTimeout.Or(defaultTimeout),
		log:      home.Log,
		turn:     make(chan struct{}, parallel),
		places:   make(map[string]*place),
		name:     rand.Text()[:14],
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if home.Apart {
		// The stream knows the ids of the last minutes, whatever their subjects.
		s.apart = home.Uplink + ":"
	}
	s.packers.New = func() any {
		p := &packer{id: home.ID, subjects: s.subjects, apart: s.apart}
		if cfg.Format != "raw" {
			p.env = envelope.New(home.ID)
		}
		return p
	}
	return s, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// Close ends the connection. It must not be called during Send.
func (s *Sink) Close() error {
	s.mu.Lock()
	l := s.link
	s.link = nil
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
	return nil
}

// Probe connects, or asks the server for a sign of life. nil means that a NATS
// server answers and knows us; whether the stream is there is for Send to find
// out.
func (s *Sink) Probe(ctx context.Context) error {
	l, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer l.release()
	if !l.alive(ctx) {
		return &lane.Error{Class: lane.Offline, Text: "the server does not answer any more"}
	}
	return nil
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	out    *lane.Outcome
	place  *place
	base   string // the lane's subject, or what its subjects begin with
	family string // what matches them
}

func (w *work) left() []record.Record { return w.Recs[w.out.Done:] }

func (w *work) stop(e *lane.Error) {
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. A lane stops at its first failure; nothing of it
// that lies behind is stored then. What the stream holds already counts as done
// and is not sent. The records are not used after Send has returned.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	works := make([]*work, len(lanes))
	s.mu.Lock()
	for i := range lanes {
		b := &lanes[i]
		w := &work{Batch: b, out: &out[i], base: s.subjects.lane(b.Lane.Stream, b.Lane.Shard)}
		w.family = s.subjects.family(w.base)
		if w.place = s.places[w.base]; w.place == nil {
			w.place = new(place)
			s.places[w.base] = w.place
		}
		works[i] = w
	}
	s.mu.Unlock()
	if len(works) == 0 {
		return out
	}
	var l *link
	var in *info
	err := ctx.Err()
	if err == nil {
		l, err = s.acquire(ctx)
	}
	if err == nil {
		defer l.release()
		var f *failure
		if in, f = s.stream(ctx, l); f != nil {
			err = f.Error
		}
	}
	if err != nil {
		e, ok := errors.AsType[*lane.Error](err)
		if !ok {
			e = &lane.Error{Class: lane.Offline, Text: "gave up before anything was sent", Err: err}
		}
		for _, w := range works {
			w.stop(e)
		}
		return out
	}
	var wg sync.WaitGroup
	for _, w := range works {
		s.turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-s.turn }()
			s.sendLane(ctx, l, in, w)
		})
	}
	wg.Wait()
	return out
}

// sendLane sends a batch, a run at a time.
func (s *Sink) sendLane(ctx context.Context, l *link, in *info, w *work) {
	p := s.packers.Get().(*packer)
	defer func() {
		p.release()
		s.packers.Put(p)
	}()
	p.expect = expected(s.cfg.Stream, w.family, s.subjects.keyed)
	pl := w.place
	began := time.Now()
	asked := false
	for {
		if !pl.known {
			if f := s.look(ctx, l, w); f != nil {
				w.stop(f.Error)
				return
			}
		}
		lim := s.limits(l, in, pl)
		held, size, err := p.pack(&w.Lane, w.base, w.left(), pl.mark, lim)
		if held > 0 {
			if e := w.Doubt(&s.home, pl.cover, pl.mark.seq, w.left()[0].Pos.Seq, pl.mark.origin == p.here(), remedy); e != nil {
				pl.known = false
				w.stop(e)
				return
			}
			w.out.Left += w.Unwanted(&s.home, pl.cover, w.left()[:held])
		}
		w.out.Done += held
		if len(p.msgs) > 0 {
			p.cover = s.coverOf(w, p)
		}
		if err != nil && !asked {
			// The limits are those of some minutes ago: they may have been raised
			// since, perhaps for this very record.
			asked = true
			l.forget()
			var f *failure
			if in, f = s.stream(ctx, l); f != nil {
				w.stop(f.Error)
				return
			}
			continue
		}
		if err != nil {
			w.stop(&lane.Error{Class: lane.Poison, Text: err.Error()})
			return
		}
		if len(p.msgs) == 0 {
			return
		}
		if f := s.sendRun(ctx, l, p, size, w); f != nil {
			if f.stale {
				l.forget()
			}
			if f.moved {
				if pl.looked < looks && sleep(ctx, time.Duration(pl.looked)*settles) {
					continue
				}
				f.Text += "; the lane ends elsewhere than the stream says, for now: a run may still be on its way, " +
					"or the subject was purged a moment ago, or a mapping gives the messages other subjects"
			}
			w.stop(f.Error)
			return
		}
		if len(w.left()) == 0 {
			return
		}
		if !in.Config.Atomic && time.Since(began) > patience {
			w.stop(&lane.Error{Class: lane.Throttled, Text: "the target stream does not allow atomic batches, so each record waits for the one before; set its allow_atomic"})
			return
		}
	}
}

// remedy is what makes another far side of it.
const remedy = "give the uplink another subject or stream"

// coverOf is the cover of the lane's last message once the run that p has
// packed is stored.
func (s *Sink) coverOf(w *work, p *packer) lane.Cover {
	n := 0 // records before that of the last message
	for i := range p.msgs[:len(p.msgs)-1] {
		if p.msgs[i].last {
			n++
		}
	}
	recs := w.left()
	c := w.Cover(&s.home, w.place.cover, w.place.mark.seq, &recs[0], &recs[n])
	if m := w.place.mark; w.Place != nil && m.seq > 0 && m.origin != p.origin(&recs[0]) {
		// Numbers of another epoch do not tell whether the uplink went on where
		// the watermark stands.
		c.Began = max(c.Began, w.Place.Since())
	}
	return c
}

// limits is what the target takes of the lane now.
func (s *Sink) limits(l *link, in *info, pl *place) limits {
	lim := limits{message: int(l.nc.MaxPayload()), batch: 1}
	if n := in.Config.MaxMsgSize; n > 0 {
		lim.message = min(lim.message, n)
	}
	if in.Config.Atomic {
		lim.batch = maxBatch
		if pl.most > 0 {
			lim.batch = pl.most
		}
	}
	return lim
}

// look reads where the lane ends.
func (s *Sink) look(ctx context.Context, l *link, w *work) *failure {
	end, f := s.last(ctx, l, w.family)
	if f != nil {
		return f
	}
	pl := w.place
	pl.known, pl.seq, pl.mark, pl.cover = true, end.seq, mark{}, end.cover
	pl.looked++
	if end.seq == 0 {
		return nil
	}
	m, ok := parseMark(strings.TrimPrefix(end.id, s.apart))
	if !ok {
		pl.known = false
		return fail(lane.Misconfigured, "the last message on "+w.family+" is not from a Forebay gateway (Nats-Msg-Id "+strconv.Quote(end.id)+"); give the gateway a subject of its own", nil)
	}
	pl.mark = m
	return nil
}

// sendRun sends the run that p has packed. Whatever goes wrong, the lane's end
// is looked up before the next one.
func (s *Sink) sendRun(ctx context.Context, l *link, p *packer, size int, w *work) *failure {
	pl := w.place
	n := len(p.msgs)
	q := request{stream: s.cfg.Stream, last: pl.seq}
	if s.subjects.keyed {
		q.lastOf = w.family
	}
	if n > 1 {
		q.batch = s.name + strconv.FormatUint(s.batches.Add(1), 36)
	}
	w.out.Requests++
	w.out.Bytes += size
	seq, f := s.publish(ctx, l, p, size, q)
	if f != nil {
		pl.known = false
		switch f.Class {
		case lane.Transient, lane.Ambiguous, lane.Offline, lane.Poison:
			// A link that breaks again and again still brings small runs over,
			// and a smaller run shows which record is to blame.
			if !f.moved {
				pl.most = max(n/2, 1)
			}
		}
		return f
	}
	for i := range p.msgs {
		if p.msgs[i].last {
			w.out.Done++
		}
	}
	end := &p.msgs[n-1]
	pl.seq = seq
	pl.mark = mark{origin: end.origin, shard: end.pos.Shard, seq: end.pos.Seq, part: end.part}
	pl.cover = p.cover
	pl.looked = 0
	if pl.most > 0 {
		if pl.most *= 2; pl.most >= maxBatch {
			pl.most = 0
		}
	}
	return nil
}

// sleep waits; false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
