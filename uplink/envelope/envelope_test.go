package envelope_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/envelope"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x0123456789abcdef}

// Each file of testdata/envelope holds a record and the envelope it makes.
func TestEnvelopeGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/envelope/*.json")
	if err != nil || len(files) < 15 {
		t.Fatalf("golden files: %d, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Record struct {
					Shard             record.ShardID
					Seq               uint64
					Key, Source, Type string
					At, Arrived       string
					Attrs             map[string]string
					Chunk             int64
					Data              []byte
				}
				Want string
			}
			if err := json.Unmarshal(b, &c); err != nil {
				t.Fatal(err)
			}
			r := record.Record{
				Key: c.Record.Key, Source: c.Record.Source, Type: c.Record.Type, Attrs: c.Record.Attrs, Data: c.Record.Data,
				Chunk: record.ChunkRef{Len: c.Record.Chunk}, Pos: record.Pos{Shard: c.Record.Shard, Seq: c.Record.Seq},
				At: parse(t, c.Record.At), Arrived: parse(t, c.Record.Arrived),
			}
			e := envelope.New(identity)
			got := string(e.Append([]byte("prefix"), "mqtt", &r))
			if got != "prefix"+c.Want {
				t.Errorf("\n got %s\nwant %s", got, c.Want)
			}
			if !json.Valid([]byte(c.Want)) {
				t.Error("the wanted envelope is not JSON")
			}
		})
	}
}

// A record that was stored under another name or epoch keeps its id.
func TestTheIDIsThatOfWhereItWasStored(t *testing.T) {
	e := envelope.New(identity)
	before := &record.Origin{Gateway: "edge-\"6\"", Epoch: 7}
	for _, c := range []struct {
		origin *record.Origin
		want   string
	}{
		{nil, "edge-07/0123456789abcdef/2/9"},
		{before, `edge-"6"/0000000000000007/2/9`},
		{before, `edge-"6"/0000000000000007/2/9`},
		{&record.Origin{Gateway: "edge-07", Epoch: identity.Epoch}, "edge-07/0123456789abcdef/2/9"},
		{nil, "edge-07/0123456789abcdef/2/9"},
	} {
		r := record.Record{Key: "k", Pos: record.Pos{Shard: 2, Seq: 9}, Origin: c.origin}
		var got struct{ ID string }
		if err := json.Unmarshal(e.Append(nil, "s", &r), &got); err != nil || got.ID != c.want || identity.Of(&r) != c.want {
			t.Errorf("the id is %s, of %s, want %s: %v", got.ID, identity.Of(&r), c.want, err)
		}
	}
}

func parse(t *testing.T, s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

type opened struct {
	ID, Stream, Key, Source, Type string
	At, Arrived                   time.Time
	Attrs                         map[string]string
	Chunk                         int64
	Data                          json.RawMessage
	B64                           []byte `json:"data_b64"`
}

// FuzzEnvelope: whatever a record holds, its envelope is one line of valid
// JSON in UTF-8 from which the payload comes back byte for byte.
func FuzzEnvelope(f *testing.F) {
	f.Add("k", "attr", "v", []byte(`{"a":1}`), int64(0), int64(1))
	f.Add("\x00\"\\\x7f\u2028", "\xff", "", []byte("\xf3\x89\x9a\xc2"), int64(-1), int64(1<<62))
	f.Add("", "", "", []byte("\"\\u0000\xff\""), int64(5), int64(0))
	f.Add("k", "a", "b", []byte(" 1"), int64(1763800000), int64(3))
	f.Add("k", "a", "b", []byte("1\n"), int64(253402300800), int64(3))
	f.Add("k", "a", "b", []byte(`{"a":"\u2028`+"\u2028"+`"}`), int64(1), int64(3))
	f.Fuzz(func(t *testing.T, key, name, value string, data []byte, at, chunk int64) {
		r := record.Record{
			Key: key, Source: value, Type: name, Attrs: map[string]string{name: value}, Data: data,
			At: time.Unix(at, 1), Arrived: time.Unix(at/2, 0), Chunk: record.ChunkRef{Len: chunk}, Pos: record.Pos{Shard: 1, Seq: 2},
		}
		b := envelope.New(record.Identity{Gateway: name}).Append(nil, "s", &r)
		if bytes.ContainsAny(b, "\r\n") || !utf8.Valid(b) {
			t.Fatalf("not one line of UTF-8: %q", b)
		}
		var o opened
		if err := json.Unmarshal(b, &o); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		got := []byte(o.Data)
		if o.B64 != nil {
			got = o.B64
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("payload %q came back as %q in %s", data, got, b)
		}
		if utf8.ValidString(key) && o.Key != key {
			t.Fatalf("key %q came back as %q", key, o.Key)
		}
		if utf8.ValidString(name) && utf8.ValidString(value) && o.Attrs[name] != value {
			t.Fatalf("attribute %q came back as %q", value, o.Attrs[name])
		}
		if chunk > 0 && o.Chunk != chunk {
			t.Fatalf("chunk %d came back as %d", chunk, o.Chunk)
		}
		if y := r.At.UTC().Year(); y >= 1 && y <= 9999 && !o.At.Equal(r.At) {
			t.Fatalf("time %v came back as %v", r.At, o.At)
		}
	})
}

func TestEnvelopeAllocatesNothing(t *testing.T) {
	r := record.Record{
		Key: "site/area/line/press-1/temp", Source: "mqtt", Type: "application/json", Attrs: map[string]string{"qos": "1", "retain": "0"},
		At: time.Now(), Arrived: time.Now(), Data: []byte(`{"value":21.5,"unit":"Cel"}`), Pos: record.Pos{Shard: 1, Seq: 1},
	}
	e := envelope.New(identity)
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { dst = e.Append(dst[:0], "mqtt", &r) }); n != 0 {
		t.Errorf("%v allocations a record", n)
	}
}
