package serial

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrOversize is a Frame's Err for bytes that ran over the longest frame
// allowed. The framer goes on at the next frame's start.
var ErrOversize = errors.New("frame is longer than max_frame")

// A Framer cuts the bytes of a line into frames. What it yields depends on the
// bytes alone, never on how they were split into reads. It is not safe for
// concurrent use.
type Framer interface {
	// Push takes the bytes read next; it keeps no reference to p.
	Push(p []byte)
	// Next yields the next frame, or a damage found in the stream, in order;
	// false when more bytes are needed. The frame's bytes belong to the caller.
	Next() (Frame, bool)
	// Drop forgets what is unfinished and returns how many bytes of a frame
	// that was, 0 if the stream stood between two frames. Frames not yet taken
	// by Next stay.
	Drop() int
	// Skipped is how many bytes were thrown away since the start, by damages
	// and by Drop.
	Skipped() uint64
	// Resyncs is how often the framer found back to a frame's start after a
	// damage.
	Resyncs() uint64
}

// A Frame is one frame, or, where Err is set, a damage in the stream.
type Frame struct {
	Data []byte
	Err  error
}

// newFramer knows the framings by the name they have in the config file.
func newFramer(name string, maxFrame int) (Framer, error) {
	switch name {
	case "line":
		return NewLines(maxFrame), nil
	}
	return nil, fmt.Errorf("%q is not known; write \"line\"", name)
}

// Lines is the framing "line": a frame ends at LF; one CR before it belongs to
// the end. Every other byte, NUL and invalid UTF-8 included, is kept as it is.
// Empty lines are passed over.
type Lines struct {
	max      int
	part     []byte // of the line that has no LF yet, at most max+1 bytes
	skipping bool   // the line ran over; everything up to its LF goes
	ready    []Frame
	skipped  uint64
	resyncs  uint64
}

// NewLines makes a framer for lines of at most maxFrame bytes, line end not
// counted.
func NewLines(maxFrame int) *Lines { return &Lines{max: maxFrame} }

// Push implements Framer.
func (l *Lines) Push(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		seg, whole := p, false
		if end >= 0 {
			seg, whole = p[:end], true
			p = p[end+1:]
		} else {
			p = nil
		}
		if l.skipping {
			l.skipped += uint64(len(seg))
		} else {
			l.take(seg)
		}
		if whole {
			l.endLine()
		}
	}
}

// take adds bytes without LF to the line. A line of max+1 bytes is still good
// if the last is the CR of its end.
func (l *Lines) take(seg []byte) {
	n := len(l.part) + len(seg)
	if n > l.max+1 || n == l.max+1 && lastOf(l.part, seg) != '\r' {
		l.skipping = true
		l.skipped += uint64(n)
		l.part = l.part[:0]
		l.ready = append(l.ready, Frame{Err: ErrOversize})
		return
	}
	l.part = append(l.part, seg...)
}

func lastOf(a, b []byte) byte {
	if len(b) > 0 {
		return b[len(b)-1]
	}
	return a[len(a)-1]
}

func (l *Lines) endLine() {
	if l.skipping {
		l.skipping = false
		l.resyncs++
		return
	}
	line := bytes.TrimSuffix(l.part, []byte{'\r'})
	if len(line) > 0 {
		l.ready = append(l.ready, Frame{Data: bytes.Clone(line)})
	}
	l.part = l.part[:0]
}

// Next implements Framer.
func (l *Lines) Next() (Frame, bool) {
	if len(l.ready) == 0 {
		return Frame{}, false
	}
	f := l.ready[0]
	l.ready[0] = Frame{}
	l.ready = l.ready[1:]
	return f, true
}

// Drop implements Framer.
func (l *Lines) Drop() int {
	n := len(l.part)
	l.skipped += uint64(n)
	l.part, l.skipping = l.part[:0], false
	return n
}

// Skipped implements Framer.
func (l *Lines) Skipped() uint64 { return l.skipped }

// Resyncs implements Framer.
func (l *Lines) Resyncs() uint64 { return l.resyncs }
