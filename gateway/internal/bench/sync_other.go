//go:build !linux

package bench

import "os"

// datasync is the cheapest call after which appended bytes are on the disk.
func datasync(f *os.File) error { return f.Sync() }
