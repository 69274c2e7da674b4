package spool

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// quarantineStream holds what did not decode; the ledger counts it apart.
const quarantineStream = "quarantine"

// A Stream is records under one name, in shards. Its methods may be called
// from many goroutines.
type Stream struct {
	sp         *Spool
	id         int64
	name       string
	created    time.Time
	log        *commitLog
	shape      atomic.Pointer[shape]
	quarantine bool
	// waits says that the stream was made again and no config has named it
	// since: what it keeps is not known.
	waits atomic.Bool
	// isDeleted says that the stream was deleted before the spool was opened.
	isDeleted bool

	mu   sync.RWMutex
	cfg  StreamConfig
	note string
}

// A Shard is what is known of a shard now.
type Shard struct {
	ID       record.ShardID
	Index    int            // within the stream, from 0
	From, To record.HashKey // hash range, both inclusive
	First    uint64         // oldest sequence number kept
	Next     uint64         // sequence number that the next record gets
	Oldest   time.Time      // arrival of the oldest record kept; zero if there is none
	Newest   time.Time      // arrival of the newest record; zero if there was none
	Bytes    int64          // of records kept, in blocks and chunk files
	// Created is when the shard was opened, by the wall clock; for a child at
	// least a second after its parents were.
	Created time.Time
	// Closed is when it was split or merged, zero while it takes records. Next
	// is then fixed for ever.
	Closed time.Time
	// Parents are the shard that it was split from or the two that were merged
	// into it, the one with the lower hash range first.
	Parents []record.ShardID
	// Children are what it was split or merged into.
	Children []record.ShardID
}

// Open reports whether the shard takes records.
func (sh Shard) Open() bool { return sh.Closed.IsZero() }

// Name is the stream's name.
func (t *Stream) Name() string { return t.name }

// Config is the stream's settings as they count now.
func (t *Stream) Config() StreamConfig {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.cfg
}

// Created is when the stream was made, by the wall clock.
func (t *Stream) Created() time.Time { return t.created }

// Shards lists all shards by index, the closed ones too. Indexes rise: a child
// has a greater one than its parents.
func (t *Stream) Shards() []Shard {
	all := t.all()
	out := make([]Shard, len(all))
	for i, sh := range all {
		out[i] = sh.describe()
	}
	return out
}

func (sh *shard) describe() Shard {
	sh.log.mu.RLock()
	d := Shard{
		ID: sh.id, Index: sh.index, From: sh.from, To: sh.to, First: sh.first.next, Next: sh.next,
		Bytes: sh.bytes - sh.first.bytes, Newest: timeOf(sh.newest), Created: time.Unix(0, sh.opened).UTC(),
		Parents: sh.parents, Children: sh.children,
	}
	if sh.closed != 0 {
		d.Closed = time.Unix(0, sh.closed).UTC()
	}
	sh.log.mu.RUnlock()
	if d.First < d.Next {
		d.Oldest = timeOf(sh.arrival(d.First))
	}
	return d
}

func timeOf(ns int64) time.Time {
	if ns == minTime {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (t *Stream) shard(id record.ShardID) (*shard, error) {
	for _, sh := range t.all() {
		if sh.id == id {
			return sh, nil
		}
	}
	return nil, fmt.Errorf("%w: stream %q has no shard %d", record.ErrNoShard, t.name, id)
}

// Append hands records over. It blocks while the log's queue is full, so that
// a producer is never faster than the disk; ctx cancels only that wait, and
// where it has ended already nothing is taken. If Append returns nil, done is
// called exactly once, after the commit or its failure, with a result per
// record in the order of recs; of one source in the order of the calls. The
// records and the bytes they point to belong to the spool until then, and the
// results belong to done only while it runs.
//
// done runs on the log's own goroutine: it must be quick, must not block and
// must not call Append.
//
// A record outside the limits gets a *record.InvalidError as its result and
// the others are stored all the same. An error of Append itself
// (record.ErrFull, record.ErrClosed, ctx's, or a failed commit's as below)
// means that nothing was taken and done is not called. record.ErrFull passes
// by itself when there is room: the producer tries again after a pause. A
// record that would not fit even into an empty spool gets a
// *record.InvalidError with TooLarge, because no pause helps it.
//
// When a commit fails, everything else fails with it that the same sources
// have waiting in the log, and what they append until all have been told, which
// may be a moment after their own done: so a producer that appends again what
// failed, in order, until it is taken, has it stored in order. One that has
// several appends on their way ends their ctx in done when one fails: then
// nothing slips in between what done told and what it does about it.
func (t *Stream) Append(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	return t.append(ctx, recs, false, done)
}

// append is Append; told says that the caller knows what became of all that its
// source appended before.
func (t *Stream) append(ctx context.Context, recs []record.Record, told bool, done func([]record.Result)) error {
	if len(recs) == 0 {
		return errors.New("append: no records")
	}
	at := t.shape.Load()
	if at.gone {
		return t.deleted()
	}
	it := &item{
		shape: at, source: recs[0].Source, recs: recs, slots: make([]int32, len(recs)), res: make([]record.Result, len(recs)),
		arr: t.sp.now().UnixNano(), mono: int64(t.sp.Mono()), told: told, done: done,
	}
	for i := range recs {
		r := &recs[i]
		it.bytes += int64(r.Size())
		err := check(r)
		if err == nil {
			err = t.log.checkSize(r)
		}
		if err != nil {
			it.res[i].Err, it.slots[i] = err, -1
			continue
		}
		it.slots[i] = at.slotOf(r)
	}
	for {
		err := t.log.append(ctx, it)
		if !errors.Is(err, errReshaped) {
			return err
		}
		it.fit(t.shape.Load())
	}
}

// check is the record's own check and what the block format asks for.
func check(r *record.Record) error {
	if err := r.Check(); err != nil {
		return err
	}
	if !r.Arrived.IsZero() {
		if y := r.Arrived.Year(); y < 1700 || y > 2250 {
			return &record.InvalidError{Field: "arrival time", Reason: fmt.Sprintf("is in the year %d", y)}
		}
	}
	return nil
}

// Put is Append for a caller that can wait: it returns after the commit, with
// a result per record. ctx cancels the wait; the records may then still be
// stored. A Put that begins after a failed one has returned does not fail with
// it.
func (t *Stream) Put(ctx context.Context, recs []record.Record) ([]record.Result, error) {
	ready := make(chan []record.Result, 1)
	err := t.append(ctx, recs, true, func(res []record.Result) { ready <- res })
	if err != nil {
		return nil, err
	}
	select {
	case res := <-ready:
		return res, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// CreateStream makes a stream; record.ErrStreamExists if the name is taken. It
// is durable when CreateStream returns.
func (s *Spool) CreateStream(ctx context.Context, c StreamConfig) (*Stream, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("create a stream: %w", err)
	}
	s.create.Lock()
	defer s.create.Unlock()
	if _, err := s.Stream(string(c.Name)); err == nil {
		return nil, fmt.Errorf("%w: %q", record.ErrStreamExists, string(c.Name))
	}
	return s.makeStream(ctx, c.WithDefaults())
}

// Ensure creates the stream, or takes over changed retention settings and
// class of an existing one. The number of shards of an existing stream stays:
// asking for another (not 0) is an error, unless the stream was split or merged
// since it was made.
//
// A stream stays in the log it was created in. Where several streams share it,
// the log keeps as long as the one that keeps longest, holds back if one does,
// and erases as early as the strictest MaxAgeHard asks for.
func (s *Spool) Ensure(ctx context.Context, c StreamConfig) (*Stream, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("ensure a stream: %w", err)
	}
	s.create.Lock()
	defer s.create.Unlock()
	t, err := s.Stream(string(c.Name))
	if err != nil {
		return s.makeStream(ctx, c.WithDefaults())
	}
	at := t.shape.Load()
	if c.Shards != 0 && c.Shards != len(at.open) {
		if len(at.all) == len(at.open) {
			return nil, fmt.Errorf("shards: stream %q has %d shards and %d are asked for; shards is how many a new stream gets: leave it, and change the number with aws kinesis update-shard-count", t.name, len(at.open), c.Shards)
		}
		s.log.Info("stream was split or merged since it was made; shards in the config does not count any more", "stream", t.name, "shards", len(at.open), "config", c.Shards)
	}
	c.Shards = len(at.open)
	c = c.WithDefaults()
	if old := t.Config(); old.Encrypt {
		c.Encrypt = true
	} else if c.Encrypt {
		if err := s.encrypt(ctx, t); err != nil {
			return nil, err
		}
	}
	if c == t.Config() && !t.waits.Load() {
		return t, nil
	}
	s.state.disk.Lock()
	err = s.state.txn(ctx, func() error {
		return s.state.exec(ctx, "UPDATE streams SET class=?, max_age=?, max_bytes=?, expire_undelivered=?, on_full=?, max_age_hard=? WHERE id=?",
			c.Class.String(), int64(c.MaxAge), int64(c.MaxBytes), c.ExpireUndelivered, string(c.OnFull), int64(c.MaxAgeHard), t.id)
	})
	s.state.disk.Unlock()
	if err != nil {
		return nil, fmt.Errorf("change stream %q: %w", t.name, storeError(err))
	}
	if t.waits.Swap(false) {
		s.settled.Store(s.clock.now())
	}
	t.mu.Lock()
	t.cfg = c
	t.mu.Unlock()
	t.log.reckon()
	t.tellShared()
	return t, nil
}

// tellShared warns where a limit that was changed counts for streams that did
// not ask for it: they were put into one log before.
func (t *Stream) tellShared() {
	mine := retentionOf(t.Config())
	t.log.mu.RLock()
	defer t.log.mu.RUnlock()
	for i, sh := range t.log.slots {
		if sh.stream == t || i > 0 && sh.stream == t.log.slots[i-1].stream {
			continue
		}
		if other := retentionOf(sh.stream.Config()); other.hard != mine.hard || other.hold != mine.hold {
			t.log.log.Warn("streams that share a log differ in on_full or max_age_hard; the stricter counts for both", "stream", t.name, "other", sh.stream.name)
		}
	}
}

// makeStream writes a stream to state.db and opens its log; create is held.
func (s *Spool) makeStream(ctx context.Context, c StreamConfig) (*Stream, error) {
	s.mu.RLock()
	closed, num, fresh := s.closed, s.logKeys[keyOf(c)], false
	if num == 0 || c.Encrypt {
		num, fresh = uint32(len(s.logs)+1), true
	}
	s.mu.RUnlock()
	if closed {
		return nil, record.ErrClosed
	}
	created := s.now().UTC()
	t := &Stream{sp: s, name: string(c.Name), created: created, cfg: c, quarantine: string(c.Name) == quarantineStream}
	s.state.disk.Lock()
	var key *dataKey
	err := s.state.txn(ctx, func() error {
		err := s.insertStream(ctx, t, num, fresh)
		if err == nil && c.Encrypt {
			key, err = s.makeKey(ctx, t.id, t.starts())
		}
		return err
	})
	ctx = context.WithoutCancel(ctx) // what was begun is brought to its end
	if err == nil {
		// What streams there are must not hang on the WAL: it is the one file
		// whose damaged end cannot be told from one that was never written.
		if err := s.state.db.truncateWAL(ctx); err != nil {
			s.log.Warn("new stream stays in the WAL of state.db for now", "stream", t.name, "error", err)
		}
	}
	s.state.disk.Unlock()
	if err != nil {
		return nil, fmt.Errorf("create stream %q: %w", t.name, storeError(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[num]
	if fresh {
		l = newCommitLog(s, num)
	}
	t.attach(l)
	at := keyOf(c)
	if key != nil {
		s.keys.add(key)
		l.key.Store(key)
		at.key = key.id
	}
	if fresh {
		l.wmu.Lock()
		err := l.openFirst(ctx)
		l.wmu.Unlock()
		if err != nil {
			// The stream stands in state.db; its log is tried again by the
			// writer, and at the next start.
			l.suspect = s.storeError(err)
			s.raise("segment", 1, "the first segment of "+logDir(num)+" could not be opened: "+err.Error())
		}
		s.logs[num], s.logKeys[at] = l, num
		s.startLog(l)
	} else {
		l.lockEmpty()
		if err := l.nameShards(ctx); err != nil {
			s.log.Warn("the active segment does not list a new stream; the next one does", "stream", t.name, "error", err)
		}
		l.wmu.Unlock()
	}
	s.streams[t.name] = t
	return t, nil
}

// starts is where the shards of a new stream begin.
func (t *Stream) starts() map[record.ShardID]uint64 {
	first := map[record.ShardID]uint64{}
	for _, sh := range t.all() {
		first[sh.id] = 1
	}
	return first
}

func (s *Spool) insertStream(ctx context.Context, t *Stream, num uint32, fresh bool) error {
	c := t.cfg
	if fresh {
		err := s.state.exec(ctx, "INSERT INTO logs(id, class, max_age, max_bytes, expire_undelivered, on_full, max_age_hard, written) VALUES(?,?,?,?,?,?,?,0)",
			num, c.Class.String(), int64(c.MaxAge), int64(c.MaxBytes), c.ExpireUndelivered, string(c.OnFull), int64(c.MaxAgeHard))
		if err != nil {
			return err
		}
	}
	res, err := s.state.db.ExecContext(ctx, "INSERT INTO streams(name, log, class, max_age, max_bytes, expire_undelivered, on_full, max_age_hard, created) VALUES(?,?,?,?,?,?,?,?,?)",
		t.name, num, c.Class.String(), int64(c.MaxAge), int64(c.MaxBytes), c.ExpireUndelivered, string(c.OnFull), int64(c.MaxAgeHard), t.created.UnixNano())
	if err != nil {
		return err
	}
	if t.id, err = res.LastInsertId(); err != nil {
		return err
	}
	shards := make([]*shard, c.Shards)
	for i := range shards {
		sh := &shard{stream: t, index: i, opened: t.created.UnixNano()}
		sh.from, sh.to = hashRange(i, c.Shards)
		if err := s.insertShard(ctx, sh, nil); err != nil {
			return err
		}
		shards[i] = sh
	}
	t.shape.Store(newShape(t, shards))
	return nil
}

// attach gives the stream's shards their places in the log.
func (t *Stream) attach(l *commitLog) {
	t.log = l
	for _, sh := range t.all() {
		l.addShard(sh)
	}
	t.sp.state.name(t)
	l.reckon()
}

// hashRange is the i-th of n equal parts of the ring, both ends inclusive.
func hashRange(i, n int) (from, to record.HashKey) {
	ring := new(big.Int).Lsh(big.NewInt(1), 128)
	part := new(big.Int).Div(ring, big.NewInt(int64(n)))
	at := func(i int) *big.Int {
		if i == n {
			return new(big.Int).Set(ring)
		}
		return new(big.Int).Mul(part, big.NewInt(int64(i)))
	}
	at(i).FillBytes(from[:])
	end := at(i + 1)
	end.Sub(end, big.NewInt(1)).FillBytes(to[:])
	return from, to
}

// loadStreams reads streams and shards from state.db and opens their logs.
// exact says that the shards' stored numbers are those of an orderly close.
func (s *Spool) loadStreams(ctx context.Context, exact bool) error {
	hints := map[record.ShardID]uint64{}
	var order []*shard
	var byID map[int64]*Stream
	logOf := map[int64]uint32{}
	err := s.loadLogs(ctx, exact)
	if err == nil {
		if byID, logOf, err = s.loadNames(ctx); err == nil {
			order, err = s.loadShards(ctx, byID, logOf, hints)
		}
	}
	if err != nil {
		return asLost(fmt.Errorf("read state.db: %w", err))
	}
	for _, sh := range order {
		sh.stream.log = s.logs[logOf[sh.stream.id]]
		sh.stream.log.addShard(sh)
	}
	for _, t := range byID {
		t.cfg.Shards = len(t.shape.Load().open)
		if k := s.keys.newest(t.id); k != nil {
			t.cfg.Encrypt = true
			t.log.key.Store(k)
		}
		s.state.name(t)
	}
	s.state.dropDeleted(byID)
	for _, l := range s.logs {
		l.reckon()
		if err := l.load(ctx, hints, exact); err != nil {
			return fmt.Errorf("open %s: %w", logDir(l.num), err)
		}
	}
	return nil
}

// loadLogs reads the logs; their streams follow.
func (s *Spool) loadLogs(ctx context.Context, exact bool) error {
	return each(ctx, s.state.db, `SELECT id, class, max_age, max_bytes, expire_undelivered, on_full, max_age_hard, written, uncounted,
		(SELECT coalesce(max(k.id), 0) FROM keys k JOIN streams s ON s.id = k.stream WHERE s.log = logs.id) FROM logs ORDER BY id`, func(scan func(...any) error) error {
		var num uint32
		var class string
		var c StreamConfig
		var written, uncounted int64
		var sealed uint32
		if err := scan(&num, &class, &c.MaxAge, &c.MaxBytes, &c.ExpireUndelivered, &c.OnFull, &c.MaxAgeHard, &written, &uncounted, &sealed); err != nil {
			return err
		}
		var err error
		if c.Class, err = record.ParseClass(class); err != nil {
			return err
		}
		key := keyOf(c)
		key.key = sealed
		s.logs[num] = newCommitLog(s, num)
		if c.MaxAge != unsettled { // else nobody joins it: what it asks for is not known
			s.logKeys[key] = num
		}
		s.logs[num].uncounted = uncounted
		if exact {
			s.logs[num].written = written
		}
		return nil
	})
}

// loadNames reads the streams without their shards, and which log each is in.
func (s *Spool) loadNames(ctx context.Context) (byID map[int64]*Stream, logOf map[int64]uint32, err error) {
	byID, logOf = map[int64]*Stream{}, map[int64]uint32{}
	err = each(ctx, s.state.db, "SELECT id, name, log, class, max_age, max_bytes, expire_undelivered, on_full, max_age_hard, created, note, deleted FROM streams ORDER BY id", func(scan func(...any) error) error {
		t := &Stream{sp: s}
		var log uint32
		var class string
		var created, deleted int64
		if err := scan(&t.id, &t.name, &log, &class, &t.cfg.MaxAge, &t.cfg.MaxBytes, &t.cfg.ExpireUndelivered, &t.cfg.OnFull, &t.cfg.MaxAgeHard, &created, &t.note, &deleted); err != nil {
			return err
		}
		var err error
		t.cfg.Name, t.created, t.quarantine = conf.Stream(t.name), time.Unix(0, created).UTC(), t.name == quarantineStream
		t.cfg.Class, err = record.ParseClass(class)
		if t.cfg.MaxAge == unsettled {
			t.cfg.MaxAge = 0
			t.waits.Store(deleted == 0)
		}
		byID[t.id], logOf[t.id] = t, log
		if deleted != 0 {
			t.name, t.isDeleted = plainName(t.name), true
		} else {
			s.streams[t.name] = t
		}
		return err
	})
	return byID, logOf, err
}

// loadShards gives the streams their shards, and lists all shards by rising id.
func (s *Spool) loadShards(ctx context.Context, byID map[int64]*Stream, logOf map[int64]uint32, hints map[record.ShardID]uint64) (order []*shard, err error) {
	of := map[*Stream][]*shard{}
	known := map[record.ShardID]*shard{}
	err = each(ctx, s.state.db, "SELECT id, stream, idx, hash_from, hash_to, next, opened, closed, parent, adjacent FROM shards ORDER BY id", func(scan func(...any) error) error {
		sh := &shard{}
		var stream int64
		var from, to []byte
		var next uint64
		var parents [2]record.ShardID
		if err := scan(&sh.id, &stream, &sh.index, &from, &to, &next, &sh.opened, &sh.closed, &parents[0], &parents[1]); err != nil {
			return err
		}
		t := byID[stream]
		if t == nil || len(from) != len(sh.from) || len(to) != len(sh.to) || s.logs[logOf[stream]] == nil || sh.index != len(of[t]) {
			return fmt.Errorf("%w: shard %d", errDamaged, sh.id)
		}
		copy(sh.from[:], from)
		copy(sh.to[:], to)
		sh.stream = t
		if sh.opened == 0 {
			sh.opened = t.created.UnixNano()
		}
		for _, id := range parents {
			if id == 0 {
				continue
			}
			parent := known[id]
			if parent == nil || parent.stream != t || parent.closed == 0 {
				return fmt.Errorf("%w: shard %d has the parent %d", errDamaged, sh.id, id)
			}
			sh.parents, parent.children = append(sh.parents, id), append(parent.children, sh.id)
		}
		known[sh.id] = sh
		order, of[t] = append(order, sh), append(of[t], sh)
		hints[sh.id] = next
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range byID {
		if len(of[t]) == 0 {
			return nil, fmt.Errorf("%w: stream %q has no shards", errDamaged, t.name)
		}
		at := newShape(t, of[t])
		if !covers(at.open) && !t.isDeleted {
			return nil, fmt.Errorf("%w: the shards of stream %q leave a gap", errDamaged, t.name)
		}
		at.gone = t.isDeleted
		t.shape.Store(at)
	}
	return order, nil
}

// openFirst makes a log's directory and first segment; wmu is held.
func (l *commitLog) openFirst(ctx context.Context) error {
	if err := l.sp.seam.disk.mkdir(l.dir); err != nil {
		return err
	}
	if err := l.sp.seam.disk.syncDir(l.sp.dir); err != nil {
		return err
	}
	return l.openNext(ctx)
}
