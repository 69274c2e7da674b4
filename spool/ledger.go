package spool

import (
	"cmp"
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
}

// A SourceLedger counts a source's records. Taken are those on disk, in all
// streams; Quarantined are those of them that lie in the stream "quarantine"
// because they did not decode; Shed were lost before the log.
type SourceLedger struct {
	Source                   string
	Taken, Shed, Quarantined uint64
}

// A StreamLedger counts what a stream holds: In = Kept + Expired + Corrupt.
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

// Balanced is nil, or says which line does not add up.
func (l Ledger) Balanced() error {
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
	var l Ledger
	sources := map[string]*SourceLedger{}
	of := func(name string) *SourceLedger {
		if sources[name] == nil {
			sources[name] = &SourceLedger{Source: name}
		}
		return sources[name]
	}
	for _, log := range s.allLogs() {
		log.mu.RLock()
		for name, t := range log.sources {
			of(name).Taken += t.taken
			of(name).Quarantined += t.quarantined
		}
		log.mu.RUnlock()
	}
	places := s.state.counts(func(name string, n uint64) { of(name).Shed += n })
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		l.Sources = append(l.Sources, *sources[name])
	}
	for _, t := range s.Streams() {
		line := StreamLedger{Stream: t.name}
		cursors := map[string]*CursorLedger{}
		for _, sh := range t.shards {
			next, first := sh.end()
			line.In += next - 1
			before, after := s.state.corruptIn(sh.id, 1, first), s.state.corruptIn(sh.id, first, next)
			line.Corrupt += before + after
			erased := s.state.erasedIn(sh.id, first, next)
			line.Expired += first - 1 - before + erased
			line.Kept += next - first - after - erased
			for name, p := range places[sh.id] {
				if cursors[name] == nil {
					cursors[name] = &CursorLedger{Name: name, Stream: t.name}
				}
				cursors[name].add(p, next, first)
			}
		}
		l.Streams = append(l.Streams, line)
		for _, c := range cursors {
			l.Cursors = append(l.Cursors, *c)
		}
	}
	slices.SortFunc(l.Cursors, func(a, b CursorLedger) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Stream, b.Stream))
	})
	return l
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

// counts copies the cursors' places by shard and calls shed for every source
// that lost something before the log.
func (s *stateDB) counts(shed func(string, uint64)) map[record.ShardID]map[string]place {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.shed {
		shed(name, n)
	}
	out := map[record.ShardID]map[string]place{}
	for k, p := range s.cursors {
		if out[k.shard] == nil {
			out[k.shard] = map[string]place{}
		}
		out[k.shard][k.name] = *p
	}
	return out
}

func sortRanges(r []corruptRange) {
	slices.SortFunc(r, func(a, b corruptRange) int { return cmp.Compare(a.from, b.from) })
}
