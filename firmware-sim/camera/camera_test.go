package camera_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/firmware-sim/camera"
)

// A receiver answers requests without a network.
type receiver struct {
	mu     sync.Mutex
	got    []got
	tries  int
	answer func(try int, name string) (status int, retryAfter string, err error)
	lost   func(try int) bool // the body is taken, but the answer gets lost
}

type got struct {
	method, path, mediaType, start, length, token string
	body                                          []byte
}

func (r *receiver) RoundTrip(q *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	status, after := 201, ""
	if r.answer != nil {
		if status, after, err = r.answer(r.tries, q.URL.Path); err != nil {
			return nil, err
		}
	}
	if status == 201 {
		r.got = append(r.got, got{
			q.Method, q.URL.Path, q.Header.Get("Content-Type"), q.Header.Get("X-Forebay-Start"),
			q.Header.Get("X-Forebay-Duration"), q.Header.Get("Authorization"), body,
		})
		if r.lost != nil && r.lost(r.tries) {
			return nil, io.ErrUnexpectedEOF
		}
	}
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}
	if after != "" {
		resp.Header.Set("Retry-After", after)
	}
	return resp, nil
}

// film runs a camera for a time of the bubble's clock and returns its ledger.
func film(t *testing.T, r *receiver, length time.Duration, change func(*camera.Config)) (ledger []camera.Event) {
	t.Helper()
	cfg := camera.Config{
		ID: "press-1", Endpoint: "http://gateway.example/", Seed: 3, Transport: r,
		Ledger: func(e camera.Event) { ledger = append(ledger, e) },
	}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	if err := camera.Run(ctx, cfg); err != nil {
		t.Errorf("Run: %v", err)
	}
	return ledger
}

// checkFilm decodes all chunks and looks at the burned-in numbers: every frame
// from 0 is there, once, in order. It returns how many frames and stills.
func checkFilm(t *testing.T, all []got) (frames uint64, stills int) {
	t.Helper()
	for _, g := range all {
		if g.mediaType == "image/jpeg" {
			stills++
			if want := fmt.Sprintf("/video/press-1/still-%d.jpg", stills); g.path != want {
				t.Errorf("path is %s, want %s", g.path, want)
			}
			if _, err := jpeg.Decode(bytes.NewReader(g.body)); err != nil {
				t.Errorf("%s: %v", g.path, err)
			}
			continue
		}
		m, err := parseMP4(g.body)
		if err != nil {
			t.Fatalf("%s: %v", g.path, err)
		}
		fps := m.timescale / 1000
		if m.decode != frames*1000 || m.length != uint64(len(m.samples))*1000 || g.path != fmt.Sprintf("/video/press-1/chunk-%06d.mp4", m.number) {
			t.Errorf("%s: number %d, decode time %d, want %d", g.path, m.number, m.decode, frames*1000)
		}
		if ms, err := strconv.ParseFloat(g.length, 64); err != nil || int(ms) != len(m.samples)*1000/int(fps) {
			t.Errorf("%s: duration is %q for %d frames at %d", g.path, g.length, len(m.samples), fps)
		}
		var dec decoder
		for i, s := range m.samples {
			key, err := dec.slice(s)
			if err != nil || key != (i == 0) || m.keys[i] != key {
				t.Fatalf("%s, frame %d: key %v, %v", g.path, i, key, err)
			}
			if n, ok := camera.FrameNumber(&dec.pic); !ok || n != frames {
				t.Fatalf("%s, frame %d reads as %d, %v; want %d", g.path, i, n, ok, frames)
			}
			frames++
		}
	}
	return frames, stills
}

func TestRunFilmsAndKeepsALedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		began := time.Now().UTC()
		ledger := film(t, r, 10*time.Second+50*time.Millisecond, func(c *camera.Config) { c.Token = "secret" })
		// Frames at 0, 0.1, … 10.0 s; the last chunk has one frame.
		if frames, stills := checkFilm(t, r.got); frames != 101 || stills != 11 {
			t.Errorf("%d frames and %d stills, want 101 and 11", frames, stills)
		}
		if len(ledger) != len(r.got) || len(ledger) != 6+11 {
			t.Fatalf("%d entries, %d received, want 17", len(ledger), len(r.got))
		}
		for i, e := range ledger {
			g := r.got[i]
			sum := sha256.Sum256(g.body)
			if e.Kind != camera.Acked || e.Camera != "press-1" || e.Seq != uint64(i+1) || !strings.HasSuffix(g.path, "/"+e.Name) ||
				e.Bytes != len(g.body) || e.SHA256 != hex.EncodeToString(sum[:]) || e.Tries != 1 || e.At.Before(began) {
				t.Errorf("entry %d is %+v, received %s with %d bytes", i, e, g.path, len(g.body))
			}
			if start, err := time.Parse(time.RFC3339Nano, g.start); err != nil || !start.Equal(e.Start) {
				t.Errorf("%s: start %q, ledger has %v", g.path, g.start, e.Start)
			}
			if g.method != http.MethodPut || g.token != "Bearer secret" {
				t.Errorf("%s %s, token %q", g.method, g.path, g.token)
			}
		}
	})
}

// The receiver is away, refuses for a while, answers 429 or 503, or its answer
// gets lost: everything arrives, in order.
func TestRunKeepsWhatIsNotTaken(t *testing.T) {
	for name, r := range map[string]*receiver{
		"away":        {answer: func(try int, _ string) (int, string, error) { return 201, "", onlyIf(try < 30, errors.New("refused")) }},
		"full":        {answer: func(try int, _ string) (int, string, error) { return pick(try%3 == 0, 201, 429), "2", nil }},
		"unavailable": {answer: func(try int, _ string) (int, string, error) { return pick(try > 20, 201, 503), "", nil }},
		"lost answer": {lost: func(try int) bool { return try%5 == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := film(t, r, 30*time.Second, func(c *camera.Config) { c.Grace = time.Hour })
				once := r.got[:0:0]
				for i, g := range r.got {
					if i == 0 || g.path != r.got[i-1].path {
						once = append(once, g)
					}
				}
				if frames, stills := checkFilm(t, once); frames < 299 || stills < 30 {
					t.Errorf("%d frames, %d stills", frames, stills)
				}
				for i, e := range ledger {
					if e.Kind != camera.Acked || e.Seq != uint64(i+1) {
						t.Errorf("entry %d is %+v", i, e)
					}
				}
				if r.tries == len(ledger) {
					t.Error("nothing was tried twice")
				}
			})
		})
	}
}

func onlyIf(cond bool, err error) error {
	if cond {
		return err
	}
	return nil
}

func pick(cond bool, a, b int) int {
	if cond {
		return a
	}
	return b
}

// A full queue drops its oldest, and the ledger says so; every push has one entry.
func TestRunDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(try int, _ string) (int, string, error) { return pick(try > 20, 201, 503), "", nil }}
		ledger := film(t, r, 2*time.Minute, func(c *camera.Config) { c.QueueItems = 10; c.Grace = time.Hour })
		seen := map[uint64]bool{}
		last, dropped := uint64(0), 0
		for _, e := range ledger {
			if seen[e.Seq] {
				t.Errorf("push %d has two entries", e.Seq)
			}
			seen[e.Seq] = true
			switch {
			case e.Kind == camera.Acked && e.Seq < last:
				t.Errorf("push %d was acknowledged after %d", e.Seq, last)
			case e.Kind == camera.Acked:
				last = e.Seq
			case e.Reason != camera.ReasonFull:
				t.Errorf("entry is %+v", e)
			default:
				dropped++
			}
		}
		if len(seen) < 179 || dropped < 50 || len(r.got)+dropped != len(seen) {
			t.Errorf("%d pushes, %d dropped, %d received", len(seen), dropped, len(r.got))
		}
		for seq := range uint64(len(seen)) {
			if !seen[seq+1] {
				t.Errorf("push %d has no entry", seq+1)
			}
		}
	})
}

func TestRunGivesUpWhatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{answer: func(_ int, name string) (int, string, error) {
			return pick(strings.HasSuffix(name, ".jpg"), 413, 201), "", nil
		}}
		ledger := film(t, r, 10*time.Second, nil)
		for _, e := range ledger {
			still := strings.HasSuffix(e.Name, ".jpg")
			if still != (e.Kind == camera.Dropped) || still && e.Reason != "refused 413" || e.Tries != 1 {
				t.Errorf("entry is %+v", e)
			}
		}
		if frames, _ := checkFilm(t, r.got); frames < 99 {
			t.Errorf("%d frames", frames)
		}
	})
}

func TestRunStopsWithinItsGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := &receiver{answer: func(int, string) (int, string, error) { return 0, "", errors.New("away") }}
		ledger := film(t, r, 10*time.Second, func(c *camera.Config) { c.Grace = 3 * time.Second })
		if took := time.Since(began); took != 13*time.Second {
			t.Errorf("Run took %v, want 13s", took)
		}
		if len(ledger) < 15 {
			t.Errorf("%d entries", len(ledger))
		}
		for _, e := range ledger {
			if e.Kind != camera.Dropped || e.Reason != camera.ReasonStopped {
				t.Errorf("entry is %+v", e)
			}
		}
	})
}

func TestRunOtherRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{}
		film(t, r, 3*time.Second+10*time.Millisecond, func(c *camera.Config) {
			c.FPS, c.ChunkEvery, c.StillEvery = 25, 400*time.Millisecond, -1
		})
		if frames, stills := checkFilm(t, r.got); frames != 76 || stills != 0 || len(r.got) != 8 {
			t.Errorf("%d frames, %d stills in %d pushes", frames, stills, len(r.got))
		}
	})
}

// The same over a real connection.
func TestRunOverHTTP(t *testing.T) {
	pushed := make(chan string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		pushed <- q.URL.Path
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- camera.Run(ctx, camera.Config{ID: "cam", Endpoint: srv.URL, FPS: 50, ChunkEvery: 20 * time.Millisecond, StillEvery: -1})
	}()
	for i := range 5 {
		if got, want := <-pushed, fmt.Sprintf("/video/cam/chunk-%06d.mp4", i+1); got != want {
			t.Errorf("pushed %s, want %s", got, want)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRunRefusesABadConfig(t *testing.T) {
	for name, cfg := range map[string]camera.Config{
		"no id":        {Endpoint: "http://h"},
		"bad id":       {ID: "Press 1", Endpoint: "http://h"},
		"no endpoint":  {ID: "a"},
		"bad endpoint": {ID: "a", Endpoint: "127.0.0.1:8480"},
		"rate":         {ID: "a", Endpoint: "http://h", FPS: 100},
		"chunk":        {ID: "a", Endpoint: "http://h", ChunkEvery: time.Hour},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := camera.Run(ctx, cfg); err == nil {
			t.Errorf("%s: Run took it", name)
		}
	}
}
