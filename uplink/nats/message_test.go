package nats_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	"github.com/nats-io/nats.go/jetstream"
)

// With format raw the payload is the message, and everything else of the record
// can be had back from its headers.
func TestRawHeaders(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	at := time.Date(2026, 11, 23, 7, 0, 0, 123456789, time.UTC)
	attrs := map[string]string{"topic": "a/b", "x y:\r\n": "\x00 100% é\r\nNats-Msg-Id: 1 ", "": ""}
	b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: 1}, Recs: []record.Record{
		{Key: "k\r\nNats-Batch-Id: x", Source: " s ", Type: "text/plain", At: at, Arrived: at.Add(time.Second), Attrs: attrs, Data: []byte("\x00\xff"), Chunk: record.ChunkRef{Len: 7}, Pos: record.Pos{Shard: 1, Seq: 1}},
		{Key: "k", Pos: record.Pos{Shard: 1, Seq: 2}},
	}}
	wantDone(t, send(t, sink(t, identity, nats.Config{Format: "raw"}, srv.ClientURL()), b), 2)
	got := read(t, nc, "forebay.>")
	if len(got) != 2 || string(got[0].data) != "\x00\xff" || len(got[1].data) != 0 {
		t.Fatalf("%+v", got)
	}
	h := got[0].header
	back := func(s string) string {
		v, err := url.PathUnescape(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
		}
		return v
	}
	for name, want := range map[string]string{
		"Nats-Msg-Id": "edge-07/0000000000001234/1/1", "Forebay-Stream": "mqtt", "Forebay-Key": "k\r\nNats-Batch-Id: x", "Forebay-Source": " s ", "Content-Type": "text/plain",
		"Forebay-At": "2026-11-23T07:00:00.123456789Z", "Forebay-Arrived": "2026-11-23T07:00:01.123456789Z", "Forebay-Chunk": "7",
	} {
		if v := back(h.Get(name)); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	seen := make(map[string]string)
	for name, v := range h {
		if attr, ok := strings.CutPrefix(name, "Forebay-Attr-"); ok {
			seen[back(attr)] = back(v[0])
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(attrs) {
		t.Errorf("attributes %q, want %q", seen, attrs)
	}
}

// Keys become tokens; those of one lane stay in one order behind one end.
func TestKeysAsTokens(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	cfg := nats.Config{Subject: "forebay.{gateway}.{stream}.{shard}.{key}"}
	keys := []struct{ key, tokens string }{
		{"plant/line1/temp", "plant.line1.temp"},
		{"plant.line1.temp", "plant%2Eline1%2Etemp"},
		{"/a//b/", "%.a.%.b.%"},
		{"a b\tc", "a%20b%09c"},
		{"*/>/%", "%2A.%3E.%25"},
		{"é/温度", "é.温度"},
		{strings.Repeat("€", 256), strings.Repeat("€", 256)},
		{"$SYS/x", "$SYS.x"},
	}
	b := lane.Batch{Lane: lane.Lane{Stream: "line.7", Shard: 4}}
	for i, k := range keys {
		b.Recs = append(b.Recs, record.Record{Key: k.key, Data: []byte("1"), Pos: record.Pos{Shard: 4, Seq: uint64(i + 1)}})
	}
	wantDone(t, send(t, sink(t, identity, cfg, srv.ClientURL()), b), len(keys))
	wantDone(t, send(t, sink(t, identity, cfg, srv.ClientURL()), b), len(keys))
	got := read(t, nc, "forebay.edge-07.line%2E7.4.>")
	if len(got) != len(keys) {
		t.Fatalf("%d messages, want %d", len(got), len(keys))
	}
	for i, k := range keys {
		if want := "forebay.edge-07.line%2E7.4." + k.tokens; got[i].subject != want {
			t.Errorf("%q went to %q, want %q", k.key, got[i].subject, want)
		}
	}
}

// An aggregate that was stored as one record goes out one by one, over more than
// one batch where it must, and each part once, whatever is cut.
func TestAggregates(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true,"duplicate_window":100000000`)
	var enc kpl.Encoder
	const parts = 2500
	for i := range parts {
		enc.Add(fmt.Sprintf("k%d", i%5), "", fmt.Appendf(nil, `{"part":%d}`, i+1))
	}
	b := batch(1, 1, 3)
	b.Recs[1].Data = enc.AppendTo(nil)
	cab := newCable(t, srv.ClientURL())
	cab.lives(func() int64 { return 350_000 }, nil)
	for try, done := 0, 0; done < 3; try++ {
		if try == 20 {
			t.Fatal("it does not get on")
		}
		o := send(t, sink(t, identity, nats.Config{}, cab.url()), lane.Batch{Lane: b.Lane, Recs: b.Recs[done:]})
		done += o.Done
	}
	got := read(t, nc, "forebay.>")
	if len(got) != parts+2 {
		t.Fatalf("%d messages, want %d", len(got), parts+2)
	}
	for i, m := range got[1 : parts+1] {
		want := fmt.Sprintf("edge-07/0000000000001234/1/2/%d", i+1)
		o, err := envelope.Open(m.data)
		if err != nil || m.id != want || o.ID != want || string(o.Data) != fmt.Sprintf(`{"part":%d}`, i+1) || o.Key != fmt.Sprintf("k%d", i%5) {
			t.Fatalf("%s holds %+v, want %s: %v", m.id, o, want, err)
		}
	}
}

// What came here in an envelope keeps it; the id beside it is that of this
// gateway's record, by which its lane is resumed.
func TestForwarded(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	cell := record.Identity{Gateway: "cell-1", Epoch: 9}
	inner := rec(7, 8)
	b := batch(1, 1, 1)
	b.Recs[0].Data = envelope.New(cell).Append(nil, "serial", &inner)
	for range 2 {
		wantDone(t, send(t, sink(t, identity, nats.Config{}, srv.ClientURL()), b), 1)
	}
	got := read(t, nc, "forebay.>")
	if len(got) != 1 || string(got[0].data) != string(b.Recs[0].Data) || got[0].id != "edge-07/0000000000001234/1/1" {
		t.Errorf("%+v", got)
	}
}

// What a replay has sent is read back with the ids that it always had, under its
// own name.
func TestReadBackTellsAReplayApart(t *testing.T) {
	for subject, names := range map[string][2]string{
		"": {"mqtt", "replay-1-mqtt"},
		"forebay.{gateway}.{stream}.{shard}.{key}": {"mqtt", "replay-1-mqtt"},
		"forebay.{gateway}.{shard}":                {"", ""},
	} {
		srv := start(t, options(t.TempDir()))
		create(t, client(t, srv.ClientURL()), `"allow_atomic":true`)
		cfg := nats.Config{Subject: subject}
		s := sink(t, identity, cfg, srv.ClientURL())
		if own, other := s.Under("mqtt"), s.Under("replay-1-mqtt"); own != names[0] || other != names[1] {
			t.Errorf("%q: records lie under %q and %q, want %q", subject, own, other, names)
		}
		wantDone(t, send(t, s, batch(1, 1, 2)), 2)
		var want []string
		for seq := range uint64(2) {
			want = append(want, names[0]+" "+identity.ID(record.Pos{Shard: 1, Seq: seq + 1}))
		}
		if names[0] != "" {
			cfg.Servers, cfg.Stream = []string{srv.ClientURL()}, "TARGET"
			beside, err := nats.New(cfg, lane.Home{Uplink: "cloud~replay-1", ID: identity, Apart: true, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			again := batch(1, 1, 1)
			again.Lane.Stream = "replay-1-mqtt"
			wantDone(t, send(t, beside, again), 1)
			if err := beside.Close(); err != nil {
				t.Error(err)
			}
			want = append(want, names[1]+" "+identity.ID(record.Pos{Shard: 1, Seq: 1}))
		}
		var got []string
		if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(under, id string) error {
			got = append(got, under+" "+id)
			return nil
		}); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v; want %q", subject, got, err, want)
		}
	}
}

// ReadBack gives the ids of this gateway, within bounds of time, and no others.
func TestReadBack(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	s := sink(t, identity, nats.Config{}, srv.ClientURL())
	back := func(from, to time.Time) (ids []string) {
		t.Helper()
		if err := s.ReadBack(t.Context(), from, to, func(under, id string) error {
			if under != "mqtt" {
				t.Errorf("%s lies under %q", id, under)
			}
			ids = append(ids, id)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	if ids := back(time.Time{}, time.Time{}); len(ids) != 0 {
		t.Errorf("an empty stream gives %v", ids)
	}
	var want []string
	var between time.Time
	for i := range uint64(3) {
		wantDone(t, send(t, s, batch(1, 1000*i+1, 1000)), 1000)
		wantDone(t, send(t, s, batch(2, i+1, 1)), 1)
		wantDone(t, send(t, sink(t, record.Identity{Gateway: "edge-08"}, nats.Config{}, srv.ClientURL()), batch(1, i+1, 1)), 1)
		for k := range uint64(1000) {
			want = append(want, identity.ID(record.Pos{Shard: 1, Seq: 1000*i + k + 1}))
		}
		want = append(want, identity.ID(record.Pos{Shard: 2, Seq: i + 1}))
		if i == 0 {
			js, err := nc.JetStream()
			if err != nil {
				t.Fatal(err)
			}
			m, err := js.GetLastMsg("TARGET", "forebay.>")
			if err != nil {
				t.Fatal(err)
			}
			between = m.Time.Add(1)
		}
	}
	if ids := back(time.Time{}, time.Time{}); !slices.Equal(ids, want) {
		t.Errorf("%d ids, want %d in order", len(ids), len(want))
	}
	if ids := back(between, time.Time{}); !slices.Equal(ids, want[1001:]) {
		t.Errorf("from the middle: %d ids, want %d", len(ids), len(want[1001:]))
	}
	if ids := back(time.Time{}, between); !slices.Equal(ids, want[:1001]) {
		t.Errorf("to the middle: %d ids, want %d", len(ids), 1001)
	}
	if ids := back(time.Now().Add(time.Hour), time.Time{}); len(ids) != 0 {
		t.Errorf("from tomorrow: %v", ids)
	}
	enough := errors.New("enough")
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v, want the callback's error", err)
	}
	if _, err := nc.Request("forebay.edge-07.mqtt.1", []byte("x"), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadBack(t.Context(), between, time.Time{}, func(string, string) error { return nil }); err == nil || !strings.Contains(err.Error(), "has no id") {
		t.Errorf("a stranger's message: %v", err)
	}
}

// The stream is created with room for every gateway of the template.
func TestCreateStream(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	cfg := nats.Config{CreateStream: true, MaxBytes: 8 << 20, MaxAge: 3600e9, Subject: "plant.{gateway}.{shard}.{key}"}
	wantDone(t, send(t, sink(t, identity, cfg, srv.ClientURL()), batch(1, 1, 5)), 5)
	wantDone(t, send(t, sink(t, record.Identity{Gateway: "b"}, cfg, srv.ClientURL()), batch(1, 1, 5)), 5)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(t.Context(), "TARGET")
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := info.Config
	if !slices.Equal(c.Subjects, []string{"plant.*.*.>"}) || c.MaxBytes != 8<<20 || c.MaxAge != time.Hour || c.Replicas != 1 || !c.AllowAtomicPublish || info.State.Msgs != 10 {
		t.Errorf("%+v, %d messages", c, info.State.Msgs)
	}
}
