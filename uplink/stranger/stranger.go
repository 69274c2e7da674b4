// Package stranger finds out that whoever answers at an address does not speak
// the protocol that was meant: an uplink to a broker that was pointed at a web
// server's port, or at one with TLS. Such a peer often says nothing at all, as
// it waits for the rest of what it takes for a line.
package stranger

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// An Error says who answered instead.
type Error struct {
	// Meant is who should have: "an MQTT broker".
	Meant string
	// Seen is what came, in words: `the first bytes were "HTTP/1.1 400 Bad Request"`.
	Seen string
}

// WantsTLS reports whether what came was of TLS.
func (e *Error) WantsTLS() bool { return e.Seen == wantsTLS }

const wantsTLS = "it wants TLS"

func (e *Error) Error() string {
	return "it does not answer as " + e.Meant + ": " + e.Seen
}

const (
	// silence is for how long a peer may say nothing before it is looked at:
	// longer than most links and logins take.
	silence = 3 * time.Second
	// patience is how long the look takes at most.
	patience = 4 * time.Second
	// moment is how long the rest of a line may take.
	moment = 300 * time.Millisecond
	// most is how many bytes of an answer are looked at.
	most = 48
)

// Options are what Watch needs to know of a protocol.
type Options struct {
	// Meant is who should answer: "an MQTT broker".
	Meant string
	// Known reports whether an answer may begin with this byte.
	Known func(first byte) bool
	// Dial makes another connection of the same kind, to look at a peer that is
	// silent. nil: that is waited for.
	Dial func(ctx context.Context) (net.Conn, error)
	// Tell is called once, before the connection is closed, with an *Error. It
	// must not use the connection.
	Tell func(error)
}

// Watch gives a connection over which nothing has been read yet, watched until
// its first byte is. If that is no answer, Read fails with an *Error. If none
// comes for three seconds, another connection is made, over which two empty
// lines are sent: a server of another protocol answers those or says what it
// is, and the watched connection is closed then; one that is only slow keeps
// it. Close waits for that.
func Watch(conn net.Conn, o Options) net.Conn {
	ctx, stop := context.WithCancel(context.Background())
	c := &watched{Conn: conn, o: o, stop: stop}
	if o.Dial != nil {
		c.looks.Add(1)
		c.timer = time.AfterFunc(silence, func() {
			defer c.looks.Done()
			c.look(ctx)
		})
	}
	return c
}

type watched struct {
	net.Conn
	o     Options
	stop  context.CancelFunc
	timer *time.Timer
	looks sync.WaitGroup

	mu   sync.Mutex
	over bool  // it has answered, or is closed
	err  error // who it is instead
}

func (c *watched) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	first, gone := c.heard(n)
	switch {
	case gone != nil:
		return 0, gone
	case !first || c.o.Known(p[0]):
		return n, err
	}
	gone = &Error{c.o.Meant, words(c.rest(p[:n]))}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = gone
	c.o.Tell(gone)
	return 0, gone
}

// heard ends the watch if these are the first bytes; gone is who answers
// instead, where that is known already.
func (c *watched) heard(n int) (first bool, gone error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || n == 0 {
		return false, c.err
	}
	c.end()
	return true, nil
}

// rest reads on to the end of the line; whoever reads may ask byte by byte.
func (c *watched) rest(b []byte) []byte {
	b = append(make([]byte, 0, most), b[:min(len(b), most)]...)
	if c.SetReadDeadline(time.Now().Add(moment)) != nil {
		return b
	}
	for len(b) < most && !bytes.ContainsRune(b, '\n') {
		n, err := c.Conn.Read(b[len(b):most])
		if b = b[:len(b)+n]; err != nil {
			break
		}
	}
	return b
}

// end is the end of the watch. c.mu is held.
func (c *watched) end() {
	c.over = true
	c.stop()
	if c.timer != nil && c.timer.Stop() {
		c.looks.Done()
	}
}

func (c *watched) Close() error {
	c.mu.Lock()
	if !c.over {
		c.end()
	}
	c.mu.Unlock()
	err := c.Conn.Close()
	c.looks.Wait()
	return err
}

// look finds out who is silent.
func (c *watched) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	seen := ask(ctx, c.o.Dial)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over || len(seen) == 0 || c.o.Known(seen[0]) {
		return
	}
	c.over = true
	c.err = &Error{c.o.Meant, words(seen)}
	c.o.Tell(c.err)
	_ = c.Conn.Close() // whoever reads from it gets c.err
}

// ask gives the first bytes that two empty lines are answered with, none if
// there is no answer.
func ask(ctx context.Context, dial func(ctx context.Context) (net.Conn, error)) []byte {
	conn, err := dial(ctx)
	if err != nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close() // nothing was meant by it
		}
	}()
	if _, err := conn.Write([]byte("\r\n\r\n")); err != nil {
		return nil
	}
	buf := make([]byte, most)
	n, _ := conn.Read(buf) // what came counts, whatever came after it
	return buf[:n]
}

// words says what bytes of an unknown peer are.
func words(b []byte) string {
	if len(b) > most {
		b = b[:most]
	}
	if len(b) >= 2 && b[0] >= 0x14 && b[0] <= 0x17 && b[1] == 3 {
		return wantsTLS // RFC 8446, 5.1: a record's type, and a version of old
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return fmt.Sprintf("the first bytes were %q", strings.TrimRight(line, "\r"))
}
