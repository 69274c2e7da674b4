package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"forebay/spool/record"
)

// maxProblems bounds a report; a broken disk has no end of them.
const maxProblems = 200

// maxStuck is how many blocks in a row are tried that cannot be read.
const maxStuck = 32

// CheckReport is what Check found.
type CheckReport struct {
	Dir      string `json:"dir"`
	Format   int    `json:"format"` // version of the disk format
	Streams  int    `json:"streams"`
	Shards   int    `json:"shards"`
	Segments int    `json:"segments"`
	Blocks   uint64 `json:"blocks"`
	Records  uint64 `json:"records"`
	Chunks   uint64 `json:"chunks"` // blobs and large payloads in chunk files
	// Sealed is how many of the blocks are encrypted: their checksums are
	// verified, but their records and chunks are not looked into.
	Sealed uint64 `json:"sealed"`
	Bytes  int64  `json:"bytes"` // in the directory
	// Problems are sentences that name the file; empty, never nil, means that
	// all is well.
	Problems []string `json:"problems"`
}

// Check reads a whole spool directory that no process has open, and changes
// nothing: every checksum, every sequence number, every cursor and count. A
// spool in use is answered with a *LockedError, one of a newer format with a
// *record.FormatError. What a crash left in a WAL counts, as it does at the
// next opening.
func Check(ctx context.Context, dir string) (CheckReport, error) {
	r := CheckReport{Dir: dir, Format: formatVersion, Problems: []string{}}
	lost, err := lostStateIn(dir)
	if err == nil && lost == nil {
		var there bool
		if there, err = exists(filepath.Join(dir, "state.db")); err == nil && !there {
			err = &record.FormatError{Path: dir, Reason: "is not a spool", Hint: "give the directory that holds state.db"}
		}
		if err == nil {
			err = checkFormats(dir)
		}
	}
	if err != nil {
		return r, fmt.Errorf("check the spool: %w", err)
	}
	unlock, err := lockForCheck(dir)
	if err != nil {
		return r, fmt.Errorf("check the spool: %w", err)
	}
	defer unlock()
	c := &checker{report: &r, shards: map[record.ShardID]*checkedShard{}}
	if err := c.run(ctx, dir, lost); err != nil {
		return r, fmt.Errorf("check the spool: %w", err)
	}
	return r, nil
}

// lockForCheck keeps others out without touching the lock's file.
func lockForCheck(dir string) (func(), error) {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	ok, err := tryLock(f)
	if err == nil && ok {
		return func() { _ = f.Close() }, nil
	}
	defer f.Close()
	if err != nil {
		return nil, err
	}
	b, _ := io.ReadAll(io.LimitReader(f, 32))
	return nil, &LockedError{Dir: dir, PID: parsePID(b)}
}

type checkedShard struct {
	stream string
	log    uint32
	first  uint64 // kept
	next   uint64
	stated uint64 // next in state.db
	gone   uint64 // by the ledger
	old    bool   // state.db has no ledger
	known  []corruptRange
}

type checker struct {
	report *CheckReport
	shards map[record.ShardID]*checkedShard
	clean  bool
}

func (c *checker) problem(format string, args ...any) {
	if len(c.report.Problems) < maxProblems {
		c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
	}
}

func (c *checker) run(ctx context.Context, dir string, lost *lostState) error {
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			c.report.Bytes += fi.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	var logs []uint32
	var cursors map[cursorKey]*place
	if lost == nil {
		logs, cursors, err = c.readState(ctx, dir)
		if found, ok := errors.AsType[*lostState](asLost(err)); ok {
			lost, err = found, nil
		}
	}
	if lost != nil {
		logs, err = c.planned(ctx, dir, lost)
	}
	if err != nil {
		return err
	}
	for _, n := range logs {
		if err := c.checkLog(ctx, filepath.Join(dir, logDir(n)), n); err != nil {
			return err
		}
	}
	c.checkCursors(cursors)
	if c.clean {
		for id, sh := range c.shards {
			if sh.next == 0 {
				continue // no segment tells of it
			}
			if sh.stated != sh.next {
				c.problem("state.db: shard %d of stream %q ends at %d, but its log at %d", id, sh.stream, sh.stated, sh.next)
			}
			if sh.gone+1 < sh.first && !sh.old { // the other way round a removal could not be done yet
				c.problem("state.db: shard %d of stream %q begins at %d, but the ledger says that only %d are gone", id, sh.stream, sh.first, sh.gone)
			}
		}
	}
	slices.Sort(c.report.Problems)
	return nil
}

// snapshot opens a file that may have a WAL, without changing either: with a
// WAL a copy is opened.
func (c *checker) snapshot(ctx context.Context, path string) (*database, func(), error) {
	if fileSize(path+"-wal") == 0 {
		db, err := openDatabase(ctx, path, openImmutable, "")
		return db, func() { _ = db.Close() }, err
	}
	tmp, err := os.MkdirTemp("", "forebay-check-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { _ = os.RemoveAll(tmp) }
	copied := filepath.Join(tmp, "copy")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(copied+suffix, path+suffix); err != nil {
			remove()
			return nil, nil, err
		}
	}
	db, err := openDatabase(ctx, copied, openWrite, "")
	if err != nil {
		remove()
		return nil, nil, err
	}
	return db, func() { _ = db.Close(); remove() }, nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (c *checker) checkWAL(path, name string) {
	lost, err := lostInWAL(path)
	if err == nil && lost > 0 {
		err = fmt.Errorf("at least %d commits behind a damaged place are lost", lost)
	}
	if err != nil {
		c.problem("%s-wal: %v", name, err)
	}
}

func (c *checker) checkLog(ctx context.Context, dir string, num uint32) error {
	segs, err := listSegments(dir)
	if errors.Is(err, fs.ErrNotExist) {
		for _, sh := range c.shards {
			// A log that never took a record may not have been made yet.
			if sh.log == num && sh.stated > 1 {
				c.problem("%s is missing", filepath.Base(dir))
				break
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	sources := map[string]sourceTotal{}
	var before *checkedSegment
	for i, n := range segs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i > 0 && n != segs[i-1]+1 {
			c.problem("%s: segments %d to %d are missing", filepath.Base(dir), segs[i-1]+1, n-1)
		}
		path := filepath.Join(dir, segmentFile(n))
		seg := &checkedSegment{checker: c, log: num, num: n, path: path, name: filepath.Join(filepath.Base(dir), segmentFile(n)), sources: sources, first: i == 0}
		if i+1 < len(segs) {
			seg.limit = c.blockLimit(ctx, filepath.Join(dir, segmentFile(segs[i+1])))
		} else {
			seg.limit = -1
		}
		if err := seg.check(ctx, before); err != nil {
			return err
		}
		before = seg
		c.report.Segments++
	}
	return nil
}

// blockLimit is how many blocks of a segment count, by the one after it; -1 if
// that cannot be told.
func (c *checker) blockLimit(ctx context.Context, next string) int64 {
	db, done, err := c.snapshot(ctx, next)
	if err != nil {
		return -1
	}
	defer done()
	n := int64(-1)
	if err := db.QueryRowContext(ctx, "SELECT prev_blocks FROM meta").Scan(&n); err != nil {
		return -1
	}
	return n
}

type checkedSegment struct {
	*checker
	log     uint32
	num     uint64
	path    string
	name    string
	first   bool
	limit   int64 // blocks behind it do not count; -1: all do
	blocks  int64
	sources map[string]sourceTotal
	chunks  *os.File
	blind   bool // its head is damaged
}

func (s *checkedSegment) check(ctx context.Context, before *checkedSegment) error {
	db, done, err := s.snapshot(ctx, s.path)
	if err != nil {
		s.problem("%s cannot be opened: %v", s.name, err)
		return nil
	}
	defer done()
	m, err := readMeta(ctx, db, s.log, s.num)
	if err != nil {
		s.problem("%s: its head cannot be read, and is made again from its blocks when the spool is opened: %v", s.name, err)
		s.blind = true
		if s.first {
			s.forgetNumbers()
		}
	} else {
		s.checkHeads(m, before)
	}
	if f, err := os.Open(chunkFileOf(s.path)); err == nil {
		s.chunks = f
		defer f.Close()
	}
	s.checkWAL(s.path, s.name)
	var quick string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&quick); err != nil || quick != "ok" {
		s.problem("%s: SQLite finds it damaged: %s%v", s.name, quick, err)
	}
	for stuck := 0; ; {
		before := s.blocks
		last, err := s.readBlocks(ctx, db)
		if err == nil {
			break
		}
		if !isDamage(err) {
			return fmt.Errorf("read %s: %w", s.name, err)
		}
		s.problem("%s: block %d cannot be read: %v", s.name, last+1, err)
		s.blocks = last + 1
		// Where the table itself is damaged there is no end of blocks that
		// cannot be read.
		if stuck++; last > before {
			stuck = 0
		}
		if s.blind && s.blocks == 1 {
			break // not even the table is there
		}
		if stuck >= maxStuck {
			s.problem("%s: nothing can be read behind block %d", s.name, last)
			break
		}
	}
	if s.limit > s.blocks {
		s.problem("%s has %d blocks; the segment after it counted %d", s.name, s.blocks, s.limit)
	}
	return nil
}

// checkHeads compares what the segment says about everything before it with
// what was met.
func (s *checkedSegment) checkHeads(m *segMeta, before *checkedSegment) {
	for id, sh := range s.shards {
		if sh.log != s.log {
			continue
		}
		h := m.head(id)
		if s.first {
			sh.first, sh.next = h.next, h.next
			continue
		}
		if sh.next == 0 {
			sh.first, sh.next = h.next, h.next
		}
		if h.next != sh.next {
			s.gap(id, sh, h.next, fmt.Sprintf("%s begins at %d", s.name, h.next))
		}
	}
	if s.first {
		maps.Copy(s.sources, m.sources)
		return
	}
	if before == nil || before.blind || before.limit >= 0 && before.blocks < before.limit {
		maps.Copy(s.sources, m.sources)
		return
	}
	for name, t := range m.sources {
		if s.sources[name] != t {
			s.problem("%s: source %q has %d records by its head, and %d by the blocks", s.name, name, t.taken, s.sources[name].taken)
		}
	}
	maps.Copy(s.sources, m.sources)
}

// forgetNumbers lets the log's shards begin where their first blocks are found.
func (s *checkedSegment) forgetNumbers() {
	for _, sh := range s.shards {
		if sh.log == s.log {
			sh.first, sh.next = 0, 0
		}
	}
}

// gap notes missing records, and moves behind them.
func (c *checker) gap(id record.ShardID, sh *checkedShard, next uint64, where string) {
	if next < sh.next {
		c.problem("shard %d of stream %q: number %d is given twice; %s", id, sh.stream, next, where)
	} else {
		c.problem("shard %d of stream %q: records %d to %d are lost%s; %s", id, sh.stream, sh.next, next-1, sh.knownNote(next), where)
	}
	sh.next = next
}

func (sh *checkedShard) knownNote(next uint64) string {
	for _, r := range sh.known {
		if r.from <= sh.next && r.to >= next {
			return " (counted as corrupt in the ledger)"
		}
	}
	return ""
}

func (s *checkedSegment) readBlocks(ctx context.Context, db *database) (int64, error) {
	rows, err := db.QueryContext(ctx, "SELECT rowid, head, body FROM block WHERE rowid > ? ORDER BY rowid", s.blocks)
	if err != nil {
		return s.blocks, asDamage(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var head, body []byte
		if err := rows.Scan(&id, &head, &body); err != nil {
			return s.blocks, err
		}
		if s.limit >= 0 && id > s.limit {
			return s.blocks, nil // never acknowledged, does not count
		}
		if id != s.blocks+1 {
			s.problem("%s: blocks %d to %d are missing", s.name, s.blocks+1, id-1)
		}
		s.blocks = id
		s.report.Blocks++
		b, err := decodeHead(head)
		if err == nil && b.beside() {
			body, err = s.besideBody(b)
		}
		if err == nil {
			if b.key != 0 {
				s.report.Sealed++
				err = b.verifyBody(body)
			} else {
				err = b.setBody(body)
			}
		}
		if err != nil {
			s.problem("%s: block %d is damaged: %v", s.name, id, err)
			if b == nil {
				continue
			}
		}
		s.checkBlock(b, id, err == nil)
	}
	return s.blocks, rows.Err()
}

// besideBody reads a block's body from the chunk file.
func (s *checkedSegment) besideBody(b *block) ([]byte, error) {
	if s.chunks == nil {
		return nil, fmt.Errorf("its body lies in %s, which is missing", filepath.Base(chunkFileOf(s.path)))
	}
	body := make([]byte, b.bodyLen)
	if _, err := s.chunks.ReadAt(body, b.bodyOff); err != nil {
		return nil, fmt.Errorf("its body at %d of %s: %w", b.bodyOff, filepath.Base(chunkFileOf(s.path)), err)
	}
	return body, nil
}

func (s *checkedSegment) checkBlock(b *block, id int64, whole bool) {
	for _, row := range b.sources {
		t := s.sources[row.name]
		t.taken += row.count
		t.quarantined += row.quarantined
		t.last = max(t.last, row.last)
		s.sources[row.name] = t
	}
	for _, g := range b.groups {
		sh := s.shards[g.shard]
		if whole && b.key != 0 {
			s.report.Records += uint64(g.count)
		}
		if sh == nil || sh.log != s.log {
			s.problem("%s: block %d holds shard %d, which no stream of this log has", s.name, id, g.shard)
			continue
		}
		if sh.next == 0 {
			sh.first, sh.next = g.first, g.first
		}
		if g.first != sh.next {
			s.gap(g.shard, sh, g.first, fmt.Sprintf("block %d of %s goes on at %d", id, s.name, g.first))
		}
		sh.next = g.first + uint64(g.count)
		if whole && b.key == 0 {
			s.checkRecords(b, g, id)
		}
	}
}

func (s *checkedSegment) checkRecords(b *block, g group, id int64) {
	gr := newGroupReader(b, g, s.log)
	var rec record.Record
	for gr.left() > 0 {
		out, err := gr.next(&rec)
		if err != nil {
			s.problem("%s: block %d: record %d of shard %d: %v", s.name, id, g.first+uint64(gr.done), g.shard, err)
			return
		}
		s.report.Records++
		if arr := rec.Arrived.UnixNano(); arr < b.minArr || arr > b.maxArr {
			s.problem("%s: block %d: record %d of shard %d arrived outside the block's times", s.name, id, rec.Pos.Seq, g.shard)
		}
		if !rec.Chunk.IsZero() {
			s.checkChunk(outsideData{off: rec.Chunk.Off, n: rec.Chunk.Len, crc: rec.Chunk.CRC}, rec.Pos)
		}
		if out.n > 0 {
			s.checkChunk(out, rec.Pos)
		}
	}
}

func (s *checkedSegment) checkChunk(c outsideData, at record.Pos) {
	s.report.Chunks++
	name := filepath.Base(chunkFileOf(s.path))
	if s.chunks == nil {
		s.problem("%s: record %d of shard %d has bytes in %s, which is missing", s.name, at.Seq, at.Shard, name)
		return
	}
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, io.NewSectionReader(s.chunks, c.off, c.n))
	if err != nil || n != c.n || h.Sum32() != c.crc {
		s.problem("%s: the bytes of record %d of shard %d at %d are damaged", name, at.Seq, at.Shard, c.off)
	}
}

func parsePID(b []byte) int {
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}
