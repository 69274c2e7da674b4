package spool_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

func cursor(t *testing.T, st *spool.Stream, name string, from spool.Start) *spool.Cursor {
	t.Helper()
	c, err := st.Cursor(t.Context(), name, only(st), from)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func line(t *testing.T, s *spool.Spool, name, stream string) spool.CursorLedger {
	t.Helper()
	l := s.Ledger()
	if err := l.Balanced(); err != nil {
		t.Error(err)
	}
	for _, c := range l.Cursors {
		if c.Name == name && c.Stream == stream {
			return c
		}
	}
	t.Fatalf("no cursor %s on %s", name, stream)
	return spool.CursorLedger{}
}

func TestACursorKeepsItsPlaceAndCounts(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 10)
	c := cursor(t, st, "cloud", spool.After(2))
	batch, err := c.Next(t.Context(), 5)
	if err != nil || len(batch.Recs) != 5 || batch.Recs[0].Pos.Seq != 3 || batch.Next != 8 {
		t.Fatalf("%+v, %v", batch, err)
	}
	if err := c.Commit(7, record.Tally{Delivered: 4}); err == nil {
		t.Error("a tally that does not add up was taken")
	}
	if err := c.Commit(99, record.Tally{Delivered: 97}); err == nil {
		t.Error("a place behind the end was taken")
	}
	if err := c.Commit(7, record.Tally{Delivered: 3, Filtered: 1, Refused: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(7, record.Tally{}); err != nil {
		t.Errorf("the same place again: %v", err)
	}
	if err := c.Commit(5, record.Tally{Delivered: 1}); err == nil {
		t.Error("the place was moved back")
	}
	if c.Committed() != 8 || c.Backlog().Records != 3 || c.Backlog().Oldest.IsZero() || c.Backlog().Bytes <= 0 {
		t.Errorf("committed %d, backlog %+v", c.Committed(), c.Backlog())
	}
	if _, err := st.Cursor(t.Context(), "cloud", only(st), spool.Oldest()); err == nil {
		t.Error("two users have one cursor")
	}
	c.Close()
	b.reopen()
	st, _ = b.Stream("mqtt")
	c = cursor(t, st, "cloud", spool.Oldest())
	if c.Committed() != 8 || c.Pos() != 8 {
		t.Errorf("after reopening: committed %d, reads at %d", c.Committed(), c.Pos())
	}
	want := spool.CursorLedger{Name: "cloud", Stream: "mqtt", In: 8, Delivered: 3, Filtered: 1, Refused: 1, Pending: 3}
	if got := line(t, b.Spool, "cloud", "mqtt"); got != want {
		t.Errorf("ledger %+v, want %+v", got, want)
	}
	if err := b.DropCursor(t.Context(), "cloud"); err == nil {
		t.Error("a cursor in use was dropped")
	}
	c.Close()
	if err := b.DropCursor(t.Context(), "cloud"); err != nil {
		t.Error(err)
	}
	b.reopen()
	if l := b.Ledger(); len(l.Cursors) != 0 {
		t.Errorf("dropped cursors are back: %+v", l.Cursors)
	}
}

func TestNextWaitsAndIsCancelled(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	c := cursor(t, st, "c", spool.Newest())
	if batch, err := c.Poll(t.Context(), 10); err != nil || len(batch.Recs) != 0 {
		t.Errorf("poll of nothing: %v, %v", batch, err)
	}
	got := make(chan record.Batch)
	go func() {
		batch, err := c.Next(context.Background(), 10)
		if err != nil {
			t.Error(err)
		}
		got <- batch
	}()
	put(t, st, record.Record{Key: "k", Data: []byte("now")})
	if batch := <-got; len(batch.Recs) != 1 || string(batch.Recs[0].Data) != "now" {
		t.Errorf("%+v", batch)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Next(ctx, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
}

// Retention by age takes what was delivered, and keeps what was not.
func TestAgeTakesOnlyWhatWasDelivered(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBox(t, spool.Config{Now: func() time.Time { return now }}, spool.Seam{Boot: aNewBoot})
	hour := conf.Duration(time.Hour)
	kept := b.stream(spool.StreamConfig{Name: "kept", MaxAge: hour})
	free := b.stream(spool.StreamConfig{Name: "free", MaxAge: 2 * hour})
	gone := b.stream(spool.StreamConfig{Name: "gone", MaxAge: hour, ExpireUndelivered: true})
	for _, st := range []*spool.Stream{kept, free, gone} {
		fill(t, st, 5, 10)
	}
	cursor(t, kept, "up", spool.Oldest())
	cursor(t, gone, "up", spool.Oldest())
	spool.Keep(b.Spool)
	for _, st := range []*spool.Stream{kept, free, gone} {
		if st.Shards()[0].First != 1 {
			t.Errorf("%s lost records that are not old", st.Name())
		}
	}
	b.close()
	now = now.Add(3 * time.Hour) // the box was off for so long
	b.open()
	spool.Keep(b.Spool)
	first := func(name string) uint64 {
		st, err := b.Stream(name)
		if err != nil {
			t.Fatal(err)
		}
		return st.Shards()[0].First
	}
	if first("kept") != 1 || first("free") != 6 || first("gone") != 6 {
		t.Fatalf("first kept: kept %d, free %d, gone %d", first("kept"), first("free"), first("gone"))
	}
	if got := line(t, b.Spool, "up", "gone"); got.Expired != 5 || got.In != 5 {
		t.Errorf("ledger %+v", got)
	}
	st, _ := b.Stream("gone")
	c := cursor(t, st, "up", spool.Oldest())
	put(t, st, record.Record{Key: "new"})
	_, err := c.Next(t.Context(), 10)
	if e, ok := errors.AsType[*record.TrimmedError](err); !ok || e.From != 1 || e.To != 6 {
		t.Fatalf("a reader that fell behind got %v", err)
	}
	batch, err := c.Next(t.Context(), 10)
	if err != nil || len(batch.Recs) != 1 || batch.Recs[0].Pos.Seq != 6 {
		t.Fatalf("%+v, %v", batch, err)
	}
	if err := c.Commit(6, record.Tally{Delivered: 1}); err != nil {
		t.Fatal(err)
	}
	if got := line(t, b.Spool, "up", "gone"); got.Expired != 5 || got.Delivered != 1 || got.Pending != 0 {
		t.Errorf("ledger %+v", got)
	}
	st, _ = b.Stream("kept")
	c = cursor(t, st, "up", spool.Oldest())
	if batch, err := c.Next(t.Context(), 10); err != nil || len(batch.Recs) != 5 {
		t.Fatalf("undelivered records: %v, %v", batch, err)
	}
	if err := c.Commit(5, record.Tally{Delivered: 5}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "delivered records go", func() bool { return first("kept") == 6 })
}

func TestAJumpingClockExpiresNothing(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	jump := time.Duration(0)
	b := newBox(t, spool.Config{Now: func() time.Time { return now.Add(jump) }})
	st := b.stream(spool.StreamConfig{Name: "mqtt", MaxAge: conf.Duration(30 * 24 * time.Hour)})
	const years = 10 * 365 * 24 * time.Hour
	n := 0
	for _, jump = range []time.Duration{0, years, -years, time.Hour, -time.Hour, 0} {
		fill(t, st, 3, 10)
		n += 3
		spool.Keep(b.Spool)
		if err := spool.Roll(st); err != nil {
			t.Fatal(err)
		}
		spool.Keep(b.Spool)
		b.reopen()
		spool.Keep(b.Spool)
		st, _ = b.Stream("mqtt")
		if recs, _ := scan(t, st, only(st), spool.After(0)); len(recs) != n {
			t.Fatalf("after a jump of %v: %d records, want %d", jump, len(recs), n)
		}
	}
}

func TestLedgerCountsSources(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	q := b.stream(spool.StreamConfig{Name: "quarantine"})
	put(t, st, record.Record{Key: "a", Source: "press", SourceSeq: 1}, record.Record{Key: "b", Source: "press", SourceSeq: 2}, record.Record{Key: "c", Source: "oven", SourceSeq: 9})
	put(t, q, record.Record{Key: "raw", Source: "press", SourceSeq: 3})
	b.Shed("oven", 4)
	b.Shed("lost", 2)
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	put(t, st, record.Record{Key: "a", Source: "press", SourceSeq: 4})
	for range 2 {
		got := map[string]spool.SourceLedger{}
		for _, s := range b.Ledger().Sources {
			got[s.Source] = s
		}
		for _, want := range []spool.SourceLedger{{"press", 4, 0, 1}, {"oven", 1, 4, 0}, {"lost", 0, 2, 0}} {
			if got[want.Source] != want {
				t.Errorf("ledger %+v, want %+v", got[want.Source], want)
			}
		}
		if b.SourceSeq("press") != 4 || b.SourceSeq("oven") != 9 || b.SourceSeq("nobody") != 0 {
			t.Errorf("sources go on at %d, %d, %d", b.SourceSeq("press"), b.SourceSeq("oven"), b.SourceSeq("nobody"))
		}
		b.reopen()
	}
}

func TestLedgerSaysWhatDoesNotAddUp(t *testing.T) {
	for _, l := range []spool.Ledger{
		{Streams: []spool.StreamLedger{{Stream: "s", In: 3, Kept: 1}}},
		{Cursors: []spool.CursorLedger{{Name: "c", In: 3, Pending: 1}}},
		{Sources: []spool.SourceLedger{{Source: "x", Taken: 1, Quarantined: 2}}},
	} {
		if err := l.Balanced(); err == nil || !strings.Contains(err.Error(), "ledger of") {
			t.Errorf("%+v: %v", l, err)
		}
	}
}

// A cursor tells how far its shard goes and when a record arrived, so that a
// far side that says that it has a record can be held against it.
func TestACursorTellsOfItsShard(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 10, 10)
	c := cursor(t, st, "cloud", spool.After(2))
	if c.Began() != 3 || c.End() != 11 {
		t.Errorf("it began at %d, and the shard ends at %d", c.Began(), c.End())
	}
	batch, err := c.Next(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range batch.Recs {
		if at, ok, err := c.Arrived(r.Pos.Seq); !ok || err != nil || !at.Equal(r.Arrived) {
			t.Errorf("record %d arrived at %s, %t, %v; want %s", r.Pos.Seq, at, ok, err, r.Arrived)
		}
	}
	if _, ok, err := c.Arrived(1); !ok || err != nil {
		t.Errorf("a record in front of the cursor is not known: %v", err)
	}
	for _, seq := range []uint64{0, 11, 1 << 60} {
		if at, ok, err := c.Arrived(seq); ok || err != nil {
			t.Errorf("record %d arrived at %s, %v", seq, at, err)
		}
	}
	if c.Again() {
		t.Error("it did not begin again")
	}
	b.close()
	if _, ok, err := c.Arrived(1); ok || !errors.Is(err, record.ErrClosed) {
		t.Errorf("read from a closed spool: %t, %v", ok, err)
	}
}

// The oldest arrival is told by samples of what was read ahead of the place,
// however it was read: never one that is newer, and older by little.
func TestTheOldestArrivalIsNear(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	const n = 5000
	base := time.Now().Add(-n * time.Minute).Truncate(time.Second)
	recs := make([]record.Record, n)
	for i := range recs {
		recs[i] = record.Record{Key: "k", Arrived: base.Add(time.Duration(i) * time.Minute), Data: []byte("x")}
	}
	put(t, st, recs...)
	for _, step := range []int{1, 7, 300, n} {
		c := cursor(t, st, fmt.Sprint("up", step), spool.Oldest())
		c.Backlog()
		for read := 0; read < n; {
			batch, err := c.Poll(t.Context(), step)
			if err != nil || len(batch.Recs) == 0 {
				t.Fatalf("%d of %d read, then %v", read, n, err)
			}
			read += len(batch.Recs)
		}
		for _, at := range []uint64{1, 100, 1000, 2500, 4000, 4900} {
			if err := c.Commit(at, record.Tally{Delivered: at + 1 - c.Committed()}); err != nil {
				t.Fatal(err)
			}
			late := base.Add(time.Duration(at+1) * time.Minute).Sub(c.Backlog().Oldest)
			if late < -time.Minute || late > n/20*time.Minute {
				t.Errorf("read by %d: at %d the oldest is said to be %v too old", step, at, late)
			}
		}
	}
}
