// Package inlet takes records from the sources to their streams: it stamps
// them, routes them, checks the limits, sets aside what does not decode, and
// counts. It holds no queue of its own: waiting is the log's business.
package inlet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// A Route sends records to a stream ([[route]] in the config file). Routes are
// tried in the order they are written; the first that matches is taken.
type Route struct {
	// Source is the id of the source the route is for; empty is any.
	Source conf.Name `toml:"source"`
	// Match is a topic filter on the partition key (for MQTT: the topic).
	Match conf.Filter `toml:"match"`
	// Stream is where the records go; empty leaves the source's own stream.
	Stream conf.Stream `toml:"stream"`
	// Decode names what the payload must be: "raw" (anything, the default),
	// "json", "number" or "text". What is not goes to the stream "quarantine",
	// as it came, with the reason; the sender is acknowledged.
	Decode string `toml:"decode"`
}

// A Decoder says what a payload is: its media type, or why it is not what it
// should be. It changes nothing.
type Decoder func(data []byte) (mediaType string, err error)

// Options are what an inlet is made of.
type Options struct {
	Routes []Route
	// Decoders by the names that routes may use.
	Decoders map[string]Decoder
	// Now is the wall clock; Synced whether it is known to be right.
	Now    func() time.Time
	Synced func() bool
	// Mono is the time since boot.
	Mono func() time.Duration
	Log  *slog.Logger
}

// An Inlet takes records for one spool.
type Inlet struct {
	sp         *spool.Spool
	opt        Options
	quarantine *target
	gaps       *target
	routed     map[string]*target // by name, the streams that routes name; made by New
	total      meter

	mu    sync.Mutex
	ports map[string]*Port
}

// New makes an inlet. The streams "quarantine" and "gaps" must exist.
func New(sp *spool.Spool, opt Options) (*Inlet, error) {
	in := &Inlet{sp: sp, opt: opt, routed: map[string]*target{}, ports: map[string]*Port{}}
	var err error
	if in.quarantine, err = newTarget(sp, "quarantine"); err != nil {
		return nil, fmt.Errorf("open the stream quarantine: %w", err)
	}
	if in.gaps, err = newTarget(sp, "gaps"); err != nil {
		return nil, fmt.Errorf("open the stream gaps: %w", err)
	}
	for i, r := range opt.Routes {
		if _, ok := opt.Decoders[r.Decode]; !ok && r.Decode != "" {
			return nil, fmt.Errorf("route %d: decode: %q is not one of %s", i+1, r.Decode, slices.Sorted(maps.Keys(opt.Decoders)))
		}
		if r.Stream != "" {
			if in.routed[string(r.Stream)], err = newTarget(sp, string(r.Stream)); err != nil {
				return nil, fmt.Errorf("route %d: stream: %q: %w", i+1, r.Stream, err)
			}
		}
	}
	return in, nil
}

// A Port is one source's way in. Its records go to one stream unless a route
// says otherwise.
type Port struct {
	in     *Inlet
	source string
	stream string
	routes []compiled

	lanes sync.Map      // of *lane by *spool.Stream
	seq   atomic.Uint64 // the last running number given

	meter    meter
	lastSeen atomic.Int64 // wall clock, ns
	shed     gap
	refused  atomic.Uint64
}

// A lane is a source's way into one stream. Its turn is held over numbering and
// Append, so that a source's running numbers rise in the stream's order; a
// stream whose log is full holds up nothing that goes elsewhere. The turn is a
// channel, because waiting for it must end with the caller's context.
type lane struct {
	turn chan struct{}
}

func (l *lane) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // the caller has given it up
		return err
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil { // it has given it up while it waited
		l.leave()
		return err
	}
	return nil
}

func (l *lane) leave() { <-l.turn }

func (p *Port) lane(t *spool.Stream) *lane {
	if l, ok := p.lanes.Load(t); ok {
		return l.(*lane)
	}
	l, _ := p.lanes.LoadOrStore(t, &lane{turn: make(chan struct{}, 1)})
	return l.(*lane)
}

type compiled struct {
	match  conf.Filter
	stream *target // nil leaves the port's own
	decode Decoder
}

// Port is the way in of a source, by its id; stream is where its records go.
// The same source always gets the same port.
func (in *Inlet) Port(source, stream string) (*Port, error) {
	if _, err := in.sp.Stream(stream); err != nil {
		return nil, fmt.Errorf("source %s: stream %q: %w", source, stream, err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if p := in.ports[source]; p != nil {
		return p, nil
	}
	p := &Port{in: in, source: source, stream: stream}
	p.seq.Store(in.sp.SourceSeq(source))
	for _, r := range in.opt.Routes {
		if r.Source != "" && string(r.Source) != source {
			continue
		}
		p.routes = append(p.routes, compiled{match: r.Match, decode: in.opt.Decoders[r.Decode], stream: in.routed[string(r.Stream)]})
	}
	in.ports[source] = p
	return p, nil
}

// Put takes records of the port's source. It blocks while the log's queue is
// full; ctx cancels that wait only. When it returns nil, done is called
// exactly once, after the commit or its failure, with a result per record;
// for records of one stream in the order of the Puts. The records' bytes
// belong to the log until then. done must be quick and must not block.
func (p *Port) Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	return p.PutTo(ctx, p.stream, recs, done)
}

// PutTo is Put to a stream that the producer names, as Kinesis's do. A stream
// that does not exist is record.ErrNoStream; nothing is created. So it is for
// records that a route sends to a stream which was deleted: they are not taken,
// and their sender keeps them, until there is a stream of that name again.
func (p *Port) PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	own, err := p.in.sp.Stream(stream)
	if err != nil {
		return fmt.Errorf("put: %w", err) // it names the stream
	}
	p.stamp(recs)
	t, several := p.sort(own, recs)
	if several == nil {
		err = p.append(ctx, t, recs, func(rs []record.Result) {
			p.count(recs, rs)
			done(rs)
		})
	} else {
		err = p.split(ctx, several, recs, done)
	}
	if err != nil {
		p.refused.Add(uint64(len(recs)))
		return fmt.Errorf("put to %q: %w", stream, err)
	}
	return nil
}

// count counts what is on disk. What failed is put again by its source, so it
// is not counted before that has worked.
func (p *Port) count(recs []record.Record, rs []record.Result) {
	n, bytes := 0, 0
	for i := range rs {
		if rs[i].Err == nil {
			n++
			bytes += len(recs[i].Data) + len(recs[i].Blob)
		}
	}
	if n == 0 {
		return
	}
	p.meter.add(n, bytes)
	p.in.total.add(n, bytes)
}

// stamp fills in what only the gateway knows.
func (p *Port) stamp(recs []record.Record) {
	now, mono := p.in.opt.Now(), p.in.opt.Mono()
	synced := p.in.opt.Synced()
	p.lastSeen.Store(now.UnixNano())
	for i := range recs {
		r := &recs[i]
		r.Source, r.Mono = p.source, mono
		if r.Arrived.IsZero() {
			r.Arrived = now // else the source kept it waiting and knows better
		}
		switch {
		case !r.At.IsZero():
			r.TimeQ = record.TimeDevice
		case synced:
			r.TimeQ = record.TimeArrival
		default:
			r.TimeQ = record.TimeUnsynchronised
		}
	}
}

// sort says where the records go: t where all go the same way and are within
// the limits, else several, with one stream per record; nil there marks a
// record that is refused.
func (p *Port) sort(own *spool.Stream, recs []record.Record) (t *spool.Stream, several []*spool.Stream) {
	for i := range recs {
		r := &recs[i]
		var to *spool.Stream
		if r.Check() == nil {
			to = p.route(own, r)
		}
		switch {
		case several != nil:
			several = append(several, to)
		case i == 0 && to != nil:
			t = to
		case to != t || to == nil:
			several = make([]*spool.Stream, i, len(recs))
			for j := range several {
				several[j] = t
			}
			several = append(several, to)
		}
	}
	return t, several
}

// route finds the record's stream; a payload that does not decode is marked
// with the reason and goes to quarantine.
func (p *Port) route(own *spool.Stream, r *record.Record) *spool.Stream {
	for i := range p.routes {
		c := &p.routes[i]
		if !c.match.Match(r.Key) {
			continue
		}
		t := own
		if c.stream != nil {
			t = c.stream.Load()
		}
		if c.decode == nil {
			return t
		}
		typ, err := c.decode(r.Data)
		if err == nil {
			if r.Type == "" {
				r.Type = typ
			}
			return t
		}
		attrs := maps.Clone(r.Attrs)
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs["reason"], attrs["stream"] = err.Error(), t.Name()
		r.Attrs = attrs
		return p.in.quarantine.Load()
	}
	return own
}

// split appends a batch whose records go several ways, and answers once with
// all results in the batch's order.
func (p *Port) split(ctx context.Context, to []*spool.Stream, recs []record.Record, done func([]record.Result)) error {
	all := &joined{results: make([]record.Result, len(recs)), done: done}
	groups := map[*spool.Stream][]int{}
	order := []*spool.Stream{}
	for i := range recs {
		t := to[i]
		if t == nil {
			all.results[i].Err = recs[i].Check()
			continue
		}
		if groups[t] == nil {
			order = append(order, t)
		}
		groups[t] = append(groups[t], i)
	}
	all.left.Store(int32(len(order)) + 1)
	var refused error
	taken := len(order) == 0 // or there is nothing to take
	for _, t := range order {
		ix := groups[t]
		part := make([]record.Record, len(ix))
		for j, i := range ix {
			part[j] = recs[i]
		}
		err := p.append(ctx, t, part, func(rs []record.Result) {
			p.count(part, rs)
			for j, i := range ix {
				all.results[i] = rs[j]
			}
			all.one()
		})
		if err == nil {
			taken = true
			continue
		}
		// What went to other streams may be stored already; the results say
		// which records are, so the sender is never told less than the truth.
		if refused == nil {
			refused = err
		}
		for _, i := range ix {
			all.results[i].Err = err
		}
		all.one()
	}
	if !taken {
		return refused
	}
	all.one()
	return nil
}

// joined answers for a batch when its last part has answered.
type joined struct {
	results []record.Result
	left    atomic.Int32
	done    func([]record.Result)
}

func (j *joined) one() {
	if j.left.Add(-1) == 0 {
		j.done(j.results)
	}
}

// Shed counts records of the source that were lost before the log (a serial
// line that could not wait, QoS 0 under pressure). The ledger counts them, and
// the stream "gaps" gets a record within a second.
func (p *Port) Shed(n uint64, reason string) {
	if n == 0 {
		return
	}
	p.in.sp.Shed(p.source, n)
	p.shed.add(n, reason, p.in.opt.Now())
}

// A gap gathers what was lost until it is written down.
type gap struct {
	mu       sync.Mutex
	n        uint64
	reason   string
	from, to time.Time
}

func (g *gap) add(n uint64, reason string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n == 0 {
		g.from = now
	}
	g.n, g.reason, g.to = g.n+n, reason, now
}

func (g *gap) take() (n uint64, reason string, from, to time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n = g.n
	g.n = 0
	return n, g.reason, g.from, g.to
}

// giveBack returns what take gave and could not be written down; what was lost
// meanwhile came after it.
func (g *gap) giveBack(n uint64, reason string, from, to time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n == 0 {
		g.reason, g.to = reason, to
	}
	g.n, g.from = g.n+n, from
}

// Run writes gap records until ctx ends, and the last ones then.
func (in *Inlet) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			return in.writeGaps(last)
		case <-tick.C:
			if err := in.writeGaps(ctx); err != nil && ctx.Err() == nil {
				in.opt.Log.Warn("gap not written", "error", err)
			}
		}
	}
}

func (in *Inlet) writeGaps(ctx context.Context) error {
	var errs []error
	for _, p := range in.list() {
		n, reason, from, to := p.shed.take()
		if n == 0 {
			continue
		}
		data, err := json.Marshal(map[string]any{"source": p.source, "lost": n, "reason": reason, "from": from.UTC(), "to": to.UTC()})
		if err != nil {
			return fmt.Errorf("write a gap: %w", err)
		}
		res, err := in.gaps.put(ctx, in.sp, []record.Record{{Key: p.source, Source: "forebay", Type: "application/json", Data: data, Arrived: to}})
		if err == nil && len(res) == 1 {
			err = res[0].Err
		}
		if err != nil {
			p.shed.giveBack(n, reason, from, to) // told again at the next tick
			errs = append(errs, fmt.Errorf("write a gap of %s: %w", p.source, err))
		}
	}
	return errors.Join(errs...)
}

func (in *Inlet) list() []*Port {
	in.mu.Lock()
	defer in.mu.Unlock()
	out := make([]*Port, 0, len(in.ports))
	for _, name := range slices.Sorted(maps.Keys(in.ports)) {
		out = append(out, in.ports[name])
	}
	return out
}

// Stats are the numbers of one source since the process started.
type Stats struct {
	Source, Stream string
	Rate           Rate
	LastSeen       time.Time // zero if nothing came yet
	Refused        uint64    // records that Put did not take
}

// Stats lists the sources by id.
func (in *Inlet) Stats() []Stats {
	now := in.opt.Now()
	out := []Stats{}
	for _, p := range in.list() {
		s := Stats{Source: p.source, Stream: p.stream, Rate: p.meter.rate(), Refused: p.refused.Load()}
		if ns := p.lastSeen.Load(); ns > 0 {
			s.LastSeen = time.Unix(0, ns).In(now.Location())
		}
		out = append(out, s)
	}
	return out
}

// Total is what all sources bring.
func (in *Inlet) Total() Rate { return in.total.rate() }

// WithDefaults fills in what was left out.
func (r Route) WithDefaults() Route {
	if r.Decode == "" {
		r.Decode = "raw"
	}
	return r
}
