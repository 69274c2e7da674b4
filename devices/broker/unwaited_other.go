//go:build !unix

package broker

import "net"

// unwaited is nil: each connection has a goroutine that sends.
func unwaited(net.Conn) func([]byte) (int, error) { return nil }
