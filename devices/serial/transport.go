package serial

import (
	"errors"
	"io"
	"time"
)

// ReadTimeout bounds every Read of a Transport. It is always set: without it
// the driver's Close hangs for ever beside a blocked Read.
const ReadTimeout = 100 * time.Millisecond

var (
	// ErrInUse is returned for a port that is already open, here or in another
	// program.
	ErrInUse = errors.New("port is in use")
	// ErrUnplugged is returned when an open port is gone.
	ErrUnplugged = errors.New("port was unplugged")
)

// Params say which port to open and how.
type Params struct {
	Port     string
	Baud     int    // bit/s
	DataBits int    // 5 to 8
	Parity   string // none, odd, even
	StopBits int    // 1 or 2
}

// A Transport is an open port. One goroutine uses it: the reader also writes
// and closes.
type Transport interface {
	// Read waits at most ReadTimeout. Silence is (0, nil) or (0, io.EOF); so
	// is, with some drivers, a port that was pulled out, but at once.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// Flush throws away what is unread and unsent. Its error means that the
	// device is gone.
	Flush() error
	Close() error
}

// quickReads is how many silent reads in a row may come back sooner than half
// the timeout before the port is asked whether it is still there.
const quickReads = 3

// A port tells silence from an unplugged device.
type port struct {
	t     Transport
	now   func() time.Time
	quick int
}

// errFlushed says that the device is there but what was unread is gone.
var errFlushed = errors.New("input was flushed")

// read returns bytes, or 0 for silence, or errFlushed, or ErrUnplugged.
func (p *port) read(buf []byte) (int, error) {
	began := p.now()
	n, err := p.t.Read(buf)
	switch {
	case n > 0:
		p.quick = 0
		return n, nil
	case err != nil && !errors.Is(err, io.EOF):
		return 0, errors.Join(ErrUnplugged, err)
	case p.now().Sub(began) >= ReadTimeout/2:
		p.quick = 0
		return 0, nil
	}
	p.quick++
	if p.quick < quickReads {
		return 0, nil
	}
	p.quick = 0
	if err := p.t.Flush(); err != nil {
		return 0, errors.Join(ErrUnplugged, err)
	}
	return 0, errFlushed
}

// waiting is how many bytes can be read without waiting, where the transport
// knows it.
func (p *port) waiting() (n int, known bool) {
	w, ok := p.t.(interface{ Waiting() (int, error) })
	if !ok {
		return 0, false
	}
	n, err := w.Waiting()
	if err != nil {
		return 0, true // the port is gone; writing the query will say so
	}
	return n, true
}

// write sends all of b.
func (p *port) write(b []byte) error {
	n, err := p.t.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return errors.Join(ErrUnplugged, err)
	}
	return nil
}
