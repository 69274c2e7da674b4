package spool

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"time"

	"forebay/spool/record"
)

const (
	sealedMagic = "FCK2"
	// sealedHeader is what stands before the bytes of a sealed chunk: magic,
	// length and checksum as stored, key id, salt.
	sealedHeader = 20 + saltBytes
	// sealedStep is how many pieces of a chunk are sealed and written at once.
	sealedStep = 16
)

// guarded is the head as it is authenticated with the body: without its two
// checksums and the place of the body, which are not known when it is sealed.
func guarded(head []byte) []byte {
	h := append([]byte(nil), head...)
	clear(h[72:80])
	clear(h[112:120])
	return h
}

// sealBlock seals the body of a block that is encoded but not yet placed.
func (s *segmentKey) sealBlock(b *block) {
	b.flags |= blockEncrypted
	b.key = s.id
	b.bodyLen = uint32(len(b.stored) + tagBytes)
	_, _ = rand.Read(b.nonce[:]) // never fails (crypto/rand)
	b.finish()
	b.stored = s.blocks.Seal(make([]byte, 0, b.bodyLen), b.nonce[:], b.stored, guarded(b.head))
	b.bodyCRC = crc32.Checksum(b.stored, castagnoli)
}

// openBlock verifies a block's body as stored, opens it where it is sealed, and
// keeps it. An *erasedKey where the body is whole but its key is gone.
func (s *segment) openBlock(b *block, stored []byte) error {
	if b.flags&blockEncrypted == 0 {
		return b.setBody(stored)
	}
	if err := b.verifyBody(stored); err != nil {
		return err
	}
	k, err := s.keys.segment(b.key, s.log, s.num)
	if err != nil {
		return err
	}
	plain, err := k.open(b.nonce[:], stored, guarded(b.head))
	if err != nil {
		return err
	}
	b.body, err = unpack(plain, b.codec, b.rawLen)
	return err
}

// useKey seals what is written from now on; nil does not.
func (w *segWriter) useKey(k *dataKey) (err error) {
	switch {
	case k == nil:
		w.key = nil
	case w.key == nil || w.key.id != k.id:
		w.key, err = k.of(w.seg.log, w.seg.num)
	}
	return err
}

// sealed appends a chunk to the chunk file, sealed, and says where it lies.
func (w *segWriter) sealed(plain []byte) (off int64, crc uint32, err error) {
	var salt [saltBytes]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	c, err := w.key.chunk(&salt)
	if err != nil {
		return 0, 0, err
	}
	n := int64(len(plain))
	if err := w.roomFor(sealedHeader + sealedLen(n)); err != nil {
		return 0, 0, err
	}
	at := w.chunkSize + sealedHeader
	total := pieces(n)
	for i := int64(0); i < total; {
		end := min(i+sealedStep, total)
		w.buf = c.sealTo(w.buf[:0], plain, i, end)
		i = end
		if _, err := w.chunks.WriteAt(w.buf, at); err != nil {
			return 0, 0, err
		}
		crc = crc32.Update(crc, castagnoli, w.buf)
		at += int64(len(w.buf))
	}
	h := binary.LittleEndian.AppendUint64([]byte(sealedMagic), uint64(sealedLen(n)))
	h = binary.LittleEndian.AppendUint32(h, crc)
	h = binary.LittleEndian.AppendUint32(h, w.key.id)
	if _, err := w.chunks.WriteAt(append(h, salt[:]...), w.chunkSize); err != nil {
		return 0, 0, err
	}
	off = w.chunkSize + sealedHeader
	w.placed(sealedHeader + sealedLen(n))
	return off, crc, nil
}

// chunkKey makes ready to open the sealed chunk at off.
func (r *keyring) chunkKey(key, log uint32, seg uint64, header []byte) (*chunkSeal, error) {
	k, err := r.segment(key, log, seg)
	if err != nil {
		return nil, err
	}
	if len(header) != sealedHeader || string(header[:4]) != sealedMagic || binary.LittleEndian.Uint32(header[16:]) != key {
		return nil, fmt.Errorf("%w: the head of the sealed chunk is wrong", errDamaged)
	}
	return k.chunk((*[saltBytes]byte)(header[20:]))
}

// readSealed reads, verifies and opens Data from the chunk file; s.mu is held.
func (s *segment) readSealed(c outsideData) ([]byte, error) {
	b, err := s.chunkAt(c.off-sealedHeader, sealedHeader+sealedLen(c.n))
	if err != nil {
		return nil, err
	}
	if crc32.Checksum(b[sealedHeader:], castagnoli) != c.crc {
		return nil, errChecksum
	}
	k, err := s.keys.chunkKey(c.key, s.log, s.num, b[:sealedHeader])
	if err != nil {
		return nil, err
	}
	return k.openAll(b[sealedHeader:], c.n)
}

// A sealedReader reads a sealed chunk, any part of it.
type sealedReader struct {
	f     *os.File
	ref   record.ChunkRef
	keys  *keyring
	key   *chunkSeal
	at    int64
	piece int64 // that plain is, -1 for none
	plain []byte
	buf   []byte
}

// openSealed opens the sealed chunk in a file, which it owns then.
func (r *keyring) openSealed(f *os.File, ref record.ChunkRef) (*sealedReader, error) {
	var h [sealedHeader]byte
	if _, err := f.ReadAt(h[:], ref.Off-sealedHeader); err != nil {
		return nil, &record.CorruptError{File: f.Name(), Err: err, Hint: chunkHint}
	}
	k, err := r.chunkKey(ref.Key, ref.Log, ref.Segment, h[:])
	if err != nil {
		return nil, chunkError(f, err)
	}
	return &sealedReader{f: f, ref: ref, keys: r, key: k, piece: -1}, nil
}

const chunkHint = "the chunk is damaged on the disk"

// chunkError is what a reader of a chunk is told. What was erased is no longer
// there: fs.ErrNotExist.
func chunkError(f *os.File, err error) error {
	if e, ok := errors.AsType[*erasedKey](err); ok {
		return fmt.Errorf("the chunk's stream was erased at %s: %w: %w", e.at.UTC().Format("2006-01-02T15:04:05Z"), record.ErrErased, fs.ErrNotExist)
	}
	return &record.CorruptError{File: f.Name(), Err: err, Hint: chunkHint}
}

func (c *sealedReader) Read(p []byte) (int, error) {
	if c.at >= c.ref.Len {
		return 0, io.EOF
	}
	if i := c.at / chunkPiece; i != c.piece {
		if err := c.load(i); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.plain[c.at%chunkPiece:])
	c.at += int64(n)
	return n, nil
}

func (c *sealedReader) load(i int64) error {
	c.piece = -1
	if at, gone := c.keys.gone(c.ref.Key); gone {
		return chunkError(c.f, &erasedKey{c.ref.Key, at})
	}
	n := min(c.ref.Len-i*chunkPiece, chunkPiece)
	if c.buf == nil {
		c.buf = make([]byte, chunkPiece+tagBytes)
	}
	sealed := c.buf[:n+tagBytes]
	_, err := c.f.ReadAt(sealed, c.ref.Off+i*(chunkPiece+tagBytes))
	if err == nil {
		c.plain, err = c.key.open(sealed[:0], sealed, i, c.ref.Len)
	}
	if err != nil {
		return chunkError(c.f, err)
	}
	c.piece = i
	return nil
}

func (c *sealedReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += c.at
	case io.SeekEnd:
		off += c.ref.Len
	}
	if off < 0 {
		return 0, errors.New("seek in a chunk: before its beginning")
	}
	c.at = off
	return off, nil
}

func (c *sealedReader) Close() error { return c.f.Close() }

const erasedHint = "the stream's key was deleted by an operator; nothing can bring them back"

// erased tells once of a block whose key is gone, and of all else of its shards
// that was sealed with it. It is no damage.
func (s *Scanner) erased(b *block, at time.Time) {
	for _, g := range b.groups {
		k := s.shard(g.shard)
		if k == nil {
			continue
		}
		from := max(g.first, k.told, s.span.FirstSeq)
		to := min(max(g.first+uint64(g.count), s.sp.state.erasedPast(g.shard, b.key)), k.end)
		if s.span.LastSeq > 0 {
			to = min(to, s.span.LastSeq+1)
		}
		if from < to {
			k.told = to
			s.faults = append(s.faults, &record.ErasedError{Shard: g.shard, From: from, To: to, At: at, Hint: erasedHint})
		}
	}
}

// erased tells a reader that a block's key is gone, and moves behind all that
// was sealed with it.
func (r *Reader) erased(g group, e *erasedKey) error {
	to := max(g.first+uint64(g.count), r.sh.log.sp.state.erasedPast(r.sh.id, e.id))
	err := &record.ErasedError{Shard: r.sh.id, From: r.pos, To: to, At: e.at, Hint: erasedHint}
	r.pos, r.has, r.run, r.seg = to, false, nil, nil
	if r.lost != nil {
		r.lost(lossExpired, err.From, err.To)
	}
	return err
}

// erasedSince reports whether a block that was opened has lost its key since.
func (r *Reader) erasedSince(b *block) (*erasedKey, bool) {
	at, gone := r.sh.log.sp.keys.gone(b.key)
	return &erasedKey{b.key, at}, gone
}
