package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

// Newest, as the place to follow a shard from, is behind the newest record of
// the moment.
const Newest = math.MaxUint64

// A Log is what a Loop needs of the spool.
type Log interface {
	// Shards lists a stream's shards, the closed ones too, parents before their
	// children; record.ErrNoStream if there is none yet.
	Shards(ctx context.Context, stream string) ([]Shard, error)
	// Follow reads a shard from the record after the sequence number after; 0
	// is the first record ever, Newest the next to come.
	Follow(ctx context.Context, stream string, shard record.ShardID, after uint64) (Reader, error)
	// Append takes records; if it returns nil, done is called once, after the
	// commit. done does not block.
	Append(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error
	// Tail copies the newest n records of a stream, oldest first.
	Tail(ctx context.Context, stream string, n int) ([]record.Record, error)
}

// A Shard is one of a stream's, and those that it came of by a split or a merge.
type Shard struct {
	ID      record.ShardID
	Parents []record.ShardID
}

// A Reader follows a shard; *spool.Reader is one.
type Reader interface {
	// Next waits for records, at most max. The batch is a view until the next
	// call. *record.TrimmedError and *record.CorruptError are told once; the
	// next call goes on behind the loss. *record.ShardEndError is the end of a
	// shard that was split or merged, record.ErrNoStream that of a stream.
	Next(ctx context.Context, max int) (record.Batch, error)
	// Pos is the sequence number that is read next.
	Pos() uint64
	Close() error
}

const (
	batchMax     = 512                    // records of a step
	tickEvery    = 250 * time.Millisecond // how often delays are looked at
	commitEvery  = time.Second            // how long a place in the log may stay unstored
	lookEvery    = time.Second            // how often new streams and shards are looked for
	commitLag    = 500 * time.Millisecond // how long a record may be under way from its arrival stamp to the rules
	jumpOver     = 2 * time.Second        // a difference of the clocks that is a jump
	gapOver      = 5 * time.Second        // a time in which nobody looked
	pendingLimit = 10_000                 // transitions that may wait for rules.db, or for the alarm stream, before reading stops
	retryMin     = 250 * time.Millisecond
	retryMax     = 30 * time.Second
)

// Options of a Loop; zero is the default.
type Options struct {
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
	// Logger takes what a person should see; nil discards it.
	Logger *slog.Logger
	// FromOldest makes a new rules.db begin with the oldest records kept; else
	// it begins with what comes.
	FromOldest bool
	// KeepSystem reports whether a condition's source (Condition.Source + "/"
	// + Name) is still configured; conditions of others are closed when the
	// state is loaded. nil keeps all.
	KeepSystem func(key string) bool
	// MaxAlarms bounds how many rules and keys have a state; 0 is
	// DefaultInstances.
	MaxAlarms int
}

// A Loop runs an Engine on the log. Its methods are safe for concurrent use.
type Loop struct {
	log  Log
	opts Options
	slog *slog.Logger

	mu       sync.Mutex // guards what follows, the engine too
	engine   *Engine
	store    *store
	streams  map[string]bool // that were seen, or seen to be absent
	newName  []string        // of streams, not yet stored
	feeds    map[spot]*feed
	cursors  map[spot]uint64 // stored places of shards that are not followed (yet)
	dropped  []spot          // whose streams were deleted; rules.db has them yet
	pending  []entry         // transitions not yet in rules.db
	outbox   []entry         // in rules.db, not yet in the alarm stream
	tick     time.Time       // the engine's time
	stored   time.Time       // the tick in rules.db
	commit   time.Time       // when it was committed last
	live     bool            // what was in the log at the start is behind us
	looked   bool            // the streams were looked for once
	started  time.Time
	wall     time.Time // both clocks when last read, to see jumps
	mono     time.Time
	failing  error // of the last commit, nil if it worked
	sendFail error // of the last dispatch
	retryAt  time.Time
	changed  chan struct{}
	counts   loopCounts

	lookMu sync.Mutex // held while shards are looked for

	reportMu sync.Mutex
	reports  []Condition
	kick     chan struct{} // there are reports
	send     chan struct{} // there is something in the outbox
}

type loopCounts struct {
	trimmed, corrupt, sent, repeated, refused, jumps uint64
}

// A feed is a shard that is followed.
type feed struct {
	at      spot
	next    uint64
	stored  uint64
	arrived time.Time // of the last record stepped
	ended   bool
	done    chan struct{} // closes with ended
	parents []*feed       // that end before it begins, so that a key's records come in order
	rd      Reader

	waiting atomic.Bool // in Next; not under the mutex, so that it is never stale
}

// NewLoop opens rules.db at path, creating it if need be, and gives the engine
// its state back. A newer format is refused untouched (*record.FormatError); a
// damaged file is put aside, and an alarm says so. The caller runs Run and then
// calls Close.
func NewLoop(path string, engine *Engine, log Log, opts Options) (*Loop, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	ctx := context.Background()
	now := opts.Now().UTC()
	st, k, aside, err := openStore(ctx, path, now)
	if err != nil {
		return nil, err
	}
	l := &Loop{
		log: log, opts: opts, slog: opts.Logger, engine: engine, store: st, streams: k.streams, cursors: k.cursors,
		feeds: map[spot]*feed{}, outbox: k.outbox, tick: k.tick, stored: k.tick, started: now,
		changed: make(chan struct{}), kick: make(chan struct{}, 1), send: make(chan struct{}, 1),
	}
	engine.Limit(opts.MaxAlarms)
	l.note(engine.restore(k.states, k.firsts, now, opts.KeepSystem))
	if aside != "" {
		l.slog.Error("the rules' state was damaged and begins anew", "put_aside", aside)
		c := Condition{
			Source: "rules", Name: "state-lost", Severity: 2, Active: true,
			Text: "The rules' state was damaged; it was put aside as " + aside + " and begins anew",
		}
		l.Report(c)
		c.Active = false // it is over, but somebody should have seen it
		l.Report(c)
	}
	if err := l.save(ctx); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return l, nil
}

// Close closes rules.db. Run must have returned.
func (l *Loop) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.store.close(); err != nil {
		return fmt.Errorf("close the rules' state: %w", err)
	}
	return nil
}

// Run follows the log until ctx ends. It waits for everything that it started,
// and stores its place before it returns. What goes wrong meanwhile is tried
// again; Stats tells.
func (l *Loop) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { l.dispatch(ctx) })
	l.watch(ctx, &wg)
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.save(context.WithoutCancel(ctx))
}

// watch is the loop's clock: delays, new shards, reports, the stored place.
func (l *Loop) watch(ctx context.Context, wg *sync.WaitGroup) {
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	var look time.Time
	seeded := false
	for ctx.Err() == nil {
		if !seeded {
			seeded = l.seed(ctx)
		}
		if seeded {
			if now := time.Now(); look.IsZero() || now.Sub(look) >= lookEvery {
				look = now
				l.look(ctx, wg)
			}
			l.beat(ctx)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-l.kick:
		}
	}
}

// seed makes a new rules.db count its transitions from behind those that the
// alarm stream already holds, so that no alarm id is given twice.
func (l *Loop) seed(ctx context.Context) bool {
	l.mu.Lock()
	_, known := l.engine.first[allRules]
	l.mu.Unlock()
	if known {
		return true
	}
	var top uint64
	recs, err := l.log.Tail(ctx, AlarmStream, tailLen)
	if err != nil && !errors.Is(err, record.ErrNoStream) {
		l.fail(ctx, "read the newest alarms", err)
		return false
	}
	for i := range recs {
		var a struct {
			Transition uint64 `json:"transition"`
		}
		if json.Unmarshal(recs[i].Data, &a) == nil {
			top = max(top, a.Transition)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.engine.countFrom(allRules, top)
	return l.trySave(ctx)
}

// beat is one round of the clock.
func (l *Loop) beat(ctx context.Context) {
	l.reportMu.Lock()
	reports := l.reports
	l.reports = nil
	l.reportMu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	shown := false
	for _, c := range reports {
		l.note(l.engine.Report(now, c))
		shown = true
	}
	if !l.live && l.looked && l.allWaiting() {
		l.goLive(now)
	}
	if l.live {
		if t := l.watermark(now); t.After(l.tick) {
			l.tick = t
			l.note(l.engine.Tick(t))
		}
	}
	if shown {
		l.announce()
	}
	if time.Now().Before(l.retryAt) {
		return
	}
	if len(l.pending) > 0 || (l.dirty() && time.Since(l.commit) >= commitEvery) {
		l.trySave(ctx)
	}
}

func (l *Loop) allWaiting() bool {
	for _, f := range l.feeds {
		if !f.waiting.Load() && !f.ended && !f.held() {
			return false
		}
	}
	return true
}

// watermark is the time up to which every record has been seen: a little
// before now where a reader waits, the last record's arrival where it reads.
func (l *Loop) watermark(now time.Time) time.Time {
	t := now
	for _, f := range l.feeds {
		switch {
		case f.waiting.Load() || f.ended || f.held():
		case f.arrived.IsZero():
			return l.tick
		case f.arrived.Before(t):
			t = f.arrived
		}
	}
	return t.Add(-commitLag)
}

// goLive ends the catching up. The time in which nobody looked does not count
// for delays and deadmen.
func (l *Loop) goLive(now time.Time) {
	l.live = true
	if !l.tick.IsZero() {
		if gap := now.Sub(l.tick); gap > gapOver || gap < -jumpOver {
			l.engine.Rebase(gap)
		}
	}
	l.tick = now
}

// now reads the wall clock; where it has jumped against the monotonic one, the
// delays that run jump with it.
func (l *Loop) now() time.Time {
	wall, mono := l.opts.Now().Round(0).UTC(), time.Now()
	if !l.mono.IsZero() {
		jump := wall.Sub(l.wall) - mono.Sub(l.mono)
		if jump > jumpOver || jump < -jumpOver {
			l.counts.jumps++
			l.slog.Warn("the wall clock jumped; running delays were moved with it", "by", jump)
			l.engine.Rebase(jump)
			l.tick = l.tick.Add(jump)
			l.started = l.started.Add(jump)
			for _, f := range l.feeds {
				f.arrived = time.Time{}
			}
		}
	}
	l.wall, l.mono = wall, mono
	return wall
}

// apply steps a batch and stores what it changed.
func (l *Loop) apply(ctx context.Context, f *feed, b record.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for i := range b.Recs {
		r := &b.Recs[i]
		if !l.live && !r.Arrived.Before(l.started) {
			l.goLive(now)
		}
		l.note(l.engine.Step(now, f.at.stream, r))
		if !l.live && r.Arrived.After(l.tick) && !r.Arrived.After(now) {
			l.tick = r.Arrived.UTC()
		}
		f.arrived = r.Arrived
	}
	f.next = max(f.next, b.Next)
	if len(l.pending) > 0 {
		for !l.trySave(ctx) && len(l.pending) > pendingLimit && ctx.Err() == nil {
			// rules.db takes nothing: hold the log back rather than forget.
			l.mu.Unlock()
			pause(ctx, time.Second)
			l.mu.Lock()
		}
	}
	for len(l.outbox) > pendingLimit && ctx.Err() == nil {
		// The same where the alarm stream takes nothing. Every shard is held
		// back, so the outbox ends one batch of each behind its limit.
		l.mu.Unlock()
		pause(ctx, tickEvery)
		l.mu.Lock()
	}
}

// note queues transitions for rules.db.
func (l *Loop) note(as []Alarm) {
	for i := range as {
		b, err := json.Marshal(&as[i])
		if err != nil {
			// Values are finite and texts are UTF-8: see describe.
			l.slog.Error("an alarm could not be written", "alarm", as[i].ID, "error", err)
			continue
		}
		l.store.sent++
		l.pending = append(l.pending, entry{id: l.store.sent, key: as[i].RecordKey(), at: as[i].Changed, data: b})
	}
}

// announce wakes those who wait for Changed.
func (l *Loop) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Loop) fail(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		l.slog.Warn("rules cannot read the log; trying again", "doing", what, "error", err)
	}
}

// pause waits and returns the next, longer, wait.
func pause(ctx context.Context, d time.Duration) time.Duration {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(2*d, retryMax)
}

// Report tells of a condition of the gateway itself. It does not block and may
// be called from anywhere; reporting what is already known does nothing.
func (l *Loop) Report(c Condition) {
	l.reportMu.Lock()
	same, last := 0, 0
	for i := range l.reports {
		if l.reports[i].key() == c.key() {
			same++
			last = i
		}
	}
	// Two of a kind keep a blink; more would only pile up.
	if same > 1 || (same == 1 && l.reports[last].Active == c.Active) {
		l.reports[last] = c
	} else {
		l.reports = append(l.reports, c)
	}
	l.reportMu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Alarms lists what is not normal: waiting for an acknowledgement first, then
// by severity, then the newest.
func (l *Loop) Alarms() []Alarm {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.engine.Alarms()
}

// Ack acknowledges alarms by id. It is durable when it returns without an
// error; unknown are the ids that do not wait for an acknowledgement. After an
// error the acknowledgement is shown, and stored as soon as that works.
func (l *Loop) Ack(ctx context.Context, ids []string, by, note string) (acked, unknown []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changes, acked, unknown := l.engine.Ack(ids, by, note, l.now())
	if len(changes) == 0 {
		return acked, unknown, nil
	}
	l.note(changes)
	if !l.trySave(ctx) {
		return nil, unknown, fmt.Errorf("acknowledge: %w", l.failing)
	}
	return acked, unknown, nil
}

// Changed returns a channel that is closed at the next change of an alarm. Take
// it before reading Alarms, so that no change is missed.
func (l *Loop) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}
