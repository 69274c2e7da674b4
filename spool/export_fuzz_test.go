package spool

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
)

// IndexHeads decodes heads of blocks into an index and looks every group up
// again. It answers how many lookups name a block behind the one that holds the
// group, or one that is not there.
func IndexHeads(heads ...[]byte) (wrong int) {
	x := newSegIndex()
	var blocks []*block
	for _, h := range heads {
		if b, err := decodeHead(h); err == nil {
			b.id = int64(len(blocks) + 1)
			blocks = append(blocks, b)
			x.add(b)
		}
	}
	for _, b := range blocks {
		if at := x.byTime(b.maxArr); at < 1 || at > b.id {
			wrong++
		}
		for _, g := range b.groups {
			if at := x.bySeq(g.shard, g.first); at < 1 || at > int64(len(blocks)) {
				wrong++
			}
		}
	}
	return wrong
}

// MendWAL mends what a WAL's bytes say beside a database that cannot be read,
// and returns the bytes afterwards and how many commits it counted lost before
// and after.
func MendWAL(wal []byte) (mended []byte, before, after int, err error) {
	w, err := scanWAL("there is none", bytes.NewReader(wal), int64(len(wal)))
	if err != nil || w.lost() == 0 {
		return wal, w.lost(), 0, err
	}
	f := &memFile{b: bytes.Clone(wal)}
	if err := mend("there is none", f); err != nil {
		return nil, w.lost(), 0, err
	}
	again, err := scanWAL("there is none", bytes.NewReader(f.b), int64(len(f.b)))
	return f.b, w.lost(), again.behind, err
}

// A memFile is a file in memory that cannot grow.
type memFile struct {
	diskFile
	b []byte
}

type memInfo struct {
	fs.FileInfo
	n int
}

func (i memInfo) Size() int64 { return int64(i.n) }

func (f *memFile) Stat() (fs.FileInfo, error) { return memInfo{n: len(f.b)}, nil }
func (f *memFile) sync() error                { return nil }

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(p, off)
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(f.b)) {
		return 0, errors.Join(os.ErrInvalid, errors.New("written behind the end"))
	}
	return copy(f.b[off:], p), nil
}

// FixHead makes a head's checksum and length right.
func FixHead(h []byte) { putHeadCRC(h) }
