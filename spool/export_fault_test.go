package spool

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"

	"forebay/spool/faultdisk"
)

// faulty puts a fault disk between a spool and its files.
type faulty struct{ d *faultdisk.Disk }

type faultyFile struct {
	*faultdisk.File
	d    *faultdisk.Disk
	path string
}

func (f faulty) open(path string, flag int, perm fs.FileMode) (diskFile, error) {
	file, err := f.d.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return faultyFile{file, f.d, path}, nil
}

func (f faulty) remove(path string) error     { return f.d.Remove(path) }
func (f faulty) rename(from, to string) error { return f.d.Rename(from, to) }
func (f faulty) syncDir(path string) error    { return f.d.SyncDir(path) }

func (f faulty) mkdir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := f.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	return f.d.Mkdir(path, 0o750)
}

func (f faultyFile) sync() error { return f.Sync() }

// extend only reserves: nothing of it can be seen after a crash.
func (f faultyFile) extend(off, n int64) error { return extend(f.File.File, off, n) }

func (f faultyFile) allocate(n int64) error {
	e := faultdisk.Event{Op: faultdisk.Truncate, Path: f.path, File: f.d.File(f.path, false), Size: n}
	return f.d.Do(e, func() error { return allocate(f.File.File, n) })
}

// Faults is a seam on a fault disk.
func Faults(d *faultdisk.Disk) Seam { return Seam{VFS: d.VFS(), faults: d} }

// FlushState makes cursors and counts durable now.
func FlushState(s *Spool) error { return s.state.flush(context.Background()) }
