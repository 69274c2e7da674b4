package stranger_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink/stranger"
)

// pipes is a peer: each connection to it is served by f.
func pipes(f func(c net.Conn)) func(ctx context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			f(far)
		}()
		return near, nil
	}
}

func isX(b byte) bool { return b == 'x' }

// watch opens a watched connection, and reads from it once.
func watch(t *testing.T, dial func(ctx context.Context) (net.Conn, error), look bool) (got string, took time.Duration, told, err error) {
	t.Helper()
	begin := time.Now()
	raw, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := stranger.Options{Meant: "an X", Known: isX, Tell: func(err error) { told = err }}
	if look {
		o.Dial = dial
	}
	c := stranger.Watch(raw, o)
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), time.Since(begin), told, err
}

func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		peer       func(c net.Conn)
		look       bool
		want, seen string
		least      time.Duration // until it is known
	}{
		"it answers":         {peer: func(c net.Conn) { _, _ = c.Write([]byte("xyz")) }, look: true, want: "xyz"},
		"another greets":     {peer: func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-OpenSSH\r\n")) }, seen: `it does not answer as an X: the first bytes were "SSH-2.0-OpenSSH"`},
		"another wants TLS":  {peer: func(c net.Conn) { _, _ = c.Write([]byte{0x15, 3, 1, 0, 2, 2, 70}) }, seen: "it does not answer as an X: it wants TLS"},
		"bytes, not letters": {peer: func(c net.Conn) { _, _ = c.Write([]byte{0, 0xff, 7}) }, seen: `it does not answer as an X: the first bytes were "\x00\xff\a"`},
		"one that waits for lines": {look: true, least: 3 * time.Second, seen: `it does not answer as an X: the first bytes were "HTTP/1.1 400 Bad Request"`, peer: func(c net.Conn) {
			buf := make([]byte, 4)
			if _, err := io.ReadFull(c, buf); err == nil && string(buf) == "\r\n\r\n" {
				_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
			}
		}},
		"a slow one that takes lines ill": {look: true, least: 20 * time.Second, want: "x", peer: func(c net.Conn) {
			heard := make(chan bool, 1)
			go func() {
				_, err := c.Read(make([]byte, 1))
				heard <- err == nil
			}()
			select {
			case <-heard: // it hangs up
			case <-time.After(20 * time.Second):
				_, _ = c.Write([]byte("x"))
			}
		}},
		"a slow one that answers lines": {look: true, least: 20 * time.Second, want: "x", peer: func(c net.Conn) {
			go func() {
				if _, err := c.Read(make([]byte, 4)); err == nil {
					_, _ = c.Write([]byte("x?"))
				}
			}()
			time.Sleep(20 * time.Second)
			_, _ = c.Write([]byte("x"))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, took, told, err := watch(t, pipes(c.peer), c.look)
				time.Sleep(time.Minute) // the peers end
				if c.seen == "" {
					if err != nil || told != nil || got != c.want || took < c.least {
						t.Errorf("%q, %v, told %v after %v", got, err, told, took)
					}
					return
				}
				var e *stranger.Error
				if !errors.As(err, &e) || err.Error() != c.seen || !errors.Is(told, err) || took < c.least || took > c.least+4*time.Second {
					t.Errorf("%q, %v, told %v after %v", got, err, told, took)
				}
			})
		})
	}
}

// A connection that is closed before anything was heard ends the look.
func TestCloseEndsTheLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := pipes(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		for _, after := range []time.Duration{0, time.Second, 5 * time.Second, time.Minute} {
			raw, _ := dial(t.Context())
			c := stranger.Watch(raw, stranger.Options{Meant: "an X", Known: isX, Dial: dial, Tell: func(err error) { t.Errorf("told %v", err) }})
			time.Sleep(after)
			begin := time.Now()
			if err := c.Close(); err != nil || time.Since(begin) > 0 {
				t.Errorf("%v, %v", err, time.Since(begin))
			}
		}
	})
}

// A real web server says nothing to what is no line, and answers empty ones.
func TestAWebServer(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	var d net.Dialer
	dial := func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}
	if got, _, told, err := watch(t, dial, true); err == nil || told == nil || err.Error() != `it does not answer as an X: the first bytes were "HTTP/1.1 400 Bad Request"` {
		t.Errorf("%q, %v, told %v", got, err, told)
	}
}
