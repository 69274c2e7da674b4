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
	// keptOut is how large a buffer a connection keeps that has nothing to send.
	keptOut = 8 << 10
)

var errClosed = errors.New("connection is closed")

// A writer sends what is queued for one connection, in as few calls as there
// are. Queueing acknowledgements never blocks, so that a client that does not
// read stalls nobody: what its socket does not take at once is sent by a
// goroutine of its own, which ends when it has caught up.
type writer struct {
	raw   net.Conn
	flush *flusher
	// try writes what the socket takes without waiting; nil where that cannot
	// be said (TLS). Only who is sending calls it.
	try func([]byte) (int, error)

	mu      sync.Mutex
	room    sync.Cond // fewer than outFull bytes wait, or closing
	buf     []byte
	spare   []byte
	rest    []byte // of what try took a part of; before buf
	sending bool   // somebody sends, or is about to
	closing bool
	ended   chan struct{} // closed when the socket is
	wg      sync.WaitGroup
}

func newWriter(raw net.Conn, flush *flusher) *writer {
	w := &writer{raw: raw, flush: flush, try: unwaited(raw), ended: make(chan struct{})}
	w.room.L = &w.mu
	return w
}

// wait blocks until the socket is closed, after close was called.
func (w *writer) wait() {
	<-w.ended
	w.wg.Wait()
}

// begin sees to it that somebody sends. Locked.
func (w *writer) begin() {
	if w.sending {
		return
	}
	w.sending = true
	if w.try == nil || w.closing {
		w.wg.Go(w.run)
		return
	}
	w.flush.add(w)
}

// take is what is to be sent next. Locked.
func (w *writer) take() []byte {
	if len(w.rest) > 0 {
		out := w.rest
		w.rest = nil
		return out
	}
	out := w.buf
	w.buf, w.spare = w.spare[:0], nil
	w.room.Broadcast()
	return out
}

// keep gives a buffer back. Locked.
func (w *writer) keep(out []byte) {
	if cap(out) <= keptOut && w.spare == nil {
		w.spare = out[:0]
	}
}

// now sends what the socket takes without waiting. Called by the flusher.
func (w *writer) now() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closing {
		out := w.take()
		if len(out) == 0 {
			w.keep(out)
			w.sending = false
			return
		}
		w.mu.Unlock()
		n, err := w.try(out)
		w.mu.Lock()
		if err != nil || n < len(out) {
			w.rest = out[n:]
			break
		}
		w.keep(out)
	}
	w.wg.Go(w.run)
}

// run sends until nothing is left; where close was called, or the client fails,
// it closes the socket.
func (w *writer) run() {
	for {
		w.mu.Lock()
		out, last := w.take(), w.closing
		if len(out) == 0 && !last {
			w.keep(out)
			w.sending = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		if len(out) > 0 {
			if err := w.send(out, last); err != nil {
				w.close()
				last = true
			} else {
				w.mu.Lock()
				w.keep(out)
				w.mu.Unlock()
				continue
			}
		}
		if last {
			_ = w.raw.Close() // nothing is to be done about a socket that does not close
			close(w.ended)
			return
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
		w.begin()
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
	w.begin()
	return nil
}

// settle blocks while outFull bytes are unsent.
func (w *writer) settle() {
	w.mu.Lock()
	for len(w.buf) > outFull && !w.closing {
		w.room.Wait()
	}
	w.mu.Unlock()
}

// close has the rest sent and the socket closed, and returns at once.
func (w *writer) close() {
	w.mu.Lock()
	if !w.closing {
		w.closing = true
		w.begin()
		w.room.Broadcast()
	}
	w.mu.Unlock()
	_ = w.raw.SetWriteDeadline(time.Now().Add(flushTimeout)) // fails on a dead socket only
}
