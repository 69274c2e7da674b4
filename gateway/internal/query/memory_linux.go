package query

import (
	"bytes"
	"os"
	"strconv"
)

// residentBytes is how much memory the process holds; 0 where that cannot be
// told.
func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm") // proc(5): size resident shared …, in pages
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
