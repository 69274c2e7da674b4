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
	// into the file, bytes.
	walLimit = 16 << 20
)

// A segWriter appends to the active segment of a log. It belongs to whoever
// holds the log's write lock.
type segWriter struct {
	seg       *segment
	seam      seam
	db        *database
	insert    *sql.Stmt
	chunks    diskFile
	chunkSize int64
	dirty     bool  // chunk bytes that are not synced
	last      int64 // number of the last committed block
	bytes     int64 // of blocks and chunks in the segment
	written   int64 // to the disk since the last call of takeWritten, estimate
	syncs     uint64
}

func openSegWriter(ctx context.Context, seg *segment, sm seam, wal int64) (*segWriter, error) {
	db, err := sm.database(ctx, seg.path, openWrite)
	if err != nil {
		return nil, err
	}
	w := &segWriter{seg: seg, seam: sm, db: db}
	err = db.run(ctx,
		"PRAGMA journal_mode=WAL",
		"PRAGMA synchronous=FULL",
		"PRAGMA cache_size=-2048",
		fmt.Sprintf("PRAGMA wal_autocheckpoint=%d", max(wal/segmentPageSize, 16)))
	if err == nil {
		w.insert, err = db.PrepareContext(ctx, "INSERT INTO block(id, head, body) VALUES(?,?,?)")
	}
	if err == nil {
		err = db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM block").Scan(&w.last)
	}
	if err == nil {
		err = w.openChunks(false)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	w.bytes = fileSize(seg.path) + fileSize(seg.path+"-wal") + w.chunkSize
	return w, nil
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
		if err := w.seam.disk.syncDir(parent(path)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.chunks, w.chunkSize = f, fi.Size()
	return nil
}

// chunk appends bytes to the chunk file and says where they lie. They are
// durable after syncChunks.
func (w *segWriter) chunk(b []byte) (off int64, crc uint32, err error) {
	if w.chunks == nil {
		if err := w.openChunks(true); err != nil {
			return 0, 0, err
		}
	}
	crc = crc32.Checksum(b, castagnoli)
	var h [chunkHeader]byte
	copy(h[:], chunkMagic)
	binary.LittleEndian.PutUint64(h[4:], uint64(len(b)))
	binary.LittleEndian.PutUint32(h[12:], crc)
	if _, err := w.chunks.WriteAt(h[:], w.chunkSize); err != nil {
		return 0, 0, err
	}
	off = w.chunkSize + chunkHeader
	if _, err := w.chunks.WriteAt(b, off); err != nil {
		return 0, 0, err
	}
	w.chunkSize = off + int64(len(b))
	w.bytes += chunkHeader + int64(len(b))
	w.written += chunkHeader + int64(len(b))
	w.dirty = true
	return off, crc, nil
}

// outside writes what of the record lies beside the block.
func (w *segWriter) outside(p *pending) error {
	if len(p.rec.Blob) > 0 {
		off, crc, err := w.chunk(p.rec.Blob)
		if err != nil {
			return fmt.Errorf("write a chunk: %w", err)
		}
		p.blob = record.ChunkRef{Off: off, Len: int64(len(p.rec.Blob)), CRC: crc}
	}
	if p.outside() {
		off, crc, err := w.chunk(p.rec.Data)
		if err != nil {
			return fmt.Errorf("write a chunk: %w", err)
		}
		p.outOff, p.outCRC = off, crc
	}
	return nil
}

// syncChunks makes the chunks durable; it comes before the blocks that name
// them.
func (w *segWriter) syncChunks() error {
	if !w.dirty {
		return nil
	}
	if err := w.chunks.sync(); err != nil {
		return fmt.Errorf("sync the chunk file: %w", err)
	}
	w.syncs++
	w.dirty = false
	return nil
}

// commit writes blocks in one transaction. After a nil they are durable; after
// an error none of them counts.
func (w *segWriter) commit(ctx context.Context, blocks []*block) error {
	if err := w.syncChunks(); err != nil {
		return err
	}
	if err := w.db.run(ctx, "BEGIN IMMEDIATE"); err != nil {
		return fmt.Errorf("begin a commit: %w", err)
	}
	for i, b := range blocks {
		b.seg, b.id = w.seg.num, w.last+1+int64(i)
		if _, err := w.insert.ExecContext(ctx, b.id, b.head, b.body); err != nil {
			return w.rollback(ctx, fmt.Errorf("write a block: %w", err))
		}
		w.written += 2 * b.size() // once to the WAL, once to the file
	}
	if err := w.seam.commit(ctx, w.db); err != nil {
		return w.rollback(ctx, fmt.Errorf("commit: %w", err))
	}
	w.syncs++
	for _, b := range blocks {
		w.bytes += b.size()
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

// close ends writing. SQLite tries to bring the WAL into the file by itself; it
// stays where that fails.
func (w *segWriter) close() error {
	err := errors.Join(w.insert.Close(), w.db.Close())
	if w.chunks != nil {
		err = errors.Join(err, w.chunks.Close())
	}
	return err
}
