package inlet_test

import (
	"context"
	"errors"
	"testing"

	"forebay/gateway/conf"
	"forebay/gateway/internal/inlet"
	"forebay/spool"
	"forebay/spool/record"
)

// What goes to a deleted stream is not taken, so that nobody hears that it is
// stored; what goes elsewhere is. When there is a stream of the name again it
// takes records as before.
func TestADeletedStreamTakesNothing(t *testing.T) {
	w := open(t,
		inlet.Route{Match: filter(t, "hot/#"), Stream: "hot"},
		inlet.Route{Match: filter(t, "number/#"), Decode: "number"},
	)
	p, err := w.in.Port("broker", "mqtt")
	if err != nil {
		t.Fatal(err)
	}
	hot, cold, bad := record.Record{Key: "hot/1"}, record.Record{Key: "cold/1"}, record.Record{Key: "number/1", Data: []byte("x")}
	put(t, p, hot, cold, bad)
	for _, name := range []string{"hot", "quarantine", "gaps", "mqtt"} {
		if err := w.sp.Delete(t.Context(), name, "test"); err != nil {
			t.Fatal(err)
		}
	}
	never := func([]record.Result) { t.Error("an answer comes to what was not taken") }
	for _, r := range []record.Record{hot, cold, bad} {
		if err := p.Put(t.Context(), []record.Record{r}, never); !errors.Is(err, record.ErrNoStream) {
			t.Errorf("put of %s: %v", r.Key, err)
		}
	}
	ensure := func(names ...conf.Stream) {
		t.Helper()
		for _, name := range names {
			if _, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: name, Shards: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ensure("mqtt")
	res := put(t, p, hot, cold, bad)
	if res[1].Err != nil || !errors.Is(res[0].Err, record.ErrNoStream) || !errors.Is(res[2].Err, record.ErrNoStream) {
		t.Errorf("with one of three streams: %+v", res)
	}
	ensure("hot", "quarantine", "gaps")
	for range 2 {
		for i, r := range put(t, p, hot, cold, bad) {
			if r.Err != nil {
				t.Errorf("record %d: %v", i, r.Err)
			}
		}
	}
	p.Shed(3, "test")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.in.Run(ctx); err != nil { // writes the last gaps
		t.Fatal(err)
	}
	for stream, n := range map[string]int{"hot": 2, "mqtt": 3, "quarantine": 2, "gaps": 1} {
		if got := read(t, w, stream); len(got) != n {
			t.Errorf("%d records in %s, want %d", len(got), stream, n)
		}
	}
}
