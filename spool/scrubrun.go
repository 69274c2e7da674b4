package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"forebay/spool/record"
)

const damageHint = "the records before and after it are served; the file is kept for inspection until retention removes it"

// A scrubRun is the reading of one segment, with handles of its own so that no
// reader waits for it.
type scrubRun struct {
	*scrubber
	walk   *scrubWalk
	seg    *segment
	db     *database
	chunks *os.File
	last   int64 // block passed
	cause  error // of the last block whose head is damaged
}

func (r *scrubRun) close() {
	_ = r.db.Close() // for reading only
	if r.chunks != nil {
		_ = r.chunks.Close() // for reading only
	}
}

// open reads the segment's own head.
func (r *scrubRun) open(ctx context.Context) (err error) {
	if r.db, err = openDatabase(ctx, r.seg.path, openImmutable, ""); err != nil {
		return err
	}
	if err := r.db.run(ctx, "PRAGMA cache_size=-256"); err != nil {
		return asDamage(err)
	}
	_, err = readMeta(ctx, r.db, r.seg.log, r.seg.num)
	if isDamage(err) { // the blocks are looked at all the same
		r.seg.forget()
		r.found(&record.CorruptError{File: r.seg.file(), Err: fmt.Errorf("read its head: %w", err), Hint: damageHint})
		return nil
	}
	return err
}

// blocks verifies the blocks that count.
func (r *scrubRun) blocks(ctx context.Context, segs []*segment, i int) error {
	end, err := r.walk.log.blocksOf(ctx, segs, i)
	if err != nil {
		return err
	}
	for r.last < end {
		before := r.last
		n, err := r.piece(ctx, end)
		if err != nil && !isDamage(err) {
			return err
		}
		if err != nil { // a page of the file: the block behind cannot be had
			r.last++
			r.cause = err
		}
		if n == 0 && err == nil && r.last == before {
			return nil // what is missing shows in the next segment's heads
		}
		if !r.rest(n) {
			return record.ErrClosed
		}
	}
	return nil
}

// piece verifies the next blocks, about scrubPiece bytes of them.
func (r *scrubRun) piece(ctx context.Context, end int64) (n int64, err error) {
	rows, err := r.db.QueryContext(ctx, "SELECT rowid, head, body FROM block WHERE rowid > ? AND rowid <= ? ORDER BY rowid", r.last, end)
	if err != nil {
		return 0, asDamage(err)
	}
	defer rows.Close()
	for n < scrubPiece && rows.Next() {
		var id int64
		var head, body []byte
		if err := rows.Scan(&id, &head, &body); err != nil {
			return n, asDamage(err)
		}
		n += int64(len(head) + len(body))
		r.last = id
		if err := r.block(id, head, body); err != nil {
			return n, err
		}
	}
	return n, asDamage(rows.Err())
}

// block verifies one block and the chunks that its records refer to. Its error
// is not about the block.
func (r *scrubRun) block(id int64, head, body []byte) error {
	b, err := decodeHead(head)
	if err != nil {
		r.cause = err // what it held shows as a gap
		return nil
	}
	b.seg, b.id = r.seg.num, id
	var n int64
	if b.beside() {
		n = int64(b.bodyLen)
		if body, err = r.beside(b); err != nil && !isDamage(err) {
			return err
		}
	}
	if err == nil {
		err = r.seg.openBlock(b, body)
	}
	_, erased := errors.AsType[*erasedKey](err) // its bytes are whole; that is all that can be told
	for _, g := range b.groups {
		r.gap(g.shard, g.first, r.cause)
		past := g.first + uint64(g.count)
		switch {
		case erased:
		case err != nil:
			r.lost(id, g.shard, g.first, past, err)
		default:
			if err := r.records(b, g); err != nil {
				return err
			}
		}
		if r.walk.next != nil {
			r.walk.next[g.shard] = past
		}
	}
	r.cause = nil
	if !r.rest(n) {
		return record.ErrClosed
	}
	return nil
}

// beside reads a block's body from the chunk file.
func (r *scrubRun) beside(b *block) ([]byte, error) {
	if bad, err := r.openChunks(); bad != nil || err != nil {
		if bad != nil {
			err = fmt.Errorf("%w: %w", errDamaged, bad)
		}
		return nil, err
	}
	body := make([]byte, b.bodyLen)
	if _, err := r.chunks.ReadAt(body, b.bodyOff); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return body, nil
}

// openChunks opens the chunk file. bad says that it is missing.
func (r *scrubRun) openChunks() (bad, err error) {
	if r.chunks != nil {
		return nil, nil
	}
	f, err := os.Open(chunkFileOf(r.seg.path))
	if errors.Is(err, fs.ErrNotExist) {
		if r.seg.removed() {
			return nil, errGone
		}
		return errors.New("the chunk file is missing"), nil
	}
	r.chunks = f
	return nil, err
}

// records verifies that a group decodes, and its chunks.
func (r *scrubRun) records(b *block, g group) error {
	gr := newGroupReader(b, g, r.seg.log)
	var rec record.Record
	for gr.left() > 0 {
		seq := g.first + uint64(gr.done)
		out, err := gr.next(&rec)
		if err != nil {
			r.lost(b.id, g.shard, seq, g.first+uint64(g.count), err)
			return nil
		}
		if out.n > 0 {
			bad, err := r.chunk(out)
			if err != nil {
				return err
			}
			if bad != nil {
				r.lost(b.id, g.shard, seq, seq+1, bad)
			}
		}
		if !rec.Chunk.IsZero() {
			bad, err := r.chunk(outsideData{off: rec.Chunk.Off, n: rec.Chunk.Len, crc: rec.Chunk.CRC, key: rec.Chunk.Key})
			if err != nil {
				return err
			}
			if bad != nil { // the record itself is whole and served
				r.found(&record.CorruptError{
					File: chunkFileOf(r.seg.file()), Block: b.id, Err: fmt.Errorf("the chunk of record %d of shard %d at %d: %w", seq, g.shard, rec.Chunk.Off, bad),
					Hint: "its record is served and says so; the chunk cannot be opened whole",
				})
			}
		}
	}
	return nil
}

// chunk verifies bytes in the chunk file. bad is what is wrong with them; err
// ends the run.
func (r *scrubRun) chunk(c outsideData) (bad, err error) {
	if bad, err := r.openChunks(); bad != nil || err != nil {
		return bad, err
	}
	if c.key != 0 {
		c.n = sealedLen(c.n) // the checksum is of the bytes as stored
	}
	if r.buf == nil {
		r.buf = make([]byte, scrubPiece)
	}
	var sum uint32
	for off, left := c.off, c.n; left > 0; {
		n, err := r.chunks.ReadAt(r.buf[:min(left, scrubPiece)], off)
		sum = crc32.Update(sum, castagnoli, r.buf[:n])
		off, left = off+int64(n), left-int64(n)
		if err != nil && left > 0 {
			if errors.Is(err, io.EOF) {
				err = errShort
			}
			return err, nil
		}
		if !r.rest(int64(n)) {
			return nil, record.ErrClosed
		}
	}
	if sum != c.crc {
		return errChecksum, nil
	}
	return nil, nil
}

// gap notes records that are missing in front of to.
func (r *scrubRun) gap(id record.ShardID, to uint64, cause error) {
	from, ok := r.walk.next[id]
	if !ok || from >= to {
		return
	}
	if cause == nil {
		cause = errors.New("records are missing")
	}
	r.lost(r.last, id, from, to, cause)
}

// lost notes records that cannot be read.
func (r *scrubRun) lost(block int64, id record.ShardID, from, to uint64, cause error) {
	r.found(&record.CorruptError{File: r.seg.file(), Block: block, Shard: id, From: from, To: to, Err: cause, Hint: damageHint})
}

// found reports damage, unless retention has removed the segment meanwhile.
// Ranges that are known are not reported again.
func (r *scrubRun) found(e *record.CorruptError) {
	l := r.walk.log
	if l.segment(r.seg.num) != r.seg {
		return
	}
	r.count(func(s *ScrubStats) { s.Damaged++ })
	if e.From > 0 && l.sp.state.addCorrupt(corruptRange{shard: e.Shard, from: e.From, to: e.To, file: e.File, block: e.Block}) == 0 {
		return
	}
	l.sp.raise("corrupt", 2, "found while scrubbing: "+e.Error())
}
