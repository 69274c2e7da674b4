package s3

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"forebay/spool/record"
)

// FuzzNames: a name is read back as what it was made of, whatever a gateway
// and a stream are called, and the newer of two objects comes first.
func FuzzNames(f *testing.F) {
	f.Add("edge-07", "mqtt", uint64(1), uint32(3), uint64(99), int64(1795341600))
	f.Add("a.b/c", "..", uint64(0xffffffffffffffff), uint32(0), uint64(0), int64(-1))
	f.Add("", ".", uint64(0), uint32(0xffffffff), uint64(1<<63), int64(1<<62))
	f.Add("!21%\x00", "a.ndjson", uint64(7), uint32(1), uint64(10), int64(-1<<62))
	f.Fuzz(func(t *testing.T, gateway, stream string, epoch uint64, shard uint32, seq uint64, at int64) {
		n := names{prefix: "forebay/", ext: ".ndjson.zst"}
		r := record.Record{Arrived: time.Unix(at, 0), Pos: record.Pos{Shard: record.ShardID(shard), Seq: seq}}
		r.Origin = &record.Origin{Gateway: gateway, Epoch: record.Epoch(epoch)}
		p := n.placeOf(stream, &r)
		name := n.object(&p, seq)
		if strings.Trim(name, plain+"./=!") != "" {
			t.Fatalf("a name with odd characters: %q", name)
		}
		if got, ok := first(name, n.list(&p)); !ok || got != seq {
			t.Fatalf("%s: first %d, %v", name, got, ok)
		}
		o, ok := n.parse(name)
		if stream == "" {
			return
		}
		if !ok || o.place != p || o.first != seq || o.ext != "ndjson.zst" {
			t.Fatalf("%s: %+v, %v", name, o, ok)
		}
		if seq > 0 && n.object(&p, seq-1) <= name {
			t.Fatalf("the older object comes before %s", name)
		}
		if c := n.chunk(&p, &r); strings.HasPrefix(c, n.list(&p)) {
			t.Fatalf("a chunk among the records: %s", c)
		}
	})
}

// FuzzStrangeNames: nothing that lies in a bucket makes it fail.
func FuzzStrangeNames(f *testing.F) {
	f.Add("forebay/press/dt=2026-11-23/hr=12/edge-07.0000000000001234.3.fffffffffffff8f7.1800.parquet")
	f.Add("forebay/press/dt=2026-11-23/hr=12/edge-07.0000000000001234.3.FFFFFFFFFFFFF8F7.1800.parquet")
	f.Add("forebay/a/dt=2026-11-23/hr=12/.....")
	f.Fuzz(func(t *testing.T, name string) {
		n := names{prefix: "forebay/"}
		if o, ok := n.parse(name); ok {
			n.ext = "." + o.ext
			if n.object(&o.place, o.first) != name {
				t.Fatalf("%q is taken for %+v", name, o)
			}
		}
		first(name, "forebay/press/dt=2026-11-23/hr=12/edge-07.0000000000001234.3.")
	})
}

// FuzzRaw: any payload is one line of JSON.
func FuzzRaw(f *testing.F) {
	for _, s := range []string{"", "{}", "{\n}", "\"\xff\"", "\x00", " 1\r\n", "\"\u2028\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		line := appendRaw([]byte("x"), data)
		if line[0] != 'x' || !json.Valid(line[1:]) || strings.ContainsAny(string(line), "\r\n") {
			t.Fatalf("%q as %q", data, line)
		}
		number(data)
	})
}

func TestHours(t *testing.T) {
	for at, want := range map[string]string{
		"2026-11-23T12:59:59.999999999Z": "s/dt=2026-11-23/hr=12/",
		"2026-11-23T00:30:00+02:00":      "s/dt=2026-11-22/hr=22/",
		"1969-12-31T23:00:00Z":           "s/dt=1969-12-31/hr=23/",
		"1969-12-31T22:59:59.5Z":         "s/dt=1969-12-31/hr=22/",
	} {
		when, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			t.Fatal(err)
		}
		p := place{stream: "s", hour: hourOf(when)}
		if got := p.partition(); got != want {
			t.Errorf("%s lies in %s, want %s", at, got, want)
		}
	}
}

// The columns are what readers of old objects and new ones rely on.
func TestSchema(t *testing.T) {
	want := `message row {
	required binary id (STRING);
	required binary gateway (STRING);
	required binary epoch (STRING);
	required int64 shard (INT(64,true));
	required int64 seq (INT(64,true));
	required binary stream (STRING);
	required binary key (STRING);
	optional int64 at (TIMESTAMP(isAdjustedToUTC=true,unit=MICROS));
	required int64 arrived (TIMESTAMP(isAdjustedToUTC=true,unit=MICROS));
	required binary source (STRING);
	required binary type (STRING);
	required group attrs (MAP) {
		repeated group key_value {
			required binary key (STRING);
			required binary value (STRING);
		}
	}
	optional double value;
	optional binary data (STRING);
	optional binary data_bytes;
	optional binary chunk (STRING);
	optional int64 chunk_bytes (INT(64,true));
}`
	if got := parquet.SchemaOf(row{}).String(); got != want {
		t.Errorf("the columns are\n%s\nwant\n%s", got, want)
	}
}
