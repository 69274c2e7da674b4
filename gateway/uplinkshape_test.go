package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/shape"
)

// An intake is a far side that takes records and often does not say so.
type intake struct {
	mu      sync.Mutex
	faults  bool
	streams map[string]bool
	got     map[record.Pos]string
	behind  map[record.ShardID]uint64 // the newest of each shard
	wrong   string
}

func newIntake(faults bool) *intake {
	return &intake{faults: faults, streams: map[string]bool{}, got: map[record.Pos]string{}, behind: map[record.ShardID]uint64{}}
}

func (w *intake) Send(_ context.Context, lanes []lane.Batch) []lane.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]lane.Outcome, len(lanes))
	for i, b := range lanes {
		w.streams[b.Lane.Stream] = true
		for _, r := range b.Recs {
			have, again := w.got[r.Pos]
			switch {
			case again && have != string(r.Data):
				w.wrong = fmt.Sprintf("%v came as %s and as %s", r.Pos, have, r.Data)
			case !again && r.Pos.Seq < w.behind[r.Pos.Shard]:
				w.wrong = fmt.Sprintf("%v came first behind %d", r.Pos, w.behind[r.Pos.Shard])
			}
			w.got[r.Pos] = string(r.Data)
			w.behind[r.Pos.Shard] = max(w.behind[r.Pos.Shard], r.Pos.Seq)
		}
		out[i].Done = len(b.Recs)
		if w.faults && rand.IntN(3) == 0 {
			out[i] = lane.Outcome{Done: rand.IntN(len(b.Recs)), Class: lane.Ambiguous, Err: errors.New("the answer was lost")}
		}
	}
	return out
}

func (w *intake) Close() error { return nil }

func (w *intake) has() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.got)
}

// wander puts numbers of some keys that wander.
func (r *reshaped) wander(n int) {
	r.t.Helper()
	for range n / 100 {
		var recs []record.Record
		for range 100 {
			key := fmt.Sprint("p/", r.rnd.IntN(9))
			recs = append(recs, record.Record{Key: key, Source: "test", Data: fmt.Appendf(nil, `{"value":%.2f,"unit":"Cel"}`, 20+r.rnd.NormFloat64())})
		}
		res, err := r.st.Put(r.t.Context(), recs)
		for _, x := range res {
			err = errors.Join(err, x.Err)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// shapedPump hands the stream on until stop, as a gateway does whose data lie in
// dir.
func (r *reshaped) shapedPump(dir string, cfg uplink.Config, sink uplink.Sink) (*uplink.Pump, func()) {
	r.t.Helper()
	cfg.ID, cfg.Linger, cfg.RetryMax = "up", conf.Duration(time.Millisecond), conf.Duration(time.Second)
	log := slog.New(slog.NewTextHandler(&r.log, nil))
	view := newForUplink(r.sp, cfg, log)
	if err := view.shapeWith(filepath.Join(dir, "shape-up.json")); err != nil {
		r.t.Fatal(err)
	}
	if _, err := view.Lanes(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	p := uplink.NewPump(cfg, sink, view, uplink.Options{Logger: log})
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		r.t.Helper()
		cancel()
		if err := errors.Join(<-done, view.close()); err != nil {
			r.t.Error(err)
		}
	}
}

func (r *reshaped) pending() (filtered, pending uint64) {
	for _, c := range r.sp.Ledger().Cursors {
		filtered, pending = filtered+c.Filtered, pending+c.Pending
	}
	return filtered, pending
}

// TestAShapeOverKills: a gateway that dies again and again, at a far side that
// often does not answer, sends the very records that one in peace sends, each
// shard's in order, and its ledger balances. A change of the config in between
// is no reason to hold anything back.
func TestAShapeOverKills(t *testing.T) {
	r := newReshaped(t, 11)
	cfg := uplink.Config{Shape: []shape.Config{{
		When: "value > 18", Deadband: map[string]shape.Band{"value": {By: 0.8}}, Fields: []string{"value"}, Set: map[string]any{"site": "graz"}, As: "graz-{stream}",
	}}}
	data, w := t.TempDir(), newIntake(true)
	for life := range 6 {
		p, stop := r.shapedPump(data, cfg, w)
		had := w.has()
		r.wander(3000)
		eventually(t, time.Minute, "some records are delivered", func() bool { return w.has() > had+100 })
		dir := r.dir
		if life%2 == 0 { // a kill, else an end in the middle of it
			dir = r.copied()
		}
		stop()
		if p.Status().Filtered == 0 {
			t.Error("nothing is counted as filtered")
		}
		r.reopen(dir)
	}
	p, stop := r.shapedPump(data, cfg, w)
	eventually(t, time.Minute, "all is delivered or left out", func() bool { _, n := r.pending(); return n == 0 })
	stop()
	r.balanced(0)
	if !w.streams["graz-mqtt"] || len(w.streams) != 1 {
		t.Errorf("the streams are called %v at the far side", w.streams)
	}
	if s := p.Status(); s.Waiting.Records != 0 {
		t.Errorf("the status is %+v", s)
	}

	// Another uplink, in peace.
	calm := newIntake(false)
	if err := r.sp.DropCursor(t.Context(), "up"); err != nil {
		t.Fatal(err)
	}
	_, stop = r.shapedPump(t.TempDir(), cfg, calm)
	eventually(t, time.Minute, "all is delivered or left out", func() bool { _, n := r.pending(); return n == 0 })
	stop()
	r.balanced(0)
	if filtered, _ := r.pending(); int(filtered)+len(calm.got) != 18000 || len(calm.got) < 1000 || filtered < 1000 {
		t.Errorf("of 18000 records %d are left out and %d sent", filtered, len(calm.got))
	}
	if w.wrong != "" || len(w.got) != len(calm.got) {
		t.Errorf("%d records are sent over the kills, %d in peace; %s", len(w.got), len(calm.got), w.wrong)
	}
	for pos, data := range calm.got {
		if w.got[pos] != data {
			t.Fatalf("%v is sent as %q over the kills, as %q in peace", pos, w.got[pos], data)
		}
	}

	// With another config nothing is known: of every key the next record goes.
	cfg.Shape[0].Deadband = map[string]shape.Band{"value": {By: 1000}}
	after := newIntake(false)
	_, stop = r.shapedPump(data, cfg, after)
	r.wander(900)
	eventually(t, time.Minute, "all is delivered or left out", func() bool { _, n := r.pending(); return n == 0 })
	stop()
	if after.has() != 9 {
		t.Errorf("of 9 keys %d records are sent", after.has())
	}
	// And where the config stays, it is known.
	again := newIntake(false)
	_, stop = r.shapedPump(data, cfg, again)
	r.wander(900)
	eventually(t, time.Minute, "all is left out", func() bool { _, n := r.pending(); return n == 0 })
	stop()
	if again.has() != 0 {
		t.Errorf("%d records are sent, all within the deadband of what was", again.has())
	}
	// A gateway without the shape forgets it.
	_, stop = r.shapedPump(data, uplink.Config{}, again)
	stop()
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("%v: %v is left", err, left)
	}
}

const shapedUplink = `
[[uplink.shape]]
keys = ["plant/+/temp"]
when = 'quality == "good"'
deadband = { value = 0.5 }
fields = ["value", "n"]
rename = { value = "celsius" }
set = { site = "graz" }
[[uplink.shape]]
keys = ["debug/#"]
when = "false"
`

// TestAShapeBetweenGateways: with the real program, and a kill in the middle:
// what the far gateway has is what the near one says it delivered.
func TestAShapeBetweenGateways(t *testing.T) {
	far := startGateway(t, "far", strings.NewReplacer("NAME", "far", "STREAM", "site").Replace(hopConfig))
	near := startGateway(t, "near", strings.NewReplacer("NAME", "near", "STREAM", "cell", "FROM", "cell", "LINK", far.kinesis, "TO", "site").Replace(hopConfig+hopUplink+shapedUplink))
	ctx := t.Context()
	put := func(key, text string) {
		t.Helper()
		if _, err := near.client.Put(ctx, "cell", key, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]int{} // key to the numbers that are sent
	last := map[string]float64{}
	total := 0
	for i := range 400 {
		if i == 200 {
			near.kill()
			near.start(t, "near")
		}
		key, value, quality := fmt.Sprintf("plant/%d/temp", i%3), float64(20+i/7%5), "good"
		if i%11 == 0 {
			quality = "bad"
		}
		put(key, fmt.Sprintf(`{"value":%v,"quality":%q,"n":%d,"secret":1}`, value, quality, i))
		put("debug/x", `{"n":1}`)
		total += 2
		if was, sent := last[key]; quality == "good" && (!sent || was != value) {
			last[key], want[key] = value, append(want[key], i)
		}
	}
	put("other", "not JSON")
	total++
	sent := 1
	for _, ns := range want {
		sent += len(ns)
	}
	var line api.UplinkLedger
	eventually(t, 20*time.Second, "all is delivered or left out", func() bool {
		l, err := near.client.Ledger(ctx)
		if err != nil || len(l.Uplinks) == 0 {
			return false
		}
		line = l.Uplinks[0]
		return line.In == uint64(total) && line.Pending == 0
	})
	if line.Delivered != uint64(sent) || line.Filtered != uint64(total-sent) {
		t.Errorf("the ledger says %+v, want %d delivered of %d", line, sent, total)
	}
	out, err := exec.CommandContext(ctx, program(t, "forebay"), "ledger", "--api", near.api).CombinedOutput()
	if row := regexp.MustCompile(`(?m)^up +cell +(\d+) +(\d+) +(\d+) `).FindStringSubmatch(string(out)); err != nil || row == nil || row[3] != strconv.Itoa(total-sent) || !strings.Contains(string(out), "the ledger balances") {
		t.Errorf("%v: forebay ledger prints\n%s", err, out)
	}
	ups, err := near.client.Uplinks(ctx)
	if err != nil || len(ups) != 1 || ups[0].Filtered == 0 || ups[0].Filtered > line.Filtered {
		t.Errorf("%v: the uplink is %+v", err, ups)
	}
	checkFar(t, far, want, sent)
	near.sound(t)
	far.sound(t)
}

// checkFar reads what the far gateway has.
func checkFar(t *testing.T, far *gw, want map[string][]int, sent int) {
	t.Helper()
	got, ids := map[string][]int{}, map[string]bool{}
	for r, err := range far.client.Records(t.Context(), api.Tail{Stream: "site", From: "oldest", Limit: 10_000}) {
		if err != nil {
			t.Fatal(err)
		}
		env, err := envelope.Open(r.Data)
		if err != nil {
			t.Fatalf("%s: %v", r.Data, err)
		}
		if ids[env.ID] {
			continue // a redelivery, with the id it had
		}
		ids[env.ID] = true
		var celsius float64
		var n int
		if r.Key == "other" {
			continue
		}
		if _, err := fmt.Sscanf(string(env.Data), `{"celsius":%g,"n":%d,"site":"graz"}`, &celsius, &n); err != nil {
			t.Fatalf("the far side has %s", env.Data)
		}
		got[r.Key] = append(got[r.Key], n)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(ids) != sent {
		t.Errorf("the far side has %d records\n%v, want %d\n%v", len(ids), got, sent, want)
	}
}

// What lies beside a record is found by the name that its stream has at the far
// side, and by no other.
func TestARenamedStreamsChunks(t *testing.T) {
	r := newReshaped(t, 12)
	res, err := r.st.Put(t.Context(), []record.Record{{Key: "cam", Source: "test", Data: []byte(`{}`), Blob: []byte("a fragment")}})
	if err := errors.Join(err, res[0].Err); err != nil {
		t.Fatal(err)
	}
	b, err := r.follow(t)
	if err != nil || len(b.Recs) != 1 {
		t.Fatal(b, err)
	}
	view := newForUplink(r.sp, uplink.Config{ID: "up", Shape: []shape.Config{{As: "graz-{stream}"}}}, slog.New(slog.DiscardHandler))
	c, err := view.openChunk("graz-mqtt", b.Recs[0].Chunk)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(c)
	if err := errors.Join(err, c.Close()); err != nil || string(text) != "a fragment" {
		t.Errorf("%v: read %q", err, text)
	}
	if _, err := view.openChunk("mqtt", b.Recs[0].Chunk); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("the local name: %v", err)
	}
}

// follow reads the first record that there is.
func (r *reshaped) follow(t *testing.T) (record.Batch, error) {
	t.Helper()
	for _, sh := range r.st.Shards() {
		if sh.Next == 1 {
			continue
		}
		rd, err := r.st.Reader(sh.ID, spool.Oldest())
		if err != nil {
			return record.Batch{}, err
		}
		return rd.Next(t.Context(), 1)
	}
	return record.Batch{}, record.ErrNoShard
}
