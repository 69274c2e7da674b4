package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"forebay/spool/record"
)

// A Chunk is the bytes of a record's Blob, to be read and closed.
type Chunk struct {
	io.ReadSeekCloser
	Size int64 // bytes
}

// chunkReader reads a part of a chunk file. While it is read from the start
// without a seek, the checksum is verified at the end.
type chunkReader struct {
	*io.SectionReader
	f    *os.File
	ref  record.ChunkRef
	crc  uint32
	read int64 // bytes summed up, -1 after a seek away
}

// OpenChunk gives the bytes of a record's Blob. Read from beginning to end
// they are verified: a *record.CorruptError takes the place of io.EOF if they
// are damaged. An error that is fs.ErrNotExist means that retention has removed
// them.
func (t *Stream) OpenChunk(ref record.ChunkRef) (*Chunk, error) {
	if err := t.sp.enter(); err != nil {
		return nil, err
	}
	defer t.sp.leave()
	if ref.IsZero() || ref.Log != t.log.num || ref.Off < chunkHeader || ref.Len < 0 || ref.Len > record.MaxBlob {
		return nil, fmt.Errorf("open a chunk of stream %q: the reference is not one of this stream", t.name)
	}
	seg := t.log.segment(ref.Segment)
	if seg == nil {
		return nil, fmt.Errorf("open a chunk of stream %q: it is no longer kept: %w", t.name, fs.ErrNotExist)
	}
	f, err := os.Open(chunkFileOf(seg.path))
	if err != nil {
		return nil, fmt.Errorf("open a chunk of stream %q: %w", t.name, err)
	}
	if ref.Key != 0 {
		c, err := t.sp.keys.openSealed(f, ref)
		if err != nil {
			_ = f.Close() // opened for reading only
			return nil, fmt.Errorf("open a chunk of stream %q: %w", t.name, err)
		}
		return &Chunk{ReadSeekCloser: c, Size: ref.Len}, nil
	}
	return &Chunk{ReadSeekCloser: &chunkReader{SectionReader: io.NewSectionReader(f, ref.Off, ref.Len), f: f, ref: ref}, Size: ref.Len}, nil
}

func (c *chunkReader) Read(p []byte) (int, error) {
	n, err := c.SectionReader.Read(p)
	if c.read >= 0 && n > 0 {
		c.crc = crc32.Update(c.crc, castagnoli, p[:n])
		c.read += int64(n)
	}
	if errors.Is(err, io.EOF) && c.read >= 0 && (c.read != c.ref.Len || c.crc != c.ref.CRC) {
		return n, &record.CorruptError{File: c.f.Name(), Err: errChecksum, Hint: "the chunk is damaged on the disk"}
	}
	return n, err
}

func (c *chunkReader) Seek(off int64, whence int) (int64, error) {
	at, err := c.SectionReader.Seek(off, whence)
	if err == nil && at != max(c.read, 0) {
		c.read = -1
		if at == 0 {
			c.read, c.crc = 0, 0
		}
	}
	return at, err
}

func (c *chunkReader) Close() error { return c.f.Close() }
