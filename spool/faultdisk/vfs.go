package faultdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// This file, and no other, handles memory that Go does not manage: it makes a
// copy of SQLite's own VFS and puts functions of ours into the copy's table
// (sqlite.org/vfs.html). SQLite's structures lie in its own memory, which does
// not move; they are named by their address.

// A Code is an error that a Fault returns to let SQLite see exactly this result
// code. Of other errors SQLite sees what its unix VFS makes of them.
type Code int32

func (c Code) Error() string { return fmt.Sprintf("SQLite result code %d", int32(c)) }

// Result codes for a Fault (sqlite.org/rescode.html).
const (
	IOErrFsync Code = sqlite3.SQLITE_IOERR_FSYNC
	IOErrWrite Code = sqlite3.SQLITE_IOERR_WRITE
	Full       Code = sqlite3.SQLITE_FULL
	ReadOnly   Code = sqlite3.SQLITE_READONLY
)

type vfs struct {
	disk   *Disk
	name   string
	tls    *libc.TLS
	base   uintptr // *Tsqlite3_vfs, SQLite's own
	own    uintptr // *Tsqlite3_vfs, ours
	keep   []any   // functions that SQLite knows by address only
	write  uintptr
	sync   uintptr
	trunc  uintptr
	closer uintptr

	mu     sync.Mutex
	tables map[uintptr]uintptr // ours by SQLite's own *Tsqlite3_io_methods
	open   map[uintptr]*handle // by *Tsqlite3_file
}

// A handle is an open file of SQLite.
type handle struct {
	path    string
	id      int
	own     *sqlite3.Tsqlite3_io_methods // SQLite's
	syncDir bool                         // its first sync makes its name durable too
}

type (
	openFunc   = func(tls *libc.TLS, pVfs, zName, pFile uintptr, flags int32, pOut uintptr) int32
	deleteFunc = func(tls *libc.TLS, pVfs, zName uintptr, dirSync int32) int32
	writeFunc  = func(tls *libc.TLS, pFile, buf uintptr, n int32, off sqlite3.Tsqlite3_int64) int32
	truncFunc  = func(tls *libc.TLS, pFile uintptr, size sqlite3.Tsqlite3_int64) int32
	syncFunc   = func(tls *libc.TLS, pFile uintptr, flags int32) int32
	closeFunc  = func(tls *libc.TLS, pFile uintptr) int32
)

// at is the thing that lies at an address outside Go's memory.
func at[T any](p uintptr) *T { return (*T)(*(*unsafe.Pointer)(unsafe.Pointer(&p))) }

// address is how SQLite names a Go function. The caller keeps f alive.
func address(f any) uintptr { return (*[2]uintptr)(unsafe.Pointer(&f))[1] }

// function is the Go function at an address that SQLite gave.
func function[F any](p uintptr) F {
	word := struct{ uintptr }{p}
	return *(*F)(unsafe.Pointer(&word))
}

func register(d *Disk) (*vfs, error) {
	v := &vfs{disk: d, tls: libc.NewTLS(), tables: map[uintptr]uintptr{}, open: map[uintptr]*handle{}}
	sqlite3.Xsqlite3_initialize(v.tls)
	v.base = sqlite3.Xsqlite3_vfs_find(v.tls, 0)
	size := libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{}))
	v.own = libc.Xmalloc(v.tls, size)
	if v.base == 0 || v.own == 0 {
		v.tls.Close()
		return nil, errors.New("register the fault VFS: SQLite has no VFS or no memory")
	}
	*at[sqlite3.Tsqlite3_vfs](v.own) = *at[sqlite3.Tsqlite3_vfs](v.base)
	v.name = fmt.Sprintf("faultdisk%x", v.own)
	name, err := libc.CString(v.name)
	if err != nil {
		return nil, err
	}
	own := at[sqlite3.Tsqlite3_vfs](v.own)
	own.FzName, own.FpNext = name, 0
	own.FxOpen, own.FxDelete = v.known(openFunc(v.xOpen)), v.known(deleteFunc(v.xDelete))
	v.write, v.sync = v.known(writeFunc(v.xWrite)), v.known(syncFunc(v.xSync))
	v.trunc, v.closer = v.known(truncFunc(v.xTruncate)), v.known(closeFunc(v.xClose))
	if rc := sqlite3.Xsqlite3_vfs_register(v.tls, v.own, 0); rc != sqlite3.SQLITE_OK {
		return nil, fmt.Errorf("register the fault VFS: %w", Code(rc))
	}
	return v, nil
}

func (v *vfs) known(f any) uintptr {
	v.keep = append(v.keep, f)
	return address(f)
}

func (v *vfs) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.open) > 0 {
		return fmt.Errorf("close the fault disk: SQLite still has %d files open on it", len(v.open))
	}
	if v.own == 0 {
		return nil
	}
	sqlite3.Xsqlite3_vfs_unregister(v.tls, v.own)
	libc.Xfree(v.tls, at[sqlite3.Tsqlite3_vfs](v.own).FzName)
	libc.Xfree(v.tls, v.own)
	for _, t := range v.tables {
		libc.Xfree(v.tls, t)
	}
	v.own = 0
	v.tls.Close()
	return nil
}

func (v *vfs) of(pFile uintptr) *handle {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.open[pFile]
}

// table is a copy of SQLite's methods with ours in it.
func (v *vfs) table(tls *libc.TLS, own uintptr) uintptr {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.tables[own]; t != 0 {
		return t
	}
	t := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_io_methods{})))
	m := at[sqlite3.Tsqlite3_io_methods](t)
	*m = *at[sqlite3.Tsqlite3_io_methods](own)
	m.FxWrite, m.FxSync, m.FxTruncate, m.FxClose = v.write, v.sync, v.trunc, v.closer
	v.tables[own] = t
	return t
}

func (v *vfs) xOpen(tls *libc.TLS, _, zName, pFile uintptr, flags int32, pOut uintptr) int32 {
	name := ""
	if zName != 0 {
		name = filepath.Clean(libc.GoString(zName))
	}
	rc := int32(sqlite3.SQLITE_OK)
	open := func() error {
		base := function[openFunc](at[sqlite3.Tsqlite3_vfs](v.base).FxOpen)
		if rc = base(tls, v.own, zName, pFile, flags, pOut); rc != sqlite3.SQLITE_OK {
			return Code(rc)
		}
		return nil
	}
	_, err := os.Lstat(name)
	if name != "" && flags&sqlite3.SQLITE_OPEN_CREATE != 0 && os.IsNotExist(err) {
		if err := v.disk.Do(Event{Op: Create, Path: name}, open); err != nil {
			at[sqlite3.Tsqlite3_file](pFile).FpMethods = 0
			return code(err, sqlite3.SQLITE_CANTOPEN)
		}
	} else if err := open(); err != nil {
		return rc
	}
	file := at[sqlite3.Tsqlite3_file](pFile)
	if name == "" || file.FpMethods == 0 {
		return rc // a temporary file of SQLite's own
	}
	h := &handle{path: name, id: v.disk.Met(name), own: at[sqlite3.Tsqlite3_io_methods](file.FpMethods)}
	h.syncDir = flags&sqlite3.SQLITE_OPEN_CREATE != 0 && flags&(sqlite3.SQLITE_OPEN_WAL|sqlite3.SQLITE_OPEN_MAIN_JOURNAL) != 0
	file.FpMethods = v.table(tls, file.FpMethods)
	v.mu.Lock()
	v.open[pFile] = h
	v.mu.Unlock()
	return rc
}

func (v *vfs) xDelete(tls *libc.TLS, _, zName uintptr, dirSync int32) int32 {
	base := function[deleteFunc](at[sqlite3.Tsqlite3_vfs](v.base).FxDelete)
	name := filepath.Clean(libc.GoString(zName))
	if _, err := os.Lstat(name); err != nil {
		return base(tls, v.own, zName, dirSync)
	}
	err := v.disk.Do(Event{Op: Remove, Path: name}, func() error { return result(base(tls, v.own, zName, 0)) })
	if err == nil && dirSync&1 != 0 {
		err = v.disk.SyncDir(filepath.Dir(name))
	}
	return code(err, sqlite3.SQLITE_IOERR_DELETE)
}

func (v *vfs) xWrite(tls *libc.TLS, pFile, buf uintptr, n int32, off sqlite3.Tsqlite3_int64) int32 {
	h := v.of(pFile)
	data := unsafe.Slice(at[byte](buf), n)
	err := v.disk.Do(Event{Op: Write, Path: h.path, File: h.id, Off: off, Data: data}, func() error {
		return result(function[writeFunc](h.own.FxWrite)(tls, pFile, buf, n, off))
	})
	return code(err, sqlite3.SQLITE_IOERR_WRITE)
}

func (v *vfs) xTruncate(tls *libc.TLS, pFile uintptr, size sqlite3.Tsqlite3_int64) int32 {
	h := v.of(pFile)
	err := v.disk.Do(Event{Op: Truncate, Path: h.path, File: h.id, Size: size}, func() error {
		return result(function[truncFunc](h.own.FxTruncate)(tls, pFile, size))
	})
	return code(err, sqlite3.SQLITE_IOERR_TRUNCATE)
}

func (v *vfs) xSync(tls *libc.TLS, pFile uintptr, flags int32) int32 {
	h := v.of(pFile)
	err := v.disk.Do(Event{Op: Sync, Path: h.path, File: h.id}, func() error {
		return result(function[syncFunc](h.own.FxSync)(tls, pFile, flags))
	})
	if err == nil && h.syncDir {
		// SQLite's unix VFS has synced the directory in the same call, and
		// lets it be where that fails (os_unix.c, unixSync).
		h.syncDir = false
		err = v.disk.Do(Event{Op: SyncDir, Path: filepath.Dir(h.path)}, func() error { return nil })
	}
	return code(err, sqlite3.SQLITE_IOERR_FSYNC)
}

func (v *vfs) xClose(tls *libc.TLS, pFile uintptr) int32 {
	h := v.of(pFile)
	v.mu.Lock()
	delete(v.open, pFile)
	v.mu.Unlock()
	return function[closeFunc](h.own.FxClose)(tls, pFile)
}

// result is a result code as an error.
func result(rc int32) error {
	if rc == sqlite3.SQLITE_OK {
		return nil
	}
	return Code(rc)
}

// code is what SQLite is told of an error: its own code, SQLITE_FULL where
// there is no room to write, else the operation's.
func code(err error, operation int32) int32 {
	if err == nil {
		return sqlite3.SQLITE_OK
	}
	if c, ok := errors.AsType[Code](err); ok {
		return int32(c)
	}
	if errors.Is(err, syscall.ENOSPC) && operation == sqlite3.SQLITE_IOERR_WRITE {
		return sqlite3.SQLITE_FULL
	}
	return operation
}
