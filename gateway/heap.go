package main

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage the heap may grow by before it is collected, in
// percent of what is in use. A quarter of Go's own default: the gateway makes
// little garbage, so that it costs a few percent of its processor time more
// under full load, and the box may have as little as 512 MB for everything.
const gcPercent = 25

// boundHeap keeps the heap small, unless the operator has said how it is to be
// kept (GOGC or GOMEMLIMIT in the environment).
func boundHeap() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
