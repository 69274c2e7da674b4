package inlet_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/inlet"
	"forebay/spool"
	"forebay/spool/record"
)

type world struct {
	dir string
	sp  *spool.Spool
	in  *inlet.Inlet
	now atomic.Int64
}

func open(t *testing.T, routes ...inlet.Route) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	w.now.Store(time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC).UnixNano())
	w.reopen(t, routes...)
	t.Cleanup(func() {
		if l := w.sp.Ledger(); l.Balanced() != nil {
			t.Errorf("ledger: %v", l.Balanced())
		}
		if err := w.sp.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		rep, err := spool.Check(context.Background(), w.dir)
		if err != nil || len(rep.Problems) > 0 {
			t.Errorf("check: %v %q", err, rep.Problems)
		}
	})
	return w
}

func (w *world) reopen(t *testing.T, routes ...inlet.Route) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	if w.sp != nil {
		if err := w.sp.Close(); err != nil {
			t.Fatal(err)
		}
	}
	clock := func() time.Time { return time.Unix(0, w.now.Load()).UTC() }
	var err error
	if w.sp, err = spool.Open(t.Context(), w.dir, spool.Config{Gateway: "test", Now: clock}, quiet); err != nil {
		t.Fatal(err)
	}
	for _, n := range []conf.Stream{"mqtt", "hot", "quarantine", "gaps"} {
		if _, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: n, Shards: 2, Class: record.ClassTelemetry}); err != nil {
			t.Fatal(err)
		}
	}
	w.in, err = inlet.New(w.sp, inlet.Options{
		Routes: routes, Now: clock, Synced: func() bool { return true }, Mono: func() time.Duration { return 42 * time.Second }, Log: quiet,
		Decoders: map[string]inlet.Decoder{"number": func(b []byte) (string, error) {
			if len(b) > 0 && strings.Trim(string(b), "0123456789") == "" {
				return "text/plain", nil
			}
			return "", errors.New("not a number")
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func filter(t *testing.T, s string) conf.Filter {
	t.Helper()
	f, err := conf.ParseFilter(s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, p *inlet.Port, recs ...record.Record) []record.Result {
	t.Helper()
	got := make(chan []record.Result, 1)
	if err := p.Put(t.Context(), recs, func(rs []record.Result) { got <- slices.Clone(rs) }); err != nil {
		t.Fatalf("put: %v", err)
	}
	return <-got
}

func read(t *testing.T, w *world, stream string) []record.Record {
	t.Helper()
	s, err := w.sp.Stream(stream)
	if err != nil {
		t.Fatal(err)
	}
	out := []record.Record{}
	for _, sh := range s.Shards() {
		for b, err := range s.Scan(t.Context(), sh.ID, spool.Oldest()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Recs {
				r.Data = slices.Clone(r.Data)
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b record.Record) int { return int(a.SourceSeq) - int(b.SourceSeq) })
	return out
}

func TestRecordsAreStampedAndRouted(t *testing.T) {
	w := open(t,
		inlet.Route{Source: "other", Match: filter(t, "#"), Stream: "quarantine"},
		inlet.Route{Match: filter(t, "plant/+/temp"), Stream: "hot", Decode: "number"},
	)
	p, err := w.in.Port("broker", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 5, 13, 59, 0, 0, time.UTC)
	res := put(t, p,
		record.Record{Key: "plant/l1/temp", Data: []byte("71"), At: at},
		record.Record{Key: "plant/l1/temp", Data: []byte("warm"), Attrs: map[string]string{"qos": "1"}},
		record.Record{Key: "plant/l1/press", Data: []byte("anything")},
		record.Record{Key: "", Data: []byte("no key")},
	)
	for i, r := range res[:3] {
		if r.Err != nil {
			t.Errorf("record %d: %v", i, r.Err)
		}
	}
	if _, ok := errors.AsType[*record.InvalidError](res[3].Err); !ok {
		t.Errorf("a record without a key: %v", res[3].Err)
	}
	hot := read(t, w, "hot")
	if len(hot) != 1 || string(hot[0].Data) != "71" || hot[0].Source != "broker" || hot[0].SourceSeq != 1 || hot[0].TimeQ != record.TimeDevice || hot[0].Mono != 42*time.Second || !hot[0].At.Equal(at) || hot[0].Type != "text/plain" {
		t.Errorf("hot holds %+v", hot)
	}
	q := read(t, w, "quarantine")
	if len(q) != 1 || string(q[0].Data) != "warm" || q[0].Attrs["reason"] != "not a number" || q[0].Attrs["stream"] != "hot" || q[0].Attrs["qos"] != "1" {
		t.Errorf("quarantine holds %+v", q)
	}
	if m := read(t, w, "mqtt"); len(m) != 1 || string(m[0].Data) != "anything" || m[0].TimeQ != record.TimeArrival {
		t.Errorf("mqtt holds %+v", m)
	}
	for _, s := range w.sp.Ledger().Sources {
		if s.Source == "broker" && (s.Taken != 3 || s.Quarantined != 1) {
			t.Errorf("ledger says %+v", s)
		}
	}
}

func TestRunningNumbersGoOnAfterARestart(t *testing.T) {
	w := open(t)
	p, err := w.in.Port("broker", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	put(t, p, record.Record{Key: "a", Data: []byte("1")}, record.Record{Key: "b", Data: []byte("2")})
	w.reopen(t)
	if p, err = w.in.Port("broker", "mqtt"); err != nil {
		t.Fatal(err)
	}
	put(t, p, record.Record{Key: "a", Data: []byte("3")})
	if got := read(t, w, "mqtt"); len(got) != 3 || got[2].SourceSeq != 3 {
		t.Errorf("stored %+v", got)
	}
}

func TestWhatIsShedIsWrittenDown(t *testing.T) {
	w := open(t)
	p, err := w.in.Port("line1", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	p.Shed(3, "line too long")
	p.Shed(4, "log held back")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.in.Run(ctx); err != nil { // the last gaps are written at the end
		t.Fatal(err)
	}
	g := read(t, w, "gaps")
	if len(g) != 1 || !strings.Contains(string(g[0].Data), `"lost":7`) || g[0].Key != "line1" {
		t.Errorf("gaps holds %+v", g)
	}
	for _, s := range w.sp.Ledger().Sources {
		if s.Source == "line1" && s.Shed != 7 {
			t.Errorf("ledger says %+v", s)
		}
	}
}

func TestAnUnknownStreamIsAnErrorAndCreatesNothing(t *testing.T) {
	w := open(t)
	p, err := w.in.Port("kinesis", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	err = p.PutTo(t.Context(), "nowhere", []record.Record{{Key: "k"}}, func([]record.Result) { t.Error("done was called") })
	if !errors.Is(err, record.ErrNoStream) {
		t.Errorf("error is %v", err)
	}
	if _, err := w.sp.Stream("nowhere"); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("the stream is there: %v", err)
	}
	if _, err := inlet.New(w.sp, inlet.Options{Routes: []inlet.Route{{Decode: "poetry"}}}); err == nil || !strings.Contains(err.Error(), "poetry") {
		t.Errorf("an unknown decoder: %v", err)
	}
}

// What its producer has called back is not stored: it will be put again, in its
// place.
func TestPutThatWasCalledBack(t *testing.T) {
	w := open(t)
	p, err := w.in.Port("dev", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 {
		err := p.Put(ctx, []record.Record{{Key: "k"}}, func([]record.Result) { t.Error("taken") })
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("put: %v", err)
		}
	}
	if n := len(read(t, w, "mqtt")); n != 0 {
		t.Errorf("%d records stored", n)
	}
}
