package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A disk is how a spool changes what SQLite does not change for it: chunk
// files, the reserve, and the names of files. The product uses systemDisk; a
// test that lets a step fail or writes every step down puts its own in front.
//
// What is read goes straight to the system, and so does the lock.
type disk interface {
	// open opens or creates a file, as os.OpenFile does.
	open(path string, flag int, perm fs.FileMode) (diskFile, error)
	// remove deletes a file.
	remove(path string) error
	// rename gives a file another name in the same directory.
	rename(from, to string) error
	// mkdir makes a directory and those above it, as os.MkdirAll does.
	mkdir(path string) error
	// syncDir makes the names in a directory durable.
	syncDir(path string) error
}

// A diskFile is a file that a spool writes by itself.
type diskFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	// sync makes the file's bytes and length durable.
	sync() error
	// allocate gives the file n bytes that nobody else can take.
	allocate(n int64) error
	// extend gives the file room for n bytes from off on, without making it
	// longer.
	extend(off, n int64) error
}

type systemDisk struct{}

type systemFile struct{ *os.File }

func (systemDisk) open(path string, flag int, perm fs.FileMode) (diskFile, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return systemFile{f}, nil
}

func (systemDisk) remove(path string) error     { return os.Remove(path) }
func (systemDisk) rename(from, to string) error { return os.Rename(from, to) }
func (systemDisk) mkdir(path string) error      { return os.MkdirAll(path, 0o750) }
func (systemDisk) syncDir(path string) error    { return syncDir(path) }

func (f systemFile) sync() error               { return datasync(f.File) }
func (f systemFile) allocate(n int64) error    { return allocate(f.File, n) }
func (f systemFile) extend(off, n int64) error { return extend(f.File, off, n) }

// A seam is everything through which a spool reaches the disk, so that tests
// can let each step fail. The product uses systemSeam.
type seam struct {
	// vfs is the name of the SQLite VFS that databases are written through;
	// empty is SQLite's own.
	vfs    string
	disk   disk
	commit func(ctx context.Context, db *database) error
	space  func(dir string) (total, free int64, err error)
	time   timeSource
	still  bool // retention does not run
}

func systemSeam() seam {
	return seam{
		disk:   systemDisk{},
		commit: func(ctx context.Context, db *database) error { return db.run(ctx, "COMMIT") },
		space:  diskSpace,
		time:   systemTime(),
	}
}

// make creates a SQLite file in one step: it is built under a temporary name,
// synced, and renamed, so that a file under its own name is always whole.
func (sm seam) make(ctx context.Context, path string, app uint32, pageSize int, fill func(*database) error) error {
	tmp := path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := sm.disk.remove(tmp + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	db, err := sm.database(ctx, tmp, openCreate)
	if err != nil {
		return err
	}
	err = db.run(ctx,
		fmt.Sprintf("PRAGMA page_size=%d", pageSize),
		"PRAGMA synchronous=OFF", // one sync below, before the rename
		fmt.Sprintf("PRAGMA application_id=%d", app),
		fmt.Sprintf("PRAGMA user_version=%d", formatVersion),
		"PRAGMA journal_mode=WAL",
		"BEGIN")
	if err == nil {
		err = fill(db)
	}
	if err == nil {
		err = db.run(ctx, "COMMIT")
	}
	if err == nil {
		err = db.truncateWAL(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := sm.syncFile(tmp); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := sm.disk.rename(tmp, path); err != nil {
		return err
	}
	return sm.disk.syncDir(filepath.Dir(path))
}

// database opens a SQLite file that may be written.
func (sm seam) database(ctx context.Context, path string, mode openMode) (*database, error) {
	return openDatabase(ctx, path, mode, sm.vfs)
}

func (sm seam) syncFile(path string) error {
	f, err := sm.disk.open(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.sync(), f.Close())
}
