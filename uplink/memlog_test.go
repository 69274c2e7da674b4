package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// memLog is a log in memory that holds the pump to the contract: views are
// spoilt at the next step, commits must rise and account for every record.
type memLog struct {
	t       *testing.T
	mu      sync.Mutex
	cursors []*memCursor
	refused []refused
	refuse  func(r record.Record) error // nil: takes everything
}

type refused struct {
	stream string
	rec    record.Record
	reason string
}

func newLog(t *testing.T) *memLog { return &memLog{t: t} }

// shard adds an empty shard and gives its cursor.
func (l *memLog) shard(stream string) *memCursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &memCursor{t: l.t, first: 1, changed: make(chan struct{})}
	c.lane = lane.Lane{Stream: stream, Shard: record.ShardID(len(l.cursors) + 1)}
	c.lane.Hash = record.HashOf(fmt.Sprint(stream, c.lane.Shard))
	l.cursors = append(l.cursors, c)
	return c
}

func (l *memLog) Lanes(context.Context) ([]uplink.LaneCursor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []uplink.LaneCursor
	for _, c := range l.cursors {
		if c.listed() {
			out = append(out, uplink.LaneCursor{Lane: c.lane, Class: c.class, Cursor: c})
		}
	}
	return out, nil
}

// Held is what waits in shards that are not listed yet.
func (l *memLog) Held() (sum record.Backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.cursors {
		if !c.listed() && !c.gone {
			sum.Records += c.Backlog().Records
		}
	}
	return sum
}

func (l *memLog) Refuse(_ context.Context, stream string, r record.Record, reason string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		if err := l.refuse(r); err != nil {
			return err
		}
	}
	r.Data = append([]byte(nil), r.Data...)
	l.refused = append(l.refused, refused{stream, r, reason})
	return nil
}

func (l *memLog) pending() (n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.cursors {
		n += c.Backlog().Records
	}
	return n
}

type memCursor struct {
	t     *testing.T
	lane  lane.Lane
	class record.Class

	mu      sync.Mutex
	recs    []record.Record // recs[i] has sequence number i+1
	first   uint64          // oldest kept
	read    uint64          // passed by reading
	done    uint64          // committed up to
	lost    uint64          // reported as lost since the last commit, below read
	tally   record.Tally
	view    [][]byte // handed out by the last step
	ended   bool
	gone    bool             // its stream was deleted
	parents []*memCursor     // to be drained first
	holes   map[uint64]bool  // damaged, for followers
	broken  map[uint64]error // reported once, in place of that record
	readErr error
	noCmt   error
	changed chan struct{}
	commits int
}

// put appends records with a running number as data.
func (c *memCursor) put(n int, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		seq := uint64(len(c.recs) + 1)
		c.recs = append(c.recs, record.Record{
			Key: key, Source: "test", Arrived: time.Now(), Pos: record.Pos{Shard: c.lane.Shard, Seq: seq},
			Data: fmt.Appendf(nil, `{"n":%d,"shard":%d}`, seq, c.lane.Shard),
		})
	}
	c.wakeUp()
}

func (c *memCursor) wakeUp() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *memCursor) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.wakeUp()
}

// listed reports whether the lane is to be handed on now.
func (c *memCursor) listed() bool {
	for _, p := range c.parents {
		if !p.drained() {
			return false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.gone
}

func (c *memCursor) drained() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended && c.done == uint64(len(c.recs))
}

// remove deletes the shard's stream.
func (c *memCursor) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone, c.recs, c.done, c.read = true, nil, 0, 0
	c.wakeUp()
}

// restart is what a new process finds: the committed place.
func (c *memCursor) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.lost = c.done, 0
}

func (c *memCursor) Poll(_ context.Context, most int) (record.Batch, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range c.view {
		for i := range v {
			v[i] = '#'
		}
	}
	c.view = nil
	if c.gone {
		return record.Batch{}, record.ErrNoStream
	}
	if c.readErr != nil {
		return record.Batch{}, c.readErr
	}
	if c.read+1 < c.first {
		err := &record.TrimmedError{Shard: c.lane.Shard, From: c.read + 1, To: c.first}
		c.lost += c.first - 1 - c.read
		c.read = c.first - 1
		return record.Batch{}, err
	}
	b := record.Batch{Shard: c.lane.Shard}
	for c.read < uint64(len(c.recs)) && len(b.Recs) < most {
		seq := c.read + 1
		if err := c.broken[seq]; err != nil {
			if len(b.Recs) > 0 {
				break
			}
			delete(c.broken, seq)
			c.read, c.lost = seq, c.lost+1
			return record.Batch{}, err
		}
		r := c.recs[seq-1]
		r.Data = append([]byte(nil), r.Data...)
		c.view = append(c.view, r.Data)
		b.Recs = append(b.Recs, r)
		c.read = seq
	}
	b.Next = c.read + 1
	if len(b.Recs) == 0 && c.ended {
		return b, &record.ShardEndError{Shard: c.lane.Shard}
	}
	return b, nil
}

func (c *memCursor) Next(ctx context.Context, most int) (record.Batch, error) {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		b, err := c.Poll(ctx, most)
		if err != nil || len(b.Recs) > 0 {
			return b, err
		}
		select {
		case <-ctx.Done():
			return b, ctx.Err()
		case <-changed:
		}
	}
}

func (c *memCursor) Commit(upTo uint64, t record.Tally) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noCmt != nil {
		return c.noCmt
	}
	if upTo <= c.done || upTo > c.read {
		c.t.Errorf("lane %v: Commit(%d) after %d, read up to %d", c.lane.Shard, upTo, c.done, c.read)
	}
	if passed := upTo - c.done; t.Sum() > passed || t.Sum()+c.lost < passed {
		c.t.Errorf("lane %v: Commit(%d, %+v) passes %d records, %d of them lost", c.lane.Shard, upTo, t, passed, c.lost)
	} else {
		c.lost -= passed - t.Sum()
	}
	c.done = upTo
	c.tally.Delivered += t.Delivered
	c.tally.Refused += t.Refused
	c.commits++
	return nil
}

func (c *memCursor) Backlog() record.Backlog {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := max(c.done+1, c.first)
	b := record.Backlog{Records: uint64(len(c.recs)) + 1 - at}
	if b.Records > 0 {
		b.Oldest = c.recs[at-1].Arrived
		b.Bytes = int64(b.Records) * int64(len(c.recs[at-1].Data))
	}
	return b
}

func (c *memCursor) Committed() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done + 1
}

func (c *memCursor) committed() (uint64, record.Tally) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done, c.tally
}

// scripted is a sink that does what a function says, and keeps what it took.
type scripted struct {
	mu    sync.Mutex
	act   func(b lane.Batch) lane.Outcome // nil: takes everything
	probe func() error
	delay time.Duration
	took  map[record.ShardID][]uint64 // sequence numbers, in the order they were taken
	data  map[record.Pos]string
	sends [][]lane.Batch // shape only
	times []time.Time    // of each Send
	asked []time.Time    // of each Probe
	now   map[record.ShardID]bool
	t     *testing.T
}

func newSink(t *testing.T) *scripted {
	return &scripted{t: t, took: make(map[record.ShardID][]uint64), data: make(map[record.Pos]string), now: make(map[record.ShardID]bool)}
}

var errFake = errors.New("fake trouble")

func (s *scripted) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	s.mu.Lock()
	s.sends = append(s.sends, lanes)
	s.times = append(s.times, time.Now())
	for _, b := range lanes {
		if s.now[b.Lane.Shard] {
			s.t.Errorf("two batches of lane %d in flight", b.Lane.Shard)
		}
		s.now[b.Lane.Shard] = true
	}
	s.mu.Unlock()
	if s.delay > 0 {
		select {
		case <-time.After(s.delay):
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]lane.Outcome, len(lanes))
	for i, b := range lanes {
		s.now[b.Lane.Shard] = false
		out[i] = lane.Outcome{Done: len(b.Recs)}
		if s.act != nil {
			out[i] = s.act(b)
		}
		for _, r := range b.Recs[:out[i].Done] {
			out[i].Bytes += len(r.Data)
			s.took[b.Lane.Shard] = append(s.took[b.Lane.Shard], r.Pos.Seq)
			s.data[r.Pos] = string(r.Data)
		}
	}
	return out
}

func (s *scripted) Probe(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	if s.probe != nil {
		return s.probe()
	}
	return nil
}

func (s *scripted) Close() error { return nil }

func (s *scripted) sent() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sends)
}

func (s *scripted) probes() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.asked...)
}

// set changes the sink's behaviour.
func (s *scripted) set(act func(b lane.Batch) lane.Outcome, probe func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.act, s.probe = act, probe
}

// inOrder fails unless each lane's records 1..n arrived, first occurrences in
// order, with the right bytes; it gives how many came twice.
func (s *scripted) inOrder(t *testing.T, l *memLog, except map[record.Pos]bool) (twice int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range l.cursors {
		next := uint64(1)
		for _, seq := range s.took[c.lane.Shard] {
			for except[record.Pos{Shard: c.lane.Shard, Seq: next}] {
				next++
			}
			switch {
			case seq == next:
				next++
			case seq < next:
				twice++
			default:
				t.Fatalf("lane %d: record %d came before %d", c.lane.Shard, seq, next)
			}
			if want := fmt.Sprintf(`{"n":%d,"shard":%d}`, seq, c.lane.Shard); s.data[record.Pos{Shard: c.lane.Shard, Seq: seq}] != want {
				t.Fatalf("lane %d record %d: %q, want %q", c.lane.Shard, seq, s.data[record.Pos{Shard: c.lane.Shard, Seq: seq}], want)
			}
		}
		for except[record.Pos{Shard: c.lane.Shard, Seq: next}] {
			next++
		}
		if int(next) != len(c.recs)+1 {
			t.Fatalf("lane %d: %d of %d records arrived", c.lane.Shard, next-1, len(c.recs))
		}
	}
	return twice
}
