//go:build linux

package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync makes a file's bytes and length durable.
func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// allocate gives f n bytes of disk that nobody else can take.
func allocate(f *os.File, n int64) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, n); err == nil {
		return nil
	}
	return fillZeros(f, n)
}

// extend gives f room behind its end without making it longer.
func extend(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, off, n)
}
