//go:build !linux

package instrument

import "context"

// port does not exist here: openPort always fails.
type port struct{}

func openPort(bool) (*port, error) { return nil, ErrUnsupported }

func (*port) name() string                                    { return "" }
func (*port) interrupt()                                      {}
func (*port) read(context.Context, []byte) (int, bool, error) { return 0, false, ErrUnsupported }
func (*port) write([]byte) error                              { return ErrUnsupported }
func (*port) isOpen() (bool, error)                           { return false, ErrUnsupported }
func (*port) close() error                                    { return nil }
