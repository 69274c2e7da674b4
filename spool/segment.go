package spool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"forebay/spool/record"
)

const minTime = math.MinInt64

// runBytes is how much a reader takes from a segment at once.
const runBytes = 1 << 20

// A headRow is a shard's state where a segment begins.
type headRow struct {
	next    uint64 // sequence number of its first record in the segment or later
	bytes   int64  // of all records before, in blocks and chunk files
	arrived int64  // of the newest record before, minTime if none
}

// A sourceTotal counts a source's records in one log since the log began.
type sourceTotal struct {
	taken, quarantined, last uint64
}

// segMeta is what a segment knows about everything before it.
type segMeta struct {
	created    int64 // retention clock, see clock.go
	maxArr     int64 // greatest arrival in the log before this segment
	prevBlocks int64 // how many blocks of the segment before count, -1 if there is none
	// prevWritten is when the segment before was last written, retention clock.
	prevWritten int64
	origin      record.Origin
	heads       map[record.ShardID]headRow
	sources     map[string]sourceTotal
	// rebuilt says that the file's own words are damaged and this was made from
	// the blocks, see rebuild.go; doubt is how many more numbers of a shard may
	// have been given before than that shows.
	rebuilt bool
	doubt   map[record.ShardID]uint64
}

// head is where a shard stood when the segment began. A shard that the
// segment does not list is younger than the segment.
func (m *segMeta) head(s record.ShardID) headRow {
	if h, ok := m.heads[s]; ok {
		return h
	}
	return headRow{next: 1, arrived: minTime}
}

// A segment is one file of a log and the chunk file beside it. Blocks are
// numbered from 1 without gaps.
type segment struct {
	log    uint32
	num    uint64
	path   string
	keys   *keyring
	remake func(context.Context, *segment) (*segMeta, error) // a damaged head; nil: it is not made again
	blocks atomic.Int64                                      // that count; readers never look beyond. -1: not known yet
	size   atomic.Int64                                      // of all its files, bytes
	ahead  atomic.Int64                                      // room that the chunk file was given and does not use yet
	sealed atomic.Bool                                       // never written again and nothing is left in the WAL
	closed atomic.Int64                                      // retention clock when it was last written, 0: not known yet

	mu     sync.Mutex // the fields below; one reader at a time
	db     *database
	run    *sql.Stmt
	chunks *os.File
	meta   *segMeta
	index  *segIndex
	gone   bool
}

var errGone = errors.New("segment was removed")

// A stored block is what lies under a number in a segment: the block, or what
// is wrong with it. With an error blk may still hold the head.
type stored struct {
	id   int64
	blk  *block
	err  error
	part *part // all of the block that there is; nil: it is whole
}

// group finds a shard's part.
func (st *stored) group(s record.ShardID) (group, bool) {
	if st.part != nil {
		return st.part.group, st.part.shard == s
	}
	return st.blk.group(s)
}

func (s *segment) file() string { return filepath.Join(logDir(s.log), filepath.Base(s.path)) }

// measure brings size up to date.
func (s *segment) measure() int64 {
	n := fileSize(s.path) + fileSize(s.path+"-wal") + fileSize(s.path+"-shm") + fileSize(chunkFileOf(s.path)) + s.ahead.Load()
	s.size.Store(n)
	return n
}

// open makes s.db ready; s.mu is held.
func (s *segment) open(ctx context.Context) error {
	if s.gone {
		return errGone
	}
	if s.db != nil {
		return nil
	}
	mode := openRead
	if s.sealed.Load() {
		mode = openImmutable
	}
	db, err := openDatabase(ctx, s.path, mode, "")
	if err != nil {
		return err
	}
	err = db.run(ctx, "PRAGMA cache_size=-256")
	if err == nil {
		s.run, err = db.PrepareContext(ctx, "SELECT rowid, head, body FROM block WHERE rowid BETWEEN ? AND ? ORDER BY rowid")
		err = asDamage(err)
	}
	if err != nil {
		_ = db.Close()
		return err
	}
	s.db = db
	return nil
}

// release closes the files that readers opened; they open again by themselves.
func (s *segment) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked()
}

func (s *segment) releaseLocked() {
	if s.db != nil {
		_ = s.run.Close()
		_ = s.db.Close() // a read-only handle has nothing to lose
		s.db, s.run = nil, nil
	}
	if s.chunks != nil {
		_ = s.chunks.Close()
		s.chunks = nil
	}
}

// remove deletes the segment's files, the .seg first: without it the segment
// does not exist, and the rest is cleaned up at the next opening.
func (s *segment) remove(d disk) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked()
	s.gone = true
	for _, p := range []string{s.path, s.path + "-wal", s.path + "-shm", chunkFileOf(s.path)} {
		if err := d.remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a segment: %w", err)
		}
	}
	return d.syncDir(filepath.Dir(s.path))
}

// loadMeta is what the segment knows about everything before it; where that is
// damaged, what can be told from the blocks.
func (s *segment) loadMeta(ctx context.Context) (*segMeta, error) {
	m, err := s.readOwnMeta(ctx)
	if err == nil || s.remake == nil || !isDamage(err) && !isForeign(s.path) {
		return m, err
	}
	if m, err = s.remake(ctx, s); err != nil {
		return nil, fmt.Errorf("make the head of %s again: %w", s.file(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.meta = m
	return m, nil
}

func (s *segment) readOwnMeta(ctx context.Context) (*segMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta != nil {
		return s.meta, nil
	}
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	m, err := readMeta(ctx, s.db, s.log, s.num)
	if err != nil {
		return nil, fmt.Errorf("read the head of %s: %w", s.file(), err)
	}
	s.meta = m
	return m, nil
}

// The tables of a segment, each value followed by a newline, are what the
// checksum in meta is over: meta's own columns first, then heads by shard,
// then sources by name. SQLite itself does not notice a flipped bit.
const (
	metaColumns    = "log, segment, created, wall, max_arrival, prev, prev_blocks, prev_written, gateway, epoch"
	metaQuery      = "SELECT " + metaColumns + ", crc FROM meta"
	headsQuery     = "SELECT shard, stream, idx, next, bytes, arrived FROM heads ORDER BY shard"
	sourcesQuery   = "SELECT source, taken, quarantined, last FROM sources ORDER BY source"
	metaColumnsSum = "SELECT " + metaColumns + " FROM meta"
)

// readMeta reads and verifies what a segment knows about everything before it.
func readMeta(ctx context.Context, db *database, log uint32, num uint64) (*segMeta, error) {
	m := &segMeta{heads: map[record.ShardID]headRow{}, sources: map[string]sourceTotal{}}
	var gotLog uint32
	var gotNum uint64
	var crc int64
	var skip any
	var epoch string
	err := db.QueryRowContext(ctx, metaQuery).Scan(&gotLog, &gotNum, &m.created, &skip, &m.maxArr, &skip, &m.prevBlocks, &m.prevWritten, &m.origin.Gateway, &epoch, &crc)
	if err == nil {
		m.origin.Epoch, err = parseEpoch(epoch)
	}
	if err != nil {
		return nil, asDamage(err)
	}
	if gotLog != log || gotNum != num {
		return nil, fmt.Errorf("%w: it says it is segment %d of log %d", errDamaged, gotNum, gotLog)
	}
	err = each(ctx, db, headsQuery, func(scan func(...any) error) error {
		var id record.ShardID
		var h headRow
		err := scan(&id, &skip, &skip, &h.next, &h.bytes, &h.arrived)
		m.heads[id] = h
		return err
	})
	if err != nil {
		return nil, asDamage(err)
	}
	err = each(ctx, db, sourcesQuery, func(scan func(...any) error) error {
		var name string
		var t sourceTotal
		err := scan(&name, &t.taken, &t.quarantined, &t.last)
		m.sources[name] = t
		return err
	})
	if err != nil {
		return nil, asDamage(err)
	}
	sum, err := metaSum(ctx, db)
	if err == nil && int64(sum) != crc {
		err = fmt.Errorf("%w: the checksum of its head is wrong", errDamaged)
	}
	return m, asDamage(err)
}

// metaSum is the checksum of everything a segment says about what came before.
func metaSum(ctx context.Context, db *database) (uint32, error) {
	h := crc32.New(castagnoli)
	for _, query := range []string{metaColumnsSum, headsQuery, sourcesQuery} {
		rows, err := db.QueryContext(ctx, query)
		if err != nil {
			return 0, err
		}
		if err := sumRows(h, rows); err != nil {
			return 0, err
		}
	}
	return h.Sum32(), nil
}

func sumRows(to io.Writer, rows *sql.Rows) error {
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, into := make([]sql.RawBytes, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for _, v := range values {
			_, _ = to.Write(v) // a hash never fails
			_, _ = to.Write([]byte{'\n'})
		}
	}
	return rows.Err()
}

// readRun reads blocks from..to, at least one and at most about runBytes. A
// damaged block is reported in its place; an error means that the file as a
// whole cannot be read now.
func (s *segment) readRun(ctx context.Context, from, to int64) ([]stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	origin, err := s.origin(ctx)
	if err != nil {
		return nil, err
	}
	var out []stored
	rows, err := s.run.QueryContext(ctx, from, to)
	if err == nil {
		defer rows.Close()
		for size := 0; size < runBytes && rows.Next(); {
			var id int64
			var head, body []byte
			if err = rows.Scan(&id, &head, &body); err != nil {
				err = asDamage(err)
				break
			}
			size += len(head) + len(body) + 256
			st := stored{id: id}
			if st.blk, st.err = decodeHead(head); st.err == nil {
				st.blk.seg, st.blk.id, st.blk.origin = s.num, id, origin
				if st.blk.beside() {
					body, st.err = s.besideLocked(st.blk)
				}
				if st.err != nil && !isDamage(st.err) {
					err = st.err // passes by itself
					break
				}
				if st.err == nil {
					st.err = s.openBlock(st.blk, body)
				}
				size += len(st.blk.body)
			}
			out = append(out, st)
		}
		err = errors.Join(err, rows.Err())
	}
	switch {
	case err == nil, len(out) > 0: // what was read is served first; the error comes back at the next try
		return out, nil
	case isDamage(err):
		return []stored{{id: from, err: err}}, nil
	}
	return nil, err
}

// origin is what its records' ids begin with, nil where that is damaged; s.mu
// is held.
func (s *segment) origin(ctx context.Context) (*record.Origin, error) {
	if s.meta == nil {
		m, err := readMeta(ctx, s.db, s.log, s.num)
		if err != nil {
			if isDamage(err) {
				return nil, nil
			}
			return nil, err
		}
		s.meta = m
	}
	return &s.meta.origin, nil
}

// scanHeads calls f with the head of every block from..to, or with what is
// wrong with it, without reading bodies.
func (s *segment) scanHeads(ctx context.Context, from, to int64, f func(stored) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from <= to {
		if err := s.open(ctx); err != nil {
			return err
		}
		last, err := scanHeads(ctx, s.db, from, to, s.num, f)
		switch {
		case err == nil:
			return nil
		case !isDamage(err):
			return err
		}
		if err := f(stored{id: last + 1, err: err}); err != nil {
			return err
		}
		from = last + 2
	}
	return nil
}

// scanHeads returns the last block it passed.
func scanHeads(ctx context.Context, db *database, from, to int64, seg uint64, f func(stored) error) (int64, error) {
	last := from - 1
	rows, err := db.QueryContext(ctx, "SELECT rowid, head FROM block WHERE rowid BETWEEN ? AND ? ORDER BY rowid", from, to)
	if err != nil {
		return last, err
	}
	defer rows.Close()
	for rows.Next() {
		st := stored{}
		var head []byte
		if err := rows.Scan(&st.id, &head); err != nil {
			return last, asDamage(err)
		}
		if st.blk, st.err = decodeHead(head); st.err == nil {
			st.blk.seg, st.blk.id = seg, st.id
		}
		if err := f(st); err != nil {
			return last, err
		}
		last = st.id
	}
	return last, rows.Err()
}

// removed reports whether retention has taken the segment.
func (s *segment) removed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// lastBlock is the number of the newest block in the file.
func (s *segment) lastBlock(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(ctx); err != nil {
		return 0, err
	}
	var n int64
	err := s.db.QueryRowContext(ctx, "SELECT coalesce(max(rowid), 0) FROM block").Scan(&n)
	return n, asDamage(err)
}

// indexed is the segment's index, built now if it is not there.
func (s *segment) indexed(ctx context.Context) (*segIndex, error) {
	s.mu.Lock()
	x := s.index
	s.mu.Unlock()
	if x != nil {
		return x, nil
	}
	x = newSegIndex()
	err := s.scanHeads(ctx, 1, s.blocks.Load(), func(st stored) error {
		if st.err == nil {
			x.add(st.blk)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		s.index = x
	}
	return s.index, nil
}

// readChunk reads and verifies a record's Data from the chunk file.
func (s *segment) readChunk(c outsideData) ([]byte, error) {
	if c.n > record.MaxData {
		return nil, fmt.Errorf("data has %d bytes; at most %d are possible", c.n, record.MaxData)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.key != 0 {
		return s.readSealed(c)
	}
	b, err := s.chunkAt(c.off, c.n)
	if err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != c.crc {
		return nil, errChecksum
	}
	return b, nil
}

// besideLocked reads a block's body from the chunk file, not yet verified.
// s.mu is held.
func (s *segment) besideLocked(b *block) ([]byte, error) {
	return s.chunkAt(b.bodyOff, int64(b.bodyLen))
}

// chunkAt reads from the chunk file; s.mu is held.
func (s *segment) chunkAt(off, n int64) ([]byte, error) {
	if s.gone {
		return nil, errGone
	}
	if s.chunks == nil {
		f, err := os.Open(chunkFileOf(s.path))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
		if err != nil {
			return nil, err
		}
		s.chunks = f
	}
	b := make([]byte, n)
	_, err := s.chunks.ReadAt(b, off)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO):
		return nil, fmt.Errorf("%w: read %s at %d: %w", errDamaged, filepath.Base(s.chunks.Name()), off, err)
	case err != nil:
		return nil, fmt.Errorf("read %s at %d: %w", filepath.Base(s.chunks.Name()), off, err)
	}
	return b, nil
}

// newSegment is what a new segment file is filled with.
type newSegment struct {
	log   uint32
	num   uint64
	meta  segMeta
	prev  uint64 // number of the segment before, 0 if none
	wall  int64
	names func(record.ShardID) (stream string, index int)
}

// createSegment makes the file of a segment that holds no block yet.
func createSegment(ctx context.Context, sm seam, path string, n newSegment) error {
	return sm.make(ctx, path, appSegment, segmentPageSize, func(db *database) error {
		err := db.run(ctx,
			`CREATE TABLE meta(log INTEGER NOT NULL, segment INTEGER NOT NULL, created INTEGER NOT NULL, wall INTEGER NOT NULL,
				max_arrival INTEGER NOT NULL, prev INTEGER NOT NULL, prev_blocks INTEGER NOT NULL, prev_written INTEGER NOT NULL, gateway TEXT NOT NULL, epoch TEXT NOT NULL, crc INTEGER NOT NULL)`,
			`CREATE TABLE heads(shard INTEGER PRIMARY KEY, stream TEXT NOT NULL, idx INTEGER NOT NULL, next INTEGER NOT NULL,
				bytes INTEGER NOT NULL, arrived INTEGER NOT NULL)`,
			`CREATE TABLE sources(source TEXT PRIMARY KEY, taken INTEGER NOT NULL, quarantined INTEGER NOT NULL, last INTEGER NOT NULL) WITHOUT ROWID`,
			// Blocks are asked for by rowid, which id is another word for: a byte
			// of "INTEGER PRIMARY KEY" that is damaged would make id a column of
			// its own, empty, and hide every block.
			`CREATE TABLE block(id INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB)`)
		if err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "INSERT INTO meta VALUES(?,?,?,?,?,?,?,?,?,?,0)",
			n.log, int64(n.num), n.meta.created, n.wall, n.meta.maxArr, int64(n.prev), n.meta.prevBlocks, n.meta.prevWritten, n.meta.origin.Gateway, n.meta.origin.Epoch.String())
		if err != nil {
			return err
		}
		for id, h := range n.meta.heads {
			stream, idx := n.names(id)
			if _, err := db.ExecContext(ctx, "INSERT INTO heads VALUES(?,?,?,?,?,?)", id, stream, idx, int64(h.next), h.bytes, h.arrived); err != nil {
				return err
			}
		}
		for name, t := range n.meta.sources {
			if _, err := db.ExecContext(ctx, "INSERT INTO sources VALUES(?,?,?,?)", name, int64(t.taken), int64(t.quarantined), int64(t.last)); err != nil {
				return err
			}
		}
		sum, err := metaSum(ctx, db)
		if err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, "UPDATE meta SET crc=?", int64(sum))
		return err
	})
}
