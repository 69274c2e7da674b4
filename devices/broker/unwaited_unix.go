//go:build unix

package broker

import (
	"errors"
	"net"
	"syscall"
)

// unwaited makes a function that writes what the socket takes at once. It is
// nil where raw is not a plain socket. An error, a past write deadline among
// them, is for an ordinary Write to find again.
func unwaited(raw net.Conn) func([]byte) (int, error) {
	s, ok := raw.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	var b []byte
	var n int
	var failed error
	once := func(fd uintptr) bool {
		for {
			n, failed = syscall.Write(int(fd), b)
			if !errors.Is(failed, syscall.EINTR) {
				return true
			}
		}
	}
	return func(out []byte) (int, error) {
		b = out
		err := rc.Write(once)
		b = nil
		switch {
		case err != nil:
			return 0, err
		case errors.Is(failed, syscall.EAGAIN):
			return 0, nil
		case failed != nil:
			return 0, failed
		}
		return n, nil
	}
}
