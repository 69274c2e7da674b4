package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

// fakeDesk is what a fakeGateway answers to the desk.
type fakeDesk struct {
	err      error
	replays  []api.ReplayRequest
	redrives []api.RedriveRequest
	limits   []int
}

func (g *fakeGateway) Streams(context.Context) ([]api.Stream, error) {
	return []api.Stream{{Name: "mqtt", Records: 3, Cursors: []api.Cursor{{Name: "cloud"}}}, {Name: "other"}}, nil
}

func (g *fakeGateway) Records(_ context.Context, t api.Tail) iter.Seq2[api.Record, error] {
	return func(yield func(api.Record, error) bool) {
		for _, kind := range []string{"replay", "replay-ended"} {
			data := `{"event":"uplink-` + kind + `","by":"otto","at":"2026-03-14T13:00:00Z","note":"done: 3 of 3 records, 0 refused, 0 not kept any more"}`
			if t.Stream != "audit" || !yield(api.Record{Key: "uplink/cloud~replay-1", Data: []byte(data)}, nil) {
				return
			}
		}
	}
}

func (g *fakeGateway) Replay(_ context.Context, uplink string, r api.ReplayRequest) (api.Errand, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.desk.replays = append(g.desk.replays, r)
	return api.Errand{ID: uplink + "~replay-1", Kind: "replay", Uplink: uplink, Stream: r.Stream, As: "replay-1-mqtt", To: new(r.From.Add(time.Hour)), From: &r.From, By: r.By, Total: 3, At: time.Now(), State: map[bool]string{true: "preview", false: "waiting"}[r.Preview]}, g.desk.err
}

func (g *fakeGateway) Refused(_ context.Context, _ string, limit int) (api.Refused, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.desk.limits = append(g.desk.limits, limit)
	return api.Refused{Letters: []api.Letter{{ID: "a"}}, Total: 5}, nil
}

func (g *fakeGateway) Redrive(_ context.Context, uplink string, r api.RedriveRequest) (api.Errand, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.desk.redrives = append(g.desk.redrives, r)
	return api.Errand{ID: uplink + "~redrive-2", Kind: "redrive", By: r.By, Total: 1, At: time.Now()}, g.desk.err
}

// A check is a question, the order is what the check had said, and both are
// given in the operator's name.
func TestReplayAndRedriveGoOutAsOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGateway{up: true}
		f, s, stop := start(t, g)
		defer stop()
		settle := func() {
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		settle()
		f.Open("cloud")
		settle()
		if k := s.last().Desk.Replay.Streams; len(k) != 1 || k[0].Name != "mqtt" {
			t.Errorf("streams of the uplink: %+v", k)
		}
		from := time.Date(2026, 3, 14, 13, 0, 0, 0, time.UTC)
		f.Check(view.Order{Uplink: "cloud", Stream: "mqtt", From: from})
		settle()
		r := s.last().Desk.Replay
		if !r.Ready || r.Start.As != "replay-1-mqtt" || !r.Start.To.Equal(from.Add(time.Hour)) || r.Count != "3 records" {
			t.Fatalf("%+v", r)
		}
		f.Replay(r.Start)
		settle()
		if r := s.last().Desk.Replay; !r.Done || r.Ready {
			t.Errorf("%+v", r)
		}
		f.Refused("cloud", 100)
		f.Redrive("cloud", []string{"a"}, 1)
		settle()
		if v := s.last().Desk.Refused; v.Version != 1 || len(v.Rows) != 1 || v.More != 1000 {
			t.Errorf("%+v", v)
		}
		f.Redrive("cloud", nil, 5)
		settle()
		g.mu.Lock()
		defer g.mu.Unlock()
		want := []api.ReplayRequest{
			{By: "otto", Stream: "mqtt", From: from, Preview: true},
			{By: "otto", Stream: "mqtt", From: from, To: from.Add(time.Hour), As: "replay-1-mqtt"},
		}
		if fmt.Sprint(g.desk.replays) != fmt.Sprint(want) {
			t.Errorf("%+v", g.desk.replays)
		}
		if d := g.desk.redrives; len(d) != 2 || d[0].All || d[0].IDs[0] != "a" || d[0].By != "otto" || !d[1].All {
			t.Errorf("%+v", d)
		}
		if fmt.Sprint(g.desk.limits) != "[100 100 100]" {
			t.Errorf("the list was read with the limits %v", g.desk.limits)
		}
	})
}

// An error says whether the gateway may have done what was asked.
func TestHeard(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/no/") {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"error":"there is nothing to send"}`)
			return
		}
		panic(http.ErrAbortHandler) // read, and cut
	}))
	defer srv.Close()
	ask := func(addr, id string) error {
		c, err := api.NewClient(addr, "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = c.Redrive(t.Context(), id, api.RedriveRequest{By: "otto", All: true})
		return heard(err)
	}
	if err := ask("http://"+closed, "x"); !errors.Is(err, view.ErrNotSent) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := ask(srv.URL, "x"); !errors.Is(err, view.ErrNoAnswer) {
		t.Errorf("cut: %v", err)
	}
	if err := ask(srv.URL, "no"); err == nil || errors.Is(err, view.ErrNotSent) || errors.Is(err, view.ErrNoAnswer) {
		t.Errorf("a no: %v", err)
	}
	if heard(nil) != nil {
		t.Error("no error is one")
	}
}

const deskConfig = `
[gateway]
name = "near"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "127.0.0.1:0"
[api]
listen = "API"
[[stream]]
name = "press"
shards = 1
[[uplink]]
id = "cloud"
streams = ["press"]
[uplink.http]
url = "TARGET/{stream}"
format = "raw"
body = "single"
`

// target takes what it is sent, but records that say bad until it is mended;
// while it is shut nothing is answered with a yes.
type target struct {
	mu     sync.Mutex
	mended bool
	shut   map[string]bool
	got    map[string]map[string]bool // bodies by path: a proof sends one twice
}

func (g *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err != nil || g.shut[r.URL.Path]:
		w.WriteHeader(http.StatusServiceUnavailable)
	case bytes.Contains(b, []byte("bad")) && !g.mended:
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, "no such field: bad")
	default:
		if g.got[r.URL.Path] == nil {
			g.got[r.URL.Path] = map[string]bool{}
		}
		g.got[r.URL.Path][string(b)] = true
	}
}

func (g *target) change(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	do()
}

// gatewayUnderTest builds a gateway from the sources as they are, and runs it.
func gatewayUnderTest(t *testing.T, config string) (addr string) {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "forebay")
	if runtime.GOOS == "windows" {
		bin += ".exe"
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./gateway")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the gateway: %v\n%s", err, out)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "near.toml")
	config = strings.NewReplacer("DATA", filepath.ToSlash(filepath.Join(dir, "data")), "API", addr).Replace(config)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), bin, "run", "--config", path)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("the gateway said:\n%s", log.String())
		}
	})
	return addr
}

// newest is the frame that was shown last.
type newest struct {
	mu sync.Mutex
	s  view.Snapshot
}

func (n *newest) show(s view.Snapshot) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.s = s
}

// until waits for a frame that is as asked, and returns it.
func (n *newest) until(t *testing.T, what string, ok func(s view.Snapshot) bool) view.Snapshot {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		n.mu.Lock()
		s := n.s
		n.mu.Unlock()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s\nuplinks %+v\ndesk %+v", what, s.Uplinks, s.Desk)
		}
	}
}

// The console's part of the work on a real gateway: a replay is checked,
// started, seen under way and canceled; one that is not is done; what the
// target refused is listed and sent again; and the audit knows who it was.
func TestDeskOnAGateway(t *testing.T) {
	far := &target{got: map[string]map[string]bool{}, shut: map[string]bool{"/replay-1-press": true}}
	srv := httptest.NewServer(far)
	defer srv.Close()
	addr := gatewayUnderTest(t, strings.ReplaceAll(deskConfig, "TARGET", srv.URL))
	client, err := api.NewClient("http://"+addr, "")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var seen newest
	f := newFeed(client, "ana", 20, seen.show, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	seen.until(t, "the gateway is heard", func(s view.Snapshot) bool { return s.Link == view.Live && len(s.Uplinks) == 1 })
	for i := range 12 {
		data := fmt.Sprintf(`{"n":%d}`, i)
		if i%4 == 3 {
			data = fmt.Sprintf(`{"bad":%d}`, i)
		}
		if _, err := client.Put(t.Context(), "press", "k", []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	seen.until(t, "three are refused", func(s view.Snapshot) bool {
		return s.Uplinks[0].Backlog.Empty && s.Uplinks[0].Facts[4].Value == "3"
	})

	f.Open("cloud")
	seen.until(t, "the streams", func(s view.Snapshot) bool {
		k := s.Desk.Replay.Streams
		return len(k) == 1 && k[0].Name == "press" && strings.HasPrefix(k[0].Text, "keeps 12 records")
	})
	start := func() {
		f.Check(view.Order{Uplink: "cloud", Stream: "press"})
		s := seen.until(t, "the check", func(s view.Snapshot) bool { return s.Desk.Replay.Ready && !s.Desk.Replay.Busy })
		if s.Desk.Replay.Count != "12 records" {
			t.Errorf("%+v", s.Desk.Replay)
		}
		f.Replay(s.Desk.Replay.Start)
		seen.until(t, "the replay is ordered", func(s view.Snapshot) bool { return s.Desk.Replay.Done })
	}
	start()
	s := seen.until(t, "it is seen", func(s view.Snapshot) bool { return len(s.Uplinks[0].Errands) == 1 })
	if e := s.Uplinks[0].Errands[0]; e.ID != "cloud~replay-1" || !strings.HasPrefix(e.Detail, "0 of 12 records") || !e.Cancel {
		t.Errorf("%+v", e)
	}
	f.Act("cloud~replay-1", "cancel")
	s = seen.until(t, "it is canceled", func(s view.Snapshot) bool {
		return s.Uplinks[0].Errands[0].Gone && strings.HasPrefix(s.Uplinks[0].Errands[0].Detail, "canceled at ")
	})
	if n := s.Uplinks[0].Errands[0].Note; n != "Ordered by ana, canceled by ana" {
		t.Error(n)
	}
	start()
	seen.until(t, "the second one is done", func(s view.Snapshot) bool {
		e := s.Uplinks[0].Errands
		return len(e) == 2 && e[1].Gone && strings.HasSuffix(e[1].Detail, ", 12 of 12 records, 3 refused, 0 not kept any more")
	})

	f.Refused("cloud", 100)
	s = seen.until(t, "the refused records", func(s view.Snapshot) bool { return len(s.Desk.Refused.Rows) == 3 })
	if r := s.Desk.Refused.Rows[0]; r.Stream != "press" || !strings.Contains(r.Reason, "no such field") || r.Size == "" {
		t.Errorf("%+v", r)
	}
	far.change(func() { far.mended = true })
	f.Redrive("cloud", []string{s.Desk.Refused.Rows[1].ID}, 1)
	seen.until(t, "one less", func(s view.Snapshot) bool {
		return s.Desk.Refused.Version == 1 && len(s.Desk.Refused.Rows) == 2 && len(s.Uplinks[0].Errands) == 3 && s.Uplinks[0].Errands[2].Gone
	})
	f.Redrive("cloud", nil, 2)
	seen.until(t, "none left", func(s view.Snapshot) bool {
		return s.Desk.Refused.Version == 2 && s.Desk.Refused.Total == 0 && len(s.Uplinks[0].Errands) == 4 && s.Uplinks[0].Errands[3].Gone
	})
	far.change(func() {
		if len(far.got["/press"]) != 12 || len(far.got["/replay-2-press"]) != 9 || len(far.got["/replay-1-press"]) != 0 {
			t.Errorf("at the far side: %v", far.got)
		}
	})
	var notes []string
	for r, err := range client.Records(t.Context(), api.Tail{Stream: "audit"}) {
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, string(r.Data))
	}
	for _, want := range []string{"uplink-replay", "uplink-replay-canceled", "uplink-redrive"} {
		if n := strings.Join(notes, "\n"); !strings.Contains(n, `"`+want+`"`) || !strings.Contains(n, `"ana"`) {
			t.Errorf("the audit has no %s by ana:\n%s", want, n)
		}
	}
}
