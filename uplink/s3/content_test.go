package s3_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

func TestParquetColumns(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{Objects: "parquet"})
	l := laneOf(1)
	at := time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)
	b := batchOf(l, 1, 9)
	b.Recs[0].At, b.Recs[0].Attrs = at, map[string]string{"qos": "1", "unit": "°C"}
	for i, data := range []string{`21.5`, `{"value":-2e3,"unit":"bar"}`, `{"value":"21"}`, `{"a":{"value":1}}`, "plain text", "\x00\xff", "", `{"value":1e999}`, ` 7 `} {
		b.Recs[i].Data = []byte(data)
	}
	sendAll(t, s, b)
	rows := rowsOf(t, f.body(f.keys()[1]))
	if len(rows) != 9 {
		t.Fatalf("%d rows", len(rows))
	}
	r := rows[0]
	if r.ID != "edge-07/0000000000001234/1/1" || r.Gateway != "edge-07" || r.Epoch != "0000000000001234" || r.Shard != 1 || r.Seq != 1 ||
		r.Stream != "press" || r.Key != "press/1" || r.At == nil || *r.At != at.UnixMicro() || r.Arrived != noon.Add(time.Second).UnixMicro() ||
		r.Source != "mqtt" || r.Type != "application/json" || !maps.Equal(r.Attrs, b.Recs[0].Attrs) || r.Chunk != nil {
		t.Errorf("%+v", r)
	}
	if rows[1].At != nil || len(rows[1].Attrs) != 0 {
		t.Errorf("a record without a time of its own and attributes: %+v", rows[1])
	}
	number := func(v float64) *float64 { return &v }
	for i, want := range []*float64{number(21.5), number(-2000), nil, nil, nil, nil, nil, nil, number(7)} {
		got := rows[i].Value
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("value of %q: %v", b.Recs[i].Data, got)
		}
		switch {
		case len(b.Recs[i].Data) == 0:
			if rows[i].Data != nil || len(rows[i].Bytes) > 0 {
				t.Errorf("an empty payload: %+v", rows[i])
			}
		case rows[i].Data != nil:
			if *rows[i].Data != string(b.Recs[i].Data) || rows[i].Bytes != nil {
				t.Errorf("payload %q: %q", b.Recs[i].Data, *rows[i].Data)
			}
		case !bytes.Equal(rows[i].Bytes, b.Recs[i].Data):
			t.Errorf("payload %q: %q", b.Recs[i].Data, rows[i].Bytes)
		}
	}
}

// What another gateway sent keeps its id, stream and times, and what was
// stored as one aggregate is as many records.
func TestChainsAndAggregates(t *testing.T) {
	near := record.Record{
		Key: "near/key", Source: "mqtt", Type: "text/plain", Arrived: noon.Add(-time.Hour), Data: []byte("hello"),
		Attrs: map[string]string{"a": "b"}, Pos: record.Pos{Shard: 9, Seq: 77},
	}
	var enc kpl.Encoder
	enc.Reset()
	enc.Add("one", "", []byte(`{"value":1}`))
	enc.Add("two", "", []byte(`2`))
	forwarded := recordOf(laneOf(1), 1)
	forwarded.Attrs = nil
	forwarded.Data = envelope.New(record.Identity{Gateway: "near", Epoch: 5}).Append(nil, "cell", &near)
	aggregate := recordOf(laneOf(1), 2)
	aggregate.Data = enc.AppendTo(nil)
	for _, cfg := range []s3.Config{{}, {Objects: "parquet"}} {
		f := newFar(t)
		sendAll(t, f.open(cfg), lane.Batch{Lane: laneOf(1), Recs: []record.Record{forwarded, aggregate}})
		want := []held{
			{"near/0000000000000005/9/77", "cell", "near/key", "hello", near.Arrived},
			{"edge-07/0000000000001234/1/2/1", "press", "one", `{"value":1}`, aggregate.Arrived},
			{"edge-07/0000000000001234/1/2/2", "press", "two", "2", aggregate.Arrived},
		}
		got := f.all()
		if len(got) != len(want) {
			t.Fatalf("%+v", got)
		}
		for i := range want {
			if g, w := got[i], want[i]; g.id != w.id || g.stream != w.stream || g.key != w.key || g.data != w.data || !g.arrived.Equal(w.arrived) {
				t.Errorf("%+v, want %+v", g, w)
			}
		}
		if cfg.Objects == "parquet" {
			r := rowsOf(t, f.body(f.keys()[1]))[0]
			if r.Gateway != "near" || r.Epoch != "0000000000000005" || r.Shard != 9 || r.Seq != 77 || r.Attrs["a"] != "b" || r.Type != "text/plain" {
				t.Errorf("%+v", r)
			}
		}
	}
}

func TestRawLines(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	b := batchOf(l, 1, 7)
	for i, data := range []string{`{"a":1}`, "{\n \"a\": [1,\r\n2]\n}", "21.5", "plain \"text\"\n", "\x00\xff", "", "null"} {
		b.Recs[i].Data = []byte(data)
	}
	s := f.open(s3.Config{Format: "raw"})
	sendAll(t, s, b)
	want := "{\"a\":1}\n{\"a\":[1,2]}\n21.5\n\"plain \\\"text\\\"\\n\"\n{\"data_b64\":\"AP8=\"}\n\"\"\nnull\n"
	if got := string(f.unpack(f.keys()[1])); got != want {
		t.Errorf("lines\n%s\nwant\n%s", got, want)
	}
	for line := range strings.Lines(want) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q is no JSON", line)
		}
	}
	if got := readBack(t, s, time.Time{}, time.Time{}); len(got) != 7 || got[6] != "edge-07/0000000000001234/1/7" {
		t.Errorf("ids %v", got)
	}
	gap := batchOf(l, 9, 20)
	gap.Recs = slices.Delete(gap.Recs, 3, 4)
	sendAll(t, s, gap)
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return nil }); err == nil {
		t.Error("ids are told of raw records with a gap among them")
	}
}

// chunks are the bytes beside records of a test.
type chunks struct {
	open   int
	damage map[int64]error // by offset
}

func (c *chunks) bytes(ref record.ChunkRef) []byte {
	return bytes.Repeat([]byte{byte(ref.Off)}, int(ref.Len))
}

type chunk struct {
	io.ReadSeeker
	fail error
	home *chunks
}

func (c *chunk) Close() error { c.home.open--; return nil }

func (c *chunk) Read(b []byte) (int, error) {
	n, err := c.ReadSeeker.Read(b)
	if errors.Is(err, io.EOF) && c.fail != nil {
		err = c.fail
	}
	return n, err
}

func (c *chunks) Chunk(_ string, ref record.ChunkRef) (io.ReadSeekCloser, error) {
	fail := c.damage[ref.Off]
	if errors.Is(fail, fs.ErrNotExist) {
		return nil, &fs.PathError{Op: "open", Path: "x", Err: fail}
	}
	c.open++
	return &chunk{bytes.NewReader(c.bytes(ref)), fail, c}, nil
}

func video(n uint64) lane.Batch {
	b := batchOf(lane.Lane{Stream: "video", Shard: 4}, 1, n)
	for i := range b.Recs {
		b.Recs[i].Type = "video/mp4"
		b.Recs[i].Chunk = record.ChunkRef{Segment: 1, Off: int64(i), Len: 100_000 + int64(i)}
	}
	return b
}

func TestChunksAreObjectsOfTheirOwn(t *testing.T) {
	f := newFar(t)
	c := &chunks{}
	s := f.open(s3.Config{Objects: "parquet"}, lane.Home{ID: identity, Chunk: c.Chunk})
	b := video(3)
	b.Recs[1].Type = "image/jpeg"
	b.Recs[2].Chunk, b.Recs[2].Blob = record.ChunkRef{}, []byte("blob")
	o := sendAll(t, s, b)
	names := []string{
		"forebay/_chunks/video/dt=2026-11-23/hr=12/edge-07.0000000000001234.4.1.mp4",
		"forebay/_chunks/video/dt=2026-11-23/hr=12/edge-07.0000000000001234.4.2.jpg",
		"forebay/_chunks/video/dt=2026-11-23/hr=12/edge-07.0000000000001234.4.3.mp4",
	}
	for i, want := range [][]byte{c.bytes(b.Recs[0].Chunk), c.bytes(b.Recs[1].Chunk), []byte("blob")} {
		if got := f.body(names[i]); !bytes.Equal(got, want) {
			t.Errorf("%s has %d bytes", names[i], len(got))
		}
		if got := f.objects[names[i]].header.Get("Content-Type"); got != b.Recs[i].Type {
			t.Errorf("%s is %s", names[i], got)
		}
	}
	keys := f.keys()
	for i, r := range rowsOf(t, f.body(keys[len(keys)-1])) {
		if r.Chunk == nil || *r.Chunk != names[i] || r.ChunkBytes == nil || int(*r.ChunkBytes) != len(f.body(names[i])) {
			t.Errorf("row %d: %+v", i, r)
		}
	}
	if !strings.HasSuffix(f.log[len(f.log)-1], ".parquet") {
		t.Errorf("the records do not come last: %v", f.log)
	}
	if o.Bytes < 200_000 || c.open != 0 {
		t.Errorf("%d bytes, %d chunks left open", o.Bytes, c.open)
	}
	asked := f.count("HEAD")
	more := video(6)
	more.Recs = more.Recs[3:]
	sendAll(t, s, more)
	if f.count("HEAD") != asked {
		t.Error("what cannot be there is asked for")
	}
	f2 := newFar(t)
	sendAll(t, f2.open(s3.Config{}, lane.Home{ID: identity, Chunk: c.Chunk}), video(1))
	keys = f2.keys()
	e, err := envelope.Open(bytes.TrimSpace(f2.unpack(keys[len(keys)-1])))
	if err != nil || e.Chunk != 100_000 || e.Attrs["chunk_object"] != names[0] {
		t.Errorf("the line says %+v, %v", e, err)
	}
}

// After a failure what is there of the chunks is not sent again.
func TestChunksGoOnce(t *testing.T) {
	f := newFar(t)
	c := &chunks{}
	s := f.open(s3.Config{}, lane.Home{ID: identity, Chunk: c.Chunk})
	n := 0
	f.misbehave(func(op, key string) string {
		if op == "PUT" && strings.Contains(key, "/_chunks/") {
			if n++; n%4 == 0 {
				return "cut after"
			}
		}
		return ""
	})
	b := video(40)
	for try := 0; len(b.Recs) > 0; try++ {
		if try > 40 {
			t.Fatal("it gets nowhere")
		}
		o := s.Send(t.Context(), []lane.Batch{b})[0]
		b.Recs = b.Recs[o.Done:]
	}
	if n != 40 {
		t.Errorf("%d uploads of 40 chunks", n)
	}
	if got := len(f.all()); got != 40 || c.open != 0 {
		t.Errorf("%d records, %d chunks left open", got, c.open)
	}
}

// A record whose chunk is damaged or gone goes to "refused" alone; a disk that
// cannot be read now may be read later.
func TestLostChunks(t *testing.T) {
	f := newFar(t)
	c := &chunks{damage: map[int64]error{2: fs.ErrNotExist, 5: &record.CorruptError{File: "x"}, 7: io.ErrUnexpectedEOF}}
	s := f.open(s3.Config{}, lane.Home{ID: identity, Chunk: c.Chunk})
	b := video(10)
	for _, want := range []struct {
		done  int
		class lane.Class
		words string
	}{{2, lane.Poison, "no longer"}, {2, lane.Poison, "damaged"}, {0, lane.Transient, "cannot be read"}} {
		o := s.Send(t.Context(), []lane.Batch{b})[0]
		if o.Done != want.done || o.Class != want.class || !strings.Contains(o.Err.Error(), want.words) {
			t.Fatalf("%+v, want %+v", o, want)
		}
		b.Recs = b.Recs[o.Done:]
		if o.Class == lane.Poison {
			b.Recs = b.Recs[1:]
		}
	}
	c.damage = nil
	sendAll(t, s, b)
	if got := len(f.all()); got != 8 || c.open != 0 {
		t.Errorf("%d records, %d chunks left open", got, c.open)
	}
}
