package link_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forebay/firmware-sim/link"
)

// echo is the far side: it sends back what comes.
type echo struct {
	lis net.Listener
	wg  sync.WaitGroup
	mu  sync.Mutex
	got int
}

func newEcho(t *testing.T) *echo {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{lis: lis}
	e.wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			e.wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					e.mu.Lock()
					e.got += n
					e.mu.Unlock()
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return e
}

func (e *echo) bytes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got
}

// set up returns a link to an echo; at the end of the test both must be gone
// without a goroutine left.
func setUp(t *testing.T) (*link.Link, *echo) {
	t.Helper()
	before := runtime.NumGoroutine()
	e := newEcho(t)
	l, err := link.Listen("127.0.0.1:0", e.lis.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := e.lis.Close(); err != nil {
			t.Error(err)
		}
		e.wg.Wait()
		eventually(t, "every goroutine ends", func() bool { return runtime.NumGoroutine() <= before })
	})
	return l, e
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
		runtime.Gosched()
	}
}

func dial(t *testing.T, l *link.Link) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func roundTrip(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(s))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != s {
		t.Fatalf("%q came back as %q, %v", s, got, err)
	}
}

func TestForwardsAndCounts(t *testing.T) {
	l, _ := setUp(t)
	c := dial(t, l)
	big := strings.Repeat("forebay ", 10_000)
	go func() { _, _ = io.WriteString(c, big) }()
	got := make([]byte, len(big))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, []byte(big)) {
		t.Fatal("what came back is not what was sent", err)
	}
	eventually(t, "both directions are counted", func() bool {
		s := l.Stats()
		return s.BytesIn == uint64(len(big)) && s.BytesOut == uint64(len(big)) && s.Connections == 1 && s.State == link.Up
	})
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end of the stream: %d, %v", n, err)
	}
	eventually(t, "the connection is forgotten", func() bool { return l.Stats().Connections == 0 })
}

func TestCutResetsAndRefuses(t *testing.T) {
	l, _ := setUp(t)
	c := dial(t, l)
	roundTrip(t, c, "before")
	if err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the open connection ended with %v, want a reset", err)
	}
	if c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr()); err == nil {
		_ = c.Close()
		t.Error("a cut link was dialled")
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling a cut link: %v, want refused", err)
	}
	if err := l.Cut(); err != nil {
		t.Errorf("cut twice: %v", err)
	}
	if err := l.Restore(); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, dial(t, l), "after")
}

func TestHalfOpen(t *testing.T) {
	l, e := setUp(t)
	c, idle := dial(t, l), dial(t, l)
	roundTrip(t, c, "before")
	roundTrip(t, idle, "before")
	seen := e.bytes()
	if err := l.HalfOpen(); err != nil {
		t.Fatal(err)
	}
	fresh := dial(t, l)
	for _, conn := range []net.Conn{c, fresh} {
		if _, err := io.WriteString(conn, "into the void"); err != nil {
			t.Errorf("a half-open link did not take bytes: %v", err)
		}
	}
	eventually(t, "the bytes are swallowed", func() bool { return l.Stats().Swallowed == 26 })
	if e.bytes() != seen {
		t.Error("a half-open link let bytes through")
	}
	if err := c.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("reading a half-open connection: %v, want a timeout", err)
	}
	if err := l.Restore(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{c, fresh} {
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that lost bytes ended with %v, want a reset", err)
		}
	}
	roundTrip(t, idle, "a connection that lost nothing goes on")
	roundTrip(t, dial(t, l), "after")
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestSlow(t *testing.T) {
	l, _ := setUp(t)
	if err := l.Slow(100_000, 5*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	c := dial(t, l)
	start := time.Now()
	roundTrip(t, c, strings.Repeat("x", 10_000)) // 0.1 s there, at the least
	if d := time.Since(start); d < 100*time.Millisecond {
		t.Errorf("10,000 bytes at 100,000 bytes/s took %v", d)
	}
	if err := l.Slow(1, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, strings.Repeat("y", 10_000)); err != nil {
		t.Fatal(err)
	}
	if err := l.Restore(); err != nil { // or this would take hours
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 10_000)); err != nil {
		t.Fatal(err)
	}
	if err := l.Slow(-1, 0); err == nil {
		t.Error("a negative rate was taken")
	}
}

func TestControl(t *testing.T) {
	l, _ := setUp(t)
	srv := httptest.NewServer(l.Control())
	defer srv.Close()
	post := func(path string) (int, link.Stats) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var s link.Stats
		if res.StatusCode == http.StatusOK {
			if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
				t.Fatal(err)
			}
		}
		return res.StatusCode, s
	}
	for path, want := range map[string]link.Stats{
		"/cut":                   {State: link.Cut},
		"/slow?bps=5&delay=20ms": {State: link.Slow, BPS: 5, Delay: 20 * time.Millisecond},
		"/half-open":             {State: link.HalfOpen},
		"/up":                    {State: link.Up},
		"/slow":                  {State: link.Slow},
	} {
		if code, got := post(path); code != http.StatusOK || got != want {
			t.Errorf("%s: %d, %+v, want %+v", path, code, got, want)
		}
	}
	for path, want := range map[string]int{"/slow?bps=fast": 400, "/slow?delay=1": 400, "/melt": 404} {
		if code, _ := post(path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestFarSideNotThere(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := lis.Addr().String()
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := link.Listen("127.0.0.1:0", nobody, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr())
	if err == nil { // else the reset was faster than the dialler
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Restore(); err == nil {
		t.Error("a closed link came up")
	}
}
