package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
)

// A witness is told what somebody who follows a stream sees, and checks that
// the numbers of every key rise by one. What comes twice is counted.
type witness struct {
	t       *testing.T
	mu      sync.Mutex
	from    uint64            // the first number that counts
	next    map[string]uint64 // behind from
	total   int
	twice   int
	shards  map[record.ShardID]bool
	skipped string
}

func newWitness(t *testing.T) *witness {
	return &witness{t: t, next: map[string]uint64{}, shards: map[record.ShardID]bool{}}
}

func (w *witness) see(key string, n uint64, shard record.ShardID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shards[shard] = true
	switch next := w.from + w.next[key]; {
	case n == next:
		w.next[key]++
		w.total++
	case n < next:
		w.twice++
	case w.skipped == "":
		w.skipped = fmt.Sprintf("key %s has %d behind %d in shard %d", key, n, next, shard)
	}
}

func (w *witness) has(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.skipped != "" {
		w.t.Fatal(w.skipped)
	}
	return w.total >= n
}

// Send makes the witness a sink that takes some records, and not others at once.
func (w *witness) Send(_ context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	for i, b := range lanes {
		n := len(b.Recs)
		if rand.IntN(4) == 0 {
			n = rand.IntN(n + 1)
			out[i].Class, out[i].Err = lane.Transient, errors.New("a fault")
		}
		for _, r := range b.Recs[:n] {
			var x struct{ N uint64 }
			if err := json.Unmarshal(r.Data, &x); err != nil {
				w.t.Error(err)
			}
			w.see(r.Key, x.N, b.Lane.Shard)
		}
		if out[i].Done = n; n == len(b.Recs) {
			out[i].Class, out[i].Err = lane.OK, nil
		}
	}
	return out
}

func (w *witness) Close() error { return nil }

// A reshaped is a stream that is written to while its shards change.
type reshaped struct {
	t    *testing.T
	dir  string
	sp   *spool.Spool
	st   *spool.Stream
	rnd  *rand.Rand
	next uint64 // of all keys
	put  int    // records
	log  lockedBuffer
}

const reshapedKeys = 24

func newReshaped(t *testing.T, seed uint64) *reshaped {
	r := &reshaped{t: t, dir: filepath.Join(t.TempDir(), "spool"), rnd: rand.New(rand.NewPCG(seed, 1))}
	r.open(r.dir)
	var err error
	if r.st, err = r.sp.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 3}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	return r
}

func (r *reshaped) open(dir string) {
	r.t.Helper()
	var err error
	if r.sp, err = spool.Open(r.t.Context(), dir, spool.Config{Gateway: "cell"}, slog.New(slog.DiscardHandler)); err != nil {
		r.t.Fatal(err)
	}
	r.dir = dir
}

func (r *reshaped) close() {
	r.t.Helper()
	if err := r.sp.Close(); err != nil && !errors.Is(err, record.ErrClosed) {
		r.t.Error(err)
	}
}

// copied is what a kill of this moment would leave.
func (r *reshaped) copied() string {
	r.t.Helper()
	dir := filepath.Join(r.t.TempDir(), "spool")
	if err := os.CopyFS(dir, os.DirFS(r.dir)); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// reopen goes on with a copy.
func (r *reshaped) reopen(dir string) {
	r.t.Helper()
	r.close()
	r.open(dir)
	var err error
	if r.st, err = r.sp.Stream("mqtt"); err != nil {
		r.t.Fatal(err)
	}
}

// write puts a number behind every key, again and again, while the shards
// change so often, and some more.
func (r *reshaped) write(changes int) {
	r.t.Helper()
	changed, round, done := make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		for more := 10; more > 0; {
			select {
			case <-changed:
				more--
			default:
			}
			if !r.round() {
				return
			}
			select {
			case round <- struct{}{}:
			default:
			}
		}
	}()
	for range changes {
		select {
		case <-round:
		case <-done:
			r.t.FailNow()
		}
		r.reshape()
	}
	close(changed)
	<-done
}

// round puts one record of every key.
func (r *reshaped) round() bool {
	var recs []record.Record
	for k := range reshapedKeys {
		recs = append(recs, record.Record{Key: fmt.Sprintf("key-%d", k), Data: fmt.Appendf(nil, `{"n":%d,"odd":%d}`, r.next, r.next%2), Source: "test"})
	}
	res, err := r.st.Put(context.Background(), recs)
	for i := range res {
		err = errors.Join(err, res[i].Err)
	}
	if err != nil {
		r.t.Errorf("put: %v", err)
		return false
	}
	r.next++
	r.put += len(recs)
	return true
}

// reshape splits, merges or rescales.
func (r *reshaped) reshape() {
	r.t.Helper()
	var open []spool.Shard
	for _, sh := range r.st.Shards() {
		if sh.Open() {
			open = append(open, sh)
		}
	}
	slices.SortFunc(open, func(a, b spool.Shard) int { return a.From.Compare(b.From) })
	var err error
	switch i := r.rnd.IntN(len(open)); {
	case r.rnd.IntN(4) == 0:
		err = r.sp.Rescale(r.t.Context(), r.st, 1+r.rnd.IntN(6))
	case len(open) > 1 && (len(open) > 5 || r.rnd.IntN(2) == 0):
		i = min(i, len(open)-2)
		err = r.sp.Merge(r.t.Context(), r.st, open[i].ID, open[i+1].ID)
	default:
		at := open[i].To
		at[0] = open[i].From[0] + (at[0]-open[i].From[0])/2 + 1
		clear(at[1:])
		err = r.sp.Split(r.t.Context(), r.st, open[i].ID, at)
		if _, narrow := errors.AsType[*record.InvalidError](err); narrow {
			err = nil
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// pump hands the stream on until stop; first is done when the cursors are open
// and nothing was read.
func (r *reshaped) pump(cfg uplink.Config, sink uplink.Sink, first func()) (p *uplink.Pump, stop func()) {
	r.t.Helper()
	cfg.ID, cfg.Linger = "up", conf.Duration(time.Millisecond)
	log := slog.New(slog.NewTextHandler(&r.log, nil))
	view := newForUplink(r.sp, cfg, log)
	if _, err := view.Lanes(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if first != nil {
		first()
	}
	p = uplink.NewPump(cfg, sink, view, uplink.Options{Logger: log})
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

// balanced checks the ledger and that the uplink has n records left.
func (r *reshaped) balanced(pending uint64) {
	r.t.Helper()
	l := r.sp.Ledger()
	if err := l.Balanced(); err != nil {
		r.t.Error(err)
	}
	for _, c := range l.Cursors {
		if c.Pending != pending {
			r.t.Errorf("the ledger of the cursor is %+v, want %d pending", c, pending)
		}
	}
}

func TestAnUplinkFollowsSplitsAndMerges(t *testing.T) {
	r, w := newReshaped(t, 5), newWitness(t)
	p, stop := r.pump(uplink.Config{}, w, nil)
	r.write(20)
	eventually(t, time.Minute, "all records are delivered", func() bool { return w.has(r.put) })
	eventually(t, time.Minute, "the ended lanes are gone", func() bool { return p.Status().Lanes == r.st.Config().Shards })
	if s := p.Status(); s.Waiting.Records != 0 || w.twice != 0 || s.Delivered != uint64(r.put) {
		t.Errorf("of %d records %d came twice; the status is %+v", r.put, w.twice, s)
	}
	stop()
	r.balanced(0)
	if len(w.shards) < 8 {
		t.Errorf("records came of %d shards only: that was no test", len(w.shards))
	}
}

func TestAnUplinkKeepsTheOrderOverKills(t *testing.T) {
	r, w := newReshaped(t, 6), newWitness(t)
	for run := range 5 {
		_, stop := r.pump(uplink.Config{}, w, nil)
		r.write(12)
		part := r.put - (4-run)*reshapedKeys*3
		eventually(t, time.Minute, "records are delivered", func() bool { return w.has(part) })
		left := r.copied() // while the pump runs on, as before a kill
		stop()
		if run < 4 {
			r.reopen(left)
		}
	}
	r.balanced(0)
	t.Logf("%d records, %d came twice", w.total, w.twice)
}

// TestAChainKeepsTheOrderOverSplits: what a second gateway has in one shard is in
// order by key, whatever happened to the shards of the first, and to it.
func TestAChainKeepsTheOrderOverSplits(t *testing.T) {
	far := startGateway(t, "far", strings.NewReplacer("NAME", "far", "STREAM", "site", "shards = 4", "shards = 1").Replace(hopConfig))
	cfg := uplink.Config{Kinesis: &kinesis.Config{Stream: "site", Access: aws.Access{Endpoint: "http://" + far.kinesis, Region: "us-east-1", AccessKey: "any", SecretKey: conf.NewSecret("any")}}}
	r, w := newReshaped(t, 13), newWitness(t)
	for run := range 3 {
		sink, err := uplink.New(cfg, lane.Home{ID: r.sp.Identity(), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, stop := r.pump(cfg, sink, nil)
		r.write(10)
		left := r.copied()
		if run == 2 {
			eventually(t, time.Minute, "all records are delivered", func() bool {
				l := r.sp.Ledger().Cursors
				return len(l) == 1 && l[0].In == uint64(r.put) && l[0].Pending == 0
			})
		}
		stop()
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
		if run < 2 {
			r.reopen(left)
		}
	}
	r.balanced(0)
	for rec, err := range far.client.Records(t.Context(), api.Tail{Stream: "site"}) {
		if err != nil {
			t.Fatal(err)
		}
		in, err := envelope.Open(rec.Data)
		if err != nil {
			t.Fatal(err)
		}
		var x struct{ N uint64 }
		if err := json.Unmarshal(in.Data, &x); err != nil {
			t.Fatal(err)
		}
		w.see(rec.Key, x.N, 0)
	}
	if !w.has(r.put) {
		t.Errorf("%d of %d records arrived", w.total, r.put)
	}
	far.sound(t)
}

// What was there before a new uplink with from = "newest" stays behind; what
// comes after it was made does not, whatever becomes of the shards meanwhile.
func TestAnUplinkFromTheNewestFollowsSplits(t *testing.T) {
	r, w := newReshaped(t, 7), newWitness(t)
	r.write(6)
	before := r.put
	w.from = r.next
	_, stop := r.pump(uplink.Config{From: "newest"}, w, func() { r.write(6) })
	r.write(3)
	eventually(t, time.Minute, "all records are delivered", func() bool { return w.has(r.put - before) })
	stop()
	r.reopen(r.dir) // and after a restart
	r.write(3)
	_, stop = r.pump(uplink.Config{From: "newest"}, w, func() { r.write(3) })
	eventually(t, time.Minute, "all records are delivered", func() bool { return w.has(r.put - before) })
	stop()
	if r.balanced(0); w.twice != 0 {
		t.Errorf("%d records came twice", w.twice)
	}
}

// A new uplink begins with the oldest records of shards that are closed.
func TestANewUplinkBeginsWithClosedShards(t *testing.T) {
	r, w := newReshaped(t, 8), newWitness(t)
	r.write(10)
	_, stop := r.pump(uplink.Config{}, w, nil)
	eventually(t, time.Minute, "all records are delivered", func() bool { return w.has(r.put) })
	stop()
	r.balanced(0)
}

// A down is a sink that takes nothing until it is up.
type down struct {
	*witness
	up atomic.Bool
}

func (d *down) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	if d.up.Load() {
		return d.witness.Send(ctx, lanes)
	}
	out := make([]lane.Outcome, len(lanes))
	for i := range out {
		out[i] = lane.Outcome{Class: lane.Offline, Err: errors.New("no link")}
	}
	return out
}

func TestWhatWaitsBehindAClosedShardIsCounted(t *testing.T) {
	r, far := newReshaped(t, 9), &down{witness: newWitness(t)}
	p, stop := r.pump(uplink.Config{}, far, nil)
	r.write(6)
	eventually(t, time.Minute, "all that waits is counted", func() bool { return p.Status().Waiting.Records == uint64(r.put) })
	far.up.Store(true)
	p.RetryNow()
	eventually(t, time.Minute, "all records are delivered", func() bool { return far.has(r.put) })
	stop()
	r.balanced(0)
}

func TestTheLanesOfADeletedStreamEnd(t *testing.T) {
	r, far := newReshaped(t, 10), &down{witness: newWitness(t)}
	p, stop := r.pump(uplink.Config{}, far, nil)
	r.write(3)
	eventually(t, time.Minute, "the uplink tries", func() bool { return p.Status().Retries > 0 || p.Status().State == uplink.StateDown })
	if err := r.sp.Delete(t.Context(), "mqtt", "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the lanes are gone", func() bool { return p.Status().Lanes == 0 && p.Status().Waiting.Records == 0 })
	var err error
	if r.st, err = r.sp.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 2}); err != nil {
		t.Fatal(err)
	}
	r.put, far.from = 0, r.next
	r.write(3)
	far.up.Store(true)
	p.RetryNow()
	eventually(t, time.Minute, "the namesake's records are delivered", func() bool { return far.has(r.put) })
	stop()
	r.balanced(0)
	log := r.log.String()
	if !strings.Contains(log, "stream was deleted") || strings.Contains(log, "cannot") {
		t.Errorf("the log says:\n%s", log)
	}
}
