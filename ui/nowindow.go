//go:build !cgo && !js

package main

import (
	"fmt"
	"os"
)

// Without cgo there is no window to open: the toolkit's OpenGL needs it.
func main() {
	fmt.Fprintln(os.Stderr, "forebay-console: this program was built without a window (CGO_ENABLED=0).\n"+
		"Build it with `make build` on a machine that has a C compiler and the packages named in README.md,\n"+
		"or use `forebay status`, `forebay tail` and the gateway's API without a window.")
	os.Exit(1)
}
