package spool_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// A box is a spool under test. When the test ends it is closed and checked.
type box struct {
	*spool.Spool
	t      *testing.T
	dir    string
	cfg    spool.Config
	seam   spool.Seam
	damage bool // the test damaged it: Check may find problems
}

func newBox(t *testing.T, cfg spool.Config, seam ...spool.Seam) *box {
	t.Helper()
	b := &box{t: t, dir: t.TempDir(), cfg: cfg}
	if len(seam) > 0 {
		b.seam = seam[0]
	}
	b.open()
	t.Cleanup(b.finish)
	return b
}

func (b *box) open() {
	b.t.Helper()
	s, err := spool.OpenWith(context.Background(), b.dir, b.cfg, nil, b.seam)
	if err != nil {
		b.t.Fatalf("open: %v", err)
	}
	b.Spool = s
}

// reopen closes and opens the spool.
func (b *box) reopen() {
	b.t.Helper()
	b.close()
	b.open()
}

func (b *box) close() {
	b.t.Helper()
	if b.Spool == nil {
		return
	}
	if err := b.Ledger().Balanced(); err != nil {
		b.t.Errorf("before closing: %v", err)
	}
	if err := b.Close(); err != nil {
		b.t.Errorf("close: %v", err)
	}
	b.Spool = nil
}

func (b *box) finish() {
	b.close()
	r, err := spool.Check(context.Background(), b.dir)
	if err != nil {
		b.t.Fatalf("check: %v", err)
	}
	if !b.damage && len(r.Problems) > 0 {
		b.t.Errorf("check found: %s", strings.Join(r.Problems, "\n"))
	}
	if b.damage && len(r.Problems) == 0 {
		b.t.Errorf("check did not find the damage")
	}
}

func (b *box) stream(c spool.StreamConfig) *spool.Stream {
	b.t.Helper()
	st, err := b.Ensure(b.t.Context(), c)
	if err != nil {
		b.t.Fatalf("ensure: %v", err)
	}
	return st
}

// put stores records and fails the test if one is not stored.
func put(t *testing.T, st *spool.Stream, recs ...record.Record) []record.Result {
	t.Helper()
	res, err := st.Put(t.Context(), recs)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	res = slices.Clone(res)
	for _, r := range res {
		if r.Err != nil {
			t.Fatalf("put: %v", r.Err)
		}
	}
	return res
}

// fill stores n records of size bytes in calls of at most 100.
func fill(t *testing.T, st *spool.Stream, n, size int) {
	t.Helper()
	data := make([]byte, size)
	for n > 0 {
		var recs []record.Record
		for range min(n, 100) {
			recs = append(recs, record.Record{Key: "k", Data: data, Source: "filler"})
		}
		put(t, st, recs...)
		n -= len(recs)
	}
}

// only is the id of the first shard.
func only(st *spool.Stream) record.ShardID { return st.Shards()[0].ID }

// scan reads a shard and checks that its numbers have no gaps but those that
// are reported.
func scan(t *testing.T, st *spool.Stream, id record.ShardID, from spool.Start) (recs []record.Record, losses []error) {
	t.Helper()
	var want uint64
	for b, err := range st.Scan(t.Context(), id, from) {
		if err != nil {
			if e, ok := errors.AsType[*record.TrimmedError](err); ok {
				want = e.To
				losses = append(losses, err)
				continue
			}
			if e, ok := errors.AsType[*record.CorruptError](err); ok {
				if want != 0 && e.From != want {
					t.Fatalf("loss begins at %d, want %d: %v", e.From, want, err)
				}
				want = e.To
				losses = append(losses, err)
				continue
			}
			t.Fatalf("scan: %v", err)
		}
		for _, r := range b.Recs {
			if want != 0 && r.Pos.Seq != want {
				t.Fatalf("shard %d: got record %d, want %d", id, r.Pos.Seq, want)
			}
			want = r.Pos.Seq + 1
			r.Data = bytes.Clone(r.Data)
			recs = append(recs, r)
		}
		if b.Next != want {
			t.Fatalf("batch's Next is %d, want %d", b.Next, want)
		}
	}
	return recs, losses
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

func has(s *spool.Spool, kind string) bool {
	return slices.ContainsFunc(s.Stats().Conditions, func(c spool.Condition) bool { return c.Kind == kind })
}
