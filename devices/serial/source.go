package serial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// An Inlet takes records toward the log.
//
// Put blocks while the log's queue is full; ctx cancels only that wait. If it
// returns nil, done is called exactly once, after the commit or its failure.
// The records' bytes belong to the log until then.
type Inlet = interface {
	Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error
}

// Why lines were lost before the log; the reason that Options.Shed is told.
const (
	ReasonHeldBack  = "held back"      // the log took nothing for too long
	ReasonOversize  = "oversize"       // longer than max_frame
	ReasonUnplugged = "unplugged"      // half a line when the port went away
	ReasonFlushed   = "flushed"        // half a line when the port had to be reset
	ReasonRefused   = "refused"        // outside the log's limits
	ReasonStopped   = "stopped"        // could not be stored before the stop
	ReasonNoAnswer  = "partial answer" // a polled device stopped in its answer
)

// Options are what the gateway hands in; the zero value works.
type Options struct {
	// Open opens the port; nil is OpenTarm.
	Open func(Params) (Transport, error)
	// Shed is told of every line that was lost before the log, with one of the
	// Reason constants. It may be called from two goroutines and must not block.
	Shed func(n uint64, reason string)
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
}

// Stats are counts since the source was made.
type Stats struct {
	Bytes     uint64 // read from the port
	Frames    uint64 // whole frames found
	Stored    uint64 // frames on disk
	Oversize  uint64 // frames dropped because they were too long
	Skipped   uint64 // bytes dropped by the framer
	Resyncs   uint64 // times the framer found back to a frame's start
	Partials  uint64 // frames cut off by an unplug, a reset or a stop
	HeldBack  uint64 // lines dropped because the log held back
	Refused   uint64 // frames outside the log's limits
	Unasked   uint64 // frames of a polled device beyond its answer, or too late to be one; they are kept
	Unstored  uint64 // frames lost at the stop
	Queries   uint64 // queries written
	NoAnswers uint64 // queries without a whole answer in time
	Opens     uint64 // times the port was opened
	Unplugs   uint64 // times an open port went away
}

type counters struct {
	bytes, frames, stored, oversize, skipped, resyncs, partials, heldBack,
	refused, unasked, unstored, queries, noAnswers, opens, unplugs atomic.Uint64
}

// Source reads one serial port.
type Source struct {
	cfg   Config
	query []byte
	cut   Framer // used by the goroutine that reads
	log   *slog.Logger
	open  func(Params) (Transport, error)
	shed  func(uint64, string)
	now   func() time.Time
	count counters

	mu       sync.Mutex
	running  bool
	plugged  bool
	trouble  string // why the port is not open, "" before the first try
	heldBack string // why the log takes nothing, "" if it does
	silent   int    // queries in a row that had no answer
}

// New makes the source of a checked Config. It opens nothing.
func New(cfg Config, log *slog.Logger, opts Options) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	query, err := unescape(cfg.Query)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	framer, err := newFramer(cfg.Framing, int(cfg.MaxFrame))
	if err != nil {
		return nil, fmt.Errorf("framing: %w", err)
	}
	s := &Source{cfg: cfg, query: query, cut: framer, open: opts.Open, shed: opts.Shed, now: opts.Now}
	s.log = log.With("source", string(cfg.ID), "port", cfg.Port)
	if s.open == nil {
		s.open = OpenTarm
	}
	if s.shed == nil {
		s.shed = func(uint64, string) {}
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s, nil
}

// ID is the configured name.
func (s *Source) ID() string { return string(s.cfg.ID) }

// Kind is "serial".
func (s *Source) Kind() string { return "serial" }

// Stream is where the records are meant to go.
func (s *Source) Stream() conf.Stream { return s.cfg.Stream }

// Stats are the counts so far.
func (s *Source) Stats() Stats {
	c := &s.count
	return Stats{
		Bytes: c.bytes.Load(), Frames: c.frames.Load(), Stored: c.stored.Load(), Oversize: c.oversize.Load(),
		Skipped: c.skipped.Load(), Resyncs: c.resyncs.Load(), Partials: c.partials.Load(), HeldBack: c.heldBack.Load(),
		Refused: c.refused.Load(), Unasked: c.unasked.Load(), Unstored: c.unstored.Load(), Queries: c.queries.Load(),
		NoAnswers: c.noAnswers.Load(), Opens: c.opens.Load(), Unplugs: c.unplugs.Load(),
	}
}

// Errors is how many frames were damaged, missed or lost so far.
func (s *Source) Errors() uint64 {
	n := s.Stats()
	return n.Oversize + n.Partials + n.HeldBack + n.Refused + n.Unstored + n.NoAnswers
}

// Health is up, connecting, degraded (the log holds back, or a polled device
// does not answer) or down (the port cannot be opened), with the reason.
func (s *Source) Health() (state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.running:
		return "down", "not started"
	case !s.plugged && s.trouble == "":
		return "connecting", "opening " + s.cfg.Port
	case !s.plugged:
		return "down", s.trouble
	case s.heldBack != "":
		return "degraded", "the log holds back: " + s.heldBack
	case s.silent > 0:
		return "degraded", fmt.Sprintf("no answer to the last %d queries", s.silent)
	}
	return "up", ""
}

// Run reads the port until ctx ends, and returns nil. It runs once at a time.
// A port that is missing or goes away is tried again each 0.25 s to 2 s. At
// the end, lines that are already read are stored if the log takes them within
// two seconds.
func (s *Source) Run(ctx context.Context, in Inlet) error {
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running = false
		s.mu.Unlock()
	}()
	if len(s.query) > 0 {
		s.runPolled(ctx, in)
	} else {
		s.runFree(ctx, in)
	}
	return nil
}

// eachPort opens the port, calls use with it until that ends, and opens it
// again, until ctx ends.
func (s *Source) eachPort(ctx context.Context, use func(context.Context, *port) error) {
	params := Params{
		Port: s.cfg.Port, Baud: s.cfg.Baud, DataBits: s.cfg.DataBits,
		Parity: s.cfg.Parity, StopBits: s.cfg.StopBits,
	}
	wait := backoff{cap: 2 * time.Second}
	for ctx.Err() == nil {
		t, err := s.open(params)
		if err != nil {
			s.unplugged(err)
			wait.sleep(ctx)
			continue
		}
		wait.reset()
		s.count.opens.Add(1)
		s.setPlugged()
		err = use(ctx, &port{t: t, now: time.Now})
		if cerr := t.Close(); cerr != nil {
			s.log.Warn("closing the port failed", "error", cerr)
		}
		if ctx.Err() != nil {
			break
		}
		s.count.unplugs.Add(1)
		s.unplugged(err)
		wait.sleep(ctx)
	}
}

func (s *Source) setPlugged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plugged, s.trouble = true, ""
	s.log.Info("port is open")
}

// unplugged notes why the port is not open, and logs it when that is news.
func (s *Source) unplugged(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := err.Error()
	if text != s.trouble {
		s.log.Warn("port is not there", "error", err)
	}
	s.plugged, s.trouble, s.silent = false, text, 0
}

// holdBack notes whether the log takes records; nil if it does.
func (s *Source) holdBack(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != s.heldBack {
		if text == "" {
			s.log.Info("log takes records again")
		} else {
			s.log.Warn("log holds back", "error", err)
		}
	}
	s.heldBack = text
}

func (s *Source) lose(c *atomic.Uint64, n uint64, reason string) {
	if n > 0 {
		c.Add(n)
		s.shed(n, reason)
	}
}

// counted takes over the framer's own counts.
func (s *Source) counted() {
	s.count.skipped.Store(s.cut.Skipped())
	s.count.resyncs.Store(s.cut.Resyncs())
}

// dropPartial gives up the frame that is unfinished, if there is one.
func (s *Source) dropPartial(reason string) {
	if s.cut.Drop() > 0 {
		s.lose(&s.count.partials, 1, reason)
	}
	s.counted()
}

func (s *Source) record(l line) record.Record {
	return record.Record{Key: s.cfg.Key, Arrived: l.at, Data: l.data}
}

// store hands lines over, waits for the commit, and returns those that were
// not stored and may be tried again. ctx bounds only the wait for admission.
func (s *Source) store(ctx context.Context, in Inlet, ls []line) (again []line, err error) {
	recs := make([]record.Record, len(ls))
	for i, l := range ls {
		recs[i] = s.record(l)
	}
	committed := make(chan []record.Result, 1)
	err = in.Put(ctx, recs, func(rs []record.Result) { committed <- slices.Clone(rs) })
	if err != nil {
		if refusal(err) {
			s.lose(&s.count.refused, uint64(len(ls)), ReasonRefused)
			return nil, err
		}
		return ls, err
	}
	results := <-committed
	for i, l := range ls {
		switch {
		case i >= len(results):
			return append(again, ls[i:]...), cmp.Or(err, record.ErrCannotStore)
		case results[i].Err == nil:
			s.count.stored.Add(1)
		case refusal(results[i].Err):
			s.lose(&s.count.refused, 1, ReasonRefused)
			s.log.Warn("line was refused", "error", results[i].Err)
		default:
			again, err = append(again, l), cmp.Or(err, results[i].Err)
		}
	}
	return again, err
}

// refusal reports whether the record can never be stored.
func refusal(err error) bool {
	var invalid *record.InvalidError
	return errors.As(err, &invalid)
}

// farewell is how long the log may take for what is already read at a stop.
const farewell = 2 * time.Second

// lastWait is the context of the stores at a stop: it goes on for farewell
// after ctx has ended.
func lastWait(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), farewell)
}

// storeLast stores what it can in one try; ctx is of lastWait.
func (s *Source) storeLast(ctx context.Context, in Inlet, ls []line) {
	again, err := s.store(ctx, in, ls)
	if len(again) > 0 {
		s.log.Warn("lines were lost at the stop", "lines", len(again), "error", err)
		s.lose(&s.count.unstored, uint64(len(again)), ReasonStopped)
	}
}

// A backoff is a growing pause with jitter, from 0.25 s (or half of that) to
// its cap.
type backoff struct {
	cap, last time.Duration
}

func (b *backoff) reset() { b.last = 0 }

func (b *backoff) sleep(ctx context.Context) {
	b.last = min(max(2*b.last, 250*time.Millisecond), b.cap)
	pause(ctx, b.last/2+rand.N(b.last/2))
}

// pause waits for d or for ctx to end.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
