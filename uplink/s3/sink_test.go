package s3_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

var (
	identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}
	noon     = time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC)
)

// open makes a sink before the far side.
func (f *far) open(cfg s3.Config, home ...lane.Home) *s3.Sink {
	f.t.Helper()
	cfg.Bucket, cfg.Region = bucket, region
	if cfg.Endpoint == "" {
		cfg.Endpoint = f.srv.URL
	}
	cfg.AccessKey, cfg.SecretKey = accessKey, conf.NewSecret(secretKey)
	h := lane.Home{ID: identity}
	if len(home) > 0 {
		h = home[0]
	}
	h.Log = slog.New(slog.DiscardHandler)
	s, err := s3.New(cfg, h)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() }) // it never fails
	return s
}

func laneOf(n int) lane.Lane { return lane.Lane{Stream: "press", Shard: record.ShardID(n)} }

// recordOf is record seq of a lane; it arrived so many seconds after noon.
func recordOf(l lane.Lane, seq uint64) record.Record {
	return record.Record{
		Key: fmt.Sprintf("press/%d", seq%5), Source: "mqtt", Type: "application/json", Arrived: noon.Add(time.Duration(seq) * time.Second),
		Data: fmt.Appendf(nil, `{"value":%d}`, seq), Pos: record.Pos{Shard: l.Shard, Seq: seq},
	}
}

func batchOf(l lane.Lane, from, to uint64) lane.Batch {
	b := lane.Batch{Lane: l}
	for seq := from; seq <= to; seq++ {
		b.Recs = append(b.Recs, recordOf(l, seq))
	}
	return b
}

// sendAll sends a batch and fails the test unless all of it is taken.
func sendAll(t *testing.T, s *s3.Sink, b lane.Batch) lane.Outcome {
	t.Helper()
	o := s.Send(t.Context(), []lane.Batch{b})[0]
	if o.Done != len(b.Recs) || o.Class != lane.OK || o.Err != nil {
		t.Fatalf("%d of %d done: %v %v", o.Done, len(b.Recs), o.Class, o.Err)
	}
	return o
}

// held is a record as it was found at the far side.
type held struct {
	id, stream, key, data string
	arrived               time.Time
}

// all is everything in objects of records, object by object in the order of
// their names.
func (f *far) all() (out []held) {
	f.t.Helper()
	for _, k := range f.keys() {
		if !strings.Contains(k, "/_") {
			out = append(out, f.read(k)...)
		}
	}
	return out
}

func (f *far) body(key string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[key].body
}

func (f *far) read(key string) (out []held) {
	f.t.Helper()
	b := f.body(key)
	if strings.HasSuffix(key, ".parquet") {
		for _, r := range rowsOf(f.t, b) {
			h := held{id: r.ID, stream: r.Stream, key: r.Key, arrived: time.UnixMicro(r.Arrived)}
			if r.Data != nil {
				h.data = *r.Data
			}
			out = append(out, h)
		}
		return out
	}
	for line := range bytes.Lines(f.unpack(key)) {
		o, err := envelope.Open(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			f.t.Fatalf("%s: %q: %v", key, line, err)
		}
		out = append(out, held{o.ID, o.Stream, o.Key, string(o.Data), o.Arrived})
	}
	return out
}

// unpack is the NDJSON of an object.
func (f *far) unpack(key string) []byte {
	f.t.Helper()
	b := f.body(key)
	var r io.Reader = bytes.NewReader(b)
	switch {
	case strings.HasSuffix(key, ".ndjson.gz"):
		z, err := gzip.NewReader(r)
		if err != nil {
			f.t.Fatal(err)
		}
		r = z
	case strings.HasSuffix(key, ".ndjson.zst"):
		z, err := zstd.NewReader(r)
		if err != nil {
			f.t.Fatal(err)
		}
		defer z.Close()
		r = z
	case !strings.HasSuffix(key, ".ndjson"):
		f.t.Fatalf("%s is no object of records", key)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

type parquetRow struct {
	ID         string            `parquet:"id"`
	Gateway    string            `parquet:"gateway"`
	Epoch      string            `parquet:"epoch"`
	Shard      int64             `parquet:"shard"`
	Seq        int64             `parquet:"seq"`
	Stream     string            `parquet:"stream"`
	Key        string            `parquet:"key"`
	At         *int64            `parquet:"at,optional,timestamp(microsecond)"`
	Arrived    int64             `parquet:"arrived,timestamp(microsecond)"`
	Source     string            `parquet:"source"`
	Type       string            `parquet:"type"`
	Attrs      map[string]string `parquet:"attrs"`
	Value      *float64          `parquet:"value,optional"`
	Data       *string           `parquet:"data,optional"`
	Bytes      []byte            `parquet:"data_bytes,optional"`
	Chunk      *string           `parquet:"chunk,optional"`
	ChunkBytes *int64            `parquet:"chunk_bytes,optional"`
}

func rowsOf(t testing.TB, b []byte) []parquetRow {
	t.Helper()
	file, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	// Its own reader does not look at these; others do.
	for _, g := range file.Metadata().RowGroups {
		for i, c := range g.Columns {
			if got, want := strings.Join(c.MetaData.PathInSchema, "."), strings.Join(file.Schema().Columns()[i], "."); got != want {
				t.Fatalf("column %d is %q in the footer, want %q", i, got, want)
			}
		}
	}
	rows, err := parquet.Read[parquetRow](bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// exactly checks that the far side holds the records 1 to n of a lane, each
// once, with its payload, and the sum of it within an hour in order.
func (f *far) exactly(l lane.Lane, n uint64) {
	f.t.Helper()
	seen := make(map[string]int)
	for _, h := range f.all() {
		if strings.Contains(h.id, fmt.Sprintf("/%d/", l.Shard)) {
			seen[h.id+" "+h.data]++
		}
	}
	for seq := uint64(1); seq <= n; seq++ {
		r := recordOf(l, seq)
		id := fmt.Sprintf("edge-07/0000000000001234/%d/%d %s", l.Shard, seq, r.Data)
		if seen[id] != 1 {
			f.t.Fatalf("%s is there %d times; of %d records there are %d; objects:\n%s", id, seen[id], n, len(seen), strings.Join(f.keys(), "\n"))
		}
	}
	if len(seen) != int(n) {
		f.t.Fatalf("%d records, want %d", len(seen), n)
	}
}

func TestObjectsLieByStreamAndHour(t *testing.T) {
	for cfg, ext := range map[s3.Config]string{
		{}:                    "ndjson.zst",
		{Compression: "gzip"}: "ndjson.gz",
		{Compression: "none"}: "ndjson",
		{Objects: "parquet"}:  "parquet",
	} {
		f := newFar(t)
		s := f.open(cfg)
		l := laneOf(3)
		sendAll(t, s, batchOf(l, 1, 2000)) // the hour ends with 1799
		sendAll(t, s, batchOf(l, 2001, 2002))
		want := []string{
			"forebay/_forebay/edge-07",
			"forebay/press/dt=2026-11-23/hr=12/edge-07.0000000000001234.3.fffffffffffffffe.1." + ext,
			"forebay/press/dt=2026-11-23/hr=13/edge-07.0000000000001234.3.fffffffffffff82e.2001." + ext,
			"forebay/press/dt=2026-11-23/hr=13/edge-07.0000000000001234.3.fffffffffffff8f7.1800." + ext,
		}
		if got := f.keys(); !slices.Equal(got, want) {
			t.Errorf("%s: objects\n%s\nwant\n%s", ext, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		f.exactly(l, 2002)
		if got := len(f.read(want[1])); got != 1799 {
			t.Errorf("%d records of the first hour", got)
		}
		h := f.objects[want[1]].header
		if h.Get("X-Amz-Meta-Forebay-Last") != "1799" || h.Get("X-Amz-Meta-Forebay-Records") != "1799" {
			t.Errorf("metadata %v", h)
		}
	}
}

func TestHeadersOfObjects(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{Prefix: "plant-7/it's(1)=!", StorageClass: "STANDARD_IA", Encryption: "aws:kms", KMSKey: "alias/lake", Compression: "gzip"})
	sendAll(t, s, batchOf(laneOf(1), 1, 3))
	key := f.keys()[1]
	if !strings.HasPrefix(key, "plant-7/it's(1)=!/press/dt=2026-11-23/") {
		t.Errorf("key %s", key)
	}
	h := f.objects[key].header
	for k, want := range map[string]string{
		"X-Amz-Storage-Class": "STANDARD_IA", "X-Amz-Server-Side-Encryption": "aws:kms",
		"X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "alias/lake", "Content-Type": "application/gzip", "If-None-Match": "*",
	} {
		if got := h.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
}

// The bucket's name may stand before the host's: the proxy sees what a name
// server would have resolved.
func TestVirtualHosts(t *testing.T) {
	f := newFar(t)
	cfg := s3.Config{Addressing: "virtual"}
	cfg.Endpoint, cfg.Proxy = "http://s3.test", f.srv.URL
	s := f.open(cfg)
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	sendAll(t, s, batchOf(laneOf(1), 1, 3))
	f.exactly(laneOf(1), 3)
}

// A lane costs a PUT an object, and two questions when it is met, however much
// is in the bucket.
func TestRequestsAreFew(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{})
	l := laneOf(1)
	for seq := uint64(1); seq <= 1500; seq++ {
		sendAll(t, s, batchOf(l, seq, seq))
	}
	if p, q, h := f.count("PUT"), f.count("LIST"), f.count("HEAD"); p != 1502 || q != 1 || h != 0 {
		t.Errorf("%d PUT, %d LIST, %d HEAD for 1500 objects", p, q, h)
	}
	s = f.open(s3.Config{})
	before := f.count("PUT") + f.count("LIST") + f.count("HEAD")
	o := sendAll(t, s, batchOf(l, 1501, 1600))
	if n := f.count("PUT") + f.count("LIST") + f.count("HEAD") - before; n != 4 || o.Requests != n || o.Units != 3 {
		t.Errorf("%d requests after a restart (outcome %+v), want 4: guard, list, head, put", n, o)
	}
	if f.listed != 1 {
		t.Errorf("%d objects in the lists", f.listed)
	}
	f.exactly(l, 1600)
}

func TestBytesAreThoseOnTheWire(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{})
	sendAll(t, s, batchOf(laneOf(1), 1, 1))
	b := batchOf(laneOf(1), 2, 1001)
	o := sendAll(t, s, b)
	payload := 0
	for _, r := range b.Recs {
		payload += len(r.Data)
	}
	if o.Bytes <= 0 || o.Bytes >= payload {
		t.Errorf("%d bytes on the wire for %d of payload", o.Bytes, payload)
	}
}
