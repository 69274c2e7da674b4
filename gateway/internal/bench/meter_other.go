//go:build !linux

package bench

import "os"

// datasync is the cheapest call after which appended bytes are on the disk.
func datasync(f *os.File) error { return f.Sync() }

// What follows is counted on Linux only.

func settle() {}

func dropCaches() bool { return false }

func processCounts() counts { return counts{} }

func residentMB(string) float64 { return 0 }

func openFiles() int { return 0 }

func loadAverage() float64 { return 0 }

func deviceOf(string) string { return "" }

func deviceWritten(string) int64 { return 0 }
