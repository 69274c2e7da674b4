package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A cutLink is a piece of the way to the target that can be cut like a cable:
// while it is cut bytes vanish and nobody is told. It listens on loopback. With
// a fixed end it passes on to that; without one it is an HTTP proxy that knows
// CONNECT, for TLS, which it does not open.
type cutLink struct {
	ln   net.Listener
	to   string // HOST:PORT; "" for a proxy
	dead atomic.Bool
	cuts atomic.Uint64 // bytes that vanished

	mu    sync.Mutex
	conns map[net.Conn]bool
	ended bool
	wg    sync.WaitGroup
}

func newCutLink(ctx context.Context, to string) (*cutLink, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &cutLink{ln: ln, to: to, conns: map[net.Conn]bool{}}
	l.wg.Go(l.accept)
	return l, nil
}

func (l *cutLink) addr() string { return l.ln.Addr().String() }

func (l *cutLink) accept() {
	for {
		c, err := l.ln.Accept()
		if err != nil {
			return // it was closed
		}
		if l.keep(c) {
			l.wg.Go(func() { l.serve(c) })
		}
	}
}

// keep notes a connection; one that comes too late is closed.
func (l *cutLink) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		_ = c.Close() // nobody waits for it
		return false
	}
	l.conns[c] = true
	return true
}

func (l *cutLink) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close() // the other end has gone, or will find out
}

func (l *cutLink) serve(c net.Conn) {
	defer l.drop(c)
	to, in := l.to, bufio.NewReader(c)
	if to == "" {
		req, err := http.ReadRequest(in)
		if err != nil || req.Method != http.MethodConnect {
			return
		}
		to = req.Host
	}
	if l.dead.Load() { // as where no answer comes
		_, _ = io.Copy(io.Discard, in)
		return
	}
	far, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", to)
	if err != nil || !l.keep(far) {
		return
	}
	defer l.drop(far)
	if l.to == "" {
		if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
			return
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		l.pass(c, far)
		l.drop(c)
	})
	l.pass(far, in)
	l.drop(far)
	wg.Wait()
}

// pass copies until an end is closed. What comes while the link is cut
// vanishes, and what comes after it on the same connection too.
func (l *cutLink) pass(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	torn := false
	for {
		n, err := from.Read(buf)
		if torn = torn || l.dead.Load(); torn {
			l.cuts.Add(uint64(n))
		} else if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut lets everything vanish from now on.
func (l *cutLink) cut() { l.dead.Store(true) }

// mend lets new connections through; the old ones are closed.
func (l *cutLink) mend() {
	l.closeAll(false)
	l.dead.Store(false)
}

func (l *cutLink) closeAll(end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = l.ended || end
	for c := range l.conns {
		_ = c.Close() // what hangs on it ends
	}
}

func (l *cutLink) close() error {
	err := l.ln.Close()
	l.closeAll(true)
	l.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
