//go:build unix

package demo

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"
)

// needsDisplay: a window needs DISPLAY or WAYLAND_DISPLAY here.
const needsDisplay = true

// terminal is the controlling terminal in raw mode: keys come at once, and
// Ctrl-C as a key.
type terminal struct {
	f    *os.File
	fd   int
	mode *term.State
}

// openTerminal fails where the demo's output does not go to a terminal.
func openTerminal() (*terminal, error) {
	if !term.IsTerminal(int(os.Stdout.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, errors.New("not a terminal")
	}
	f, err := os.Open("/dev/tty") // of our own: closing it ends a read
	if err != nil {
		return nil, err
	}
	t := &terminal{f: f}
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { t.fd = int(fd) })
	}
	if err == nil {
		t.mode, err = term.MakeRaw(t.fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raw terminal: %w", err), f.Close())
	}
	return t, nil
}

// read sends keys until the terminal is closed, then closes keys.
func (t *terminal) read(keys chan<- byte) {
	defer close(keys)
	var b [16]byte
	for {
		n, err := t.f.Read(b[:])
		for _, k := range b[:n] {
			keys <- k
		}
		if err != nil {
			return
		}
	}
}

func (t *terminal) width() int {
	w, _, err := term.GetSize(t.fd)
	if err != nil || w < 20 {
		return 80
	}
	return w
}

func (t *terminal) close() error {
	return errors.Join(term.Restore(t.fd, t.mode), t.f.Close())
}
