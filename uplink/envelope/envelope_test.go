package envelope_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/envelope"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x0123456789abcdef}

// A golden is a record and its envelope.
type golden struct {
	Record struct {
		Shard             record.ShardID
		Seq               uint64
		Key, Source, Type string
		At, Arrived       string
		Attrs             map[string]string
		Chunk             int64
		Data              []byte
	}
	Stream string // "mqtt" if it is left out
	Beside bool   // the key travels beside
	Want   string
}

func goldens(t *testing.T, dir string) map[string]golden {
	t.Helper()
	files, err := filepath.Glob("testdata/" + dir + "/*.json")
	if err != nil || len(files) < 15 {
		t.Fatalf("golden files: %d, %v", len(files), err)
	}
	all := map[string]golden{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		c := golden{Stream: "mqtt"}
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[filepath.Base(f)] = c
	}
	return all
}

func (c *golden) record(t *testing.T) record.Record {
	return record.Record{
		Key: c.Record.Key, Source: c.Record.Source, Type: c.Record.Type, Attrs: c.Record.Attrs, Data: c.Record.Data,
		Chunk: record.ChunkRef{Len: c.Record.Chunk}, Pos: record.Pos{Shard: c.Record.Shard, Seq: c.Record.Seq},
		At: parse(t, c.Record.At), Arrived: parse(t, c.Record.Arrived),
	}
}

// Each file of testdata/golden holds a record and the envelope it makes.
func TestEnvelopeGolden(t *testing.T) {
	for name, c := range goldens(t, "golden") {
		t.Run(name, func(t *testing.T) {
			r := c.record(t)
			e := envelope.New(identity)
			if c.Beside {
				e = envelope.NewBeside(identity)
			}
			got := string(e.Append([]byte("prefix"), c.Stream, &r))
			if got != "prefix"+c.Want {
				t.Errorf("\n got %s\nwant %s", got, c.Want)
			}
			if !json.Valid([]byte(c.Want)) {
				t.Error("the wanted envelope is not JSON")
			}
		})
	}
}

// What a gateway wrote opens to what the record was, also in the form that
// envelopes had first.
func TestOpenGolden(t *testing.T) {
	for _, dir := range []string{"golden", "first"} {
		for name, c := range goldens(t, dir) {
			t.Run(dir+"/"+name, func(t *testing.T) {
				r := c.record(t)
				in, err := envelope.Open([]byte(c.Want))
				if err != nil {
					t.Fatal(err)
				}
				if dir == "golden" {
					r.Arrived = r.Arrived.Truncate(time.Millisecond)
				}
				if c.Beside {
					r.Key = ""
				}
				if in.ID != identity.ID(r.Pos) || in.Stream != c.Stream || in.Key != r.Key || in.Source != r.Source || in.Type != r.Type ||
					in.Chunk != r.Chunk.Len || !maps.Equal(in.Attrs, r.Attrs) || string(in.Data) != string(r.Data) || !in.At.Equal(r.At) || !in.Arrived.Equal(r.Arrived) {
					t.Errorf("opened to %+v, was %+v", in, r)
				}
			})
		}
	}
}

// What a JSON record that came by MQTT weighs more in its envelope.
func TestEnvelopeIsCompact(t *testing.T) {
	data := []byte(`{"device":"press-1","seq":123456,"value":21.5,"unit":"Cel"}`)
	r := record.Record{Key: "site/area/line/press-1/temp", Source: "mqtt", Data: data, Arrived: time.Now(), Pos: record.Pos{Shard: 4, Seq: 9_999_999}}
	b := envelope.NewBeside(identity).Append(nil, "mqtt", &r)
	if n := len(b) - len(data); n > 70 {
		t.Errorf("%d bytes over the payload: %s", n, b)
	}
}

// Another gateway's envelope stays as it is; the key joins it where it would
// be lost.
func TestForward(t *testing.T) {
	near := record.Identity{Gateway: "near", Epoch: 7}
	for _, c := range goldens(t, "golden") {
		in := c.record(t)
		keyless := envelope.NewBeside(near).Append(nil, c.Stream, &in)
		if envelope.Forwarded(&in) {
			t.Fatalf("%s is an envelope itself", in.Data)
		}
		r := record.Record{Key: in.Key, Data: keyless, Source: "kinesis", Pos: record.Pos{Shard: 9, Seq: 9}}
		if got := envelope.NewBeside(identity).Append(nil, "site", &r); string(got) != string(keyless) {
			t.Errorf("\n got %s\nwant %s", got, keyless)
		}
		whole := envelope.New(near).Append(nil, c.Stream, &in)
		if got := envelope.New(identity).Append(nil, "site", &r); string(got) != string(whole) {
			t.Errorf("\n got %s\nwant %s", got, whole)
		}
		r.Data = whole
		for _, e := range []*envelope.Writer{envelope.New(identity), envelope.NewBeside(identity)} {
			if got := e.Append(nil, "site", &r); string(got) != string(whole) {
				t.Errorf("\n got %s\nwant %s", got, whole)
			}
		}
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
		b := envelope.New(record.Identity{Gateway: "g" + name}).Append(nil, "s", &r)
		if bytes.ContainsAny(b, "\r\n") || !utf8.Valid(b) {
			t.Fatalf("not one line of UTF-8: %q", b)
		}
		if envelope.Forwarded(&r) {
			return
		}
		o, err := envelope.Open(b)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if !bytes.Equal(o.Data, data) {
			t.Fatalf("payload %q came back as %q in %s", data, o.Data, b)
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
		if at > -1<<50 && at < 1<<50 && !o.At.Equal(r.At) {
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
