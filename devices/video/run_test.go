package video_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/devices/video"
	"forebay/gateway/conf"
	"forebay/spool/record"
)

func TestPushesAreBounded(t *testing.T) {
	for name, cfg := range map[string]video.Config{
		"number": {Pushes: 2},
		"bytes":  {MaxChunk: 100, Buffer: 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{commit: make(chan struct{})}
				s, stop := start(t, cfg, m)
				codes := make(chan int, 4)
				for i := range 2 {
					go func() { codes <- push(s, fmt.Sprintf("/video/cam%d/x.mp4", i), make([]byte, 100)).Code }()
				}
				synctest.Wait()
				began := time.Now()
				w := push(s, "/video/cam3/x.mp4", make([]byte, 100))
				if w.Code != 429 || w.Header().Get("Retry-After") != "1" || time.Since(began) != 5*time.Second {
					t.Errorf("third: %d after %v", w.Code, time.Since(began))
				}
				go func() { codes <- push(s, "/video/cam3/x.mp4", make([]byte, 100)).Code }()
				synctest.Wait()
				close(m.commit)
				for range 3 {
					if code := <-codes; code != 201 {
						t.Errorf("answer is %d", code)
					}
				}
				stop()
			})
		})
	}
}

func TestStopWaitsForTheCommitAndRefusesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{commit: make(chan struct{})}
		s, stop := start(t, video.Config{}, m)
		first := make(chan int, 1)
		go func() { first <- push(s, "/video/a/x.mp4", []byte("x")).Code }()
		synctest.Wait()
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("Run ended while the log held a chunk")
		default:
		}
		if w := push(s, "/video/a/y.mp4", []byte("y")); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("after the stop: %d", w.Code)
		}
		close(m.commit)
		if code := <-first; code != 201 {
			t.Errorf("first: %d", code)
		}
		<-stopped
	})
}

func TestStopEndsAPutThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := start(t, video.Config{}, &memory{full: true})
		codes := make(chan int, 2)
		for range 2 {
			go func() { codes <- push(s, "/video/a/x.mp4", []byte("x")).Code }()
		}
		synctest.Wait()
		stop()
		for range 2 {
			if code := <-codes; code != 503 {
				t.Errorf("answer is %d", code)
			}
		}
	})
}

func TestHealthAndCameras(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, stop := start(t, video.Config{Cameras: []video.Camera{
			{ID: "press-1", Label: "Press 1", StaleAfter: conf.Duration(3 * time.Second)}, {ID: "press-2"},
		}}, m)
		is := func(wantState, wantReason string) {
			t.Helper()
			if state, reason := s.Health(); state != wantState || !strings.Contains(reason, wantReason) {
				t.Errorf("health is %s, %q; want %s, %q", state, reason, wantState, wantReason)
			}
		}
		is("connecting", "no camera")
		for i := range 9 {
			push(s, "/video/press-1/still.jpg", []byte{byte(i)})
			push(s, "/video/press-2/still.jpg", []byte{byte(i)})
			push(s, "/video/guest/still.jpg", []byte{byte(i)})
			time.Sleep(500 * time.Millisecond)
		}
		push(s, "/video/press-1/c.mp4", read(t, "testdata/x264-self.mp4"))
		is("up", "")
		c := s.Cameras()
		if len(c) != 3 || s.Clients() != 3 {
			t.Fatalf("cameras are %+v", c)
		}
		p := c[1]
		if p.ID != "press-1" || p.Label != "Press 1" || p.FPS < 1.99 || p.FPS > 2.01 || p.Stills != 9 || p.Chunks != 1 ||
			p.Codec != "avc1.42C00A" || p.StillPos.Seq != 25 || p.Bytes != 9+uint64(len(read(t, "testdata/x264-self.mp4"))) || p.StaleAfter != 3*time.Second {
			t.Errorf("press-1 is %+v", p)
		}
		time.Sleep(4 * time.Second)
		is("degraded", "nothing from press-1 for 4s")
		time.Sleep(4 * time.Second)
		is("degraded", "press-2")
		if s.Clients() != 0 {
			t.Errorf("%d clients", s.Clients())
		}
		push(s, "/video/press-1/still.jpg", []byte("a"))
		push(s, "/video/press-2/still.jpg", []byte("a"))
		is("up", "") // the guest's silence is nobody's trouble
		m.fail = record.ErrFull
		push(s, "/video/press-1/still.jpg", []byte("b"))
		is("degraded", "full")
		m.fail = nil
		push(s, "/video/press-1/still.jpg", []byte("b"))
		is("up", "")
		stop()
		is("down", "not started")
	})
}

func TestGuestsAreBounded(t *testing.T) {
	s, _ := start(t, video.Config{}, &memory{})
	codes := map[int]int{}
	for i := range 300 {
		codes[push(s, fmt.Sprintf("/video/cam%d/x.jpg", i), []byte("x")).Code]++
	}
	if codes[201] != 256 || codes[404] != 44 {
		t.Errorf("answers are %v", codes)
	}
}

func TestConfigNamesTheField(t *testing.T) {
	if err := (video.Config{}).Check(); err != nil {
		t.Errorf("zero config: %v", err)
	}
	for field, c := range map[string]video.Config{
		"max_chunk":   {MaxChunk: 65 << 20},
		"pushes":      {Pushes: -1},
		"buffer":      {Buffer: 1000},
		"stream":      {Stream: "a b"},
		"id":          {Cameras: []video.Camera{{ID: "a"}, {ID: "a"}}},
		"stale_after": {Cameras: []video.Camera{{ID: "a", StaleAfter: -1}}},
	} {
		err := c.Check()
		if err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("bad %s: got %v", field, err)
		}
	}
}
