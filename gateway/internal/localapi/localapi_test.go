package localapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
)

// stage is a plant whose state the test sets.
type stage struct {
	mu      sync.Mutex
	alarms  []api.Alarm
	value   float64
	changed chan struct{}
}

func (p *stage) Ready() error { return nil }
func (p *stage) Status() api.Status {
	return api.Status{Gateway: "edge-07", Uplinks: []api.Uplink{{ID: "cloud", State: "down"}, pricedUplink()}}
}

func (p *stage) Devices() []api.Device {
	return []api.Device{{ID: "mqtt", Kind: "mqtt-broker", Taken: 7}, {ID: "kinesis", Kind: "kinesis", Aggregates: 3, Repeated: 4, Unchecked: 5, MarksLost: 6}}
}
func (p *stage) Uplinks() []api.Uplink { return p.Status().Uplinks }
func (p *stage) Streams() []api.Stream { return []api.Stream{{Name: "mqtt", Total: 7}} }
func (p *stage) Alarms() []api.Alarm {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]api.Alarm{}, p.alarms...)
}

func (p *stage) Ack(_ context.Context, r api.AckRequest) (api.AckResult, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	res := api.AckResult{}
	for _, id := range r.IDs {
		found := false
		for i := range p.alarms {
			if p.alarms[i].ID == id {
				p.alarms[i].State, p.alarms[i].AckedBy, found = "acked", r.By, true
			}
		}
		if found {
			res.Acked = append(res.Acked, id)
		} else {
			res.Unknown = append(res.Unknown, id)
		}
	}
	return res, nil
}
func (p *stage) AlarmsChanged() <-chan struct{} { return p.changed }
func (p *stage) Points(trend bool) []api.Point {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.value
	pt := api.Point{ID: "temp", Value: &v}
	if trend {
		pt.Trend = []api.Sample{{Min: 1, Max: 2}}
	}
	return []api.Point{pt}
}
func (p *stage) Cameras() []api.Camera { return []api.Camera{{ID: "cam1"}} }
func (p *stage) Frame(_ context.Context, cam string) ([]byte, time.Time, error) {
	if cam != "cam1" {
		return nil, time.Time{}, record.ErrNoStream
	}
	return []byte("\xff\xd8jpeg"), time.Date(2026, 11, 5, 14, 0, 0, 123456789, time.UTC), nil
}

func (p *stage) PauseUplink(_ context.Context, id, by string) (api.Uplink, error) {
	if id != "cloud" || by != "op" {
		return api.Uplink{}, localapi.ErrNoUplink
	}
	return api.Uplink{ID: id, State: "paused"}, nil
}

func (p *stage) ResumeUplink(_ context.Context, id, _ string) (api.Uplink, error) {
	return api.Uplink{ID: id, State: "up"}, nil
}

func (p *stage) RetryUplink(context.Context, string, string) (api.Uplink, error) {
	return api.Uplink{}, localapi.ErrPaused
}

func (p *stage) Replay(_ context.Context, uplink string, r api.ReplayRequest) (api.Errand, error) {
	switch {
	case uplink != "cloud":
		return api.Errand{}, localapi.ErrNoUplink
	case r.As == "mqtt":
		return api.Errand{}, localapi.ErrAsked
	}
	return api.Errand{ID: "cloud~replay-1", Kind: "replay", Stream: r.Stream, From: &r.From}, nil
}

func (p *stage) Redrive(context.Context, string, api.RedriveRequest) (api.Errand, error) {
	return api.Errand{}, localapi.ErrNothing
}

func (p *stage) CancelErrand(_ context.Context, id, by string) (api.Errand, error) {
	if id != "cloud~replay-1" {
		return api.Errand{}, localapi.ErrNoErrand
	}
	return api.Errand{ID: id, By: by}, nil
}

func (p *stage) Refused(_ context.Context, _ string, limit int) (api.Refused, error) {
	return api.Refused{Total: uint64(limit)}, nil
}

func (p *stage) Ledger() api.Ledger { return api.Ledger{Balance: true} }

func (p *stage) LedgerSteps(_ context.Context, limit int) ([]api.LedgerStep, error) {
	return []api.LedgerStep{{ID: uint64(limit), Kind: "dropped"}}, nil
}

func (p *stage) Sent(_ context.Context, uplink string, ask api.SentAsk) (api.Sent, error) {
	if uplink != "cloud" {
		return api.Sent{}, localapi.ErrNoUplink
	}
	return api.Sent{Gateway: "edge-07", Uplink: uplink, At: ask.From, Epochs: []string{}, Shards: []api.SentShard{}, Lanes: []api.SentLane{}}, nil
}

func (p *stage) DropCursor(_ context.Context, stream, cursor, by string) error {
	switch {
	case stream != "mqtt":
		return record.ErrNoStream
	case cursor == "busy":
		return record.ErrInUse
	case cursor != "old uplink" || by != "op":
		return record.ErrNoCursor
	}
	return nil
}

func (p *stage) set(value float64, alarms ...api.Alarm) {
	p.mu.Lock()
	p.value, p.alarms = value, alarms
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

type straight struct{ sp *spool.Spool }

func (s straight) PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	t, err := s.sp.Stream(stream)
	if err != nil {
		return err
	}
	for i := range recs {
		if err := recs[i].Check(); err != nil {
			res := make([]record.Result, len(recs))
			res[i].Err = err
			done(res)
			return nil
		}
	}
	return t.Append(ctx, recs, done)
}

type world struct {
	sp     *spool.Spool
	plant  *stage
	server *localapi.Server
	client *api.Client
	sock   string
}

func serve(t *testing.T, cfg localapi.Config) *world {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	sp, err := spool.Open(t.Context(), filepath.Join(dir, "spool"), spool.Config{Gateway: "edge-07"}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sp.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 4}); err != nil {
		t.Fatal(err)
	}
	w := &world{sp: sp, plant: &stage{changed: make(chan struct{}, 1)}, sock: filepath.Join(dir, "s")}
	cfg.Listen, cfg.Socket = "127.0.0.1:0", w.sock
	if w.server, err = localapi.New(cfg, sp, w.plant, straight{sp}, nil, quiet); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.server.Run(ctx) }()
	t.Cleanup(func() {
		w.client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := sp.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if w.client, err = api.NewClient(w.server.Addr(), ""); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestNouns(t *testing.T) {
	w := serve(t, localapi.Config{})
	ctx := t.Context()
	w.plant.set(71, api.Alarm{ID: "r/k/1", State: "unacked"})
	if s, err := w.client.Status(ctx); err != nil || s.Gateway != "edge-07" || s.Uplinks[0].State != "down" {
		t.Errorf("status %+v, %v", s, err)
	}
	if p, err := w.client.Points(ctx); err != nil || *p[0].Value != 71 || len(p[0].Trend) != 1 {
		t.Errorf("points %+v, %v", p, err)
	}
	res, err := w.client.Ack(ctx, api.AckRequest{IDs: []string{"r/k/1", "nonsense"}, By: "anna"})
	if err != nil || len(res.Acked) != 1 || len(res.Unknown) != 1 {
		t.Errorf("ack %+v, %v", res, err)
	}
	if a, err := w.client.Alarms(ctx); err != nil || a[0].State != "acked" || a[0].AckedBy != "anna" {
		t.Errorf("alarms %+v, %v", a, err)
	}
	if _, err := w.client.Ack(ctx, api.AckRequest{IDs: []string{"r/k/1"}}); err == nil {
		t.Error("an acknowledgement without a name is taken")
	}
	b, at, err := w.client.Frame(ctx, "cam1")
	if err != nil || !bytes.HasPrefix(b, []byte{0xff, 0xd8}) || at.Nanosecond() != 123456789 {
		t.Errorf("frame %q %v %v", b, at, err)
	}
	var e *api.Error
	if _, _, err := w.client.Frame(ctx, "cam2"); !errors.As(err, &e) || e.Status != http.StatusNotFound {
		t.Errorf("frame of no camera: %v", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.server.Addr()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	m, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(m), `forebay_source_taken_total{source="mqtt"} 7`) || !strings.Contains(string(m), "go_goroutines") ||
		!strings.Contains(string(m), `forebay_source_aggregates_total{source="kinesis"} 3`) ||
		!strings.Contains(string(m), `forebay_source_repeated_total{source="kinesis"} 4`) || !strings.Contains(string(m), `forebay_source_unchecked_total{source="kinesis"} 5`) ||
		!strings.Contains(string(m), `forebay_source_lane_marks_lost_total{source="kinesis"} 6`) || strings.Contains(string(m), `aggregates_total{source="mqtt"}`) {
		t.Errorf("metrics: %v\n%s", err, m)
	}
}

func TestPutAndReadBack(t *testing.T) {
	w := serve(t, localapi.Config{})
	ctx := t.Context()
	for i, payload := range []string{`{"v": 1.50}`, "plain text", "\xff\xfe", ""} {
		res, err := w.client.Put(ctx, "mqtt", "line1", []byte(payload))
		if err != nil || res.Seq != uint64(i+1) || !strings.HasPrefix(res.Shard, "shardId-") {
			t.Fatalf("put %q: %+v, %v", payload, res, err)
		}
	}
	var got []api.Record
	for r, err := range w.client.Records(ctx, api.Tail{Stream: "mqtt"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if len(got) != 4 || string(got[0].Data) != `{"v": 1.50}` || *got[1].Text != "plain text" || string(got[2].Base64) != "\xff\xfe" || got[3].Data != nil || got[3].Text != nil {
		t.Fatalf("read %+v", got)
	}
	if got[0].Key != "line1" || !strings.HasPrefix(got[0].ID, "edge-07/") || !strings.HasSuffix(got[0].ID, "/1") {
		t.Errorf("record %+v", got[0])
	}
	n := 0
	for r, err := range w.client.Records(ctx, api.Tail{Stream: "mqtt", From: "3", Limit: 1}) {
		if n++; err != nil || r.Seq != 3 {
			t.Errorf("from 3: %+v %v", r, err)
		}
	}
	if n != 1 {
		t.Errorf("limit 1 gives %d records", n)
	}
	for _, bad := range []api.Tail{{Stream: "nothing"}, {Stream: "mqtt", From: "yesterday"}, {Stream: "mqtt", Shard: "shardId-9"}} {
		for _, err := range w.client.Records(ctx, bad) {
			if err == nil {
				t.Errorf("%+v is answered", bad)
			}
		}
	}
	for _, c := range []struct {
		stream, key string
		status      int
	}{{"nothing", "k", 404}, {"mqtt", "", 400}, {"mqtt", strings.Repeat("k", 257), 400}} {
		var e *api.Error
		if _, err := w.client.Put(ctx, c.stream, c.key, nil); !errors.As(err, &e) || e.Status != c.status {
			t.Errorf("put to %q: %v, want status %d", c.stream, err, c.status)
		}
	}
}

// A payload that is announced as too large is refused before it is read.
func TestHugePayloadIsRefusedUnread(t *testing.T) {
	w := serve(t, localapi.Config{})
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", w.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "POST /v1/streams/mqtt/records?key=k HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge || !resp.Close {
		t.Errorf("answer is %s, close %v", resp.Status, resp.Close)
	}
}

func TestFollowWaitsForWhatComes(t *testing.T) {
	w := serve(t, localapi.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan api.Record)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r, err := range w.client.Records(ctx, api.Tail{Stream: "mqtt", Follow: true}) {
			if err != nil {
				t.Errorf("follow: %v", err)
				return
			}
			seen <- r
		}
	}()
	for i := range 3 {
		if _, err := w.client.Put(ctx, "mqtt", fmt.Sprint("key", i), []byte("x")); err != nil {
			t.Fatal(err)
		}
		if r := <-seen; r.Key != fmt.Sprint("key", i) {
			t.Errorf("follow gives %+v", r)
		}
	}
	cancel()
	<-ended
}

func TestEventsBeginWithASnapshotAndResume(t *testing.T) {
	w := serve(t, localapi.Config{})
	w.plant.set(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last uint64
	for ev, err := range w.client.Events(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			if ev.Kind != "snapshot" || ev.Snapshot == nil || len(ev.Snapshot.Points) != 1 {
				t.Fatalf("first event %+v", ev)
			}
			w.plant.set(2, api.Alarm{ID: "a"})
		} else if ev.Seq != last+1 {
			t.Fatalf("event %d after %d", ev.Seq, last)
		}
		last = ev.Seq
		if ev.Kind == "alarms" && len(ev.Alarms) == 1 {
			break
		}
	}
	// a second watcher keeps the sequence going while the first is away
	other, stop := context.WithCancel(t.Context())
	defer stop()
	kept := make(chan struct{})
	go func() {
		once := sync.OnceFunc(func() { close(kept) })
		for _, err := range w.client.Events(other, 0) {
			if err != nil && other.Err() == nil {
				t.Errorf("second watcher: %v", err)
			}
			once()
		}
	}()
	<-kept
	for ev, err := range w.client.Events(ctx, 1<<50) {
		if err != nil || ev.Kind != "snapshot" {
			t.Errorf("after a number of the future: %+v %v", ev, err)
		}
		break
	}
}

func TestTheDoorIsShutToStrangers(t *testing.T) {
	token := conf.NewSecret("s3cret-token")
	w := serve(t, localapi.Config{Token: token})
	get := func(path string, h http.Header) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.server.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var e api.Error
		if resp.StatusCode != 200 && json.NewDecoder(resp.Body).Decode(&e) != nil {
			t.Errorf("%s: the error is not JSON", path)
		}
		return resp.StatusCode
	}
	for _, c := range []struct {
		path string
		h    http.Header
		want int
	}{
		{"/v1/status", http.Header{}, 401},
		{"/v1/status", http.Header{"Authorization": {"Bearer wrong"}}, 401},
		{"/v1/status", http.Header{"Authorization": {"Bearer s3cret-token"}}, 200},
		{"/v1/status", http.Header{"Authorization": {"Bearer s3cret-token"}, "Origin": {"http://evil.example"}}, 403},
		{"/healthz", http.Header{}, 200},
		{"/nowhere", http.Header{"Authorization": {"Bearer s3cret-token"}}, 404},
	} {
		if got := get(c.path, c.h); got != c.want {
			t.Errorf("%s with %v: %d, want %d", c.path, c.h, got, c.want)
		}
	}
	open := serve(t, localapi.Config{})
	for _, c := range []struct {
		host string
		h    http.Header
		want int
	}{
		{"", http.Header{}, 200},
		{"", http.Header{"Sec-Fetch-Site": {"same-origin"}}, 200},
		{"localhost:8480", http.Header{"Origin": {"http://localhost:8480"}}, 200},
		{"box.local", http.Header{}, 200}, // no browser
		{"evil.example", http.Header{"Sec-Fetch-Site": {"same-origin"}}, 403},
		{"evil.example", http.Header{"Origin": {"http://evil.example"}}, 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+open.server.Addr()+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = c.h
		if c.host != "" {
			req.Host = c.host
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("for %q with %v: %d, want %d", c.host, c.h, resp.StatusCode, c.want)
		}
	}
	st, err := os.Stat(w.sock)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
	unix, err := api.NewClient("unix:"+w.sock, "")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	if _, err := unix.Status(t.Context()); err != nil {
		t.Errorf("over the socket: %v", err)
	}
	for _, bad := range []localapi.Config{{Listen: "0.0.0.0:8480"}, {Listen: "0.0.0.0:8480", Token: token}, {TLSCert: "x"}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
