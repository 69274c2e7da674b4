package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"forebay/spool/record"
)

// A Cursor is a Reader with a durable place, known by its name. Place and
// counts are one: after a crash records are delivered again from the durable
// place and counted from there.
type Cursor struct {
	Reader
	sp  *Spool
	key cursorKey
	p   *place // guarded by state.mu

	mu     sync.Mutex
	losses []loss // reported by Next, ahead of the place
	oldest oldestArrival
	seen   []oldestArrival // some of what was yielded, from the place on
	stride uint64          // how far apart they are at least
	last   oldestArrival   // the last of it, seq behind that
	read   int64           // when the place's arrival was read last, sp.Mono
	ended  bool
}

type loss struct {
	kind     lossKind
	from, to uint64
}

// Cursor opens the cursor of a name in a shard. from counts only when it is
// new; it is then made durable at once, so that retention respects it. One
// user per name and shard at a time.
func (t *Stream) Cursor(ctx context.Context, name string, shard record.ShardID, from Start) (*Cursor, error) {
	if name == "" || len(name) > 256 {
		return nil, fmt.Errorf("open a cursor: the name %q must have 1 to 256 bytes", name)
	}
	sh, err := t.shard(shard)
	if err != nil {
		return nil, err
	}
	sp := t.sp
	if err := sp.enter(); err != nil {
		return nil, err
	}
	sp.leave()
	if t.shape.Load().gone {
		return nil, t.deleted()
	}
	again := t.beginsAgain()
	if again {
		from = Oldest() // where it stood was lost with state.db
	}
	start, err := sh.resolve(ctx, from)
	if err != nil {
		return nil, err
	}
	key := cursorKey{name, shard}
	st := sp.state
	st.mu.Lock()
	if t.shape.Load().gone { // its cursors were forgotten before
		st.mu.Unlock()
		return nil, t.deleted()
	}
	p := st.cursors[key]
	fresh := p == nil
	if fresh {
		p = &place{start: start, next: start, moved: sp.clock.now(), again: again}
		p.refusedBefore = st.refusedLocked(t.name, key)
		st.cursors[key] = p
		st.dirtyC[key] = struct{}{}
	}
	if p.inUse {
		st.mu.Unlock()
		return nil, fmt.Errorf("open cursor %q of shard %d: %w", name, shard, record.ErrInUse)
	}
	p.inUse = true
	next := p.next
	st.mu.Unlock()
	if fresh {
		if err := st.flush(ctx); err != nil {
			st.mu.Lock()
			p.inUse = false
			st.mu.Unlock()
			return nil, fmt.Errorf("open cursor %q: %w", name, err)
		}
	}
	c := &Cursor{Reader: newReader(sh, next), sp: sp, key: key, p: p}
	c.lost, c.saw, c.feed = c.lose, c.see, newFeed(sh)
	return c, nil
}

// lose notes records that the reader reported as trimmed or corrupt.
func (c *Cursor) lose(kind lossKind, from, to uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sp.state.mu.Lock()
	defer c.sp.state.mu.Unlock()
	c.losses = append(c.losses, loss{kind, from, to})
	if c.absorb() {
		c.changed()
	}
}

// absorb passes the losses that begin at the place; both mutexes are held.
func (c *Cursor) absorb() bool {
	n := 0
	for ; n < len(c.losses) && c.losses[n].from == c.p.next; n++ {
		c.count(c.losses[n])
		c.p.next = c.losses[n].to
	}
	c.losses = slices.Delete(c.losses, 0, n)
	return n > 0
}

func (c *Cursor) count(l loss) {
	if l.kind == lossCorrupt {
		c.p.corrupt += l.to - l.from
	} else {
		c.p.expired += l.to - l.from
	}
}

// changed lets the place be written; state.mu is held.
func (c *Cursor) changed() {
	c.p.moved = c.sp.clock.now()
	c.sp.state.dirtyC[c.key] = struct{}{}
	touch(c.sp.state.kick)
	touch(c.sp.state.moved)
}

// Commit moves the place behind sequence number upTo. It is gathered with
// others and durable within 100 ms, and at Close of the spool. The tally says
// what became of the records passed since the last Commit; its sum must be
// their number, less what Next reported as trimmed or corrupt, which the spool
// counts itself. A tally that does not add up is an error and nothing moves.
// Committing a place that is passed already, with an empty tally, does nothing.
// record.ErrClosed after Close of the cursor or the spool.
func (c *Cursor) Commit(upTo uint64, t record.Tally) error {
	if err := c.sp.enter(); err != nil { // what is taken now is in the last flush
		return err
	}
	defer c.sp.leave()
	next, _ := c.sh.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return record.ErrClosed
	}
	st := c.sp.state
	st.mu.Lock()
	defer st.mu.Unlock()
	if upTo < c.p.next && t.Sum() == 0 {
		return nil
	}
	if upTo < c.p.next || upTo >= next {
		return fmt.Errorf("commit cursor %q of shard %d: %d is not between %d and %d", c.key.name, c.key.shard, upTo, c.p.next, next-1)
	}
	lost, n := uint64(0), 0
	for ; n < len(c.losses) && c.losses[n].to <= upTo+1; n++ {
		lost += c.losses[n].to - c.losses[n].from
	}
	if passed := upTo + 1 - c.p.next; passed != t.Sum()+lost {
		return fmt.Errorf("commit cursor %q of shard %d: the tally accounts for %d records, but %d were passed", c.key.name, c.key.shard, t.Sum(), passed-lost)
	}
	for _, l := range c.losses[:n] {
		c.count(l)
	}
	c.losses = slices.Delete(c.losses, 0, n)
	if t.Refused > 0 {
		st.owe(Step{
			Kind: StepRefused, Stream: c.sh.stream.name, Shard: c.key.shard, First: c.p.next, Past: upTo + 1, Count: t.Refused, Who: c.key.name,
			Reason: "the far side can never take them; copies are in the stream refused",
		})
	}
	c.p.next = upTo + 1
	c.p.delivered += t.Delivered
	c.p.filtered += t.Filtered
	c.p.refused += t.Refused
	c.absorb()
	c.changed()
	return nil
}

// Committed is the sequence number behind the place.
func (c *Cursor) Committed() uint64 {
	c.sp.state.mu.Lock()
	defer c.sp.state.mu.Unlock()
	return c.p.next
}

// Began is the sequence number at which the cursor began when it was new.
func (c *Cursor) Began() uint64 {
	c.sp.state.mu.Lock()
	defer c.sp.state.mu.Unlock()
	return c.p.start
}

// Again reports whether it began at the oldest record, whatever it was to begin
// with, because state.db had been lost: a cursor of the name may have been
// further.
func (c *Cursor) Again() bool {
	c.sp.state.mu.Lock()
	defer c.sp.state.mu.Unlock()
	return c.p.again
}

// End is the sequence number that the shard's next record will get.
func (c *Cursor) End() uint64 {
	next, _ := c.sh.end()
	return next
}

// Arrived is when the record with a sequence number arrived; false where the
// log does not hold it, or not any more, or holds it damaged. An error says
// that it cannot be read now.
func (c *Cursor) Arrived(seq uint64) (time.Time, bool, error) {
	r := newReader(c.sh, seq)
	b, err := r.Poll(context.Background(), 1)
	var (
		trimmed *record.TrimmedError
		corrupt *record.CorruptError
		end     *record.ShardEndError
	)
	switch {
	case errors.As(err, &trimmed), errors.As(err, &corrupt), errors.As(err, &end):
		return time.Time{}, false, nil
	case err != nil:
		return time.Time{}, false, fmt.Errorf("read when record %d of shard %d arrived: %w", seq, c.key.shard, err)
	case len(b.Recs) == 0 || b.Recs[0].Pos.Seq != seq:
		return time.Time{}, false, nil
	}
	return b.Recs[0].Arrived, true, nil
}

// Backlog is what lies between the place and the newest record.
func (c *Cursor) Backlog() record.Backlog {
	at := c.Committed()
	c.sh.log.mu.RLock()
	at = max(at, c.sh.first.next)
	b := record.Backlog{Records: c.sh.next - min(at, c.sh.next)}
	if kept := c.sh.next - c.sh.first.next; kept > 0 {
		b.Bytes = int64(float64(c.sh.bytes-c.sh.first.bytes) / float64(kept) * float64(b.Records))
	}
	c.sh.log.mu.RUnlock()
	if b.Records > 0 {
		b.Oldest = c.oldestArrival(at)
	}
	return b
}

// A cursor far behind moves faster than the arrival at its place can be read
// again and again; so it goes by what it yielded, and reads every lookAgain.
const lookAgain, seenMost = int64(10 * time.Second), 64

// see notes when some of what is yielded arrived, evenly over what was read
// ahead of the place.
func (c *Cursor) see(recs []record.Record) {
	at := c.Committed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if at >= c.last.seq { // all that was yielded before is passed
		c.seen, c.stride = c.seen[:0], 1
	}
	for i := range recs {
		seq := recs[i].Pos.Seq
		if n := len(c.seen); n > 0 && seq-c.seen[n-1].seq < c.stride {
			continue
		}
		c.seen = append(c.seen, oldestArrival{seq, recs[i].Arrived.UnixNano()})
		if len(c.seen) < seenMost {
			continue
		}
		c.stride *= 2
		n := 1
		for _, o := range c.seen[1:] {
			if o.seq-c.seen[n-1].seq >= c.stride {
				c.seen[n] = o
				n++
			}
		}
		c.seen = c.seen[:n]
	}
	end := &recs[len(recs)-1]
	c.last = oldestArrival{end.Pos.Seq + 1, end.Arrived.UnixNano()}
}

// oldestArrival is when the record with a number arrived, or, where that would
// have to be read from a segment again, one shortly before it.
func (c *Cursor) oldestArrival(seq uint64) time.Time {
	if o := c.oldestSeen(seq); o.seq != 0 {
		return timeOf(o.arr)
	}
	o := oldestArrival{seq, c.sh.readArrival(seq)}
	c.mu.Lock()
	c.oldest, c.read = o, int64(c.sp.Mono())
	c.mu.Unlock()
	return timeOf(o.arr)
}

// oldestSeen is what is known of it without reading; zero if nothing is.
func (c *Cursor) oldestSeen(seq uint64) oldestArrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n+1 < len(c.seen) && c.seen[n+1].seq <= seq {
		n++
	}
	c.seen = c.seen[:copy(c.seen, c.seen[n:])]
	switch {
	case c.oldest.seq == seq:
		return c.oldest
	case len(c.seen) > 0 && c.seen[0].seq <= seq && seq < c.last.seq:
		return c.seen[0]
	case c.last.seq == seq && c.fed.Load() && int64(c.sp.Mono())-c.read < lookAgain:
		return c.last
	}
	return oldestArrival{}
}

// Close ends the cursor; its place stays, and another may open it.
func (c *Cursor) Close() error {
	_ = c.Reader.Close() // only ends a waiting Next
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sp.state.mu.Lock()
	defer c.sp.state.mu.Unlock()
	if !c.ended {
		c.ended, c.p.inUse = true, false
	}
	return nil
}

// DropCursor forgets a cursor in all shards of all streams, and with it the
// claim it has on records that were not delivered. A cursor that is in use is
// not dropped.
func (s *Spool) DropCursor(ctx context.Context, name string) error {
	return s.dropCursor(ctx, name, "", nil)
}

// DropCursor forgets a cursor of this stream, as Spool.DropCursor does of all.
// by is who asks for it; it stands in the ledger.
func (t *Stream) DropCursor(ctx context.Context, name, by string) error {
	return t.sp.dropCursor(ctx, name, by, t)
}

func (s *Spool) dropCursor(ctx context.Context, name, by string, of *Stream) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	ends := map[record.ShardID]uint64{}
	streams := []*Stream{of}
	if of == nil {
		streams = s.Streams()
	}
	for _, t := range streams {
		for _, sh := range t.all() {
			ends[sh.id], _ = sh.end()
		}
	}
	if err := s.state.drop(name, by, ends); err != nil {
		return err
	}
	touch(s.state.moved)
	return s.state.flush(ctx)
}

// drop takes a cursor out of the shards that ends lists with their ends.
func (s *stateDB) drop(name, by string, ends map[record.ShardID]uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []cursorKey
	for k, p := range s.cursors {
		if _, ours := ends[k.shard]; k.name != name || !ours {
			continue
		}
		if p.inUse {
			return fmt.Errorf("drop cursor %q: %w in shard %d", name, record.ErrInUse, k.shard)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return fmt.Errorf("drop cursor %q: %w", name, record.ErrNoCursor)
	}
	for _, k := range keys {
		p := *s.cursors[k]
		refused := stepKey{StepRefused, s.names[k.shard], k.shard, tidy(name)}
		if o := s.owed[refused]; o != nil {
			s.enterLocked(o.Step)
			delete(s.owed, refused)
		}
		reason := fmt.Sprintf("it had delivered %d, filtered %d, refused %d, expired %d, corrupt %d", p.delivered, p.filtered, p.refused, p.expired, p.corrupt)
		if by != "" {
			reason = "by " + by + "; " + reason
		}
		waiting := max(ends[k.shard], p.next) - p.next
		s.enterLocked(Step{Kind: StepCursorDropped, Shard: k.shard, First: p.next, Past: p.next + waiting, Count: waiting, Undelivered: waiting, Who: name, Reason: reason})
		delete(s.cursors, k)
		s.dirtyC[k] = struct{}{}
	}
	return nil
}

// refusedLocked is what the ledger has as refused for a cursor; mu is held.
func (s *stateDB) refusedLocked(stream string, k cursorKey) uint64 {
	key := stepKey{StepRefused, stream, k.shard, tidy(k.name)}
	n := s.sums[key].count
	if o := s.owed[key]; o != nil {
		n += o.Count
	}
	return n
}
