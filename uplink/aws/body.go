package aws

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// A Buffer holds a request's body. The transport may still read it when the
// answer is there, so it goes back to its pool when both have let go of it.
type Buffer struct {
	// B is the body; its owner may change it until it is sent.
	B    []byte
	refs atomic.Int32
	home *sync.Pool
}

// Buffer gives an empty buffer, which is the caller's until Release.
func (c *Client) Buffer() *Buffer { return takeBuffer(&c.bodies) }

func takeBuffer(home *sync.Pool) *Buffer {
	buf, ok := home.Get().(*Buffer)
	if !ok {
		buf = &Buffer{home: home}
	}
	buf.B = buf.B[:0]
	buf.refs.Store(1)
	return buf
}

// Release gives the buffer back; B must not be used any more.
func (b *Buffer) Release() {
	if b.refs.Add(-1) == 0 {
		b.home.Put(b)
	}
}

// reader gives the transport its own hold on the buffer.
func (b *Buffer) reader() io.ReadCloser {
	b.refs.Add(1)
	return &bodyReader{Reader: bytes.NewReader(b.B), buf: b}
}

type bodyReader struct {
	*bytes.Reader
	buf  *Buffer
	once sync.Once
}

func (r *bodyReader) Close() error {
	r.once.Do(r.buf.Release)
	return nil
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// wholeBodies makes connections to which the body of a Buffer goes at once and
// from where it lies, instead of by copies of 32 KiB.
func wholeBodies(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if t, ok := c.(*net.TCPConn); ok {
			return wholeConn{t}, err
		}
		return c, err
	}
}

type wholeConn struct{ *net.TCPConn }

// ReadFrom is what the transport hands a body to, within the limit of its
// Content-Length.
func (c wholeConn) ReadFrom(r io.Reader) (int64, error) {
	l, ok := r.(*io.LimitedReader)
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	body, ok := l.R.(*bodyReader)
	if !ok || int64(body.Len()) > l.N {
		return c.TCPConn.ReadFrom(r)
	}
	n, err := body.WriteTo(c.TCPConn)
	l.N -= n
	return n, err
}
