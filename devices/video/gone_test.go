package video_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/devices/video"
	"forebay/spool/record"
)

// hasty is a log that takes a chunk only when its sender has gone.
type hasty struct {
	memory
	requests chan context.Context // of the requests, in their order
}

func (h *hasty) Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	<-(<-h.requests).Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.memory.Put(ctx, recs, done)
}

func (h *hasty) serve(t *testing.T, s http.Handler) (addr string, wait func()) {
	t.Helper()
	var handlers sync.WaitGroup
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		h.requests <- r.Context()
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), func() { handlers.Wait(); h.commits.Wait() }
}

func sendAndClose(t *testing.T, addr, text string) {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// An encoder that closes the connection behind the last byte of the body, as
// ffmpeg does, loses nothing.
func TestSenderThatClosesAtOnceIsStored(t *testing.T) {
	const n = 20
	body := strings.Repeat("z", 12000)
	for name, head := range map[string]string{
		"chunked": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		"length":  fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
	} {
		t.Run(name, func(t *testing.T) {
			h := &hasty{requests: make(chan context.Context, n)}
			s, _ := start(t, video.Config{Pushes: n}, h)
			addr, wait := h.serve(t, s)
			for i := range n {
				sendAndClose(t, addr, fmt.Sprintf("PUT /video/cam/s%d.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s", i, head))
			}
			eventually(t, "all chunks are through", func() bool {
				c := s.Cameras()
				return len(c) == 1 && c[0].Chunks+c[0].Dropped == n
			})
			wait()
			got := map[string]bool{}
			for _, r := range h.stored() {
				got[indexOf(t, r).Name] = len(r.Blob) == len(body)
			}
			if len(got) != n || s.Errors() != 0 {
				t.Errorf("%d of %d chunks stored, %d errors", len(got), n, s.Errors())
			}
		})
	}
}

// A body that breaks off is not stored, and somebody is told: once for many.
func TestBodyThatBreaksOffIsLogged(t *testing.T) {
	const n = 12
	m := &memory{}
	var text bytes.Buffer
	s, err := video.New(video.Config{}, slog.New(slog.NewTextHandler(&text, nil)), video.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, m) }()
	eventually(t, "Run lends the log", func() bool { _, reason := s.Health(); return reason != "not started" })
	h := hasty{requests: make(chan context.Context, n)}
	addr, wait := h.serve(t, s)
	for range n / 2 {
		sendAndClose(t, addr, "PUT /video/cam/s.bin HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		sendAndClose(t, addr, "PUT /video/cam/s.bin HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nhello")
	}
	eventually(t, "all are dropped", func() bool { c := s.Cameras(); return len(c) == 1 && c[0].Dropped == n })
	wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(m.stored()) != 0 || s.Errors() != n {
		t.Errorf("%d stored, %d errors", len(m.stored()), s.Errors())
	}
	line := text.String()
	if strings.Count(line, "push was not stored") != 1 || !strings.Contains(line, "camera=cam name=s.bin status=400") || !strings.Contains(line, "broke off") {
		t.Errorf("logged %q", line)
	}
}

// Nobody waits for ever for a log that takes nothing, and what was lost
// meanwhile is told with the next line.
func TestLogThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		m := &memory{full: true}
		s, err := video.New(video.Config{}, slog.New(slog.NewTextHandler(&text, nil)), video.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, m) }()
		synctest.Wait()
		began := time.Now()
		codes := make(chan int, 3)
		for range 3 { // one is with the log, two behind it
			go func() {
				w := push(s, "/video/a/x.mp4", []byte("x"))
				if w.Header().Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				codes <- w.Code
			}()
		}
		for range 3 {
			if code := <-codes; code != 429 || time.Since(began) != 30*time.Second {
				t.Errorf("answer is %d after %v", code, time.Since(began))
			}
		}
		if state, reason := s.Health(); state != "degraded" || !strings.Contains(reason, "taken nothing") {
			t.Errorf("health is %s, %s", state, reason)
		}
		time.Sleep(10 * time.Second)
		push(s, "/video/a/x.mp4", nil)
		if got := text.String(); strings.Count(got, "push was not stored") != 2 || !strings.Contains(got, "unlogged_before=2") {
			t.Errorf("logged %q", got)
		}
		if c := s.Cameras(); c[0].Dropped != 4 {
			t.Errorf("%d dropped", c[0].Dropped)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
