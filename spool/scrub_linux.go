//go:build linux

package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropCached lets the system forget what it holds of a file in memory, so that
// what is read is what lies on the disk.
func dropCached(path string) {
	f, err := os.Open(path)
	if err != nil {
		return // there is none, or whoever reads it meets the same error
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a hint
}
