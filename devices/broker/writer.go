package broker

import (
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// writeTimeout is how long a client may take no byte at all before its
	// connection is closed.
	writeTimeout = 20 * time.Second
	// flushTimeout bounds the last bytes before a connection is closed.
	flushTimeout = 2 * time.Second
	// outFull is how many unsent bytes hold back the reading of a connection
	// and whoever writes to it; acknowledgements alone may go past it, by five
	// bytes for each record that waits for its commit.
	outFull = 64 << 10
)

var errClosed = errors.New("connection is closed")

// A writer sends what is queued for one connection, from one goroutine, in as
// few calls as there are. Queueing acknowledgements never blocks, so that a
// client that does not read stalls nobody.
type writer struct {
	raw net.Conn

	mu      sync.Mutex
	data    sync.Cond // something to send, or closing
	room    sync.Cond // fewer than outFull bytes wait, or closing
	buf     []byte
	spare   []byte
	closing bool
}

func newWriter(raw net.Conn) *writer {
	w := &writer{raw: raw}
	w.data.L, w.room.L = &w.mu, &w.mu
	return w
}

// run sends until close was called and the rest is sent, or the client fails;
// then it closes the socket.
func (w *writer) run() {
	defer func() { _ = w.raw.Close() }() // nothing is to be done about a socket that does not close
	for {
		w.mu.Lock()
		for len(w.buf) == 0 && !w.closing {
			w.data.Wait()
		}
		out, last := w.buf, w.closing
		w.buf = w.spare[:0]
		w.spare = nil
		w.room.Broadcast()
		w.mu.Unlock()
		if len(out) > 0 {
			if err := w.send(out, last); err != nil {
				w.close()
				return
			}
		}
		if last {
			return
		}
		if cap(out) <= outFull {
			w.mu.Lock()
			w.spare = out[:0]
			w.mu.Unlock()
		}
	}
}

// send writes all of b. A client that takes something within writeTimeout is
// slow, not dead; once the connection closes there is one flushTimeout left.
func (w *writer) send(b []byte, last bool) error {
	for len(b) > 0 {
		limit := writeTimeout
		if last {
			limit = flushTimeout
		}
		if err := w.raw.SetWriteDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		n, err := w.raw.Write(b)
		b = b[n:]
		if err != nil && (n == 0 || last || w.isClosing() || !isTimeout(err)) {
			return err
		}
	}
	return nil
}

func (w *writer) isClosing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// queue adds bytes and returns at once. The caller bounds how much.
func (w *writer) queue(b []byte) {
	w.mu.Lock()
	if !w.closing {
		w.buf = append(w.buf, b...)
		w.data.Signal()
	}
	w.mu.Unlock()
}

// write adds a packet; it waits while outFull bytes are unsent.
func (w *writer) write(b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.buf) > outFull && !w.closing {
		w.room.Wait()
	}
	if w.closing {
		return errClosed
	}
	w.buf = append(w.buf, b...)
	w.data.Signal()
	return nil
}

// wait blocks while outFull bytes are unsent.
func (w *writer) wait() {
	w.mu.Lock()
	for len(w.buf) > outFull && !w.closing {
		w.room.Wait()
	}
	w.mu.Unlock()
}

// close lets run send the rest and end.
func (w *writer) close() {
	w.mu.Lock()
	w.closing = true
	w.data.Signal()
	w.room.Broadcast()
	w.mu.Unlock()
	_ = w.raw.SetWriteDeadline(time.Now().Add(flushTimeout)) // fails on a dead socket only
}
