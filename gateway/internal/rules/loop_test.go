package rules_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

// memLog is a log in memory whose failures a test chooses.
type memLog struct {
	mu      sync.Mutex
	streams map[string]map[record.ShardID]*memShard
	// onAppend may answer for an append to the alarm stream: store it or not,
	// and the error to report; report nil calls done as a log does.
	onAppend func(n int) (store bool, report error, never bool)
	appends  int
	trimmed  map[record.ShardID]uint64 // reads below fail once
}

type memShard struct {
	recs   []record.Record
	more   chan struct{}
	waited uint64 // what a reader waits for: all before it was stepped

	parents, children []record.ShardID // children: no more come
}

// readTo is the sequence number that the shard's reader waits for.
func (l *memLog) readTo(id record.ShardID) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if s[id] != nil {
			return s[id].waited
		}
	}
	return 0
}

func newMemLog(streams ...string) *memLog {
	l := &memLog{streams: map[string]map[record.ShardID]*memShard{}, trimmed: map[record.ShardID]uint64{}}
	for i, s := range streams {
		l.create(s, record.ShardID(10*i+1))
	}
	return l
}

func (l *memLog) create(stream string, ids ...record.ShardID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[stream] == nil {
		l.streams[stream] = map[record.ShardID]*memShard{}
	}
	for _, id := range ids {
		l.streams[stream][id] = &memShard{more: make(chan struct{})}
	}
}

func (l *memLog) Shards(_ context.Context, stream string) ([]rules.Shard, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[stream] == nil {
		return nil, record.ErrNoStream
	}
	var shards []rules.Shard
	for id, s := range l.streams[stream] {
		shards = append(shards, rules.Shard{ID: id, Parents: s.parents})
	}
	slices.SortFunc(shards, func(a, b rules.Shard) int { return cmp.Compare(a.ID, b.ID) })
	return shards, nil
}

func (l *memLog) Follow(_ context.Context, stream string, shard record.ShardID, after uint64) (rules.Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[stream][shard]
	if s == nil {
		return nil, record.ErrNoShard
	}
	if after == rules.Newest {
		after = uint64(len(s.recs))
	}
	return &memReader{log: l, shard: s, id: shard, next: after + 1}, nil
}

type memReader struct {
	log   *memLog
	shard *memShard
	id    record.ShardID
	next  uint64
}

func (r *memReader) Next(ctx context.Context, limit int) (record.Batch, error) {
	for {
		r.log.mu.Lock()
		if to := r.log.trimmed[r.id]; to > r.next {
			delete(r.log.trimmed, r.id)
			err := &record.TrimmedError{Shard: r.id, From: r.next, To: to}
			r.next = to
			r.log.mu.Unlock()
			return record.Batch{}, err
		}
		recs, more, children := r.shard.recs, r.shard.more, r.shard.children
		r.shard.waited = r.next
		r.log.mu.Unlock()
		if n := uint64(len(recs)); r.next <= n {
			out := recs[r.next-1 : min(n, r.next-1+uint64(limit))]
			r.next += uint64(len(out))
			return record.Batch{Shard: r.id, Recs: append([]record.Record(nil), out...), Next: r.next}, nil
		}
		if children != nil {
			return record.Batch{}, &record.ShardEndError{Shard: r.id, Children: children}
		}
		select {
		case <-ctx.Done():
			return record.Batch{}, ctx.Err()
		case <-more:
		}
	}
}

func (r *memReader) Pos() uint64 { return r.next }
func (*memReader) Close() error  { return nil }

func (l *memLog) put(stream string, shard record.ShardID, recs ...record.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[stream][shard]
	for _, r := range recs {
		r.Pos = record.Pos{Shard: shard, Seq: uint64(len(s.recs) + 1)}
		s.recs = append(s.recs, r)
	}
	close(s.more)
	s.more = make(chan struct{})
}

var errDisk = errors.New("disk")

func (l *memLog) Append(_ context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	store, report, never := true, error(nil), false
	l.mu.Lock()
	if l.onAppend != nil {
		l.appends++
		store, report, never = l.onAppend(l.appends)
	}
	var id record.ShardID
	for i := range l.streams[stream] {
		id = i
	}
	l.mu.Unlock()
	if id == 0 {
		return record.ErrNoStream
	}
	if store {
		l.put(stream, id, recs...)
	}
	if !never {
		results := make([]record.Result, len(recs))
		for i := range results {
			results[i].Err = report
		}
		done(results)
	}
	return nil
}

func (l *memLog) Tail(_ context.Context, stream string, n int) ([]record.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams[stream] {
		return append([]record.Record(nil), s.recs[max(0, len(s.recs)-n):]...), nil
	}
	return nil, record.ErrNoStream
}

// transitions is what stands in the alarm stream, as "event id #n".
func (l *memLog) transitions(t *testing.T) []string {
	t.Helper()
	recs, err := l.Tail(context.Background(), rules.AlarmStream, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range recs {
		var a rules.Alarm
		if err := json.Unmarshal(r.Data, &a); err != nil {
			t.Fatal(err)
		}
		if r.Key != a.Rule+"/"+a.Key || r.Type != "application/json" || !r.At.Equal(a.Changed) {
			t.Errorf("record of %s: key %q, type %q", a.ID, r.Key, r.Type)
		}
		out = append(out, fmt.Sprintf("%s %s #%d", a.Event, a.ID, a.Transition))
	}
	return out
}

type running struct {
	*rules.Loop
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, path, ruleText string, log *memLog, opts rules.Options) *running {
	t.Helper()
	l, err := rules.NewLoop(path, load(t, ruleText), log, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{l, t, cancel, make(chan error, 1)}
	go func() { r.done <- l.Run(ctx) }()
	t.Cleanup(r.end)
	return r
}

func (r *running) end() {
	r.stop()
	if r.done == nil {
		return
	}
	if err := <-r.done; err != nil {
		r.t.Error(err)
	}
	r.done = nil
	if err := r.Close(); err != nil {
		r.t.Error(err)
	}
}

// until polls for what the loop does on its own time.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *running) ready() {
	r.t.Helper()
	until(r.t, "caught up", func() bool { return !r.Stats().CatchingUp })
}

func rec(key, payload string) record.Record {
	return record.Record{Key: key, Arrived: time.Now(), Data: []byte(payload)}
}

const hot = `
[[rule]]
id = "hot"
when = "value > 80"
`

func TestLoop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules #1?.db")
	log := newMemLog("mqtt", "alarms")
	log.put("mqtt", 1, rec("old", "99")) // before the rules were first run: not looked at
	const two = hot + "[[rule]]\nid = \"wet\"\nfrom = \"serial\"\nwhen = \"value > 80\"\n"
	r := start(t, path, two, log, rules.Options{})
	r.ready()
	changed := r.Changed()
	log.put("mqtt", 1, rec("a", "90"), rec("b", "70"), rec("c", `{"value": 95}`))
	<-changed
	until(t, "two alarms", func() bool { return len(r.Alarms()) == 2 })
	if p := r.Stats().Problems; len(p) != 1 || !strings.Contains(p[0], `"serial"`) {
		t.Error(p)
	}
	acked, unknown, err := r.Ack(t.Context(), []string{"hot/a/1", "hot/b/1", "hot/a/1"}, "eve", "seen")
	if err != nil || len(acked) != 1 || len(unknown) != 2 {
		t.Fatal(acked, unknown, err)
	}
	// The acknowledged one comes last, though it is as urgent.
	if as := r.Alarms(); as[0].ID != "hot/c/1" || as[1].AckedBy != "eve" {
		t.Fatalf("%+v", as)
	}
	r.Report(rules.Condition{Source: "uplink/site", Name: "down", Severity: 1, Active: true, Text: "no link"})
	until(t, "the report", func() bool { as := r.Alarms(); return len(as) == 3 && as[0].ID == "system/uplink/site/down/1" })
	until(t, "the alarm stream", func() bool { return r.Stats().Outbox == 0 })

	// A stream that appears later is read from its start.
	log.create("serial", 77)
	log.put("serial", 77, rec("p", "100"))
	until(t, "the new stream", func() bool { return len(r.Alarms()) == 4 })
	r.end()

	// While it is down, one clears and one comes.
	log.put("mqtt", 1, rec("a", "10"), rec("d", "99"))
	r = start(t, path, two, log, rules.Options{KeepSystem: func(key string) bool { return key == "uplink/site/down" }})
	until(t, "what was missed", func() bool { return r.Stats().Records == 2 && r.Stats().Outbox == 0 })
	want := "raised hot/a/1 #1|raised hot/c/1 #1|acked hot/a/1 #2|raised system/uplink/site/down/1 #1|raised wet/p/1 #1|cleared hot/a/1 #3|raised hot/d/1 #1"
	if got := strings.Join(log.transitions(t), "|"); got != want {
		t.Errorf("alarm stream:\n%s, want\n%s", got, want)
	}
	r.end()

	// A rule that means something else, a source that is gone.
	r = start(t, path, strings.ReplaceAll(two, `"value > 80"`, `"value > 85"`), log, rules.Options{KeepSystem: func(string) bool { return false }})
	until(t, "closed alarms", func() bool { return len(r.Alarms()) == 0 && r.Stats().Outbox == 0 })
	got := strings.Join(log.transitions(t)[7:], "|")
	if want := "rule-changed hot/c/1 #2|rule-changed hot/d/1 #2|rule-removed system/uplink/site/down/1 #2|rule-changed wet/p/1 #2"; got != want {
		t.Errorf("alarm stream:\n%s, want\n%s", got, want)
	}
	// The next raise does not reuse an id.
	log.put("mqtt", 1, rec("c", "90"))
	until(t, "a new raise", func() bool { as := r.Alarms(); return len(as) == 1 && as[0].ID == "hot/c/4" })
}

// TestDelaysRun: nothing comes after the record, the tick alone raises.
func TestDelaysRun(t *testing.T) {
	log := newMemLog("mqtt", "alarms")
	r := start(t, filepath.Join(t.TempDir(), "r.db"), hot+"for = \"300ms\"\n", log, rules.Options{FromOldest: true})
	x := rec("a", "90")
	log.put("mqtt", 1, x)
	until(t, "the raise", func() bool { return len(r.Alarms()) == 1 })
	if at := r.Alarms()[0].Raised; !at.Equal(x.Arrived.UTC().Round(0).Add(300 * time.Millisecond)) {
		t.Errorf("raised at %s, the record arrived at %s", at, x.Arrived)
	}
}

// TestClockJumps: a jump of ten years ends no delay.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		var mu sync.Mutex
		var off time.Duration
		now := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(off).Round(0)
		}
		log := newMemLog("mqtt", "alarms")
		r := start(t, filepath.Join(t.TempDir(), "r.db"), hot+"for = \"1h\"\nno_data = \"1h\"\n", log, rules.Options{FromOldest: true, Now: now})
		log.put("mqtt", 1, rec("a", "90"))
		until(t, "seen", func() bool { return r.Stats().Instances == 2 })
		mu.Lock()
		off = jump
		mu.Unlock()
		until(t, "the jump", func() bool { return r.Stats().ClockJumps == 1 })
		x := rec("a", "90")
		x.Arrived = now()
		log.put("mqtt", 1, x)
		until(t, "the second record", func() bool { return r.Stats().Records == 2 })
		last := r.Stats().LastTick
		until(t, "further ticks", func() bool { return r.Stats().LastTick.Sub(last) > time.Second })
		if as := r.Alarms(); len(as) != 0 {
			t.Errorf("jump of %s: %+v", jump, as)
		}
		r.end()
	}
}

// TestDowntime: an hour in which nobody looked is no silence and no hour of
// heat.
func TestDowntime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	log := newMemLog("mqtt", "alarms")
	text := hot + "for = \"10m\"\nno_data = \"10m\"\n"
	r := start(t, path, text, log, rules.Options{FromOldest: true})
	log.put("mqtt", 1, rec("a", "90"))
	until(t, "seen", func() bool { return r.Stats().Instances == 2 })
	r.end()
	later := func() time.Time { return time.Now().Add(time.Hour) }
	r = start(t, path, text, log, rules.Options{Now: later})
	r.ready()
	x := rec("a", "91")
	x.Arrived = later()
	log.put("mqtt", 1, x)
	until(t, "the record", func() bool { return r.Stats().Records == 1 })
	until(t, "a tick", func() bool { return r.Stats().LastTick.After(x.Arrived) })
	if as := r.Alarms(); len(as) != 0 {
		t.Errorf("%+v", as)
	}
}

func TestTrimmed(t *testing.T) {
	log := newMemLog("mqtt", "alarms")
	log.put("mqtt", 1, rec("a", "90"), rec("b", "90"), rec("c", "90"))
	log.trimmed[1] = 3
	r := start(t, filepath.Join(t.TempDir(), "r.db"), hot, log, rules.Options{FromOldest: true})
	until(t, "the rest", func() bool { return len(r.Alarms()) == 1 })
	if s := r.Stats(); s.Trimmed != 2 || r.Alarms()[0].Key != "c" {
		t.Errorf("%+v", s)
	}
}

// TestAppendFails: every way in which the log can fail to answer, and the alarm
// stream still holds each transition once.
func TestAppendFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	log := newMemLog("mqtt", "alarms")
	log.onAppend = func(n int) (bool, error, bool) {
		switch n {
		case 1:
			return false, errDisk, false // not stored, and said so
		case 2:
			return true, errDisk, false // stored, but reported as failed
		case 3:
			return true, nil, true // stored, and never answered: cut off
		}
		return true, nil, false
	}
	r := start(t, path, hot, log, rules.Options{FromOldest: true})
	log.put("mqtt", 1, rec("a", "90"))
	until(t, "the first, found in the stream", func() bool { return r.Stats().Repeated == 1 })
	log.put("mqtt", 1, rec("b", "90"))
	until(t, "the second in the stream", func() bool { return len(log.transitions(t)) == 2 })
	if r.Stats().Outbox != 1 {
		t.Errorf("%+v", r.Stats())
	}
	r.end()
	r = start(t, path, hot, log, rules.Options{})
	until(t, "the second, found again", func() bool { return r.Stats().Repeated == 1 && r.Stats().Outbox == 0 })
	if got := strings.Join(log.transitions(t), "|"); got != "raised hot/a/1 #1|raised hot/b/1 #1" {
		t.Error(got)
	}
}

// TestStuckStreamHoldsReading: while the alarm stream takes nothing, what waits
// for it stays bounded, and nothing of it is lost.
func TestStuckStreamHoldsReading(t *testing.T) {
	const limit, batch, n = 10_000, 512, 13_000
	log := newMemLog("mqtt", "alarms")
	var stuck atomic.Bool
	var tries atomic.Int64
	stuck.Store(true)
	log.onAppend = func(int) (bool, error, bool) {
		tries.Add(1)
		if stuck.Load() {
			return false, errDisk, false
		}
		return true, nil, false
	}
	r := start(t, filepath.Join(t.TempDir(), "r.db"), hot, log, rules.Options{FromOldest: true, MaxAlarms: n})
	recs := make([]record.Record, n)
	for i := range recs {
		recs[i] = rec(fmt.Sprint("k", i), "90")
	}
	log.put("mqtt", 1, recs...)
	until(t, "the outbox is full", func() bool { return r.Stats().Outbox > limit })
	from := tries.Load()
	until(t, "two more tries", func() bool { return tries.Load() >= from+2 })
	if s := r.Stats(); s.Outbox > limit+batch || log.readTo(1) > limit+2*batch {
		t.Errorf("%d wait, read to %d", s.Outbox, log.readTo(1))
	}
	stuck.Store(false)
	until(t, "all is sent", func() bool { return r.Stats().Sent == n })
	if got := len(log.transitions(t)); got != n {
		t.Errorf("%d transitions, want %d", got, n)
	}
}

// TestNewStore: where rules.db is lost, ids go on behind those in the stream.
func TestNewStore(t *testing.T) {
	log := newMemLog("mqtt", "alarms")
	r := start(t, filepath.Join(t.TempDir(), "r.db"), hot, log, rules.Options{FromOldest: true})
	log.put("mqtt", 1, rec("a", "90"), rec("a", "10"))
	until(t, "sent", func() bool { return r.Stats().Sent == 2 })
	r.end()
	r = start(t, filepath.Join(t.TempDir(), "r.db"), hot, log, rules.Options{})
	r.ready()
	log.put("mqtt", 1, rec("a", "90"))
	until(t, "raised", func() bool { return len(r.Alarms()) == 1 })
	if id := r.Alarms()[0].ID; id != "hot/a/3" {
		t.Error(id)
	}
}
