package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"forebay/spool/record"
)

// A Ledger says for every record where it went.
type Ledger struct {
	Sources []SourceLedger // by name
	Streams []StreamLedger // by name
	Cursors []CursorLedger // by name, then stream
	Logs    []LogLedger    // by number
	Chain   ChainLedger
	// Mismatches are counts that state.db has twice and that differ.
	Mismatches []string
}

// A LogLedger compares, over the streams that share a log, what sources put in
// (counted in the blocks and carried on from segment to segment) with the
// sequence numbers that were given: Numbered = Taken + Uncounted.
type LogLedger struct {
	Log     uint32
	Streams []string
	Taken   uint64
	// Numbered is how many sequence numbers were given in all shards.
	Numbered uint64
	// Uncounted is how many of them are of records whose source damage hid.
	Uncounted int64
}

// A ChainLedger tells of the steps behind the sums; see Spool.Steps.
type ChainLedger struct {
	Steps  uint64 // ever entered
	Head   string // hash of the newest, hexadecimal; a copy kept elsewhere proves later that none was changed
	Broken string // where the chain does not hold; "" where it does
}

// A SourceLedger counts a source's records. Taken are those on disk, in all
// streams; Quarantined are those of them that lie in the stream "quarantine"
// because they did not decode; Shed were lost before the log.
type SourceLedger struct {
	Source                   string
	Taken, Shed, Quarantined uint64
}

// A StreamLedger counts what a stream holds: In = Kept + Expired + Corrupt. In
// and Kept are what the segments say, Expired is what the steps add up to.
type StreamLedger struct {
	Stream                     string
	In, Kept, Expired, Corrupt uint64
}

// A CursorLedger counts, from where the cursor began and over all shards of
// the stream, what became of the records:
// In = Delivered + Filtered + Pending + Expired + Refused + Corrupt.
type CursorLedger struct {
	Name, Stream                                                string
	In, Delivered, Filtered, Pending, Expired, Refused, Corrupt uint64
}

// Balanced is nil, or says which line does not add up, which counts differ, or
// where the chain of the steps does not hold.
func (l Ledger) Balanced() error {
	if l.Chain.Broken != "" {
		return fmt.Errorf("ledger's chain does not hold: %s", l.Chain.Broken)
	}
	for _, g := range l.Logs {
		if int64(g.Numbered) != int64(g.Taken)+g.Uncounted {
			return fmt.Errorf("ledger of log %d: %d numbers were given, but its sources put in %d (and %d are not known)", g.Log, g.Numbered, g.Taken, g.Uncounted)
		}
	}
	if len(l.Mismatches) > 0 {
		return errors.New(l.Mismatches[0])
	}
	for _, s := range l.Streams {
		if s.In != s.Kept+s.Expired+s.Corrupt {
			return fmt.Errorf("ledger of stream %q: in %d is not kept %d + expired %d + corrupt %d", s.Stream, s.In, s.Kept, s.Expired, s.Corrupt)
		}
	}
	for _, c := range l.Cursors {
		if c.In != c.Delivered+c.Filtered+c.Pending+c.Expired+c.Refused+c.Corrupt {
			return fmt.Errorf("ledger of cursor %q on stream %q: in %d is not delivered %d + filtered %d + pending %d + expired %d + refused %d + corrupt %d",
				c.Name, c.Stream, c.In, c.Delivered, c.Filtered, c.Pending, c.Expired, c.Refused, c.Corrupt)
		}
	}
	for _, s := range l.Sources {
		if s.Quarantined > s.Taken {
			return fmt.Errorf("ledger of source %q: quarantined %d is more than taken %d", s.Source, s.Quarantined, s.Taken)
		}
	}
	return nil
}

// Ledger says where every record went, as of this moment.
func (s *Spool) Ledger() Ledger {
	a := newAccounts()
	for _, l := range s.allLogs() {
		l.mu.RLock()
		s.state.mu.Lock()
		a.log(s.state, l.num, l.uncounted, l.sources, l.slots)
		s.state.mu.Unlock()
		l.mu.RUnlock()
	}
	for _, t := range s.Streams() {
		a.stream(t.name)
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	a.shed(s.state)
	out := a.ledger()
	out.Chain = ChainLedger{Steps: s.state.told.id, Head: fmt.Sprintf("%x", s.state.told.hash)}
	if s.state.broken != nil {
		out.Chain.Broken = s.state.broken.Error()
	}
	return out
}

// accounts gathers a ledger, log by log.
type accounts struct {
	sources map[string]*SourceLedger
	streams map[string]*StreamLedger
	cursors map[[2]string]*CursorLedger
	out     Ledger
}

func newAccounts() *accounts {
	return &accounts{sources: map[string]*SourceLedger{}, streams: map[string]*StreamLedger{}, cursors: map[[2]string]*CursorLedger{}}
}

func (a *accounts) source(name string) *SourceLedger {
	if a.sources[name] == nil {
		a.sources[name] = &SourceLedger{Source: name}
	}
	return a.sources[name]
}

func (a *accounts) stream(name string) *StreamLedger {
	if a.streams[name] == nil {
		a.streams[name] = &StreamLedger{Stream: name}
	}
	return a.streams[name]
}

func (a *accounts) mismatch(format string, args ...any) {
	a.out.Mismatches = append(a.out.Mismatches, fmt.Sprintf(format, args...))
}

// log adds a log. The log's mu and state.mu are held, so that all figures are
// of one moment.
func (a *accounts) log(st *stateDB, num uint32, uncounted int64, sources map[string]sourceTotal, shards []*shard) {
	g := LogLedger{Log: num, Uncounted: uncounted}
	for name, t := range sources {
		a.source(name).Taken += t.taken
		a.source(name).Quarantined += t.quarantined
		g.Taken += t.taken
	}
	at := map[record.ShardID]*shard{}
	for _, sh := range shards {
		at[sh.id] = sh
		if name := sh.stream.name; len(g.Streams) == 0 || g.Streams[len(g.Streams)-1] != name {
			g.Streams = append(g.Streams, name)
		}
		g.Numbered += sh.next - 1
		a.shard(st, sh)
	}
	for k, p := range st.cursors {
		sh := at[k.shard]
		if sh == nil {
			continue
		}
		key := [2]string{k.name, sh.stream.name}
		if a.cursors[key] == nil {
			a.cursors[key] = &CursorLedger{Name: k.name, Stream: sh.stream.name}
		}
		a.cursors[key].add(*p, sh.next, sh.first.next)
		if told := st.refusedLocked(sh.stream.name, k); told != p.refused+p.refusedBefore {
			a.mismatch("ledger of cursor %q on stream %q, shard %d: refused %d, but its steps say %d", k.name, sh.stream.name, k.shard, p.refused, told-p.refusedBefore)
		}
	}
	slices.Sort(g.Streams)
	g.Streams = slices.Compact(g.Streams)
	a.out.Logs = append(a.out.Logs, g)
}

// shard adds a shard to its stream. What is gone is what the steps say.
func (a *accounts) shard(st *stateDB, sh *shard) {
	line := a.stream(sh.stream.name)
	next, first, gone := sh.next, sh.first.next, st.removedLocked(sh.stream.name, sh.id)
	before, after := st.corruptInLocked(sh.id, 1, first), st.corruptInLocked(sh.id, first, next)
	line.In += next - 1
	line.Corrupt += before + after
	erased := st.erasedInLocked(sh.id, first, next)
	line.Expired += gone - min(before, gone) + erased
	line.Kept += next - first - after - erased
	if gone != first-1 {
		a.mismatch("ledger of stream %q, shard %d: it begins at %d, but its steps say that %d are gone", sh.stream.name, sh.id, first, gone)
	}
	told := st.sums[stepKey{kind: StepCorrupt, stream: sh.stream.name, shard: sh.id}].count
	if known := st.corruptInLocked(sh.id, 0, ^uint64(0)); told != known {
		a.mismatch("ledger of stream %q, shard %d: %d are known to be damaged, but its steps say %d", sh.stream.name, sh.id, known, told)
	}
}

// shed adds what was lost before the log; mu is held.
func (a *accounts) shed(st *stateDB) {
	names := map[string]bool{}
	for name := range st.shed {
		names[name] = true
	}
	for k := range st.sums {
		if k.kind == StepShed {
			names[k.who] = true
		}
	}
	for name := range names {
		n := st.shed[name]
		a.source(name).Shed = n
		key := Step{Kind: StepShed, Who: name}.keyOf()
		told := st.sums[key].count
		if o := st.owed[key]; o != nil {
			told += o.Count
		}
		if told != n {
			a.mismatch("ledger of source %q: shed %d, but its steps say %d", name, n, told)
		}
	}
}

// ledger puts what was gathered in order.
func (a *accounts) ledger() Ledger {
	for _, name := range slices.Sorted(maps.Keys(a.sources)) {
		a.out.Sources = append(a.out.Sources, *a.sources[name])
	}
	for _, name := range slices.Sorted(maps.Keys(a.streams)) {
		a.out.Streams = append(a.out.Streams, *a.streams[name])
	}
	for _, c := range a.cursors {
		a.out.Cursors = append(a.out.Cursors, *c)
	}
	slices.SortFunc(a.out.Cursors, func(a, b CursorLedger) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Stream, b.Stream))
	})
	slices.Sort(a.out.Mismatches)
	return a.out
}

// Steps verifies the whole chain of the ledger and returns its newest steps,
// oldest first: at most limit, all that are not folded where it is 0. What a
// disk that takes no writes keeps out of state.db is not among them.
func (s *Spool) Steps(ctx context.Context, limit int) ([]Step, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.state.enterOwed(true)
	if err := s.flushState(ctx); err != nil {
		touch(s.state.kick) // what cannot be written is not listed yet; the flusher tries again, and tells
	}
	s.state.disk.Lock()
	c, err := readChain(ctx, s.state.db)
	s.state.disk.Unlock()
	if err != nil {
		return nil, fmt.Errorf("read the ledger: %w", err)
	}
	if c.broken != nil {
		s.state.mu.Lock()
		s.state.broken = c.broken
		s.state.mu.Unlock()
		s.raise("ledger", 2, "the loss ledger was changed by another hand: "+c.broken.Error())
	}
	return c.newest(limit), nil
}

func (c *chain) newest(limit int) []Step {
	if n := len(c.steps); limit > 0 && n > limit {
		return c.steps[n-limit:]
	}
	return c.steps
}

// add counts one shard. What retention removed in front of the place counts as
// expired before the cursor meets the gap itself.
func (c *CursorLedger) add(p place, next, first uint64) {
	next = max(next, p.next) // a record committed while we looked
	gap := max(first, p.next) - p.next
	c.In += next - p.start
	c.Delivered += p.delivered
	c.Filtered += p.filtered
	c.Refused += p.refused
	c.Corrupt += p.corrupt
	c.Expired += p.expired + gap
	c.Pending += next - p.next - gap
}

func sortRanges(r []corruptRange) {
	slices.SortFunc(r, func(a, b corruptRange) int { return cmp.Compare(a.from, b.from) })
}
