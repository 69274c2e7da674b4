package uplink

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

const (
	// sends is how many Sends, of disjoint lanes, are under way at a time;
	// slowSends on a link that bounds what one may have, so that the next ones
	// are on their way while one waits for its answer.
	sends, slowSends = 2, 4
	// maxHold bounds what is read of one lane ahead of its Send, in bytes of
	// key and data; memory bounds it for all lanes together, twice over since
	// a batch is read while another is sent, and beside what the records take
	// apart from that.
	maxHold, minHold, memory, beside = 1 << 20, 32 << 10, 48 << 20, 64 << 20
	// maxSend is what one Send is given at most, in bytes, and in lanes.
	maxSend, maxLanes = 4 << 20, 500
	// shareAbove is from how many bytes on two Sends share the waiting lanes.
	shareAbove = 512 << 10
	// gather is how long the first lane waits for others, whose linger ends at
	// the same moment.
	gather = 2 * time.Millisecond

	relist    = 5 * time.Second
	idleProbe = 60 * time.Second
	probeTime = 30 * time.Second
	stopGrace = 5 * time.Second

	defaultLinger   = 100 * time.Millisecond
	defaultRetryMax = 60 * time.Second
	retryBase       = 100 * time.Millisecond
	// slowBase is the first pause where only a person can help.
	slowBase = time.Second
	// throttleMax is the longest pause after throttling: targets count by the
	// second, and the smaller batch does the rest.
	throttleMax = 2 * time.Second
)

// A Pump moves records from a Log to a Sink, each lane in order, until its
// context ends. Nothing makes it give up.
type Pump struct {
	cfg      Config
	sink     Sink
	src      Log
	log      *slog.Logger
	linger   time.Duration
	gather   gathering
	hold     int // bytes that are read of one lane ahead of its Send, at most
	retryMax time.Duration
	kick     chan struct{} // something changed that the loop should look at

	mu      sync.Mutex
	started time.Time
	lanes   map[laneKey]*laneRun
	lines   [turns]line // of lanes that have a batch to send
	caps    []*Cap      // the uplink's own, and what it shares
	last    bool        // every other pump goes first there
	capped  time.Time   // when one of them last made a batch wait
	pace    pace
	spreads bool               // see Spreader
	alone   bool               // a Send is under way that measures the link
	live    LiveLog            // nil unless newest records may go first
	ahead   map[laneKey][]Span // delivered ahead of the cursors
	moved   bool               // that has changed
	saved   time.Time          // when it was kept last
	again   bool               // the lanes are to be listed at once
	paused  bool               // by an operator
	held    record.Backlog     // in lanes that are not listed yet
	link    link
	guard   guard
	meter   meter
	shown   shown
}

type laneKey struct {
	stream string
	shard  record.ShardID
}

// Options are what a pump may be given beside its config.
type Options struct {
	// Logger gets state changes and losses. nil is slog.Default().
	Logger *slog.Logger
	// Paused says that the pump begins paused: it was when the program ended.
	Paused bool
	// Cap is the bandwidth that this pump shares with others. nil: none.
	Cap *Cap
	// Beside is the pump whose caps this one shares, with all others before it.
	// nil: it has its own, and Cap.
	Beside *Pump
}

// NewPump makes a pump of a config that Check has passed. The sink belongs to
// the caller, who closes it after Run has returned.
func NewPump(cfg Config, sink Sink, log Log, opts Options) *Pump {
	p := &Pump{
		cfg:      cfg,
		sink:     sink,
		src:      log,
		log:      opts.Logger,
		linger:   cfg.Linger.Or(defaultLinger),
		retryMax: cfg.RetryMax.Or(defaultRetryMax),
		kick:     make(chan struct{}, 1),
		lanes:    make(map[laneKey]*laneRun),
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	p.log = p.log.With("uplink", string(cfg.ID))
	p.guard.most = defaultRefuseMax
	if cfg.RefuseMax > 0 {
		p.guard.most = cfg.RefuseMax
	}
	p.prefer()
	p.pace.begin()
	p.meter = newMeter()
	switch {
	case opts.Beside != nil:
		p.caps, p.last = opts.Beside.caps, true
	case cfg.LimitKbit > 0:
		p.caps = append(p.caps, &Cap{plan: plan{kbit: cfg.LimitKbit, zone: time.UTC}, wall: time.Now})
	}
	if opts.Cap != nil && opts.Beside == nil {
		p.caps = append(p.caps, opts.Cap)
	}
	p.link.state = StateConnecting
	p.shown = shown{state: StateConnecting, since: time.Now()}
	if p.paused = opts.Paused; p.paused {
		p.shown.state = StatePaused
	}
	return p
}

// Run pumps until ctx ends, and then returns nil. What is being sent at that
// moment has five seconds to be acknowledged; what is not then goes out again
// at the next start. Run must not be called twice.
func (p *Pump) Run(ctx context.Context) error {
	sendCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() {
		grace := time.AfterFunc(stopGrace, cut)
		wg.Wait()
		grace.Stop()
		cut()
		p.saveAhead(time.Now(), true)
	}()

	p.mu.Lock()
	p.started = time.Now()
	p.setLive()
	_, p.link.probe = p.sink.(Prober)
	p.mu.Unlock()

	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var listed time.Time
	for {
		if now := time.Now(); p.looks() || now.Sub(listed) >= relist {
			p.list(ctx, &wg)
			listed = now
		}
		wait := p.step(ctx, sendCtx, &wg)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-p.kick:
		case <-timer.C:
		case <-tick.C:
			p.sample(time.Now())
			p.saveAhead(time.Now(), false)
		}
	}
}

// poke makes the loop look again.
func (p *Pump) poke() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// wakeLanes ends the pauses of the lanes that failed in the given way; in any
// way, if it is lane.OK. p.mu is held.
func (p *Pump) wakeLanes(c lane.Class) {
	for _, l := range p.lanes {
		if c != lane.OK && l.class != c {
			continue
		}
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// list asks the Log for its lanes and starts those that are new.
func (p *Pump) list(ctx context.Context, wg *sync.WaitGroup) {
	found, err := p.src.Lanes(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.log.Error("cannot list the streams to hand on", "error", err)
		}
		return
	}
	held := p.heldBack()
	p.mu.Lock()
	defer p.mu.Unlock()
	listed := make(map[laneKey]bool, len(found))
	for _, f := range found {
		k := laneKey{f.Stream, f.Shard}
		listed[k] = true
		if p.lanes[k] != nil || !p.cfg.Match(f.Stream) {
			continue
		}
		l := newLane(p, f)
		laneCtx, stop := context.WithCancel(ctx)
		l.stop = stop
		p.lanes[k] = l
		p.lines[l.turn].known++
		wg.Go(func() { l.run(laneCtx) })
	}
	for k, l := range p.lanes {
		if listed[k] {
			continue
		}
		l.stop() // it is drained, or its stream is gone
		if l.ended {
			p.lines[l.turn].known--
			delete(p.lanes, k)
		}
	}
	p.held = held
}

// lookAgain asks for the lanes without waiting for the next time.
func (p *Pump) lookAgain() {
	p.mu.Lock()
	p.again = true
	p.mu.Unlock()
	p.poke()
}

// looks reports whether that was asked for.
func (p *Pump) looks() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.again
	p.again = false
	return was
}

// heldBack is what waits in lanes that are not listed yet.
func (p *Pump) heldBack() record.Backlog {
	if h, ok := p.src.(Holder); ok {
		return h.Held()
	}
	return record.Backlog{}
}

// holdLimit is how much a lane may read ahead.
func (p *Pump) holdLimit() limit {
	p.mu.Lock()
	defer p.mu.Unlock()
	lanes := max(len(p.lanes), 1)
	bytes := min(max(memory/(2*lanes), minHold), p.hold)
	extra := spread * bytes
	if p.gather.bytes == 0 { // large batches are worth it only to who asks for them
		extra = min(extra, max(beside/(2*lanes), minHold))
	}
	return limit{bytes, extra}
}
