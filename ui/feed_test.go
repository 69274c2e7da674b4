package main

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

var _ gateway = (*api.Client)(nil)

// fakeGateway says what its fields tell it to; up is whether it answers.
type fakeGateway struct {
	mu     sync.Mutex
	up     bool
	cut    chan struct{} // closed to end the running connections
	silent bool          // says nothing after the snapshot
	since  []uint64
	acked  []string
	ackErr error
	verbs  []string
	still  []byte
	frames map[string]int
	desk   fakeDesk
}

func (g *fakeGateway) Events(ctx context.Context, since uint64) iter.Seq2[api.Event, error] {
	return func(yield func(api.Event, error) bool) {
		g.mu.Lock()
		up, cut, silent := g.up, g.cut, g.silent
		g.since = append(g.since, since)
		g.mu.Unlock()
		if !up {
			yield(api.Event{}, errors.New("connection refused"))
			return
		}
		seq := since + 1
		now := time.Now()
		cams := []api.Camera{{ID: "good", LastFrame: &now, FrameURL: "/x"}, {ID: "hangs", LastFrame: &now, FrameURL: "/x"}}
		if !yield(api.Event{Seq: seq, Kind: "snapshot", Snapshot: &api.Snapshot{Status: api.Status{Gateway: "g", Now: now}, Cameras: cams}}, nil) {
			return
		}
		for {
			var tick <-chan time.Time
			if !silent {
				tick = time.After(time.Second)
			}
			select {
			case <-ctx.Done():
				yield(api.Event{}, ctx.Err())
				return
			case <-cut:
				yield(api.Event{}, io.ErrUnexpectedEOF)
				return
			case <-tick:
				seq++
				now := time.Now()
				cams := []api.Camera{{ID: "good", LastFrame: &now, FrameURL: "/x"}, {ID: "hangs", LastFrame: &now, FrameURL: "/x"}}
				if !yield(api.Event{Seq: seq, Kind: "cameras", Cameras: cams}, nil) {
					return
				}
			}
		}
	}
}

func (g *fakeGateway) Ack(_ context.Context, r api.AckRequest) (api.AckResult, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked = append(g.acked, r.IDs...)
	return api.AckResult{Acked: r.IDs}, g.ackErr
}

func (g *fakeGateway) verb(verb, id, by string) (api.Uplink, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.verbs = append(g.verbs, verb+" "+id+" by "+by)
	return api.Uplink{ID: id}, nil
}

func (g *fakeGateway) PauseUplink(_ context.Context, id, by string) (api.Uplink, error) {
	return g.verb("pause", id, by)
}

func (g *fakeGateway) ResumeUplink(_ context.Context, id, by string) (api.Uplink, error) {
	return g.verb("resume", id, by)
}

func (g *fakeGateway) RetryUplink(_ context.Context, id, by string) (api.Uplink, error) {
	return g.verb("retry", id, by)
}

func (g *fakeGateway) CancelErrand(_ context.Context, id, by string) (api.Errand, error) {
	_, err := g.verb("cancel", id, by)
	return api.Errand{ID: id, State: "canceled"}, err
}

func (g *fakeGateway) Frame(ctx context.Context, camera string) ([]byte, time.Time, error) {
	if camera == "hangs" {
		<-ctx.Done()
		return nil, time.Time{}, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frames[camera]++
	return g.still, time.Now(), nil
}

// screen keeps the frames that were shown.
type screen struct {
	mu     sync.Mutex
	frames []view.Snapshot
}

func (s *screen) show(f view.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = append(s.frames, f)
}

func (s *screen) last() view.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.frames[len(s.frames)-1]
}

func (s *screen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.frames)
}

func jpegOf(t *testing.T, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, w, h)), nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// start runs a feed in a bubble and returns what it shows; stop waits for it.
func start(t *testing.T, g *fakeGateway) (f *feed, s *screen, stop func()) {
	g.still, g.frames = jpegOf(t, 64, 36), map[string]int{}
	if g.cut == nil {
		g.cut = make(chan struct{})
	}
	s = &screen{}
	f = newFeed(g, "otto", 1, s.show, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	return f, s, func() {
		cancel()
		<-done
	}
}

func TestFeedComesBackWithinThreeSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{}
		_, s, stop := start(t, g)
		defer stop()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if l := s.last(); l.Link != view.Connecting || l.Banner.Detail != "connection refused" {
			t.Errorf("without a gateway: %v %+v", l.Link, l.Banner)
		}
		g.mu.Lock()
		tries := len(g.since)
		g.up = true
		g.mu.Unlock()
		if tries < 8 || tries > 30 {
			t.Errorf("%d tries in 20 s", tries)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s.last().Link != view.Live {
			t.Errorf("three seconds after its return: %v", s.last().Link)
		}
		time.Sleep(2 * time.Second) // more than the snapshot is heard
		synctest.Wait()
		g.mu.Lock()
		g.up = false
		close(g.cut)
		g.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if l := s.last(); l.Link != view.Lost || !strings.Contains(l.Banner.Text, "Console lost the gateway") {
			t.Errorf("after the cut: %v %q", l.Link, l.Banner.Text)
		}
		g.mu.Lock()
		g.up, g.cut = true, make(chan struct{})
		last := g.since[len(g.since)-1]
		g.mu.Unlock()
		if last < 2 {
			t.Errorf("it asks for events after %d, though more were heard", last)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s.last().Link != view.Live {
			t.Errorf("after the second return: %v", s.last().Link)
		}
	})
}

func TestFeedGivesUpASilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{up: true, silent: true}
		_, s, stop := start(t, g)
		defer stop()
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if s.last().Link != view.Lost {
			t.Errorf("silent for seven seconds: %v", s.last().Link)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.since) < 2 {
			t.Error("a dead connection is never given up")
		}
	})
}

func TestHangingCameraHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{up: true}
		_, s, stop := start(t, g)
		defer stop()
		time.Sleep(10500 * time.Millisecond)
		synctest.Wait()
		g.mu.Lock()
		n := g.frames["good"]
		g.mu.Unlock()
		if n < 8 {
			t.Errorf("the good camera was fetched %d times in ten seconds", n)
		}
		cams := s.last().Cameras
		if cams[0].Image == nil || cams[0].Stale {
			t.Errorf("the good one: %+v", cams[0])
		}
		if cams[1].Image != nil || cams[1].Warn == "" {
			t.Errorf("the hanging one: %+v", cams[1])
		}
		if c := s.count(); c < 10 || c > 14 {
			t.Errorf("%d frames in ten seconds at 1 Hz", c)
		}
	})
}

func TestAcknowledgementGoesOutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{up: true, ackErr: errors.New("disk full")}
		f, s, stop := start(t, g)
		defer stop()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		before := s.count()
		f.Ack([]string{"a", "b"})
		synctest.Wait()
		g.mu.Lock()
		acked := strings.Join(g.acked, " ")
		g.mu.Unlock()
		if acked != "a b" {
			t.Errorf("acknowledged %q", acked)
		}
		if s.count() == before {
			t.Error("no frame shows it before the next tick")
		}
		if d := s.last().Banner.Detail; d != "not acknowledged: disk full" {
			t.Errorf("the failure is shown as %q", d)
		}
	})
}

func TestVerbsGoOutInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{up: true}
		f, _, stop := start(t, g)
		defer stop()
		for _, v := range []string{"pause", "resume", "retry", "cancel"} {
			f.Act("cloud", v)
		}
		synctest.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if got := strings.Join(g.verbs, ", "); got != "pause cloud by "+f.by+", resume cloud by "+f.by+", retry cloud by "+f.by+", cancel cloud by "+f.by {
			t.Errorf("%q", got)
		}
	})
}

func TestOnlyOneFrameWaitsForTheWindow(t *testing.T) {
	var l latest
	if _, ok := l.take(); ok {
		t.Error("an empty one has a frame")
	}
	calls := 0
	for i := range 100 {
		if l.put(view.Snapshot{Title: string(rune('a' + i%26))}) {
			calls++
		}
	}
	if s, ok := l.take(); calls != 1 || !ok || s.Title != string(rune('a'+99%26)) {
		t.Errorf("%d calls for 100 frames; the newest is %q, %v", calls, s.Title, ok)
	}
	if !l.put(view.Snapshot{}) {
		t.Error("after take the next frame calls nobody")
	}
}

func TestDecode(t *testing.T) {
	img, err := decode(jpegOf(t, 64, 36))
	if err != nil || img.Rect.Dx() != 64 || img.Rect.Dy() != 36 {
		t.Errorf("small: %v, %v", img, err)
	}
	img, err = decode(jpegOf(t, 1920, 1080))
	if err != nil || img.Rect.Dx() != stillWidth || img.Rect.Dy() != 540 {
		t.Errorf("large: %v, %v", img.Rect, err)
	}
	for name, raw := range map[string][]byte{"empty": nil, "text": []byte("not a picture"), "cut": jpegOf(t, 640, 360)[:300], "huge": huge(t)} {
		if img, err := decode(raw); err == nil {
			t.Errorf("%s: %v and no error", name, img.Rect)
		}
	}
}

// huge is a small JPEG whose header claims 65500 x 65500 pixels.
func huge(t *testing.T) []byte {
	t.Helper()
	b := jpegOf(t, 16, 16)
	i := bytes.Index(b, []byte{0xff, 0xc0})
	if i < 0 {
		t.Fatal("no frame header")
	}
	copy(b[i+5:], []byte{0xff, 0xdc, 0xff, 0xdc})
	return b
}

func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, 16, 16)), nil); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xd8, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		img, err := decode(raw)
		if err == nil && (img.Rect.Dx() > stillWidth || img.Rect.Dx()*img.Rect.Dy() > maxPixels) {
			t.Errorf("%v", img.Rect)
		}
	})
}

// The whole way through HTTP: the client of the gateway's API against a
// server that speaks it.
func TestFeedOverHTTP(t *testing.T) {
	still := jpegOf(t, 64, 36)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, err := io.WriteString(w, "id: 7\nevent: snapshot\n"+`data: {"seq":7,"kind":"snapshot","snapshot":{"status":{"gateway":"edge-07","title":"Press shop","now":"`+time.Now().Format(time.RFC3339Nano)+`"},"alarms":[{"id":"a/b/1","severity":1,"state":"unacked","text":"hot"}],"cameras":[{"id":"c1","frame_url":"/v1/cameras/c1/frame.jpg","stale_after_seconds":60}]}}`+"\n\n")
		if err != nil {
			return
		}
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		<-r.Context().Done()
	})
	acked := make(chan string, 1)
	mux.HandleFunc("POST /v1/alarms/ack", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		acked <- string(b)
		if _, err := io.WriteString(w, `{"acked":["a/b/1"]}`); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("GET /v1/cameras/c1/frame.jpg", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("X-Forebay-Arrived", time.Now().UTC().Format(time.RFC3339Nano))
		if _, err := w.Write(still); err != nil {
			t.Error(err)
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	client, err := api.NewClient(srv.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	shown := make(chan view.Snapshot, 1000)
	f := newFeed(client, "otto", 50, func(s view.Snapshot) { shown <- s }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	for {
		select {
		case s := <-shown:
			if s.Link != view.Live || len(s.Cameras) == 0 || s.Cameras[0].Image == nil {
				continue
			}
			if s.Title != "edge-07  Press shop" || s.Banner.Text != "hot" {
				t.Errorf("%q %+v", s.Title, s.Banner)
			}
			f.Ack(s.Banner.AlarmIDs)
			select {
			case got := <-acked:
				if !strings.Contains(got, `"a/b/1"`) || !strings.Contains(got, `"otto"`) {
					t.Errorf("acknowledged with %s", got)
				}
			case <-ctx.Done():
				t.Error("the acknowledgement did not arrive")
			}
			return
		case <-ctx.Done():
			t.Fatal("no live frame with a picture within 20 s")
		}
	}
}
