package video_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/devices/video"
	"forebay/spool/record"
)

// memory is a log that keeps records in memory.
type memory struct {
	mu      sync.Mutex
	recs    []record.Record
	entered chan struct{} // if set, gets a token when a Put came
	commit  chan struct{} // if set, each commit waits for a token
	full    bool          // if set, Put blocks until its ctx ends
	fail    error         // of the commit
	refuse  error         // of Put
	commits sync.WaitGroup
}

func (m *memory) Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	if m.entered != nil {
		m.entered <- struct{}{}
	}
	if m.full {
		<-ctx.Done()
		return ctx.Err()
	}
	if m.refuse != nil {
		return m.refuse
	}
	m.commits.Go(func() {
		if m.commit != nil {
			<-m.commit
		}
		m.mu.Lock()
		results := make([]record.Result, len(recs))
		for i, r := range recs {
			if results[i].Err = m.fail; m.fail == nil {
				m.recs = append(m.recs, r)
				results[i].Pos = record.Pos{Shard: 3, Seq: uint64(len(m.recs))}
			}
		}
		m.mu.Unlock()
		done(results)
	})
	return nil
}

func (m *memory) stored() []record.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recs
}

// start runs a source until the test ends; stop waits for Run.
func start(t *testing.T, cfg video.Config, in video.Inlet) (s *video.Source, stop func()) {
	t.Helper()
	s, err := video.New(cfg, slog.New(slog.DiscardHandler), video.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, in) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	for { // until Run has lent the log
		if _, reason := s.Health(); reason != "not started" {
			return s, stop
		}
		time.Sleep(time.Millisecond)
	}
}

// push sends one chunk without a network.
func push(s http.Handler, path string, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPut, path, bytes.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func indexOf(t *testing.T, r record.Record) (x video.Index) {
	t.Helper()
	if err := json.Unmarshal(r.Data, &x); err != nil {
		t.Fatalf("index %q: %v", r.Data, err)
	}
	return x
}

func TestPushIsStored(t *testing.T) {
	m := &memory{}
	s, _ := start(t, video.Config{}, m)
	body := read(t, "testdata/x264-self.mp4")
	w := push(s, "/video/press-1/chunk-1.mp4", body, video.HeaderStart, "2026-11-22T10:00:00.25+01:00", "Content-Type", "video/mp4; codecs=avc1")
	if want := fmt.Sprintf(`{"stream":"video","shard":3,"sequence":1,"bytes":%d}`, len(body)); w.Code != 201 || strings.TrimSpace(w.Body.String()) != want {
		t.Fatalf("answer is %d %s, want 201 %s", w.Code, w.Body, want)
	}
	r := m.stored()[0]
	start := time.Date(2026, 11, 22, 9, 0, 0, 250e6, time.UTC)
	if r.Key != "press-1" || r.Type != "video/mp4" || !r.At.Equal(start) || !bytes.Equal(r.Blob, body) || r.Arrived.IsZero() {
		t.Errorf("record is %+v", r)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256(body)
	want := fmt.Sprintf(`{"camera":"press-1","name":"chunk-1.mp4","start":"2026-11-22T09:00:00.25Z","duration_ms":2000,`+
		`"codec":"avc1.42C00A","bytes":%d,"sha256":"%s","keyframe":true,"sequence":1,"discontinuity":false}`, len(body), hex.EncodeToString(sum[:]))
	if string(r.Data) != want {
		t.Errorf("index is\n%s, want\n%s", r.Data, want)
	}
}

func TestWhatAPushIs(t *testing.T) {
	jpeg := []byte{0xff, 0xd8, 0xff, 0xe0, 1, 2, 3}
	for _, c := range []struct {
		name, sent  string
		body        []byte
		typ, codec  string
		init        bool
		keyframe    bool
		wantLengths int64
	}{
		{"a.mp4", "", read(t, "testdata/x264-self.mp4"), "video/mp4", "avc1.42C00A", false, true, 2000},
		{"a.mp4", "application/octet-stream", read(t, "testdata/x265-self.mp4"), "video/mp4", "hvc1", false, true, 1000},
		{"init.mp4", "", read(t, "testdata/hls-init.mp4"), "video/mp4", "avc1.64000A", true, false, 0},
		{"still-1.jpg", "", jpeg, "image/jpeg", "jpeg", false, true, 0},
		{"still-1.JPEG", "", jpeg, "image/jpeg", "jpeg", false, true, 0},
		{"nameless", "", jpeg, "image/jpeg", "jpeg", false, true, 0},
		{"nameless", "", read(t, "testdata/hls-init.mp4"), "video/mp4", "avc1.64000A", true, false, 0},
		{"a.ts", "", []byte("Gx"), "video/mp2t", "", false, false, 0},
		{"nameless", "", bytes.Repeat(append([]byte{0x47}, make([]byte, 187)...), 2), "video/mp2t", "", false, false, 0},
		{"list.m3u8", "", []byte("#EXTM3U\n"), "application/vnd.apple.mpegurl", "", false, false, 0},
		{"list.mpd", "", []byte("<MPD/>"), "application/dash+xml", "", false, false, 0},
		{"thing", "video/x-own", []byte("x"), "video/x-own", "", false, false, 0},
		{"thing", "", []byte("x"), "application/octet-stream", "", false, false, 0},
	} {
		m := &memory{}
		s, stop := start(t, video.Config{}, m)
		header := []string{}
		if c.sent != "" {
			header = append(header, "Content-Type", c.sent)
		}
		if w := push(s, "/video/press-1/"+c.name, c.body, header...); w.Code != 201 {
			t.Errorf("%s: answer is %d %s", c.name, w.Code, w.Body)
			continue
		}
		stop()
		r := m.stored()[0]
		x := indexOf(t, r)
		if r.Type != c.typ || x.Codec != c.codec || x.Keyframe != c.keyframe || x.DurationMS != c.wantLengths || (r.Attrs["init"] == "true") != c.init {
			t.Errorf("%s: type %s, attrs %v, index %+v", c.name, r.Type, r.Attrs, x)
		}
		if !r.At.IsZero() || !x.Start.Equal(r.Arrived) {
			t.Errorf("%s: nobody gave a time, but at is %v, start %v", c.name, r.At, x.Start)
		}
	}
}

// A bare fragment is read with the camera's last init segment, and with no
// other camera's (then its index still tells the duration); a gap in the running time is told.
func TestFragmentsFollowTheirInit(t *testing.T) {
	m := &memory{}
	s, _ := start(t, video.Config{}, m)
	push(s, "/video/a/init.mp4", read(t, "testdata/hls-init.mp4"))
	for _, f := range []string{"hls-0.m4s", "hls-1.m4s", "hls-0.m4s"} {
		push(s, "/video/a/"+f, read(t, "testdata/"+f))
	}
	push(s, "/video/b/hls-0.m4s", read(t, "testdata/hls-0.m4s"))
	got := []string{}
	for _, r := range m.stored()[1:] {
		x := indexOf(t, r)
		got = append(got, fmt.Sprintf("%s %d %v %s", x.Camera, x.DurationMS, x.Discontinuity, x.Codec))
	}
	want := "a 2000 false avc1.64000A|a 2000 false avc1.64000A|a 2000 true avc1.64000A|b 2000 false "
	if strings.Join(got, "|") != want {
		t.Errorf("got %q", got)
	}
	if c := s.Cameras(); c[0].Gaps != 1 || c[0].Chunks != 3 || c[1].Gaps != 0 {
		t.Errorf("cameras are %+v", c)
	}
}

func TestDiscontinuity(t *testing.T) {
	second := func(n int) string { return fmt.Sprintf("2026-11-22T10:00:%02dZ", n) }
	for _, c := range []struct {
		name string
		push [][]string // name, start
		body func(i int) []byte
		want string
	}{
		{
			"running time of self-contained chunks",
			[][]string{{"0"}, {"1"}, {"2"}, {"4"}, {"5"}},
			func(i int) []byte { return append(moov(), fragment(1, uint32(i)*1000, 10)...) }, "00010",
		},
		{
			"chunks that each start at 0, by the sender's clock",
			[][]string{{"0", second(0)}, {"1", second(1)}, {"2", second(5)}, {"3", second(6)}},
			func(int) []byte { return append(moov(), fragment(1, 0, 10)...) }, "0010",
		},
		{
			"chunks that each start at 0, without a clock",
			[][]string{{"0"}, {"1"}, {"2"}},
			func(int) []byte { return append(moov(), fragment(1, 0, 10)...) }, "000",
		},
	} {
		m := &memory{}
		s, stop := start(t, video.Config{}, m)
		for _, p := range c.push {
			i, err := strconv.Atoi(p[0])
			if err != nil {
				t.Fatal(err)
			}
			header := []string{}
			if len(p) > 1 {
				header = append(header, video.HeaderStart, p[1])
			}
			push(s, "/video/a/"+p[0]+".mp4", c.body(i), header...)
		}
		stop()
		got := ""
		for _, r := range m.stored() {
			got += map[bool]string{false: "0", true: "1"}[indexOf(t, r).Discontinuity]
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// A sender that did not hear the answer pushes again; what is on disk is not
// stored twice. A picture that merely looks the same is another picture.
func TestRepeatIsStoredOnce(t *testing.T) {
	m := &memory{}
	s, _ := start(t, video.Config{}, m)
	at := func(sec string) *httptest.ResponseRecorder {
		return push(s, "/video/a/still.jpg", []byte("same"), video.HeaderStart, "2026-11-22T10:00:0"+sec+"Z")
	}
	first, again := at("1"), at("1")
	if again.Code != 201 || first.Body.String() != again.Body.String() || len(m.stored()) != 1 {
		t.Errorf("answers %s and %s, %d stored", first.Body, again.Body, len(m.stored()))
	}
	at("2")
	push(s, "/video/a/still.jpg", []byte("same"))
	push(s, "/video/a/still.jpg", []byte("same"))
	if n := len(m.stored()); n != 4 {
		t.Errorf("%d stored, want 4", n)
	}
}

func TestAnswerComesAfterTheCommit(t *testing.T) {
	m := &memory{entered: make(chan struct{}, 1), commit: make(chan struct{})}
	s, _ := start(t, video.Config{}, m)
	srv := httptest.NewServer(s)
	defer srv.Close()
	var committed sync.Mutex
	committed.Lock() // until the test lets the commit go
	answer := make(chan int)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/video/a/1.jpg", strings.NewReader("picture"))
		if err != nil {
			t.Error(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			close(answer)
			return
		}
		resp.Body.Close()
		if committed.TryLock() {
			answer <- resp.StatusCode
			return
		}
		t.Error("answer came before the commit")
		close(answer)
	}()
	<-m.entered
	committed.Unlock()
	m.commit <- struct{}{}
	if code := <-answer; code != 201 {
		t.Errorf("answer is %d", code)
	}
}

func TestRefusals(t *testing.T) {
	ok := []byte("x")
	type want struct {
		code  int
		after string
	}
	for _, c := range []struct {
		name, path string
		body       []byte
		header     []string
		cfg        video.Config
		log        *memory
		want       want
	}{
		{"no name", "/video/a", ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"empty name", "/video/a/", ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"name with a slash", "/video/a/b/c", ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"name of dots", "/video/a/..", ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"name too long", "/video/a/" + strings.Repeat("n", 129), ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"name with a quote", "/video/a/%22", ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"camera in capitals", "/video/Press/x.jpg", ok, nil, video.Config{}, &memory{}, want{400, ""}},
		{"empty body", "/video/a/x.jpg", nil, nil, video.Config{}, &memory{}, want{400, ""}},
		{"bad start", "/video/a/x.jpg", ok, []string{video.HeaderStart, "yesterday"}, video.Config{}, &memory{}, want{400, ""}},
		{"bad duration", "/video/a/x.jpg", ok, []string{video.HeaderDuration, "-1"}, video.Config{}, &memory{}, want{400, ""}},
		{"no number", "/video/a/x.jpg", ok, []string{video.HeaderDuration, "NaN"}, video.Config{}, &memory{}, want{400, ""}},
		{"bad type", "/video/a/x.jpg", ok, []string{"Content-Type", "j p g"}, video.Config{}, &memory{}, want{400, ""}},
		{"too large", "/video/a/x.jpg", make([]byte, 11), nil, video.Config{MaxChunk: 10}, &memory{}, want{413, ""}},
		{"strange camera", "/video/a/x.jpg", ok, nil, video.Config{Strict: true}, &memory{}, want{404, ""}},
		{"full", "/video/a/x.jpg", ok, nil, video.Config{}, &memory{fail: record.ErrFull}, want{429, "5"}},
		{"full at once", "/video/a/x.jpg", ok, nil, video.Config{}, &memory{refuse: fmt.Errorf("put: %w", record.ErrFull)}, want{429, "5"}},
		{"dead disk", "/video/a/x.jpg", ok, nil, video.Config{}, &memory{fail: record.ErrReadOnly}, want{503, "5"}},
		{"closed", "/video/a/x.jpg", ok, nil, video.Config{}, &memory{refuse: record.ErrClosed}, want{503, "5"}},
		{"log's limit", "/video/a/x.jpg", ok, nil, video.Config{}, &memory{refuse: &record.InvalidError{Field: "chunk", TooLarge: true}}, want{413, ""}},
		{"log's rule", "/video/a/x.jpg", ok, nil, video.Config{}, &memory{fail: &record.InvalidError{Field: "key"}}, want{400, ""}},
	} {
		s, stop := start(t, c.cfg, c.log)
		w := push(s, c.path, c.body, c.header...)
		stop()
		var said struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil || said.Error == "" {
			t.Errorf("%s: answer %q has no reason", c.name, w.Body)
		}
		if w.Code != c.want.code || w.Header().Get("Retry-After") != c.want.after {
			t.Errorf("%s: answer is %d, Retry-After %q (%s)", c.name, w.Code, w.Header().Get("Retry-After"), said.Error)
		}
		if len(c.log.stored()) != 0 || s.Errors() != 1 {
			t.Errorf("%s: %d stored, %d errors", c.name, len(c.log.stored()), s.Errors())
		}
	}
}

func TestOtherMethods(t *testing.T) {
	s, _ := start(t, video.Config{}, &memory{})
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodDelete, "/video/a/x.jpg", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "PUT, POST" {
		t.Errorf("DELETE: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

// unread is a body that must not be touched, or breaks after some bytes.
type unread struct {
	good io.Reader
	t    *testing.T
}

func (u unread) Read(p []byte) (int, error) {
	if u.good == nil {
		u.t.Error("body was read")
		return 0, io.EOF
	}
	n, err := u.good.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestTooLargeIsRefusedBeforeItIsRead(t *testing.T) {
	s, _ := start(t, video.Config{MaxChunk: 1000}, &memory{})
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/video/a/x.mp4", unread{t: t})
	r.ContentLength = 1001
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 413 {
		t.Errorf("answer is %d", w.Code)
	}
}

func TestBrokenBodyIsNotStored(t *testing.T) {
	m := &memory{}
	s, _ := start(t, video.Config{}, m)
	for _, announced := range []int64{100, -1} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/video/a/x.mp4", unread{good: strings.NewReader("half"), t: t})
		r.ContentLength = announced
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != 400 || len(m.stored()) != 0 {
			t.Errorf("announced %d: answer is %d, %d stored", announced, w.Code, len(m.stored()))
		}
	}
}

// A body without an announced length is read up to max_chunk and not further.
func TestChunkedBodies(t *testing.T) {
	const limit = 300 << 10
	m := &memory{}
	s, _ := start(t, video.Config{MaxChunk: limit, Buffer: limit}, m)
	srv := httptest.NewServer(s)
	defer srv.Close()
	for _, n := range []int{1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200 << 10, limit, limit + 1, 3 * limit} {
		body := make([]byte, n)
		rng := rand.NewChaCha8([32]byte{byte(n)})
		if _, err := rng.Read(body); err != nil {
			t.Fatal(err)
		}
		before := len(m.stored())
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/video/a/x.mp4", struct{ io.Reader }{bytes.NewReader(body)})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n > limit {
			if resp.StatusCode != 413 || len(m.stored()) != before {
				t.Errorf("%d bytes: answer is %d", n, resp.StatusCode)
			}
			continue
		}
		if resp.StatusCode != 201 || !bytes.Equal(m.stored()[before].Blob, body) {
			t.Errorf("%d bytes: answer is %d, or not what was sent", n, resp.StatusCode)
		}
	}
}

// What is on its way is bounded in number and in bytes: one push too many is
// told to come back, and is taken when there is room.
