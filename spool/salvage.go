package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"forebay/spool/record"
)

// state.db is the one file that everything hangs on. Where it is lost, the
// segments still tell which streams and shards there are and how far they are
// numbered; so it is made again from them. What nothing else tells is settled
// so that nothing is lost by it: a stream keeps everything until the config has
// said again what it wants, and cursors begin again at the oldest record.

const (
	// unsettled is max_age of a stream that was made again and that no config
	// has named since.
	unsettled = -1
	// salvageGrace is for how long after that nothing is removed: uplinks open
	// their cursors in that time.
	salvageGrace = 10 * time.Minute
	// salvageCursors is for how long a cursor that is opened for the first time
	// on a stream that was made again begins at the oldest record, whatever it
	// asked for.
	salvageCursors = 24 * time.Hour
)

// A lostState is why state.db cannot be used any more.
type lostState struct{ why string }

func (e *lostState) Error() string { return "state.db " + e.why }

// asLost marks an error that says that state.db does not hold what it must.
func asLost(err error) error {
	if code := sqliteCode(err); errors.Is(err, errDamaged) || code&0xff == sqliteCorrupt || code&0xff == sqliteNotADB {
		return &lostState{fmt.Sprintf("is damaged (%v)", err)}
	}
	return err
}

// lostStateIn tells why the state.db of a directory that holds logs cannot be
// used; nil where that cannot be seen from outside.
func lostStateIn(dir string) (*lostState, error) {
	logs, err := salvageLogs(dir)
	if err != nil || len(logs) == 0 {
		return nil, err
	}
	path := filepath.Join(dir, "state.db")
	h, n, err := fileHeader(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &lostState{"is missing"}, nil
	case err != nil:
		return nil, err
	case n < len(h) || string(h[:16]) != "SQLite format 3\x00":
		return &lostState{"is damaged (it is no SQLite file any more)"}, nil
	}
	return nil, nil
}

// salvageLogs is the logs in a directory that have segments of ours.
func salvageLogs(dir string) (map[uint32][]uint64, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "log-*"))
	if err != nil {
		return nil, err
	}
	out := map[uint32][]uint64{}
	for _, p := range paths {
		var num uint32
		if _, err := fmt.Sscanf(filepath.Base(p), "log-%05d", &num); err != nil || filepath.Base(p) != logDir(num) {
			continue
		}
		segs, err := listSegments(p)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(segs, func(n uint64) bool { return checkHeader(filepath.Join(p, segmentFile(n)), appSegment) == nil }) {
			out[num] = segs
		}
	}
	return out, nil
}

// A salvage is what the segments tell about the spool.
type salvage struct {
	why     string
	logs    uint32 // greatest number
	gateway string
	clock   int64
	wall    int64
	streams []salvagedStream
	sealed  string // a log with encrypted blocks
	shapes  shapes
	deleted []salvagedStream
}

type salvagedStream struct {
	name   string
	log    uint32
	shards []record.ShardID // by index
	shape  *streamShape     // as it was written down; nil where it was not

	deleted bool
}

// planSalvage reads the segments, and changes nothing.
func planSalvage(ctx context.Context, dir, why string) (*salvage, error) {
	logs, err := salvageLogs(dir)
	if err != nil {
		return nil, err
	}
	p := &salvage{why: why, shapes: readShapes(dir)}
	taken := map[string]bool{}
	for _, num := range slices.Sorted(maps.Keys(logs)) {
		p.logs = max(p.logs, num)
		l := salvagedLog{dir: filepath.Join(dir, logDir(num)), num: num, plan: p, names: map[record.ShardID]headName{}, met: map[record.ShardID]bool{}}
		for _, n := range slices.Backward(logs[num]) {
			if err := l.read(ctx, n); err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Join(logDir(num), segmentFile(n)), err)
			}
		}
		deleted := p.shapes.forget(num, l.names, l.met)
		p.shapes.name(l.names, l.met)
		p.streams = append(p.streams, l.streams(taken)...)
		p.deleted = append(p.deleted, deleted...)
	}
	for i := range p.streams {
		p.streams[i].shape = p.shapes.of(p.streams[i])
	}
	return p, nil
}

type headName struct {
	stream string
	idx    int
}

// A salvagedLog gathers what the segments of a log tell.
type salvagedLog struct {
	dir   string
	num   uint32
	plan  *salvage
	names map[record.ShardID]headName
	met   map[record.ShardID]bool // in blocks
	told  bool                    // a segment's head was sound
	tail  bool                    // a block was met
}

func (l *salvagedLog) read(ctx context.Context, n uint64) error {
	path := filepath.Join(l.dir, segmentFile(n))
	if err := checkHeader(path, appSegment); err != nil {
		if f, ok := errors.AsType[*record.FormatError](err); ok && strings.Contains(f.Reason, "format version") {
			return err
		}
		return nil // it is no segment any more
	}
	if l.told && l.tail {
		return nil // the newer ones told all that counts
	}
	c := &checker{}
	db, done, err := c.snapshot(ctx, path)
	if err != nil {
		if isDamage(err) {
			return nil
		}
		return err
	}
	defer done()
	m, err := readMeta(ctx, db, l.num, n)
	switch {
	case err == nil:
		if err := l.head(ctx, db, m); err != nil {
			return err
		}
	case !isDamage(err):
		return err
	}
	_, err = scanHeads(ctx, db, 1, 1<<62, n, func(st stored) error {
		if st.err != nil {
			return nil
		}
		l.tail = true
		if st.blk.key != 0 {
			l.plan.sealed = logDir(l.num)
		}
		for _, g := range st.blk.groups {
			l.met[g.shard] = true
		}
		return nil
	})
	if err != nil && !isDamage(asDamage(err)) {
		return err
	}
	return nil
}

// head takes up what a sound head tells.
func (l *salvagedLog) head(ctx context.Context, db *database, m *segMeta) error {
	var wall int64
	if err := db.QueryRowContext(ctx, "SELECT wall FROM meta").Scan(&wall); err != nil {
		return err
	}
	if at := m.created; l.plan.gateway == "" || at > l.plan.clock {
		l.plan.clock, l.plan.wall, l.plan.gateway = at, wall, m.origin.Gateway
	}
	l.told = true
	return each(ctx, db, "SELECT shard, stream, idx FROM heads", func(scan func(...any) error) error {
		var id record.ShardID
		var name headName
		err := scan(&id, &name.stream, &name.idx)
		if _, known := l.names[id]; !known {
			l.names[id] = name
		}
		return err
	})
}

// streams is the log's streams. A shard whose stream no head names any more
// gets a stream of its own.
func (l *salvagedLog) streams(taken map[string]bool) []salvagedStream {
	for id := range l.met {
		if _, ok := l.names[id]; !ok {
			l.names[id] = headName{fmt.Sprintf("recovered-shard-%d", id), 0}
		}
	}
	byName := map[string][]record.ShardID{}
	for id, n := range l.names {
		byName[n.stream] = append(byName[n.stream], id)
	}
	var out []salvagedStream
	for name, shards := range byName {
		slices.SortFunc(shards, func(a, b record.ShardID) int { return l.names[a].idx - l.names[b].idx })
		for taken[name] {
			name = fmt.Sprintf("%s-%s", name, logDir(l.num))
		}
		taken[name] = true
		out = append(out, salvagedStream{name: name, log: l.num, shards: shards})
	}
	slices.SortFunc(out, func(a, b salvagedStream) int { return int(a.shards[0]) - int(b.shards[0]) })
	return out
}

// refusal is why nobody but a person can help; nil if the spool can.
func (p *salvage) refusal(dir string) error {
	if p.sealed == "" {
		return nil
	}
	return &record.FormatError{
		Path: filepath.Join(dir, "state.db"), Reason: p.why + ", and " + p.sealed + " is encrypted: the wrapped keys were in it and nowhere else",
		Hint: "restore the spool from a backup (forebay spool restore), or move the encrypted log away to give it up; nothing was changed",
	}
}

func (p *salvage) describe() string {
	names := make([]string, len(p.streams))
	shards := 0
	for i, t := range p.streams {
		names[i] = t.name
		shards += len(t.shards)
	}
	return fmt.Sprintf("%d streams with %d shards were found in the segments: %s", len(names), shards, strings.Join(names, ", "))
}

// salvage sets a lost state.db aside and makes it again. It can be cut off
// anywhere and begun again. The directory is locked.
func (s *Spool) salvage(ctx context.Context, lost *lostState) error {
	p, err := planSalvage(ctx, s.dir, lost.why)
	if err == nil {
		err = p.refusal(s.dir)
	}
	if err != nil {
		return err
	}
	aside, err := s.setAside()
	if err != nil {
		return fmt.Errorf("set state.db aside: %w", storeError(err))
	}
	if s.cfg.Gateway != "" {
		p.gateway = s.cfg.Gateway
	}
	if p.gateway == "" {
		p.gateway = "forebay"
	}
	why := "state.db " + p.why + " and was made again from the segments; this ledger begins anew, what the old one said is not known any more"
	if aside != "" {
		why += "; the damaged file is " + aside
	}
	if err := createState(ctx, s.seam, filepath.Join(s.dir, "state.db"), p.gateway, machineID(), s.now().UnixNano(), func(db *database) error { return p.fill(ctx, db, why) }); err != nil {
		return fmt.Errorf("make state.db again: %w", storeError(err))
	}
	s.log.Error("state.db was lost and has been made again from the segments", "because", p.why, "aside", aside, "streams", len(p.streams))
	s.raise("salvaged", 1, why+"; "+p.describe()+". Uplinks begin again at the oldest record and send again, under the same ids, what they had sent; until the config has named a stream again nothing of it is removed")
	return nil
}

// setAside renames state.db and its WAL.
func (s *Spool) setAside() (string, error) {
	path := filepath.Join(s.dir, "state.db")
	name, there := "", false
	for _, suffix := range []string{"", "-wal"} {
		ok, err := exists(path + suffix)
		if err != nil {
			return "", err
		}
		there = there || ok
	}
	for n := 1; there; n++ {
		name = fmt.Sprintf("state.db.damaged-%d", n)
		used, err := exists(filepath.Join(s.dir, name))
		if err != nil {
			return "", err
		}
		if !used {
			break
		}
	}
	for _, suffix := range []string{"", "-wal"} {
		if err := s.seam.disk.rename(path+suffix, filepath.Join(s.dir, name+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if err := s.seam.disk.remove(path + "-shm"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return name, s.seam.disk.syncDir(s.dir)
}

// fill writes what is known into a new state.db.
func (p *salvage) fill(ctx context.Context, db *database, why string) error {
	st := &stateDB{db: db}
	err := errors.Join(
		st.setMeta(ctx, "clean", 0), st.setMeta(ctx, "clock", p.clock), st.setMeta(ctx, "wall", p.wall),
		st.setMeta(ctx, "salvaged", why), st.setMeta(ctx, "salvaged_at", p.clock),
		st.setMeta(ctx, "migrated", stateVersion)) // until its ledger was begun
	if err != nil {
		return err
	}
	class := record.ClassEvidence.String()
	for num := range p.logs {
		err := st.exec(ctx, "INSERT INTO logs(id, class, max_age, max_bytes, expire_undelivered, on_full, max_age_hard, written, uncounted) VALUES(?,?,?,0,0,'',0,0,-1)", num+1, class, unsettled)
		if err != nil {
			return err
		}
	}
	for i, t := range slices.Concat(p.streams, p.deleted) {
		name, deleted := t.name, int64(0)
		if t.deleted {
			name, deleted = fmt.Sprintf("%s %d", name, i+1), p.wall
		}
		res, err := db.ExecContext(ctx, "INSERT INTO streams(name, log, class, max_age, max_bytes, expire_undelivered, on_full, max_age_hard, created, deleted) VALUES(?,?,?,?,0,0,'',0,?,?)", name, t.log, class, unsettled, p.wall, deleted)
		if err != nil {
			return err
		}
		id, err := res.LastInsertId()
		if err != nil {
			return err
		}
		if t.shape != nil {
			if err := t.shape.fill(ctx, st, id); err != nil {
				return err
			}
			continue
		}
		for i, sh := range t.shards {
			from, to := hashRange(i, len(t.shards))
			if err := st.exec(ctx, "INSERT INTO shards(id, stream, idx, hash_from, hash_to, next) VALUES(?,?,?,?,?,1)", sh, id, i, from[:], to[:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// salvaged is what state.db says about having been made again: when, by the
// retention clock, and why; empty where it was not.
func (s *stateDB) salvaged(ctx context.Context) (at int64, why string, err error) {
	if why, err = s.meta(ctx, "salvaged"); err != nil || why == "" {
		return 0, "", err
	}
	err = s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key='salvaged_at'").Scan(&at)
	return at, why, err
}

// keepsAll reports whether nothing of the log may be removed, because what its
// streams want is not known yet, or uplinks may not have come back.
func (l *commitLog) keepsAll() bool {
	sp := l.sp
	if sp.salvagedAt == nil {
		return false
	}
	if sp.clock.now()-max(*sp.salvagedAt, sp.settled.Load()) < int64(salvageGrace) {
		return true
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return slices.ContainsFunc(l.slots, func(sh *shard) bool { return sh.stream.waits.Load() })
}

// beginsAgain reports whether a cursor that is new on the stream may have been
// lost with state.db, so that it begins at the oldest record.
func (t *Stream) beginsAgain() bool {
	at := t.sp.salvagedAt
	return at != nil && t.created.UnixNano() <= t.sp.salvagedWall && t.sp.clock.now()-*at < int64(salvageCursors)
}

// again is the key in the table meta of a cursor that began again.
func (k cursorKey) again() string { return fmt.Sprintf("again %d %s", k.shard, k.name) }

// loadAgain reads which cursors began again.
func (s *stateDB) loadAgain(ctx context.Context) error {
	keys := map[string]bool{}
	err := each(ctx, s.db, "SELECT key FROM meta WHERE key LIKE 'again %'", func(scan func(...any) error) error {
		var key string
		err := scan(&key)
		keys[key] = true
		return err
	})
	for k, p := range s.cursors {
		p.again = keys[k.again()]
	}
	return err
}

// nameShards writes shards that the active segment's head does not list into
// it, so that state.db can be made again from the segments. wmu is held and
// nothing is under way. The end of ctx does not end it: half a transaction would
// be in the way of the next commit.
func (l *commitLog) nameShards(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if l.w == nil {
		return nil // the next segment lists them
	}
	l.mu.RLock()
	slots := slices.Clone(l.slots)
	l.mu.RUnlock()
	m := l.w.seg.knownMeta()
	if m == nil || m.rebuilt {
		return nil
	}
	slots = slices.DeleteFunc(slots, func(sh *shard) bool { _, listed := m.heads[sh.id]; return listed })
	if len(slots) == 0 {
		return nil
	}
	db := l.w.db
	err := db.run(ctx, "BEGIN IMMEDIATE")
	for _, sh := range slots {
		if err == nil {
			_, err = db.ExecContext(ctx, "INSERT INTO heads VALUES(?,?,?,1,0,?)", sh.id, sh.stream.name, sh.index, int64(minTime))
		}
	}
	var sum uint32
	if err == nil {
		sum, err = metaSum(ctx, db)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, "UPDATE meta SET crc=?", int64(sum))
	}
	if err == nil {
		err = db.run(ctx, "COMMIT")
	}
	if err != nil {
		_ = db.run(ctx, "ROLLBACK") // may have ended by itself
		return err
	}
	heads := maps.Clone(m.heads)
	for _, sh := range slots {
		heads[sh.id] = headRow{next: 1, arrived: minTime}
	}
	fresh := *m
	fresh.heads = heads
	l.w.seg.mu.Lock()
	l.w.seg.meta = &fresh
	l.w.seg.mu.Unlock()
	return nil
}
