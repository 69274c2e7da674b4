package spool

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Stats is the spool at a glance.
type Stats struct {
	Dir   string
	Used  int64 // bytes in the directory, everything counted
	Quota int64 // bytes it may use
	Free  int64 // bytes free on the file system
	// Full: at least one log has refused records for want of room and has not
	// stored as much since; its producers are held back.
	Full bool
	// ReadOnly: the disk takes no writes.
	ReadOnly bool
	// Conditions are what an operator should know, worst first. Kinds: full,
	// nearly-full, stalled, read-only, fsync, corrupt, dropped, max-age, ledger,
	// segment, state.
	Conditions []Condition
	Commits    uint64 // since the spool was opened
	Fsyncs     uint64 // of commits and chunk files
	Records    uint64
	Bytes      uint64 // of records, in blocks and chunk files
	Written    uint64 // bytes to the disk, WAL and checkpoint both counted, estimate
	BlocksRead uint64 // from segments, by readers that are behind what is kept in memory
	LastCommit time.Time
	LastFsync  time.Duration // how long the last commit took
	Scrub      ScrubStats
}

// A Condition is something that should raise an alarm as long as it stands.
type Condition struct {
	Kind     string
	Text     string
	Severity int // 1 is the most urgent, 4 the least
	Since    time.Time
}

// counters are counted by the writers.
type counters struct {
	commits, fsyncs, records, bytes, written, read atomic.Uint64
	lastCommit, lastFsync                          atomic.Int64
}

// committed counts one commit.
func (c *counters) committed(records uint64, payload, written int64, syncs uint64, now time.Time) {
	c.commits.Add(1)
	c.fsyncs.Add(syncs)
	c.records.Add(records)
	c.bytes.Add(uint64(payload))
	c.written.Add(uint64(written))
	c.lastCommit.Store(now.UnixNano())
}

// conditions holds what stands now, by kind.
type conditions struct {
	mu  sync.Mutex
	set map[string]standing
}

type standing struct {
	Condition
	renewed time.Time // monotonic
}

// raise makes a condition stand, or renews its text.
func (s *Spool) raise(kind string, severity int, text string) {
	s.alarms.mu.Lock()
	old, was := s.alarms.set[kind]
	if s.alarms.set == nil {
		s.alarms.set = map[string]standing{}
	}
	c := Condition{Kind: kind, Text: text, Severity: severity, Since: s.now()}
	if was {
		c.Since = old.Since
	}
	s.alarms.set[kind] = standing{c, time.Now()}
	s.alarms.mu.Unlock()
	if !was {
		s.log.Warn("spool condition raised", "kind", kind, "severity", severity, "text", text)
	}
}

func (s *Spool) clear(kind string) {
	s.alarms.mu.Lock()
	_, was := s.alarms.set[kind]
	delete(s.alarms.set, kind)
	s.alarms.mu.Unlock()
	if was {
		s.log.Info("spool condition cleared", "kind", kind)
	}
}

// clearOld ends conditions that tell of an event, when it has not happened
// again for a while.
func (s *Spool) clearOld(kinds ...string) {
	for _, kind := range kinds {
		s.alarms.mu.Lock()
		c, was := s.alarms.set[kind]
		s.alarms.mu.Unlock()
		if was && time.Since(c.renewed) > tellFor {
			s.clear(kind)
		}
	}
}

func (s *Spool) stands(kind string) bool {
	s.alarms.mu.Lock()
	defer s.alarms.mu.Unlock()
	_, ok := s.alarms.set[kind]
	return ok
}

func (s *Spool) conditionList() []Condition {
	s.alarms.mu.Lock()
	defer s.alarms.mu.Unlock()
	var out []Condition
	for _, c := range s.alarms.set {
		out = append(out, c.Condition)
	}
	slices.SortFunc(out, func(a, b Condition) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Kind, b.Kind))
	})
	return out
}

// Stats tells the spool's state of this moment.
func (s *Spool) Stats() Stats {
	c := &s.stats
	st := Stats{
		Dir: s.dir, Used: s.used.Load(), Quota: s.quota, ReadOnly: s.stands("read-only"), Conditions: s.conditionList(),
		Commits: c.commits.Load(), Fsyncs: c.fsyncs.Load(), Records: c.records.Load(), Bytes: c.bytes.Load(), Written: c.written.Load(), BlocksRead: c.read.Load(),
		LastFsync: time.Duration(c.lastFsync.Load()), Scrub: s.scrubs.snapshot(),
	}
	if at := c.lastCommit.Load(); at != 0 {
		st.LastCommit = time.Unix(0, at).UTC()
	}
	if _, free, err := s.seam.space(s.dir); err == nil {
		st.Free = free
	}
	for _, l := range s.allLogs() {
		st.Full = st.Full || l.held()
	}
	return st
}
