package spool_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

func firstKept(st *spool.Stream) uint64 { return st.Shards()[0].First }

// blob stores one record with n bytes beside the log and returns its result's
// error.
func blob(t *testing.T, st *spool.Stream, n int) error {
	t.Helper()
	res, err := st.Put(t.Context(), []record.Record{{Key: "cam", Blob: make([]byte, n)}})
	if err != nil {
		return err
	}
	return res[0].Err
}

// A record that cannot ever fit is told so, and costs nobody anything.
func TestARecordLargerThanTheQuotaIsInvalid(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 8 << 20})
	tele := b.stream(spool.StreamConfig{Name: "tele"})
	video := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	small := b.stream(spool.StreamConfig{Name: "small", MaxBytes: 1 << 20})
	cursor(t, tele, "up", spool.Oldest())
	fill(t, tele, 60, 50<<10)
	for _, c := range []struct {
		st *spool.Stream
		n  int
	}{{video, 20 << 20}, {video, 8 << 20}, {small, 2 << 20}} {
		res, err := c.st.Put(t.Context(), []record.Record{{Key: "fits"}, {Key: "cam", Blob: make([]byte, c.n)}})
		if err != nil || res[0].Err != nil {
			t.Fatalf("%d bytes: %+v, %v", c.n, res, err)
		}
		bad, ok := errors.AsType[*record.InvalidError](res[1].Err)
		if !ok || !bad.TooLarge || !strings.Contains(bad.Error(), "larger than") {
			t.Errorf("%d bytes into %s: %v", c.n, c.st.Name(), res[1].Err)
		}
	}
	if firstKept(tele) != 1 || has(b.Spool, "dropped") || has(b.Spool, "full") {
		t.Errorf("telemetry begins at %d, conditions %+v", firstKept(tele), b.Stats().Conditions)
	}
}

// What could not fit even with all gone that may go is refused before anything
// goes.
func TestARefusedRecordDropsNothing(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 12 << 20})
	tele := b.stream(spool.StreamConfig{Name: "tele"})
	video := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	debug := b.stream(spool.StreamConfig{Name: "debug", Class: record.ClassDebug})
	for _, st := range []*spool.Stream{tele, video, debug} {
		cursor(t, st, "up", spool.Oldest())
	}
	fill(t, tele, 100, 50<<10)
	fill(t, debug, 20, 50<<10)
	for range 3 {
		if err := blob(t, video, 500<<10); err != nil {
			t.Fatal(err)
		}
	}
	if err := blob(t, video, 9<<20); !errors.Is(err, record.ErrFull) {
		t.Fatalf("9 MiB beside 5 MiB of telemetry: %v", err)
	}
	spool.Keep(b.Spool)
	if firstKept(tele) != 1 || firstKept(video) != 1 || firstKept(debug) != 1 || has(b.Spool, "dropped") {
		t.Errorf("first kept: tele %d, video %d, debug %d; conditions %+v", firstKept(tele), firstKept(video), firstKept(debug), b.Stats().Conditions)
	}
	if !has(b.Spool, "full") {
		t.Error("nothing is told")
	}
}

// Undelivered records go only for their own class or a higher one.
func TestALowerClassPushesNothingHigherOut(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 12 << 20})
	tele := b.stream(spool.StreamConfig{Name: "tele"})
	video := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	alarm := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm})
	cursor(t, tele, "up", spool.Oldest())
	cursor(t, video, "up", spool.Oldest())
	fill(t, tele, 140, 50<<10)
	for range 60 { // five times the room that telemetry leaves
		if err := blob(t, video, 200<<10); err != nil {
			t.Fatalf("a chunk that its own class has room for: %v", err)
		}
	}
	if firstKept(video) == 1 || !has(b.Spool, "dropped") {
		t.Error("old video did not go for new")
	}
	if firstKept(tele) != 1 {
		t.Fatalf("video pushed telemetry out up to %d", firstKept(tele)-1)
	}
	if err := blob(t, video, 5<<20); !errors.Is(err, record.ErrFull) || firstKept(tele) != 1 {
		t.Fatalf("%v, telemetry begins at %d", err, firstKept(tele))
	}
	put(t, alarm, record.Record{Key: "k", Data: make([]byte, 6<<20)})
	if firstKept(tele) == 1 {
		t.Error("an alarm must find room at telemetry's cost")
	}
}

// "full" does not come and go while a little room is left that is not enough.
func TestFullStandsUntilThereIsRoom(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 12 << 20})
	alarm := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm})
	c := cursor(t, alarm, "up", spool.Oldest())
	var refused error
	n := uint64(0)
	for ; refused == nil; n++ {
		if n > 10 {
			t.Fatal("the quota does not hold")
		}
		refused = blob(t, alarm, 3<<20)
	}
	n--
	if !errors.Is(refused, record.ErrFull) || !has(b.Spool, "full") {
		t.Fatalf("%v, %+v", refused, b.Stats().Conditions)
	}
	since := func() time.Time {
		for _, c := range b.Stats().Conditions {
			if c.Kind == "full" {
				return c.Since
			}
		}
		t.Fatal("the condition went while it was still full")
		return time.Time{}
	}
	began := since()
	for range 3 {
		spool.Keep(b.Spool)
		if spool.IsFull(alarm) {
			t.Fatal("small records would fit and are held back")
		}
		put(t, alarm, record.Record{Key: "k"})
		n++
		spool.Keep(b.Spool)
		if err := blob(t, alarm, 3<<20); !errors.Is(err, record.ErrFull) {
			t.Fatal(err)
		}
		if !since().Equal(began) || !b.Stats().Full {
			t.Fatal("the condition came a second time")
		}
	}
	if err := c.Commit(n, record.Tally{Delivered: n}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room ends it", func() bool { return !has(b.Spool, "full") && !b.Stats().Full })
	if err := blob(t, alarm, 3<<20); err != nil {
		t.Error(err)
	}
}

// Payload counts wherever it lies.
func TestBytesCountChunksToo(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "video", Shards: 2, Class: record.ClassVideo})
	sum := func() (n int64) {
		for _, sh := range st.Shards() {
			n += sh.Bytes
		}
		return n
	}
	const payload = 1000 + 300<<10 + 2<<20 + 700
	for _, r := range []record.Record{
		{Key: "inline", Data: make([]byte, 1000)},
		{Key: "large", Data: make([]byte, 300<<10)},
		{Key: "chunk", Blob: make([]byte, 2<<20), Data: make([]byte, 700)},
	} {
		put(t, st, r)
	}
	want := sum()
	if want < payload || want > payload+500 {
		t.Errorf("%d bytes of %d", want, payload)
	}
	if got := b.Stats().Bytes; int64(got) != want {
		t.Errorf("stats tell %d bytes, the shards %d", got, want)
	}
	for _, where := range []string{"active segment", "older segment"} {
		b.reopen()
		st, _ = b.Stream("video")
		if got := sum(); got != want {
			t.Errorf("reopened with it in the %s: %d bytes, were %d", where, got, want)
		}
		if err := spool.Roll(st); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFullInIsToldFromGrowth(t *testing.T) {
	const mb, min = 1 << 20, time.Minute
	for _, c := range []struct {
		name  string
		step  time.Duration
		bytes []int64
		limit int64
		want  string
	}{
		{"one figure", min, []int64{5 * mb}, 100 * mb, ""},
		{"too short", 6 * time.Second, []int64{mb, 2 * mb, 3 * mb}, 100 * mb, ""},
		{"still", min, []int64{5 * mb, 5 * mb, 5 * mb}, 100 * mb, ""},
		{"shrinks", min, []int64{5 * mb, 4 * mb}, 100 * mb, ""},
		{"minutes", min, []int64{0, 1 * mb, 2 * mb}, 12 * mb, "about 10 min"},
		{"hours", min, []int64{0, 1 * mb}, 181 * mb, "about 3 h"},
		{"days", min, []int64{0, 1 * mb}, 10081 * mb, "about 7 days"},
		{"years", min, []int64{0, 1}, 1 << 40, ""},
		{"now", min, []int64{0, 50 * mb}, 50 * mb, "less than a minute"},
		{"over it", min, []int64{0, 50 * mb}, 40 * mb, "less than a minute"},
		{"only the last minutes count", min, []int64{0, 900 * mb, 900 * mb, 901 * mb, 902 * mb, 903 * mb, 904 * mb}, 914 * mb, "about 13 min"},
	} {
		if got := spool.FullIn(c.step, c.bytes, c.limit); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAReportIsPlainJSON(t *testing.T) {
	b := newBox(t, spool.Config{})
	fill(t, b.stream(spool.StreamConfig{Name: "mqtt"}), 3, 10)
	b.close()
	r, err := spool.Check(t.Context(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"dir":`, `"format":2`, `"streams":1`, `"shards":1`, `"segments":1`, `"blocks":1`, `"records":3`, `"chunks":0`, `"bytes":`, `"problems":[]`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s is not in %s", part, text)
		}
	}
}

func TestStreamDefaults(t *testing.T) {
	if c := (spool.StreamConfig{Name: "a"}).WithDefaults(); c.Shards != 1 || c.Class != record.ClassTelemetry {
		t.Errorf("%+v", c)
	}
}
