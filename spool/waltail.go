package spool

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
)

// SQLite ends the recovery of a WAL at the first frame that does not fit, and
// says nothing: that is how it forgets what a power cut left half done. A
// damaged byte in the middle looks the same to it, and everything behind would
// be gone silently. But a commit is synced before the next one begins. So where
// two commits or more lie behind the frame that does not fit, all but the last
// were on the disk and somebody was told so: the WAL is damaged.
//
// Of the last commit nobody can tell whether its sync had ended.
//
// The WAL of a segment is then mended: its checksums are made right again over
// what is there, so that SQLite takes all of it, and the blocks' own checksums
// say which of them is damaged. state.db has no checksums of its own; there the
// older state stands, which is a whole one, and the condition "corrupt" tells.
//
// The format is sqlite.org/fileformat2.html#walformat. SQLite syncs a new header
// before any frame that follows it, so frames with the header's salts are never
// left over from an earlier round.

const (
	walHeaderBytes = 32
	walFrameBytes  = 24
	walMagic       = 0x377f0682 // the last bit says that checksums are big endian
)

// lostInWAL counts the synced commits that SQLite will not find behind a
// damaged place of a database's WAL. It reads only.
func lostInWAL(path string) (int, error) {
	f, err := os.Open(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	w, err := scanWAL(path, f, fi.Size())
	return w.lost(), err
}

// mendWAL makes the checksums of a segment's damaged WAL right again, and
// returns how many synced commits that brings back. What it does can be cut off
// anywhere and begun again.
func (sm seam) mendWAL(path string) (int, error) {
	lost, err := lostInWAL(path)
	if lost == 0 || err != nil {
		return 0, err
	}
	f, err := sm.disk.open(path+"-wal", os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	err = mend(path, f)
	return lost, errors.Join(err, f.Close())
}

func mend(path string, f diskFile) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	w, err := scanWAL(path, f, fi.Size())
	if err != nil {
		return err
	}
	var head [walHeaderBytes]byte
	be := binary.BigEndian
	be.PutUint32(head[0:], walMagic)
	be.PutUint32(head[4:], 3007000)
	be.PutUint32(head[8:], uint32(w.page))
	copy(head[16:24], w.salts[:])
	s1, s2 := walSum(binary.LittleEndian, head[:24], 0, 0)
	be.PutUint32(head[24:], s1)
	be.PutUint32(head[28:], s2)
	if _, err := f.WriteAt(head[:], 0); err != nil {
		return err
	}
	frame := make([]byte, walFrameBytes+w.page)
	for i := range w.last {
		at := walHeaderBytes + int64(i)*int64(len(frame))
		if _, err := f.ReadAt(frame, at); err != nil {
			return err
		}
		copy(frame[8:16], w.salts[:])
		s1, s2 = walSum(binary.LittleEndian, frame[:8], s1, s2)
		s1, s2 = walSum(binary.LittleEndian, frame[walFrameBytes:], s1, s2)
		be.PutUint32(frame[16:], s1)
		be.PutUint32(frame[20:], s2)
		if _, err := f.WriteAt(frame[:walFrameBytes], at); err != nil {
			return err
		}
	}
	return f.sync()
}

func scanWAL(path string, f io.ReaderAt, size int64) (w walScan, err error) {
	if size <= walHeaderBytes+walFrameBytes {
		return w, nil
	}
	var head [walHeaderBytes]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return w, err
	}
	be := binary.BigEndian
	w = walScan{salts: [8]byte(head[16:24]), page: int(be.Uint32(head[8:])), order: binary.LittleEndian}
	if be.Uint32(head[:])&1 != 0 {
		w.order = binary.BigEndian
	}
	w.s1, w.s2 = walSum(w.order, head[:24], 0, 0)
	w.valid = be.Uint32(head[:])&^1 == walMagic && be.Uint32(head[24:]) == w.s1 && be.Uint32(head[28:]) == w.s2
	if !w.valid {
		// The frames say what the header should have.
		var first [walFrameBytes]byte
		if _, err := f.ReadAt(first[:], walHeaderBytes); err != nil {
			return w, err
		}
		w.salts = [8]byte(first[8:16])
		if w.salts == [8]byte{} {
			return w, nil // a WAL that was only prepared
		}
		if w.page, err = pageSize(path); err != nil {
			return w, nil //nolint:nilerr // the file itself is damaged; its reader says so
		}
	}
	if w.page < 512 || w.page > 65536 || w.page&(w.page-1) != 0 {
		return w, nil
	}
	err = w.run(io.NewSectionReader(f, walHeaderBytes, size-walHeaderBytes))
	return w, err
}

// pageSize is what a database's own header says.
func pageSize(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var b [2]byte
	if _, err := f.ReadAt(b[:], 16); err != nil {
		return 0, err
	}
	if n := int(binary.BigEndian.Uint16(b[:])); n != 1 {
		return n, nil
	}
	return 65536, nil
}

type walScan struct {
	order  binary.ByteOrder
	salts  [8]byte
	page   int
	s1, s2 uint32
	valid  bool // no frame was met yet that does not fit
	behind int  // commits behind the first that does not
	last   int  // frames up to the end of the last commit
}

// lost is how many synced commits are behind the first frame that does not fit.
func (w *walScan) lost() int { return max(w.behind-1, 0) }

// run goes through the frames.
func (w *walScan) run(frames io.Reader) error {
	frame := make([]byte, walFrameBytes+w.page)
	for i := 1; ; i++ {
		if _, err := io.ReadFull(frames, frame); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return err
		}
		ours := [8]byte(frame[8:16]) == w.salts
		if w.valid {
			s1, s2 := walSum(w.order, frame[:8], w.s1, w.s2)
			s1, s2 = walSum(w.order, frame[walFrameBytes:], s1, s2)
			whole := binary.BigEndian.Uint32(frame[16:]) == s1 && binary.BigEndian.Uint32(frame[20:]) == s2
			w.valid = ours && whole
			w.s1, w.s2 = s1, s2
			// The checksums go on from the header's, salts included: no frame of an
			// earlier round has them. Where only its salts differ they are damaged.
			ours = ours || whole
		}
		if ours && binary.BigEndian.Uint32(frame[4:]) != 0 {
			w.last = i
			if !w.valid {
				w.behind++
			}
		}
	}
}

// walSum goes on with SQLite's checksum over b, whose length is a multiple of 8.
func walSum(order binary.ByteOrder, b []byte, s1, s2 uint32) (uint32, uint32) {
	for ; len(b) >= 8; b = b[8:] {
		s1 += order.Uint32(b) + s2
		s2 += order.Uint32(b[4:]) + s1
	}
	return s1, s2
}
