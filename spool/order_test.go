package spool_test

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// A commit fails while more of the same source waits: queued, held back in
// front of a full queue, and handed over while its done is running. None of it
// may be stored before the failed record is offered again; another source is
// not concerned.
func TestNothingOvertakesAFailedCommit(t *testing.T) {
	var gated atomic.Bool
	started, verdict := make(chan struct{}), make(chan error)
	b := newBox(t, spool.Config{}, spool.Seam{Commit: func() error {
		if !gated.Load() {
			return nil
		}
		started <- struct{}{}
		return <-verdict
	}})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	type answer struct {
		source string
		seq    uint64
		err    error
	}
	const large = 1 << 20 // a few of them are over one source's share of the queue
	answers := make(chan answer, 100)
	var during error
	offer := func(source string, seq uint64, size int) error {
		recs := []record.Record{{Key: "k", Source: source, SourceSeq: seq, Data: make([]byte, size)}}
		return st.Append(t.Context(), recs, func(res []record.Result) { answers <- answer{source, seq, res[0].Err} })
	}
	gated.Store(true)
	first := []record.Record{{Key: "k", Source: "press", SourceSeq: 1}}
	err := st.Append(t.Context(), first, func(res []record.Result) {
		told := make(chan struct{})
		go func() { // another goroutine of the producer that knows nothing yet
			during = offer("press", 10, 10)
			close(told)
		}()
		<-told
		answers <- answer{"press", 1, res[0].Err}
	})
	if err != nil {
		t.Fatal(err)
	}
	<-started
	// Some of them are taken into the next commit already, the others queue.
	var taken atomic.Uint64
	held := make(chan error, 1)
	go func() {
		for seq := uint64(2); ; seq++ {
			if err := offer("press", seq, large); err != nil {
				held <- err
				return
			}
			taken.Store(seq)
		}
	}()
	eventually(t, "the queue is full for the source", func() bool { return spool.Waiting(st) == 1 })
	if err := offer("scale", 1, 10); err != nil {
		t.Fatal(err)
	}
	gated.Store(false)
	verdict <- syscall.EIO
	for seq := uint64(1); seq <= taken.Load(); seq++ {
		if a := <-answers; a.source != "press" || a.seq != seq || !errors.Is(a.err, record.ErrCannotStore) {
			t.Fatalf("answer %d is %+v", seq, a)
		}
	}
	if err := <-held; !errors.Is(err, record.ErrCannotStore) {
		t.Errorf("the one in front of the queue got %v", err)
	}
	if !errors.Is(during, record.ErrCannotStore) {
		t.Errorf("the one offered before its producer was told got %v", during)
	}
	if a := <-answers; a.source != "scale" || a.err != nil {
		t.Errorf("the other source got %+v", a)
	}
	final := taken.Load() + 2
	for seq := uint64(1); seq <= final; seq++ {
		put(t, st, record.Record{Key: "k", Source: "press", SourceSeq: seq})
	}
	last := uint64(0)
	recs, _ := scan(t, st, only(st), spool.Oldest())
	for _, r := range recs {
		if r.Source != "press" {
			continue
		}
		if r.SourceSeq != last+1 {
			t.Errorf("record %d is stored behind %d", r.SourceSeq, last)
		}
		last = r.SourceSeq
	}
	if last != final || len(recs) != int(final)+1 {
		t.Errorf("%d records are stored, the last is %d", len(recs), last)
	}
}

// Who has been told of a failed commit and appends again at once waits until
// all have been told, and is stored.
func TestWhoWasToldOfAFailedCommitAppendsAgain(t *testing.T) {
	var fail atomic.Bool
	b := newBox(t, spool.Config{}, spool.Seam{Commit: func() error {
		if fail.Swap(false) {
			return syscall.EIO
		}
		return nil
	}})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	put(t, st, record.Record{Key: "k", Source: "press"})
	fail.Store(true)
	told, again := make(chan error, 1), make(chan struct{})
	err := st.Append(t.Context(), []record.Record{{Key: "k", Source: "press"}}, func(res []record.Result) {
		told <- res[0].Err
		<-again
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-told; !errors.Is(err, record.ErrCannotStore) {
		t.Fatal(err)
	}
	type answer struct {
		res []record.Result
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		res, err := st.Put(t.Context(), []record.Record{{Key: "k", Source: "press"}})
		answers <- answer{res, err}
	}()
	eventually(t, "the second append waits", func() bool { return spool.Waiting(st) == 1 || len(answers) > 0 })
	close(again)
	if a := <-answers; a.err != nil || a.res[0].Err != nil || a.res[0].Pos.Seq != 2 {
		t.Errorf("%+v", a)
	}
}
