package spool

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"forebay/spool/record"
)

// A stateDB is state.db: what the spool is, its streams and shards, cursors
// and counts. Cursors and counts are gathered in memory and written together.
//
// Lock order: disk before mu. mu is never held while something is written.
type stateDB struct {
	disk sync.Mutex // the connection, and the ledger's newest step
	db   *database
	head chainHead

	mu      sync.Mutex // all below
	now     func() time.Time
	clock   *clock
	names   map[record.ShardID]string // the streams of shards
	cursors map[cursorKey]*place
	shed    map[string]uint64
	corrupt map[record.ShardID][]corruptRange
	erased  map[record.ShardID][]sealedRange
	dirtyC  map[cursorKey]struct{}
	dirtyS  map[string]struct{}
	dirtyR  []corruptRange
	stamp   bool                  // the clock is to be written even if nothing else is
	steps   []Step                // of the ledger, to be written
	sums    map[stepKey]stepSum   // of all steps, those to be written too
	owed    map[stepKey]*owedStep // gathered, not entered yet
	told    chainHead             // head, for those who do not hold disk
	broken  error                 // where the ledger's chain does not hold
	kick    chan struct{}         // something is dirty
	moved   chan struct{}         // a cursor moved: retention may have something to do
}

type cursorKey struct {
	name  string
	shard record.ShardID
}

// A place is a cursor's durable state. For every place
// next - start = delivered + filtered + refused + expired + corrupt.
type place struct {
	start, next                  uint64
	delivered, filtered, refused uint64
	expired, corrupt             uint64
	// refusedBefore is what the ledger counted as refused for earlier cursors
	// of the same name.
	refusedBefore uint64
	moved         int64 // when it moved last, retention clock
	again         bool  // it was new when state.db had been lost, and began at the oldest record for that
	inUse         bool
}

// A corruptRange is records that were found damaged, to excluded.
type corruptRange struct {
	shard    record.ShardID
	from, to uint64
	file     string
	block    int64
}

// stateVersion is the format version of state.db.
const stateVersion = 3

// stateSchema is what makes a state.db of each version out of one of the
// version before, the first out of an empty file.
var stateSchema = [stateVersion + 1][]string{
	1: {
		"CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
		`CREATE TABLE logs(id INTEGER PRIMARY KEY, class TEXT NOT NULL, max_age INTEGER NOT NULL, max_bytes INTEGER NOT NULL, expire_undelivered INTEGER NOT NULL,
			written INTEGER NOT NULL)`,
		`CREATE TABLE streams(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, log INTEGER NOT NULL REFERENCES logs(id), class TEXT NOT NULL,
			max_age INTEGER NOT NULL, max_bytes INTEGER NOT NULL, expire_undelivered INTEGER NOT NULL, created INTEGER NOT NULL)`,
		`CREATE TABLE shards(id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL REFERENCES streams(id), idx INTEGER NOT NULL,
			hash_from BLOB NOT NULL, hash_to BLOB NOT NULL, next INTEGER NOT NULL)`,
		`CREATE TABLE cursors(name TEXT NOT NULL, shard INTEGER NOT NULL, start INTEGER NOT NULL, next INTEGER NOT NULL, delivered INTEGER NOT NULL,
			filtered INTEGER NOT NULL, refused INTEGER NOT NULL, expired INTEGER NOT NULL, corrupt INTEGER NOT NULL, PRIMARY KEY(name, shard)) WITHOUT ROWID`,
		"CREATE TABLE shed(source TEXT PRIMARY KEY, records INTEGER NOT NULL) WITHOUT ROWID",
		`CREATE TABLE corrupt(shard INTEGER NOT NULL, first INTEGER NOT NULL, past INTEGER NOT NULL, file TEXT NOT NULL, block INTEGER NOT NULL,
			PRIMARY KEY(shard, first)) WITHOUT ROWID`,
	},
	2: {
		"ALTER TABLE logs ADD COLUMN on_full TEXT NOT NULL DEFAULT ''",
		"ALTER TABLE logs ADD COLUMN max_age_hard INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE logs ADD COLUMN uncounted INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE streams ADD COLUMN on_full TEXT NOT NULL DEFAULT ''",
		"ALTER TABLE streams ADD COLUMN max_age_hard INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE cursors ADD COLUMN refused_before INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE cursors ADD COLUMN moved INTEGER NOT NULL DEFAULT 0",
		`CREATE TABLE ledger(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, clock INTEGER NOT NULL, kind TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL,
			first INTEGER NOT NULL, past INTEGER NOT NULL, count INTEGER NOT NULL, undelivered INTEGER NOT NULL, who TEXT NOT NULL, reason TEXT NOT NULL,
			prev BLOB NOT NULL, hash BLOB NOT NULL)`,
		`CREATE TABLE ledger_sums(kind TEXT NOT NULL, stream TEXT NOT NULL, shard INTEGER NOT NULL, who TEXT NOT NULL, steps INTEGER NOT NULL, count INTEGER NOT NULL,
			undelivered INTEGER NOT NULL, PRIMARY KEY(kind, stream, shard, who)) WITHOUT ROWID`,
		keysSchema,
	},
	3: {
		"ALTER TABLE shards ADD COLUMN opened INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE shards ADD COLUMN closed INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE shards ADD COLUMN parent INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE shards ADD COLUMN adjacent INTEGER NOT NULL DEFAULT 0",
		"ALTER TABLE streams ADD COLUMN note TEXT NOT NULL DEFAULT ''",
		"ALTER TABLE streams ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0",
	},
}

// createState makes state.db of an empty spool.
func createState(ctx context.Context, sm seam, path, gateway, machine string, wall int64, fill func(*database) error) error {
	return sm.make(ctx, path, appState, statePageSize, func(db *database) error {
		for _, statements := range stateSchema {
			if err := db.run(ctx, statements...); err != nil {
				return err
			}
		}
		if err := db.run(ctx, fmt.Sprintf("PRAGMA user_version=%d", stateVersion)); err != nil {
			return err
		}
		for k, v := range map[string]any{"gateway": gateway, "epoch": newEpoch().String(), "machine": machine, "created": wall, "clock": 0, "wall": wall, "clean": 1} {
			if _, err := db.ExecContext(ctx, "INSERT OR REPLACE INTO meta VALUES(?,?)", k, v); err != nil {
				return err
			}
		}
		if fill == nil {
			return nil
		}
		return fill(db)
	})
}

func newEpoch() record.Epoch {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return record.Epoch(v)
		}
	}
}

// stateMeta is the table meta of state.db.
type stateMeta struct {
	gateway, epoch, machine string
	clock                   clockStamp
	clean                   bool // closed in order: the shards' next is exact
	// migrated is the version that state.db had before it was changed to this
	// program's, until its ledger was begun; else 0.
	migrated int
	reborn   string // why the epoch is a new one; set by openState
}

func readStateMeta(ctx context.Context, db *database) (m stateMeta, err error) {
	get := func(key string, to any) {
		if err == nil {
			if err = db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key=?", key).Scan(to); err != nil {
				err = fmt.Errorf("read %s: %w", key, asDamage(err))
			}
		}
	}
	get("gateway", &m.gateway)
	get("epoch", &m.epoch)
	get("machine", &m.machine)
	get("clock", &m.clock.clock)
	get("wall", &m.clock.wall)
	get("clean", &m.clean)
	if err != nil {
		return m, err
	}
	// Version 1 did not have these.
	var boot string
	var up int64
	for key, to := range map[string]any{"boot": &boot, "up": &up, "sure_clock": &m.clock.sure.clock, "sure_wall": &m.clock.sure.wall, "migrated": &m.migrated} {
		if err := db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key=?", key).Scan(to); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return m, fmt.Errorf("read %s: %w", key, err)
		}
	}
	if b, err := hex.DecodeString(boot); err == nil && len(b) == len(m.clock.boot) {
		copy(m.clock.boot[:], b)
	}
	m.clock.up = time.Duration(up)
	return m, nil
}

func openState(ctx context.Context, sm seam, dir string) (*database, error) {
	db, err := sm.database(ctx, filepath.Join(dir, "state.db"), openWrite)
	if err != nil {
		return nil, err
	}
	err = db.run(ctx, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA wal_autocheckpoint=256", "PRAGMA secure_delete=ON", "PRAGMA cache_size=-512")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open state.db: %w", err), db.Close())
	}
	return db, nil
}

// load reads cursors, shed counts and known damage.
func (s *stateDB) load(ctx context.Context) error {
	s.cursors, s.shed, s.corrupt = map[cursorKey]*place{}, map[string]uint64{}, map[record.ShardID][]corruptRange{}
	s.dirtyC, s.dirtyS = map[cursorKey]struct{}{}, map[string]struct{}{}
	s.names, s.sums, s.owed = map[record.ShardID]string{}, map[stepKey]stepSum{}, map[stepKey]*owedStep{}
	version, err := versionOf(ctx, s.db)
	if err != nil {
		return err
	}
	columns := "refused_before, moved"
	if version < 2 {
		columns = "0, 0"
	}
	err = each(ctx, s.db, "SELECT name, shard, start, next, delivered, filtered, refused, expired, corrupt, "+columns+" FROM cursors", func(scan func(...any) error) error {
		var k cursorKey
		p := &place{}
		if err := scan(&k.name, &k.shard, &p.start, &p.next, &p.delivered, &p.filtered, &p.refused, &p.expired, &p.corrupt, &p.refusedBefore, &p.moved); err != nil {
			return err
		}
		if p.moved == 0 && s.clock != nil { // from before that was kept
			p.moved = s.clock.now()
		}
		s.cursors[k] = p
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.loadAgain(ctx); err != nil {
		return err
	}
	if err := s.loadErased(ctx); err != nil {
		return err
	}
	err = each(ctx, s.db, "SELECT source, records FROM shed", func(scan func(...any) error) error {
		var name string
		var n uint64
		err := scan(&name, &n)
		s.shed[name] = n
		return err
	})
	if err != nil {
		return err
	}
	return each(ctx, s.db, "SELECT shard, first, past, file, block FROM corrupt ORDER BY shard, first", func(scan func(...any) error) error {
		var r corruptRange
		err := scan(&r.shard, &r.from, &r.to, &r.file, &r.block)
		s.corrupt[r.shard] = append(s.corrupt[r.shard], r)
		return err
	})
}

// each calls f for every row.
func each(ctx context.Context, db *database, query string, f func(scan func(...any) error) error, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// txn runs f in a transaction; disk is held. The end of ctx may end f, and then
// nothing was written; it ends neither the commit, whose outcome must be known,
// nor the rollback, without which no other transaction could begin.
func (s *stateDB) txn(ctx context.Context, f func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	whole := context.WithoutCancel(ctx)
	if err := s.db.run(whole, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := f(); err != nil {
		_ = s.db.run(whole, "ROLLBACK") // may have ended by itself
		return err
	}
	err := s.db.run(whole, "COMMIT")
	if err != nil {
		_ = s.db.run(whole, "ROLLBACK")
		s.void(whole)
	}
	return err
}

// void writes over what a commit left in the WAL that failed, perhaps only in
// its sync: a crash must not bring it back. disk is held.
func (s *stateDB) void(ctx context.Context) {
	if s.clock == nil {
		return // of a spool that nobody has open
	}
	err := s.db.run(ctx, "BEGIN IMMEDIATE")
	if err == nil {
		err = s.stampClock(ctx)
	}
	if err == nil {
		err = s.db.run(ctx, "COMMIT")
	}
	if err != nil {
		_ = s.db.run(ctx, "ROLLBACK")
		s.stampSoon() // the next flush does it
	}
}

// exec runs a statement with arguments and drops its result.
func (s *stateDB) exec(ctx context.Context, query string, args ...any) error {
	_, err := s.db.ExecContext(ctx, query, args...)
	return err
}

// touch tells the keeper that there is something to write.
func touch(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *stateDB) addShed(source string, n uint64) {
	s.mu.Lock()
	s.shed[source] += n
	s.dirtyS[source] = struct{}{}
	s.owe(Step{Kind: StepShed, Count: n, Who: source, Reason: "lost before they could be stored"})
	s.mu.Unlock()
	touch(s.kick)
}

// addCorrupt notes damaged records. What is known already is left out.
func (s *stateDB) addCorrupt(r corruptRange) (added uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.corrupt[r.shard]
	var all []corruptRange
	fresh := []corruptRange{r}
	for _, o := range old { // cut what is known out of what is new
		var rest []corruptRange
		for _, f := range fresh {
			if o.to <= f.from || o.from >= f.to {
				rest = append(rest, f)
				continue
			}
			if f.from < o.from {
				left := f
				left.to = o.from
				rest = append(rest, left)
			}
			if f.to > o.to {
				right := f
				right.from = o.to
				rest = append(rest, right)
			}
		}
		fresh = rest
	}
	if len(fresh) == 0 {
		return 0
	}
	all = append(append(all, old...), fresh...)
	sortRanges(all)
	s.corrupt[r.shard] = all
	s.dirtyR = append(s.dirtyR, fresh...)
	for _, f := range fresh {
		added += f.to - f.from
		s.enterLocked(Step{Kind: StepCorrupt, Shard: f.shard, First: f.from, Past: f.to, Count: f.to - f.from, Reason: fmt.Sprintf("block %d of %s is damaged", f.block, f.file)})
	}
	touch(s.kick)
	return added
}

// corruptInLocked counts the known damaged records of a shard in [from, to);
// mu is held.
func (s *stateDB) corruptInLocked(shard record.ShardID, from, to uint64) uint64 {
	var n uint64
	for _, r := range s.corrupt[shard] {
		if a, b := max(r.from, from), min(r.to, to); a < b {
			n += b - a
		}
	}
	return n
}

// dirt is what a flush takes out of memory, to be written or given back.
type dirt struct {
	cursors map[cursorKey]*place // a copy; nil: dropped
	shed    map[string]uint64
	ranges  []corruptRange
	steps   []Step
	stamp   bool
}

func (s *stateDB) takeDirt() (d dirt, any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d = dirt{cursors: map[cursorKey]*place{}, shed: map[string]uint64{}, ranges: s.dirtyR, steps: s.steps, stamp: s.stamp}
	for k := range s.dirtyC {
		if p := s.cursors[k]; p != nil {
			c := *p
			d.cursors[k] = &c
		} else {
			d.cursors[k] = nil
		}
	}
	for name := range s.dirtyS {
		d.shed[name] = s.shed[name]
	}
	clear(s.dirtyC)
	clear(s.dirtyS)
	s.dirtyR, s.steps, s.stamp = nil, nil, false
	return d, d.stamp || len(d.cursors)+len(d.shed)+len(d.ranges)+len(d.steps) > 0
}

// giveBack makes dirty again what could not be written.
func (s *stateDB) giveBack(d dirt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range d.cursors {
		s.dirtyC[k] = struct{}{}
	}
	for name := range d.shed {
		s.dirtyS[name] = struct{}{}
	}
	s.dirtyR = append(d.ranges, s.dirtyR...)
	s.steps = append(d.steps, s.steps...)
	s.stamp = s.stamp || d.stamp
}

// flush writes what is dirty in one transaction; when it returns nil, all that
// was dirty when it was called is durable. After an error it stays dirty.
func (s *stateDB) flush(ctx context.Context) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	d, any := s.takeDirt()
	if !any {
		return nil
	}
	head := s.head
	err := s.txn(ctx, func() (err error) {
		for k, p := range d.cursors {
			if err := s.writeCursor(ctx, k, p); err != nil {
				return err
			}
		}
		for name, n := range d.shed {
			if err := s.exec(ctx, "INSERT OR REPLACE INTO shed VALUES(?,?)", name, int64(n)); err != nil {
				return err
			}
		}
		for _, r := range d.ranges {
			if err := s.exec(ctx, "INSERT OR REPLACE INTO corrupt VALUES(?,?,?,?,?)", r.shard, int64(r.from), int64(r.to), r.file, r.block); err != nil {
				return err
			}
		}
		if len(d.steps) > 0 {
			if head, err = s.writeSteps(ctx, d.steps); err != nil {
				return err
			}
		}
		return s.stampClock(ctx)
	})
	if err != nil {
		s.giveBack(d)
		return fmt.Errorf("write state.db: %w", storeError(err))
	}
	s.head = head
	s.mu.Lock()
	s.told = head
	s.mu.Unlock()
	return nil
}

func (s *stateDB) writeCursor(ctx context.Context, k cursorKey, p *place) error {
	if p == nil {
		return errors.Join(s.exec(ctx, "DELETE FROM cursors WHERE name=? AND shard=?", k.name, k.shard), s.exec(ctx, "DELETE FROM meta WHERE key=?", k.again()))
	}
	if p.again {
		if err := s.setMeta(ctx, k.again(), 1); err != nil {
			return err
		}
	}
	return s.exec(ctx, "INSERT OR REPLACE INTO cursors(name, shard, start, next, delivered, filtered, refused, expired, corrupt, refused_before, moved) VALUES(?,?,?,?,?,?,?,?,?,?,?)", k.name, k.shard,
		int64(p.start), int64(p.next), int64(p.delivered), int64(p.filtered), int64(p.refused), int64(p.expired), int64(p.corrupt), int64(p.refusedBefore), p.moved)
}

// stampClock carries the retention clock over a restart.
func (s *stateDB) stampClock(ctx context.Context) error {
	st := s.clock.stamp(s.now())
	for _, v := range []struct {
		key   string
		value any
	}{
		{"clock", st.clock},
		{"wall", st.wall},
		{"boot", hex.EncodeToString(st.boot[:])},
		{"up", int64(st.up)},
		{"sure_clock", st.sure.clock},
		{"sure_wall", st.sure.wall},
	} {
		if err := s.setMeta(ctx, v.key, v.value); err != nil {
			return err
		}
	}
	return nil
}

// stampSoon lets the clock be written with the next flush.
func (s *stateDB) stampSoon() {
	s.mu.Lock()
	s.stamp = true
	s.mu.Unlock()
	touch(s.kick)
}

// setMeta writes one value of the table meta.
func (s *stateDB) setMeta(ctx context.Context, key string, value any) error {
	return s.exec(ctx, "INSERT OR REPLACE INTO meta VALUES(?,?)", key, value)
}
