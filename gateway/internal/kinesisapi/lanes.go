package kinesisapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/envelope"
)

// What another gateway sends comes at least once: where its link broke before
// the answer it sends again. It says by a header that the records of a lane
// (GATEWAY/EPOCH/SHARD, as their envelopes' ids begin) come in rising order;
// then this door drops those that are stored already, and answers for them as
// for stored ones. A lane that was restored from a backup has another epoch.
//
// Several senders may each send a part of a lane: two uplinks with different
// filters, or a gateway between that has it from two others. The order holds
// in each of these series alone, so each has a mark of its own, and a record is
// dropped only between the first and the last that the same series has brought.
//
// The marks are kept in memory and now and then with the stream; what was
// stored behind the last keeping is read again from the log, where such
// records are known by source and type.
const (
	headerLanes = "X-Forebay-Lanes"
	lanesRising = "rising"

	// maxMarks is how many lanes are known of a stream; the one that was heard
	// longest ago gives way, and its next repetition is stored.
	maxMarks = 2000
	// keepEvery is how often the marks of streams are kept.
	keepEvery = 15 * time.Second
)

// A claim is what a request says of its lanes: "rising", the name of the
// uplink's series, and, separated by commas, for each record by which way it
// came to the sender. "" are the sender's own records; "-" are others of which
// it does not know that they rise.
type claim struct {
	rising bool
	series string
	via    []string // nil: all are its own
}

// claimOf reads the header.
func claimOf(header string) (c claim) {
	fields := strings.Fields(header)
	if len(fields) == 0 || len(fields) > 3 || fields[0] != lanesRising {
		return c
	}
	c.rising = true
	if len(fields) > 1 {
		c.series = fields[1]
	}
	if len(fields) > 2 {
		c.via = strings.Split(fields[2], ",")
	}
	return c
}

// seriesOf names the series of record i of a request by an access key; false
// where nothing is claimed of it.
func (c *claim) seriesOf(key string, i int) (by string, ok bool) {
	via := ""
	if c.via != nil {
		if via = c.via[i]; via == "-" {
			return "", false
		}
	}
	sum := sha256.Sum256([]byte(key + "\x00" + c.series + "\x00" + via))
	return hex.EncodeToString(sum[:8]), true
}

// A laneBy is a lane as one series brings it.
type laneBy struct{ lane, by string }

func compareLanes(a, b laneBy) int {
	return cmp.Or(cmp.Compare(a.lane, b.lane), cmp.Compare(a.by, b.by))
}

// A span is from where to where a lane is stored as its series brought it.
type span struct{ low, high envelope.Place }

// has reports whether what stands at a place was brought before.
func (s span) has(at envelope.Place) bool {
	return s != span{} && !at.After(s.high) && !s.low.After(at)
}

// add takes a place in. One before the span begins a new one: of what lies
// between nothing is known.
func (s *span) add(at envelope.Place) {
	switch {
	case *s == span{} || s.low.After(at):
		s.low, s.high = at, at
	case at.After(s.high):
		s.high = at
	}
}

// A mark is how far a lane is stored.
type mark struct {
	turn chan struct{} // holds one while a put of the lane is under way
	span
	pos record.Pos
	at  time.Time
}

// marks are those of a stream.
type marks struct {
	mu       sync.Mutex
	ready    bool // read from the note and the log
	fleeting bool // not to be kept
	of       map[laneBy]*mark
	dirty    bool

	// A keeping holds the marks and, for each shard, a place before which no
	// record's mark is missing: where the shard ended at the last keeping, once
	// every put is over that began before.
	gen    uint64
	flying map[uint64]int // puts under way, by the gen in which they began
	ends   map[record.ShardID]uint64
}

// keptMarks are marks as they lie in a stream's note.
type keptMarks struct {
	Lanes []keptMark                `json:"lanes"`
	From  map[record.ShardID]uint64 `json:"from"` // first sequence number to be read again

	// Where they cannot be read, of an older form or damaged: what lies there,
	// and why. Then the rest of the note counts all the same.
	raw []byte
	err error
}

type keptMark struct {
	Lane  string         `json:"lane"`
	By    string         `json:"by"`
	Low   envelope.Place `json:"low"`
	High  envelope.Place `json:"high"`
	Shard record.ShardID `json:"shard"`
	Seq   uint64         `json:"seq"`
	At    time.Time      `json:"at"`
}

// marksOf are the marks of a stream, ready for use.
func (s *Server) marksOf(ctx context.Context, st *spool.Stream) (*marks, error) {
	s.lanes.Lock()
	m := s.lanes.of[st]
	if m == nil {
		if s.lanes.of == nil {
			s.lanes.of = map[*spool.Stream]*marks{}
		}
		m = &marks{of: map[laneBy]*mark{}, flying: map[uint64]int{}}
		s.lanes.of[st] = m
	}
	s.lanes.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready {
		return m, nil
	}
	n, err := s.noteOf(st)
	if err != nil {
		// The note stays as it is, for somebody to look at; the marks are known
		// in memory alone.
		s.marksLost(st, err)
		m.ready, m.fleeting = true, true
		return m, nil
	}
	if n.Marks != nil && n.Marks.err != nil {
		s.marksLost(st, n.Marks.err)
		n.Marks = nil
	}
	if n.Marks == nil {
		// From now on there are marks: what is stored before the first keeping
		// is to be found again.
		first := keptMarks{From: endsOf(st)}
		if err := s.changeNote(ctx, st, func(n *note) error { n.Marks = &first; return nil }); err != nil {
			return nil, err
		}
		m.ready = true
		return m, nil
	}
	for _, k := range n.Marks.Lanes {
		m.of[laneBy{k.Lane, k.By}] = &mark{turn: make(chan struct{}, 1), span: span{k.Low, k.High}, pos: record.Pos{Shard: k.Shard, Seq: k.Seq}, at: k.At}
	}
	if err := m.readAgain(ctx, s, st, n.Marks.From); err != nil {
		return nil, fmt.Errorf("read the lanes of stream %s: %w", st.Name(), err)
	}
	m.ready = true
	return m, nil
}

// endsOf is where the stream's shards end now.
func endsOf(st *spool.Stream) map[record.ShardID]uint64 {
	ends := map[record.ShardID]uint64{}
	for _, sh := range st.Shards() {
		ends[sh.ID] = sh.Next
	}
	return ends
}

// readAgain finds the marks of what was stored from the given places on.
func (m *marks) readAgain(ctx context.Context, s *Server, st *spool.Stream, from map[record.ShardID]uint64) error {
	for _, sh := range st.Shards() {
		at := max(from[sh.ID], 1)
		if at >= sh.Next {
			continue
		}
		for b, err := range st.Scan(ctx, sh.ID, spool.After(at-1)) {
			if err != nil && !lossOf(err) {
				return err
			}
			for i := range b.Recs {
				r := &b.Recs[i]
				by, ok := envelope.LanesBy(r.Type)
				if !ok || r.Source != s.ID() {
					continue
				}
				by = strings.Clone(by) // r is a view
				u, ok := unitOf(r.Data)
				if !ok {
					continue
				}
				for _, x := range u.parts {
					k := m.mark(laneBy{string(x.lane), by}, r.Arrived)
					if !k.has(x.at) {
						k.add(x.at)
						k.pos, k.at = r.Pos, r.Arrived
					}
				}
			}
		}
	}
	return nil
}

// mark is a lane's mark, a new one if there is none. m.mu is held.
func (m *marks) mark(lane laneBy, now time.Time) *mark {
	k := m.of[lane]
	if k == nil {
		k = &mark{turn: make(chan struct{}, 1), at: now}
		m.of[lane] = k
		if len(m.of) > maxMarks {
			m.drop(len(m.of) - maxMarks*9/10)
		}
	}
	return k
}

// drop forgets the n lanes that were heard longest ago and have no put under
// way. m.mu is held.
func (m *marks) drop(n int) {
	lanes := slices.SortedFunc(maps.Keys(m.of), func(a, b laneBy) int { return m.of[a].at.Compare(m.of[b].at) })
	for _, l := range lanes {
		k := m.of[l]
		if n == 0 {
			return
		}
		if len(k.turn) == 0 {
			delete(m.of, l)
			n--
		}
	}
}

// take waits for its turn in each of the lanes, and begins a put. Lanes are
// taken in the order of their names, so that no two puts wait for each other.
func (m *marks) take(ctx context.Context, lanes []laneBy, now time.Time) (*flight, error) {
	f := &flight{m: m, marks: make(map[laneBy]*mark, len(lanes))}
	for _, l := range lanes {
		m.mu.Lock()
		k := m.mark(l, now)
		m.mu.Unlock()
		select {
		case k.turn <- struct{}{}:
			f.marks[l] = k
		case <-ctx.Done():
			f.release()
			return nil, context.Cause(ctx)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f.gen = m.gen
	f.begun = true
	m.flying[f.gen]++
	return f, nil
}

// A flight is a put of some lanes that is under way.
type flight struct {
	m     *marks
	marks map[laneBy]*mark
	gen   uint64
	begun bool
}

// passed sets the marks of a unit that is stored.
func (f *flight) passed(u unit, at record.Pos, now time.Time) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.dirty = true
	for _, x := range u.parts {
		k := f.marks[laneBy{string(x.lane), u.by}]
		if !k.has(x.at) {
			k.add(x.at)
			k.pos = at
		}
		k.at = now
	}
}

// release ends the flight.
func (f *flight) release() {
	for _, k := range f.marks {
		<-k.turn
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if !f.begun {
		return
	}
	if f.m.flying[f.gen]--; f.m.flying[f.gen] == 0 {
		delete(f.m.flying, f.gen)
	}
}

// lanes are the marks of all streams.
type lanes struct {
	sync.Mutex
	of      map[*spool.Stream]*marks
	said    map[*spool.Stream]string // why lanes of it were not known, last
	flights sync.WaitGroup           // puts that their clients did not wait for

	lost, unchecked atomic.Uint64
}

// keepLanes keeps the marks of all streams now and then, until ctx ends.
func (s *Server) keepLanes(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.keepMarks(ctx)
		}
	}
}

// keepMarks writes down the marks that have changed.
func (s *Server) keepMarks(ctx context.Context) {
	s.lanes.Lock()
	all := maps.Clone(s.lanes.of)
	s.lanes.Unlock()
	for st, m := range all {
		if at, err := s.spool.Stream(st.Name()); err != nil || at != st { // it was deleted
			s.lanes.Lock()
			delete(s.lanes.of, st)
			delete(s.lanes.said, st)
			s.lanes.Unlock()
			continue
		}
		kept, ok := m.keep(endsOf(st))
		if !ok {
			continue
		}
		if err := s.changeNote(ctx, st, func(n *note) error { n.Marks = kept; return nil }); err != nil {
			m.mu.Lock()
			m.dirty = true
			m.mu.Unlock()
			if ctx.Err() == nil {
				s.log.Warn("lanes of a stream could not be kept; after a crash more of the log is read", "stream", st.Name(), "error", err)
			}
		}
	}
}

// keep is what is to be written down, if there is anything. now is where the
// shards end, read before.
func (m *marks) keep(now map[record.ShardID]uint64) (*keptMarks, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready || m.fleeting {
		return nil, false
	}
	for g := range m.flying {
		if g < m.gen {
			return nil, false // one that began before the ends were read is not over
		}
	}
	var kept *keptMarks
	if m.ends != nil && m.dirty {
		kept = &keptMarks{From: m.ends}
		for lane, k := range m.of {
			if k.span == (span{}) {
				continue // nothing of it is stored yet
			}
			kept.Lanes = append(kept.Lanes, keptMark{lane.lane, lane.by, k.low, k.high, k.pos.Shard, k.pos.Seq, k.at})
		}
		slices.SortFunc(kept.Lanes, func(a, b keptMark) int { return compareLanes(laneBy{a.Lane, a.By}, laneBy{b.Lane, b.By}) })
		m.dirty = false
	}
	// now was read before this moment: puts that begin from here on are of the
	// next gen, those of this one are waited for before the ends are used.
	m.ends = now
	m.gen++
	return kept, kept != nil
}

// lossOf reports whether a scan goes on behind the error.
func lossOf(err error) bool {
	if _, ok := errors.AsType[*record.TrimmedError](err); ok {
		return true
	}
	_, ok := errors.AsType[*record.CorruptError](err)
	return ok
}

// MarshalJSON writes a keeping as short as it can be: there may be two
// thousand lanes in one note.
func (k keptMark) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{k.Lane, k.By, k.Low.Seq, k.Low.Part, k.High.Seq, k.High.Part, k.Shard, k.Seq, k.At.Unix()})
}

// UnmarshalJSON is its inverse.
func (k *keptMark) UnmarshalJSON(b []byte) error {
	var at int64
	fields := []any{&k.Lane, &k.By, &k.Low.Seq, &k.Low.Part, &k.High.Seq, &k.High.Part, &k.Shard, &k.Seq, &at}
	n := len(fields)
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	if len(fields) != n || k.Lane == "" || k.By == "" || k.Low.After(k.High) {
		return fmt.Errorf("a lane's mark is of another form, or makes no sense: %.80s", b)
	}
	k.At = time.Unix(at, 0)
	return nil
}

// MarshalJSON writes what could not be read as it was.
func (k *keptMarks) MarshalJSON() ([]byte, error) {
	if k.err != nil {
		return k.raw, nil
	}
	type plain keptMarks
	return json.Marshal((*plain)(k))
}

// UnmarshalJSON is its inverse. It does not fail.
func (k *keptMarks) UnmarshalJSON(b []byte) error {
	type plain keptMarks
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		*k = keptMarks{raw: bytes.Clone(b), err: err}
		return nil
	}
	*k = keptMarks(p)
	return nil
}

// marksLost tells that a stream's marks cannot be read, and counts it. It is
// called once for a stream.
func (s *Server) marksLost(st *spool.Stream, err error) {
	s.lanes.lost.Add(1)
	s.log.Error("what was stored of other gateways' lanes is not known any more; what they send again of it is stored again, with the same ids", "stream", st.Name(), "error", err)
}

// unchecked tells that records of lanes are stored without a look at what is
// stored of them, and counts them. A reason is said once for a stream.
func (s *Server) unchecked(st *spool.Stream, n int, err error) {
	s.lanes.unchecked.Add(uint64(n))
	s.lanes.Lock()
	said := s.lanes.said[st] == err.Error()
	if s.lanes.said == nil {
		s.lanes.said = map[*spool.Stream]string{}
	}
	s.lanes.said[st] = err.Error()
	s.lanes.Unlock()
	if !said {
		s.log.Warn("lanes are not known; what comes twice is stored twice", "stream", st.Name(), "error", err)
	}
}

// MarksLost counts the streams, since the start, of which it was not known any
// more what is stored of other gateways' lanes.
func (s *Server) MarksLost() uint64 { return s.lanes.lost.Load() }

// Unchecked counts the records of other gateways' lanes that were stored
// without a look at whether they were stored already.
func (s *Server) Unchecked() uint64 { return s.lanes.unchecked.Load() }
