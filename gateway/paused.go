package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// pausedFile, in the data directory, is what remembers which uplinks an
// operator has paused. It is no part of the spool: a box that is restored from
// a backup does not inherit a pause.
const pausedFile = "paused.json"

// A pause is when and by whom an uplink was paused.
type pause struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
}

// A pauseBook is the file: uplink to pause. What set has returned nil for is
// on disk.
type pauseBook struct {
	path string
	mu   sync.Mutex
	set  map[string]pause
}

// openPauses reads the file; none is none paused.
func openPauses(path string) (*pauseBook, error) {
	b := &pauseBook{path: path, set: map[string]pause{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		err = dec.Decode(&b.set)
	}
	if err != nil {
		return nil, fmt.Errorf("read which uplinks are paused: %s: %w (where it cannot be mended, remove it: no uplink is paused then)", path, err)
	}
	if b.set == nil { // the file says null
		b.set = map[string]pause{}
	}
	return b, nil
}

// of is the uplink's pause, if it is paused.
func (b *pauseBook) of(uplink string) (pause, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.set[uplink]
	return p, ok
}

// hold is f while nobody pauses or resumes an uplink. What takes the errands'
// lock inside another takes this one first: a pause reaches the errands too.
func (b *pauseBook) hold(f func(paused map[string]pause)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.set)
}

// pause notes a pause, and does it: what two persons do at once happens in the
// order in which it is noted. One that is there stays as it is.
func (b *pauseBook) pause(uplink string, p pause, do func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.set[uplink]; !ok {
		b.set[uplink] = p
		if err := b.write(); err != nil {
			delete(b.set, uplink)
			return err
		}
	}
	do()
	return nil
}

// resume forgets one, and ends it.
func (b *pauseBook) resume(uplink string, do func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if was, ok := b.set[uplink]; ok {
		delete(b.set, uplink)
		if err := b.write(); err != nil {
			b.set[uplink] = was
			return err
		}
	}
	do()
	return nil
}

// write replaces the file as a whole; b.mu is held.
func (b *pauseBook) write() error {
	text, err := json.MarshalIndent(b.set, "", "  ")
	if err == nil {
		err = replaceFile(b.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note which uplinks are paused: %w", err)
	}
	return nil
}

// replaceFile writes a file as a whole: after a crash it has its old text or
// the new one, which is on disk when replaceFile returns nil.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
