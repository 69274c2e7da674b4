package spool

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"forebay/spool/record"
)

// A LockedError is returned for a spool that another process has open.
type LockedError struct {
	Dir string
	PID int // of the owner, 0 if it cannot be told
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("spool %s is in use by process %d (stop it first; two programs must not write to one spool)", e.Dir, e.PID)
}

// lockDir makes this process the owner of dir until the file is closed.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the spool: %w", err)
	}
	ok, err := tryLock(f)
	if err == nil && ok {
		err = writePID(f)
	}
	if err == nil && ok {
		return f, nil
	}
	defer f.Close()
	if err != nil {
		return nil, fmt.Errorf("lock the spool: %w", err)
	}
	b, _ := os.ReadFile(path)
	return nil, &LockedError{Dir: dir, PID: parsePID(b)}
}

// writePID tells others who the owner is. On a full disk there may be no room
// for it; the lock holds all the same.
func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil && !errors.Is(storeError(err), record.ErrFull) {
		return err
	}
	return nil
}

func fillZeros(f *os.File, n int64) error {
	zeros := make([]byte, 256<<10)
	for off := int64(0); off < n; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), n-off)], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

func logDir(n uint32) string        { return fmt.Sprintf("log-%05d", n) }
func segmentFile(n uint64) string   { return fmt.Sprintf("%010d.seg", n) }
func chunkFileOf(seg string) string { return strings.TrimSuffix(seg, ".seg") + ".chunks" }

// listSegments is the numbers of the segments in a log's directory, rising.
// The directory is the truth: what is not listed is gone.
func listSegments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []uint64
	for _, e := range entries { // ReadDir sorts by name, which is by number
		name, ok := strings.CutSuffix(e.Name(), ".seg")
		if !ok || len(name) != 10 {
			continue
		}
		n, err := strconv.ParseUint(name, 10, 64)
		if err != nil {
			continue
		}
		out = append(out, n)
	}
	return out, nil
}

// removeOrphans deletes what a crash between the steps of creating or
// removing a segment left behind: files without their .seg.
func removeOrphans(d disk, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		if base, ok := strings.CutSuffix(e.Name(), ".seg"); ok {
			have[base] = true
		}
	}
	for _, e := range entries {
		base, rest, ok := strings.Cut(e.Name(), ".")
		if !ok || len(base) != 10 {
			continue
		}
		stale := strings.HasPrefix(rest, "seg.new")
		switch rest {
		case "seg-wal", "seg-shm", "chunks":
			stale = !have[base]
		}
		if stale {
			if err := d.remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileSize is a file's length, 0 if there is none.
func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// machineID names this machine, so that a spool that wakes on another one is
// noticed.
func machineID() string {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil && len(b) > 1 {
		return strings.TrimSpace(string(b))
	}
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return "host " + host
}

// bootID names this run of the machine, and says how long it has been up;
// where the system does not tell, both are of this process.
func bootID() (record.BootID, time.Duration) {
	var id record.BootID
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		h := strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
		if n, err := hex.Decode(id[:], []byte(h)); err == nil && n == len(id) {
			return id, uptime()
		}
	}
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return id, 0
}

func uptime() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}
