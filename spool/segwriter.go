package spool

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"forebay/spool/record"
)

const (
	chunkMagic  = "FCK1"
	chunkHeader = 16
	// walLimit is how much the WAL of a segment may hold before it is brought
	// into the file, bytes. Large bodies do not pass through it.
	walLimit = 1 << 20
	// chunkCopy is up to what length a chunk is copied to be written together
	// with its header, bytes.
	chunkCopy = 32 << 10
	// chunkStep is how much room a chunk file is given at once, bytes.
	chunkStep = 8 << 20
)

// A segWriter appends to the active segment of a log. Two goroutines share it:
// what is encoded next belongs to whoever holds the log's write lock, what is
// committed to the committer. See pipeline in writer.go.
type segWriter struct {
	seg  *segment
	seam seam

	// The encoder's.
	chunks    diskFile
	chunkSize int64
	chunkRoom int64       // that the chunk file has been given
	step      int64       // by which it is given room
	nextID    int64       // number of the next block
	bytes     int64       // of blocks and chunks in the segment
	buf       []byte      // of one chunk with its header
	key       *segmentKey // that blocks and chunks are sealed with; nil: they are not

	// The committer's.
	db     *database
	insert *sql.Stmt
	last   int64 // number of the last committed block
}

// openSegWriter opens a segment for writing. fresh says that it is the active
// one, whose WAL is worth preparing.
func (l *commitLog) openSegWriter(ctx context.Context, seg *segment, fresh bool) (*segWriter, error) {
	sm, wal := l.sp.seam, l.walBytes()
	if fresh {
		if err := l.prepareWAL(seg.path + "-wal"); err != nil {
			// On a full disk the room may still do for what matters.
			if err = storeError(err); !errors.Is(err, record.ErrFull) {
				return nil, fmt.Errorf("prepare the WAL: %w", err)
			}
		}
	}
	db, err := sm.database(ctx, seg.path, openWrite)
	if err != nil {
		return nil, err
	}
	w := &segWriter{seg: seg, seam: sm, db: db, step: min(chunkStep, l.sp.quota/256)}
	err = db.run(ctx,
		"PRAGMA journal_mode=WAL",
		"PRAGMA synchronous=FULL",
		"PRAGMA cache_size=-2048",
		fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", max(wal/segmentPageSize, 16)))
	if err == nil {
		w.insert, err = db.PrepareContext(ctx, "INSERT INTO block(rowid, head, body) VALUES(?,?,?)")
	}
	if err == nil {
		err = db.QueryRowContext(ctx, "SELECT coalesce(max(rowid), 0) FROM block").Scan(&w.last)
	}
	if err == nil {
		err = w.openChunks(false)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	w.nextID = w.last + 1
	w.bytes = fileSize(seg.path) + w.chunkSize
	return w, nil
}

// prepareWAL fills a new WAL with zeros. SQLite takes that for an empty WAL and
// writes over it, so that a commit does not make a file longer, which would
// cost it a commit of the file system's journal too. A WAL that is there stays
// as it is.
func (l *commitLog) prepareWAL(path string) error {
	sm, size := l.sp.seam, l.walBytes()
	size += size / 16
	if fileSize(path) > 0 {
		return nil
	}
	f, err := sm.disk.open(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	var zeros [segmentPageSize]byte
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:], off); err != nil {
			return errors.Join(err, f.Close(), sm.disk.remove(path))
		}
	}
	return errors.Join(f.sync(), f.Close())
}

// emptyWAL brings what an earlier process left in the WAL into the file. SQLite
// would go on behind it, and over the half of a commit that a power cut may have
// left there: then frames of different times would stand in one WAL, which look
// like commits that damage hides, and mendWAL would believe them.
func (sm seam) emptyWAL(ctx context.Context, path string) error {
	if fileSize(path+"-wal") == 0 {
		return nil
	}
	db, err := sm.database(ctx, path, openWrite)
	if err != nil {
		return err
	}
	err = db.run(ctx, "PRAGMA synchronous=FULL")
	if err == nil {
		err = db.truncateWAL(ctx)
	}
	return errors.Join(err, db.Close())
}

// openChunks opens the chunk file, and creates it only where asked to.
func (w *segWriter) openChunks(create bool) error {
	path := chunkFileOf(w.seg.path)
	there, err := exists(path)
	if err != nil || (!there && !create) {
		return err
	}
	f, err := w.seam.disk.open(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if !there {
		if err := w.seam.disk.syncDir(parent(path)); err != nil { // the next try syncs the name again
			return errors.Join(err, f.Close(), w.seam.disk.remove(path))
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.chunks, w.chunkSize, w.chunkRoom = f, fi.Size(), fi.Size()
	return nil
}

// chunk appends bytes to the chunk file and says where they lie. They are
// durable after syncChunks.
func (w *segWriter) chunk(b []byte, crc uint32) (off int64, err error) {
	n := chunkHeader + int64(len(b))
	if err := w.roomFor(n); err != nil {
		return 0, err
	}
	w.buf = append(w.buf[:0], chunkMagic...)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(len(b)))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, crc)
	if len(b) <= chunkCopy { // one write
		w.buf = append(w.buf, b...)
		_, err = w.chunks.WriteAt(w.buf, w.chunkSize)
	} else if _, err = w.chunks.WriteAt(w.buf, w.chunkSize); err == nil {
		_, err = w.chunks.WriteAt(b, w.chunkSize+chunkHeader)
	}
	if err != nil {
		return 0, err
	}
	off = w.chunkSize + chunkHeader
	w.placed(n)
	return off, nil
}

// roomFor sees to it that the chunk file is there and has room for n bytes.
func (w *segWriter) roomFor(n int64) error {
	if w.chunks == nil {
		if err := w.openChunks(true); err != nil {
			return err
		}
	}
	if end := w.chunkSize + n; end > w.chunkRoom {
		// Room that is given ahead keeps a sync from having to find some. A
		// file system that cannot give any, or is nearly full, does without.
		w.chunkRoom = end + w.step
		_ = w.chunks.extend(w.chunkSize, w.chunkRoom-w.chunkSize)
	}
	return nil
}

// placed counts n bytes that were written behind the chunk file's end.
func (w *segWriter) placed(n int64) {
	w.chunkSize += n
	w.bytes += n
	w.seg.ahead.Store(w.chunkRoom - w.chunkSize)
}

// beside writes a record's bytes to the chunk file, sealed where a key is in
// use.
func (w *segWriter) beside(b []byte) (off int64, crc uint32, err error) {
	if w.key != nil {
		return w.sealed(b)
	}
	crc = crc32.Checksum(b, castagnoli)
	off, err = w.chunk(b, crc)
	return off, crc, err
}

// outside writes what of the record lies beside the block.
func (w *segWriter) outside(p *pending) error {
	if len(p.rec.Blob) > 0 {
		off, crc, err := w.beside(p.rec.Blob)
		if err != nil {
			return fmt.Errorf("write a chunk: %w", err)
		}
		p.placed().blob = record.ChunkRef{Off: off, Len: int64(len(p.rec.Blob)), CRC: crc}
	}
	if p.outside() {
		off, crc, err := w.beside(p.rec.Data)
		if err != nil {
			return fmt.Errorf("write a chunk: %w", err)
		}
		p.placed().off, p.placed().crc = off, crc
	}
	return nil
}

// take numbers a block and writes its body to the chunk file, if it belongs
// there.
func (w *segWriter) take(b *block) (err error) {
	b.seg, b.id = w.seg.num, w.nextID
	if w.key != nil {
		w.key.sealBlock(b)
	}
	if b.beside() {
		if b.bodyOff, err = w.chunk(b.stored, b.bodyCRC); err != nil {
			return fmt.Errorf("write a block's body: %w", err)
		}
	}
	b.finish()
	w.nextID++
	w.bytes += b.row()
	return nil
}

// syncChunks makes the chunks durable; it comes before the blocks that name
// them.
func (w *segWriter) syncChunks() error {
	if err := w.chunks.sync(); err != nil {
		return fmt.Errorf("sync the chunk file: %w", err)
	}
	return nil
}

// commit writes blocks in one transaction. After a nil they are durable; after
// an error none of them counts.
func (w *segWriter) commit(ctx context.Context, blocks []*block) error {
	if err := w.db.run(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin a commit: %w", err)
	}
	for _, b := range blocks {
		var body []byte // NULL
		if !b.beside() {
			body = b.stored
		}
		if _, err := w.insert.ExecContext(ctx, b.id, b.head, body); err != nil {
			return w.rollback(ctx, fmt.Errorf("write a block: %w", err))
		}
	}
	if err := w.seam.commit(ctx, w.db); err != nil {
		return w.rollback(ctx, fmt.Errorf("commit: %w", err))
	}
	w.last += int64(len(blocks))
	return nil
}

// rollback ends the transaction. SQLite may have ended it already, so its own
// error tells nothing.
func (w *segWriter) rollback(ctx context.Context, cause error) error {
	_ = w.db.run(ctx, "ROLLBACK")
	return cause
}

// undo takes back what was encoded but will never be committed: the numbers,
// and the end of the chunk file from chunkSize on, which is in the way on a
// full disk. What cannot be cut off stays; nothing refers to it.
func (w *segWriter) undo(chunkSize int64) error {
	w.nextID = w.last + 1
	if w.chunks == nil || chunkSize >= w.chunkSize {
		return nil
	}
	if err := w.chunks.Truncate(chunkSize); err != nil {
		return fmt.Errorf("cut back the chunk file: %w", err)
	}
	w.chunkSize, w.chunkRoom = chunkSize, chunkSize
	w.seg.ahead.Store(0)
	w.bytes = fileSize(w.seg.path) + chunkSize
	return nil
}

// trim gives back the room that the chunk file did not use.
func (w *segWriter) trim() error {
	if w.chunks == nil || w.chunkRoom <= w.chunkSize {
		return nil
	}
	w.chunkRoom = w.chunkSize
	w.seg.ahead.Store(0)
	return w.chunks.Truncate(w.chunkSize)
}

// close ends writing. SQLite tries to bring the WAL into the file by itself; it
// stays where that fails.
func (w *segWriter) close() error {
	err := errors.Join(w.trim(), w.insert.Close(), w.db.Close())
	if w.chunks != nil {
		err = errors.Join(err, w.chunks.Close())
	}
	return err
}
