//go:build !linux

package spool

import "os"

// datasync makes a file's bytes and length durable.
func datasync(f *os.File) error { return f.Sync() }

// allocate gives f n bytes of disk that nobody else can take.
func allocate(f *os.File, n int64) error { return fillZeros(f, n) }

// extend does nothing: a file takes its room as it grows.
func extend(*os.File, int64, int64) error { return nil }
