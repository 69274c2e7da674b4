package aws

import (
	"context"
	"io"
	"net"
	"net/http"
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
	return &bodyReader{left: b.B, buf: b}
}

// A bodyReader may be closed while it is read: an HTTP/2 transport does so when
// the answer comes before the body's end, or a stream is given up. The buffer is
// another request's from then on, so nothing of it is read any more.
type bodyReader struct {
	buf *Buffer

	mu     sync.Mutex
	left   []byte
	closed bool
}

func (r *bodyReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return 0, http.ErrBodyReadAfterClose
	case len(r.left) == 0:
		return 0, io.EOF
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

// WriteTo writes what is left. It keeps a hold of its own on the buffer, so that
// Close does not wait for a connection that is stuck.
func (r *bodyReader) WriteTo(w io.Writer) (int64, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	left := r.left
	r.left = nil
	r.buf.refs.Add(1)
	r.mu.Unlock()
	defer r.buf.Release()
	n, err := w.Write(left)
	return int64(n), err
}

func (r *bodyReader) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.left)
}

func (r *bodyReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed, r.left = true, nil
		r.buf.Release()
	}
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
	if !ok || int64(body.size()) > l.N {
		return c.TCPConn.ReadFrom(r)
	}
	n, err := body.WriteTo(c.TCPConn)
	l.N -= n
	return n, err
}
