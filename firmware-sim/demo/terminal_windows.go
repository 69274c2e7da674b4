package demo

import "errors"

// needsDisplay: every session has a desktop here.
const needsDisplay = false

// terminal does not exist here: the demo prints lines, and Ctrl-C stops it.
type terminal struct{}

func openTerminal() (*terminal, error) { return nil, errors.New("no keys on this system") }

func (*terminal) read(keys chan<- byte) { close(keys) }
func (*terminal) width() int            { return 80 }
func (*terminal) close() error          { return nil }
