// Package faultdisk is a disk that tests hold in their hand. It stands between
// a program and its files, those that SQLite writes and those that Go writes,
// and records every change in one order, lets operations fail, makes syncs
// slow and writes narrow, and counts. From the record it builds what a power
// cut at any moment could have left.
//
// Only tests import it.
package faultdisk

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// An Op is what is done to a file or a directory.
type Op uint8

// The operations. Those from Create to SyncDir change what a crash leaves.
const (
	Create   Op = iota + 1 // an empty file under a new name
	Mkdir                  // a directory under a new name
	Write                  // Data at Off
	Truncate               // length is Size; new bytes are zeros
	Sync                   // of a file's bytes and length
	Rename                 // Path becomes To, in the same directory
	Remove                 // of a file's name
	SyncDir                // of the names in a directory
	Mark                   // a note of the test, see Disk.Mark
)

var opNames = [...]string{"", "create", "mkdir", "write", "truncate", "sync", "rename", "remove", "sync dir", "mark"}

func (o Op) String() string { return opNames[o] }

// Point reports whether the operation is a step of a protocol of several files:
// what a crash between steps is tried at.
func (o Op) Point() bool {
	return o == Create || o == Mkdir || o == Truncate || o == Sync || o == Rename || o == Remove || o == SyncDir
}

// An Event is one operation.
type Event struct {
	Op     Op
	Path   string
	To     string // of a Rename
	File   int    // the file, whatever its name is now; 0 for directories
	Off    int64
	Data   []byte // a copy
	Size   int64
	Covers int   // of a sync: how many events there were when it began
	Failed error // the operation was not done
	Note   any   // of a Mark
}

// A Fault decides about an operation before it is done: nil lets it happen, an
// error is returned instead of doing it. It is called by many goroutines.
type Fault func(Event) error

// Counts is what reached the disk.
type Counts struct {
	Writes, Syncs uint64
	Bytes         int64
}

// A Disk is safe for use by many goroutines.
type Disk struct {
	vfs *vfs

	mu     sync.Mutex
	record bool
	events []Event
	ids    map[string]int // of files by their name now
	last   int
	dirty  map[int]int64 // bytes by file that no sync has covered
	fault  Fault
	lies   func(Event) bool
	delay  time.Duration
	rate   int64
	busy   time.Time // until then the narrow disk has work
	counts Counts
}

// New makes a disk and registers its SQLite VFS. With record set every event is
// kept, bytes and all. Close it after all databases on it are closed.
func New(record bool) (*Disk, error) {
	d := &Disk{record: record, ids: map[string]int{}, dirty: map[int]int64{}}
	var err error
	d.vfs, err = register(d)
	return d, err
}

// VFS is the name for SQLite's vfs= parameter.
func (d *Disk) VFS() string { return d.vfs.name }

// Close takes the VFS away.
func (d *Disk) Close() error { return d.vfs.close() }

// SetFault sets what fails; nil is nothing.
func (d *Disk) SetFault(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// SetLies sets which syncs the disk says yes to without doing them.
func (d *Disk) SetLies(f func(Event) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lies = f
}

// SetSlow makes every sync take delay longer and lets rate bytes a second
// through; 0 is as fast as the disk below. As on a real system it is the sync
// that waits for the bytes.
func (d *Disk) SetSlow(delay time.Duration, rate int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay, d.rate = delay, rate
}

// Counts is what was done since the disk was made.
func (d *Disk) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

// Mark puts a note between the events, such as "these records were
// acknowledged": everything that happens later comes behind it.
func (d *Disk) Mark(note any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.record {
		d.events = append(d.events, Event{Op: Mark, Note: note})
	}
}

// Events is what was recorded. The caller must not change it.
func (d *Disk) Events() []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clip(d.events)
}

// File is the number of the file under a name; fresh says that the name was
// not there before and is now.
func (d *Disk) File(path string, fresh bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file(path, fresh)
}

// Met is File for a name that may have been made behind the disk's back, as a
// reader's connection makes an empty WAL: then it counts as made now.
func (d *Disk) Met(path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	path = filepath.Clean(path)
	if d.ids[path] == 0 {
		d.note(Event{Op: Create, Path: path, File: d.file(path, true)})
	}
	return d.ids[path]
}

func (d *Disk) file(path string, fresh bool) int {
	path = filepath.Clean(path)
	id := d.ids[path]
	if id == 0 || fresh {
		d.last++
		id = d.last
		d.ids[path] = id
	}
	return id
}

// Do does an operation by act, or lets it fail. Create, Remove and Rename keep
// account of names. It returns the fault's error or act's.
func (d *Disk) Do(e Event, act func() error) error {
	if e.Path != "" {
		e.Path = filepath.Clean(e.Path)
	}
	d.mu.Lock()
	if f := d.fault; f != nil {
		d.mu.Unlock()
		err := f(e)
		d.mu.Lock()
		if err != nil {
			e.Failed, e.Covers = err, len(d.events)
			d.note(e)
			d.mu.Unlock()
			return err
		}
	}
	if e.Op == Sync || e.Op == SyncDir {
		e.Covers = len(d.events)
		wait := d.slowness(e)
		lie := d.lies != nil && d.lies(e)
		d.mu.Unlock()
		if lie {
			return nil
		}
		time.Sleep(wait)
		err := act()
		d.mu.Lock()
		defer d.mu.Unlock()
		if err != nil {
			e.Failed = err
		}
		d.counts.Syncs++
		d.note(e)
		return err
	}
	defer d.mu.Unlock()
	if err := act(); err != nil {
		return err // the disk below refused it; nothing of it is there
	}
	switch e.Op {
	case Create:
		e.File = d.file(e.Path, true)
	case Remove:
		delete(d.ids, e.Path)
	case Rename:
		e.To = filepath.Clean(e.To)
		d.ids[e.To] = d.file(e.Path, false)
		delete(d.ids, e.Path)
	case Write:
		d.counts.Writes++
		d.counts.Bytes += int64(len(e.Data))
		d.dirty[e.File] += int64(len(e.Data))
	}
	d.note(e)
	return nil
}

// note records an event; mu is held.
func (d *Disk) note(e Event) {
	if !d.record {
		return
	}
	e.Data = append([]byte(nil), e.Data...)
	d.events = append(d.events, e)
}

// slowness is how long a sync that begins now waits; mu is held.
func (d *Disk) slowness(e Event) time.Duration {
	wait := d.delay
	if n := d.dirty[e.File]; n > 0 && e.Op == Sync {
		delete(d.dirty, e.File)
		if d.rate > 0 {
			now := time.Now()
			if d.busy.Before(now) {
				d.busy = now
			}
			d.busy = d.busy.Add(time.Duration(float64(n) / float64(d.rate) * float64(time.Second)))
			wait += d.busy.Sub(now)
		}
	}
	return wait
}

// OpenFile opens a file that Go code writes to.
func (d *Disk) OpenFile(path string, flag int, perm fs.FileMode) (*File, error) {
	_, err := os.Stat(path)
	fresh := os.IsNotExist(err) && flag&os.O_CREATE != 0
	f := &File{disk: d, path: path}
	open := func() (err error) { f.File, err = os.OpenFile(path, flag, perm); return err }
	switch {
	case fresh:
		err = d.Do(Event{Op: Create, Path: path}, open)
	case flag&os.O_TRUNC != 0:
		err = d.Do(Event{Op: Truncate, Path: path, File: d.File(path, false)}, open)
	default:
		err = open()
	}
	if err != nil {
		return nil, err
	}
	f.id = d.Met(path)
	return f, nil
}

// Mkdir makes one directory.
func (d *Disk) Mkdir(path string, perm fs.FileMode) error {
	return d.Do(Event{Op: Mkdir, Path: path}, func() error { return os.Mkdir(path, perm) })
}

// Rename renames a file within its directory.
func (d *Disk) Rename(from, to string) error {
	return d.Do(Event{Op: Rename, Path: from, To: to}, func() error { return os.Rename(from, to) })
}

// Remove removes a file's name.
func (d *Disk) Remove(path string) error {
	if _, err := os.Lstat(path); err != nil {
		return err // nothing happens to the disk
	}
	return d.Do(Event{Op: Remove, Path: path}, func() error { return os.Remove(path) })
}

// SyncDir makes the names in a directory durable.
func (d *Disk) SyncDir(path string) error {
	return d.Do(Event{Op: SyncDir, Path: path}, func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}

// A File is a file of Go code on a Disk. Reading and closing are the file's own.
type File struct {
	*os.File
	disk *Disk
	path string
	id   int
}

// WriteAt writes b at off.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	n := 0
	err := f.disk.Do(Event{Op: Write, Path: f.path, File: f.id, Off: off, Data: b}, func() (err error) {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

// Truncate sets the length.
func (f *File) Truncate(n int64) error {
	return f.disk.Do(Event{Op: Truncate, Path: f.path, File: f.id, Size: n}, func() error { return f.File.Truncate(n) })
}

// Sync makes bytes and length durable.
func (f *File) Sync() error {
	return f.disk.Do(Event{Op: Sync, Path: f.path, File: f.id}, func() error { return f.File.Sync() })
}
