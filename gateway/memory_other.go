//go:build !linux

package main

import "runtime"

// residentBytes is what the runtime has from the system: this system's own
// figure would need a library for one number.
func residentBytes() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
