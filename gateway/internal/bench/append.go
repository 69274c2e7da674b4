package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// A load is producers that hand over so many records, wait until they are
// acknowledged, and hand over the next.
type load struct {
	name      string
	shards    int
	producers int
	perCall   int
	probe     int // calls of each producer that tell how fast it is
	targets   func(rate, ratio Spread) []Target
}

func floodTargets(rate, ratio Spread) []Target {
	return []Target{
		atLeast("2.08 M records/s of 100 bytes durable", rate.Median, 2.08e6),
		atLeast(">= 0.55 of plain append with 1 MiB commits", ratio.Median, 0.55),
	}
}

func loads() []load {
	return []load{
		{name: "1 shard x 10,000, 1 producer", shards: 1, producers: 1, perCall: 10_000, probe: 20, targets: floodTargets},
		{name: "1 shard x 10,000, 2 producers", shards: 1, producers: 2, perCall: 10_000, probe: 20, targets: floodTargets},
		{name: "4 shards x 2,500, 4 producers", shards: 4, producers: 4, perCall: 2_500, probe: 20, targets: floodTargets},
		{name: "4 shards x 100, 4 producers", shards: 4, producers: 4, perCall: 100, probe: 100},
		{name: "single records, 64 producers", shards: 4, producers: 64, perCall: 1, probe: 50},
	}
}

// An outcome is one round of one load.
type outcome struct {
	rate      float64 // records/s, the final seal included
	producing time.Duration
	calls     []time.Duration
	counts    counts
	rss       float64
}

// appends measures each load in rounds: the spool, then both rivals, and in the
// next round the other way about.
func (b *bench) appends(ctx context.Context) error {
	for _, p := range []payloads{randomPayloads(b.Payload), jsonPayloads(b.Payload)} {
		for _, l := range loads() {
			if p.name != "random" && l.perCall < 1000 && !b.Full {
				continue
			}
			l.perCall = max(1, min(l.perCall, (1<<20)/b.Payload))
			if err := b.appendLoad(ctx, l, p); err != nil {
				return fmt.Errorf("%s, %s: %w", l.name, p.name, err)
			}
		}
	}
	return nil
}

func (b *bench) appendLoad(ctx context.Context, l load, p payloads) error {
	b.tell("append: %s, %s", l.name, p.name)
	first, err := b.spoolRound(ctx, l, p, l.probe) // warms up, and tells how many calls a round takes
	if err != nil {
		return err
	}
	calls := max(l.probe, int(float64(l.probe)*b.Slice.Seconds()/first.producing.Seconds()))
	names := append([]string{"spool"}, rivals()...)
	rates := map[string][]float64{}
	var took []time.Duration
	var cost counts
	rss := 0.0
	for round := range b.Rounds {
		for _, name := range names {
			var o outcome
			if name == "spool" {
				o, err = b.spoolRound(ctx, l, p, calls)
				took, cost, rss = append(took, o.calls...), cost.plus(o.counts), max(rss, o.rss)
			} else {
				o, err = b.plainRound(ctx, l, p, calls, name)
			}
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, name, err)
			}
			rates[name] = append(rates[name], o.rate)
		}
		slices.Reverse(names)
	}
	records := int64(calls) * int64(l.producers) * int64(l.perCall) * int64(b.Rounds)
	line := Line{Work: "append " + l.name, Payload: p.name, Unit: "records/s", Figure: spread(rates["spool"]), Rival: against(rates)}
	if l.targets != nil && p.name == "random" && b.Payload == 100 {
		line.Targets = l.targets(line.Figure, line.Rival.Ratio)
	}
	line.Cost = costOf(took, cost, records, int64(b.Payload), rss)
	b.add(line)
	return nil
}

// against compares with the rival that keeps the same records, and names the
// others beside it.
func against(rates map[string][]float64) *Rival {
	of := func(name string) Rival {
		return Rival{Name: name, Figure: spread(rates[name]), Ratio: over(rates["spool"], rates[name])}
	}
	first := of(framed)
	first.Others = []Rival{of(growing), of(prewritten)}
	return &first
}

func costOf(took []time.Duration, c counts, records, payload int64, rss float64) *Cost {
	return &Cost{
		CallP50MS: percentile(took, 0.50), CallP99MS: percentile(took, 0.99), CallMaxMS: percentile(took, 1),
		CPUNS:   float64(c.cpu.Nanoseconds()) / float64(max(records, 1)),
		PerByte: c.per(records * payload), PerRecord: c.per(records), PeakMB: rss,
	}
}

// A producer hands over its i-th call and returns when it is durable.
type producer func(i int) error

// drive runs the producers, each for so many calls, or until stop says so, and
// gives how long each call took.
func drive(n, calls int, stop func() bool, each func(p int) producer) ([]time.Duration, error) {
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for p := range n {
		do := each(p)
		wg.Go(func() {
			for i := 0; i == 0 || (calls == 0 || i < calls) && (stop == nil || !stop()); i++ {
				began := time.Now()
				if errs[p] = do(i); errs[p] != nil {
					return
				}
				took[p] = append(took[p], time.Since(began))
			}
		})
	}
	wg.Wait()
	return slices.Concat(took...), errors.Join(errs...)
}

// spoolRound is one round in a new spool, from the first call to the end of
// Close, which checkpoints and seals.
func (b *bench) spoolRound(ctx context.Context, l load, p payloads, calls int) (o outcome, err error) {
	s, err := b.open(ctx, "append", spool.Config{})
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, b.remove("append")) }()
	st, err := makeStream(ctx, s, "bench", l.shards)
	if err != nil {
		return o, errors.Join(err, s.Close())
	}
	producers := l.inSpool(ctx, st, p)
	b.settle()
	m := b.meter()
	o.calls, err = drive(l.producers, calls, nil, producers)
	o.producing, o.rss = time.Since(m.began), residentMB("self")
	err = errors.Join(err, s.Close())
	took := time.Since(m.began)
	b.settle()
	o.counts = m.since(b)
	o.rate = float64(calls*l.producers*l.perCall) / took.Seconds()
	return o, err
}

// inSpool gives each producer a shard and records of its own.
func (l load) inSpool(ctx context.Context, st *spool.Stream, p payloads) func(int) producer {
	keys := shardKeys(st)
	return func(n int) producer {
		recs := make([]record.Record, l.perCall)
		for i := range recs {
			recs[i].Key, recs[i].Source = keys[n%len(keys)], fmt.Sprintf("source-%d", n)
		}
		fresh := slices.Clone(recs)
		return func(i int) error {
			data := p.take(i*l.producers+n, l.perCall)
			copy(recs, fresh) // the spool owned them until now
			for j := range recs {
				recs[j].Data = data[j*p.size : (j+1)*p.size]
			}
			return put(ctx, st, recs)
		}
	}
}

func (l load) inPlain(f *plainLog, p payloads, kind string) func(int) producer {
	return func(n int) producer {
		done := make(chan error, 1)
		if kind == framed {
			var fr framer
			source, key := fmt.Sprintf("source-%d", n), fmt.Sprintf("plant/line-%d/cell", n)
			return func(i int) error {
				data := p.take(i*l.producers+n, l.perCall)
				return f.put(fr.frame(source, key, uint64(i*l.perCall), data, p.size), done)
			}
		}
		return func(i int) error { return f.put(p.take(i*l.producers+n, l.perCall), done) }
	}
}

func (b *bench) plainRound(ctx context.Context, l load, p payloads, calls int, kind string) (o outcome, err error) {
	if err := ctx.Err(); err != nil {
		return o, err
	}
	f, err := openPlain(b.dir, kind, int64(calls)*int64(l.producers*l.perCall*p.size))
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, b.remove("plain")) }()
	b.settle()
	began := time.Now()
	o.calls, err = drive(l.producers, calls, nil, l.inPlain(f, p, kind))
	err = errors.Join(err, f.close())
	o.rate = float64(calls*l.producers*l.perCall) / time.Since(began).Seconds()
	return o, err
}

// kept is how many bytes a sustained load leaves behind it; what is older is
// dropped, as part of what is measured.
func (b *bench) kept() int64 {
	return min(1<<30, 64<<20+int64(b.Duration.Seconds()*256e6))
}

// sustained is floods that do not end before the spool has rolled and dropped
// segments many times over: rate, and the calls' 99th percentile while
// checkpoints run.
func (b *bench) sustained(ctx context.Context) error {
	p := randomPayloads(b.Payload)
	for _, l := range loads() {
		if l.producers != 4 {
			continue
		}
		l.perCall = max(1, min(l.perCall, (1<<20)/b.Payload))
		if err := b.sustain(ctx, l, p); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

func (b *bench) sustain(ctx context.Context, l load, p payloads) error {
	name := fmt.Sprintf("for %v: %s", b.Duration, l.name)
	b.tell("sustained %s", name)
	ours, c, err := b.sustainSpool(ctx, l, p)
	if err != nil {
		return err
	}
	rates := map[string][]float64{"spool": {ours.rate}}
	for _, kind := range rivals() {
		f, err := openPlain(b.dir, kind, b.kept())
		if err != nil {
			return err
		}
		b.settle()
		o, err := l.until(ctx, b.Duration, l.inPlain(f, p, kind), f.close)
		if err = errors.Join(err, b.remove("plain")); err != nil {
			return err
		}
		rates[kind] = []float64{o.rate}
	}
	cost := costOf(ours.calls, c, int64(len(ours.calls)*l.perCall), int64(b.Payload), ours.rss)
	line := Line{Work: "sustained " + name, Payload: p.name, Unit: "records/s", Figure: one(ours.rate), Rival: against(rates), Cost: cost}
	if l.perCall >= 2500 && b.Payload == 100 {
		line.Targets = floodTargets(line.Figure, line.Rival.Ratio)
	}
	b.add(line)
	b.add(Line{
		Work: "commit p99 " + name, Payload: p.name, Unit: "ms", Figure: one(cost.CallP99MS), Note: fmt.Sprintf("p50 %.2f, max %.1f", cost.CallP50MS, cost.CallMaxMS),
		Targets: []Target{below("commit p99 < 15 ms while checkpoints run", cost.CallP99MS, 15)},
	})
	return nil
}

func (b *bench) sustainSpool(ctx context.Context, l load, p payloads) (o outcome, c counts, err error) {
	s, err := b.open(ctx, "sustained", spool.Config{Quota: conf.Size(b.kept())})
	if err != nil {
		return o, c, err
	}
	defer func() { err = errors.Join(err, b.remove("sustained")) }()
	st, err := makeStream(ctx, s, "bench", l.shards)
	if err != nil {
		return o, c, errors.Join(err, s.Close())
	}
	b.settle()
	m := b.meter()
	o, err = l.until(ctx, b.Duration, l.inSpool(ctx, st, p), s.Close)
	b.settle()
	return o, m.since(b), err
}

// until runs the load for a while, and then seal, which counts.
func (l load) until(ctx context.Context, d time.Duration, each func(int) producer, seal func() error) (o outcome, err error) {
	began := time.Now()
	o.calls, err = drive(l.producers, 0, func() bool { return time.Since(began) >= d || ctx.Err() != nil }, each)
	o.producing, o.rss = time.Since(began), residentMB("self")
	err = errors.Join(err, ctx.Err(), seal())
	o.rate = float64(len(o.calls)*l.perCall) / time.Since(began).Seconds()
	return o, err
}

// lone is one record at a time, nothing beside it: what a commit costs the disk.
func (b *bench) lone(ctx context.Context) (err error) {
	b.tell("lone records")
	n := 300
	if b.Full {
		n = 3000
	}
	l := load{name: "lone", shards: 1, producers: 1, perCall: 1}
	o, err := b.spoolRound(ctx, l, randomPayloads(b.Payload), n)
	if err != nil {
		return err
	}
	cost := costOf(o.calls, o.counts, int64(n), int64(b.Payload), o.rss)
	line := Line{Work: "lone record", Payload: "random", Unit: "bytes written", Figure: one(cost.PerRecord.Process), Cost: cost, Note: "the seal's share included"}
	if cost.PerRecord.Process > 0 {
		line.Targets = []Target{atMost("a lone record <= 12 KB", cost.PerRecord.Process, 12_000)}
	}
	b.add(line)
	rates := map[string][]float64{"spool": {o.rate}}
	for _, kind := range rivals() {
		r, err := b.plainRound(ctx, l, randomPayloads(b.Payload), n, kind)
		if err != nil {
			return err
		}
		rates[kind] = []float64{r.rate}
	}
	b.add(Line{Work: "lone records, one after the other", Payload: "random", Unit: "records/s", Figure: one(o.rate), Rival: against(rates)})
	return nil
}

// path is a place in the run's own directory.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }
