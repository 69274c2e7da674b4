package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// plainLog is the rival: bytes appended to a file and synced, with group
// commit. What waits while a sync runs is written together and shares the next
// sync. It has no framing, no checksum, no index and no end: nothing could be
// read back from it after a crash.
type plainLog struct {
	dir  string
	kind string
	keep int64 // bytes kept; what is older goes, or is written over
	f    *os.File
	off  int64 // in the file
	file int64 // its number

	mu      sync.Mutex
	waiting []plainCall
	wake    chan struct{} // a call waits; one place
	end     chan error    // of the writer
}

type plainCall struct {
	data []byte
	done chan<- error
}

const (
	// A program that appends to a log of its own has to write down what it
	// keeps of each record, and a checksum that tells a torn end.
	framed     = "growing file of framed records"
	growing    = "growing file of bare bytes"
	prewritten = "pre-written file of bare bytes"

	// What is smaller is gathered, so that a group is one write.
	plainGather = 64 << 10
	// A growing file ends here and the next begins, as the spool's do.
	plainFile = 64 << 20
	// A group that begins before the end of a pre-written file may pass it.
	plainSlack = 8 << 20
)

// openPlain makes the file. A growing one is cut at 64 MiB, and the oldest
// goes when keep bytes are passed. A pre-written one has keep zeros that are on
// the disk before anything is measured, so that no append changes its length
// or its map, and is written round and round.
func openPlain(dir, kind string, keep int64) (*plainLog, error) {
	dir = filepath.Join(dir, "plain")
	if err := os.Mkdir(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make a plain file: %w", err)
	}
	p := &plainLog{dir: dir, kind: kind, keep: keep, wake: make(chan struct{}, 1), end: make(chan error, 1)}
	var err error
	if p.f, err = os.Create(p.path(0)); err != nil {
		return nil, fmt.Errorf("make a plain file: %w", err)
	}
	if kind == prewritten {
		if err := writeZeros(p.f, keep+plainSlack); err != nil {
			return nil, errors.Join(fmt.Errorf("write a plain file in advance: %w", err), p.f.Close())
		}
	}
	go p.run()
	return p, nil
}

// rivals are the ways to do the same without the spool. The first is the one
// that the targets speak of: it keeps the same records. The others are handed
// finished bytes, which nobody could read back.
func rivals() []string { return []string{framed, growing, prewritten} }

// A framer writes records down as a plain log does: a head with length and
// CRC-32C for what is written at once, and of each record length, arrival,
// number, source, partition key and payload.
type framer struct{ buf []byte }

func (f *framer) frame(source, key string, seq uint64, data []byte, size int) []byte {
	arrived := time.Now().UnixNano()
	f.buf = append(f.buf[:0], 0, 0, 0, 0, 0, 0, 0, 0)
	for ; len(data) > 0; data = data[size:] {
		f.buf = binary.AppendUvarint(f.buf, uint64(size))
		f.buf = binary.LittleEndian.AppendUint64(f.buf, uint64(arrived))
		f.buf = binary.AppendUvarint(f.buf, seq)
		f.buf = append(binary.AppendUvarint(f.buf, uint64(len(source))), source...)
		f.buf = append(binary.AppendUvarint(f.buf, uint64(len(key))), key...)
		f.buf = append(f.buf, data[:size]...)
		seq++
	}
	binary.LittleEndian.PutUint32(f.buf, uint32(len(f.buf)-8))
	binary.LittleEndian.PutUint32(f.buf[4:], crc32.Checksum(f.buf[8:], crc32.MakeTable(crc32.Castagnoli)))
	return f.buf
}

func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (p *plainLog) path(n int64) string { return filepath.Join(p.dir, fmt.Sprintf("%d", n)) }

// put returns after the bytes are on the disk. done is the caller's, with one
// place, and is used again.
func (p *plainLog) put(data []byte, done chan error) error {
	p.mu.Lock()
	p.waiting = append(p.waiting, plainCall{data, done})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return <-done
}

func (p *plainLog) run() {
	var group []plainCall
	var gather []byte
	for range p.wake {
		p.mu.Lock()
		group, p.waiting = p.waiting, group[:0]
		p.mu.Unlock()
		if len(group) == 0 {
			continue
		}
		err := p.commit(group, &gather)
		for _, c := range group {
			c.done <- err
		}
	}
	p.end <- nil
}

func (p *plainLog) commit(group []plainCall, gather *[]byte) error {
	buf := (*gather)[:0]
	for _, c := range group {
		if len(c.data) < plainGather {
			buf = append(buf, c.data...)
			continue
		}
		if err := p.write(buf); err != nil {
			return err
		}
		buf = buf[:0]
		if err := p.write(c.data); err != nil {
			return err
		}
	}
	if err := p.write(buf); err != nil {
		return err
	}
	*gather = buf
	if err := datasync(p.f); err != nil {
		return err
	}
	return p.roll()
}

// roll begins anew where the file is full.
func (p *plainLog) roll() error {
	if p.kind == prewritten {
		if p.off >= p.keep {
			p.off = 0
		}
		return nil
	}
	if p.off < plainFile {
		return nil
	}
	if old := p.file - 1 - p.keep/plainFile; old >= 0 {
		if err := os.Remove(p.path(old)); err != nil {
			return err
		}
	}
	next, err := os.Create(p.path(p.file + 1))
	if err != nil {
		return err
	}
	err = p.f.Close()
	p.f, p.off = next, 0
	p.file++
	return err
}

func (p *plainLog) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := p.f.WriteAt(b, p.off)
	p.off += int64(len(b))
	return err
}

// close ends the writer and closes the file; no put may run or follow.
func (p *plainLog) close() error {
	close(p.wake)
	return errors.Join(<-p.end, p.f.Close())
}
