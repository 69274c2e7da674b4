package inlet_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/inlet"
	"forebay/spool"
	"forebay/spool/record"
)

// A waited context says when somebody waits for its end.
type waited struct {
	once  sync.Once
	begun chan struct{}
	done  <-chan struct{}
	err   func() error
}

func newWaited(ctx context.Context) *waited {
	return &waited{begun: make(chan struct{}), done: ctx.Done(), err: ctx.Err}
}

func (w *waited) Done() <-chan struct{} {
	w.once.Do(func() { close(w.begun) })
	return w.done
}

func (w *waited) Err() error                    { return w.err() }
func (*waited) Deadline() (_ time.Time, _ bool) { return }
func (*waited) Value(any) any                   { return nil }

// A stuffed stream is one whose log's commits are held, and that more is put to
// than the log has room for.
type stuffed struct {
	held chan struct{} // closed to let go
	all  sync.WaitGroup
}

func stuff(t *testing.T, p *inlet.Port, stream string) *stuffed {
	t.Helper()
	const puts = 24 // of 1 MiB; a log has room for 8 of one source
	s := &stuffed{held: make(chan struct{})}
	data := make([]byte, 1<<20)
	waits := 0
	for range puts {
		ctx, put := newWaited(t.Context()), make(chan struct{})
		s.all.Add(1)
		go func() {
			defer close(put)
			err := p.PutTo(ctx, stream, []record.Record{{Key: "k", Data: data}}, func([]record.Result) { <-s.held; s.all.Done() })
			if err != nil {
				t.Error(err)
				s.all.Done()
			}
		}()
		select {
		case <-put:
		case <-ctx.begun:
			waits++
		}
	}
	if waits == 0 {
		t.Fatal("the log takes everything without a commit")
	}
	return s
}

func (s *stuffed) letGo() {
	close(s.held)
	s.all.Wait()
}

// A stream whose log is full holds up nothing that goes to another log.
func TestAFullLogHoldsUpNothingElse(t *testing.T) {
	w := open(t)
	if _, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: "proof", Shards: 1, Class: record.ClassEvidence}); err != nil {
		t.Fatal(err)
	}
	p, err := w.in.Port("broker", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	s := stuff(t, p, "mqtt")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range 3 {
		stored := make(chan error, 1)
		err := p.PutTo(ctx, "proof", []record.Record{{Key: "k", Data: []byte("p")}}, func(rs []record.Result) { stored <- rs[0].Err })
		if err == nil {
			err = <-stored
		}
		if err != nil {
			t.Errorf("put %d past a full log: %v", i, err)
		}
	}
	s.letGo()
	if n := len(read(t, w, "proof")); n != 3 {
		t.Errorf("%d records stored", n)
	}
}

// A Put whose turn does not come in its caller's time takes nothing.
func TestAWaitForTheTurnEnds(t *testing.T) {
	w := open(t)
	p, err := w.in.Port("broker", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	s := stuff(t, p, "mqtt")
	ctx, cancel := context.WithCancel(t.Context())
	second := newWaited(ctx)
	put := make(chan error, 1)
	go func() {
		put <- p.Put(second, []record.Record{{Key: "late"}}, func([]record.Result) { t.Error("taken") })
	}()
	<-second.begun
	cancel()
	if err := <-put; err == nil {
		t.Error("taken")
	}
	s.letGo()
}

// However many put, a source's running numbers rise in each stream and none is
// given twice.
func TestRunningNumbersRiseInEachStream(t *testing.T) {
	w := open(t)
	for _, name := range []string{"one", "two"} {
		if _, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: conf.Stream(name), Shards: 1, Class: record.ClassTelemetry}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := w.in.Port("broker", "one")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				var done sync.WaitGroup
				done.Add(1)
				recs := []record.Record{{Key: "k", Data: fmt.Append(nil, g, i)}, {Key: "k"}}
				if err := p.PutTo(t.Context(), []string{"one", "two"}[(g+i)%2], recs, func([]record.Result) { done.Done() }); err != nil {
					t.Error(err)
					return
				}
				if i%5 == 0 {
					done.Wait()
				}
			}
		})
	}
	wg.Wait()
	put(t, p, record.Record{Key: "k"}) // what was put before it is stored, too
	seen := map[uint64]bool{}
	for _, name := range []string{"one", "two"} {
		st, err := w.sp.Stream(name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "two" {
			if _, err := st.Put(t.Context(), []record.Record{{Key: "k", Source: "end"}}); err != nil {
				t.Fatal(err)
			}
		}
		last := uint64(0)
		for b, err := range st.Scan(t.Context(), st.Shards()[0].ID, spool.Oldest()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Recs {
				if r.Source != "broker" {
					continue
				}
				if r.SourceSeq <= last || seen[r.SourceSeq] {
					t.Errorf("%s: number %d after %d", name, r.SourceSeq, last)
				}
				last, seen[r.SourceSeq] = r.SourceSeq, true
			}
		}
	}
	if len(seen) != 801 {
		t.Errorf("%d records stored", len(seen))
	}
}

// The rate is of what is on disk: a record that failed, and that its source
// may put again, is not in it.
func TestRateCountsWhatIsStored(t *testing.T) {
	w := open(t)
	p, err := w.in.Port("broker", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	far := time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC) // outside what the log can hold
	res := put(t, p, record.Record{Key: "a", Data: []byte("1")}, record.Record{Key: "a", Data: []byte("2"), Arrived: far}, record.Record{Key: ""})
	if res[0].Err != nil || res[1].Err == nil || res[2].Err == nil {
		t.Fatalf("%+v", res)
	}
	if n := w.in.Total().Total; n != 1 {
		t.Errorf("%d records counted", n)
	}
	if s := w.in.Stats(); len(s) != 1 || s[0].Rate.Total != 1 {
		t.Errorf("stats are %+v", s)
	}
}
