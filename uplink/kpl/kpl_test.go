package kpl_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/uplink/kpl"
)

type rec struct {
	Key  string `json:"key"`
	Hash string `json:"hash,omitempty"`
	Data string `json:"data"`
}

func encode(e *kpl.Encoder, recs []rec) []byte {
	e.Reset()
	for _, r := range recs {
		e.Add(r.Key, r.Hash, []byte(r.Data))
	}
	return e.AppendTo(nil)
}

func decode(t testing.TB, data []byte) []rec {
	t.Helper()
	a, err := kpl.Decode(data)
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	var out []rec
	for i, r := range a.All() {
		if i != len(out) {
			t.Fatalf("record %d has index %d", len(out), i)
		}
		out = append(out, rec{r.Key, r.HashKey, string(r.Data)})
	}
	if len(out) != a.Len() {
		t.Fatalf("Len is %d, All gave %d", a.Len(), len(out))
	}
	return out
}

func same(a, b []rec) bool { return fmt.Sprintf("%q", a) == fmt.Sprintf("%q", b) }

// Each file of testdata holds records and the aggregate they make, in hex.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("golden files: %v, %v", files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var c struct {
				Records []rec
				Hex     []string
			}
			if err := json.Unmarshal(b, &c); err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.ReplaceAll(strings.Join(c.Hex, ""), " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			if got := encode(new(kpl.Encoder), c.Records); !bytes.Equal(got, want) {
				t.Errorf("encoded %x\nwant    %x", got, want)
			}
			if got := decode(t, want); !same(got, c.Records) {
				t.Errorf("decoded %q\nwant    %q", got, c.Records)
			}
		})
	}
}

func TestRoundTripAndSizes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var e kpl.Encoder
	for range 300 {
		e.Reset()
		var want []rec
		for range rng.IntN(400) {
			r := rec{Key: fmt.Sprintf("k%d", rng.IntN(200)), Data: strings.Repeat("x", rng.IntN(300))}
			if rng.IntN(2) == 0 {
				r.Hash = fmt.Sprint(rng.Uint64N(3))
			}
			size := e.SizeWith(r.Key, r.Hash, len(r.Data))
			e.Add(r.Key, r.Hash, []byte(r.Data))
			if e.Size() != size {
				t.Fatalf("SizeWith said %d, Size is %d", size, e.Size())
			}
			want = append(want, r)
		}
		prefix := []byte("before")
		b := e.AppendTo(prefix)
		if len(b)-len(prefix) != e.Size() || e.Len() != len(want) {
			t.Fatalf("%d bytes and %d records; said %d and %d", len(b)-len(prefix), len(want), e.Size(), e.Len())
		}
		if got := decode(t, b[len(prefix):]); !same(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// seal puts the magic number and the sum around a protobuf message.
func seal(msg string) []byte {
	sum := md5.Sum([]byte(msg))
	return append([]byte("\xf3\x89\x9a\xc2"+msg), sum[:]...)
}

// Protobuf lets fields come in any order, lets unknown ones in, and takes the
// last of a repeated one.
func TestForeignShapes(t *testing.T) {
	want := []rec{{"k", "7", "d"}}
	for name, msg := range map[string]string{
		"records first":      "\x1a\x07\x08\x00\x10\x00\x1a\x01d" + "\x0a\x01k" + "\x12\x017",
		"data first":         "\x0a\x01k\x12\x017" + "\x1a\x07\x1a\x01d\x10\x00\x08\x00",
		"unknown fields":     "\x0a\x01k\x12\x017\x28\x05\x31abcdefgh\x3dabcd" + "\x1a\x0b\x08\x00\x10\x00\x1a\x01d\x32\x02zz",
		"a tag":              "\x0a\x01k\x12\x017" + "\x1a\x0f\x08\x00\x10\x00\x1a\x01d\x22\x06\x0a\x01a\x12\x01b",
		"last one counts":    "\x0a\x01k\x12\x017" + "\x1a\x0a\x1a\x01c\x08\x00\x10\x00\x1a\x01d",
		"number not minimal": "\x0a\x01k\x12\x017" + "\x1a\x08\x08\x80\x00\x10\x00\x1a\x01d",
	} {
		if got := decode(t, seal(msg)); !same(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	good := encode(new(kpl.Encoder), []rec{{"k", "7", "data"}})
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := kpl.Decode(bad); err == nil {
			t.Errorf("byte %d flipped: no error", i)
		}
		if _, err := kpl.Decode(good[:i]); err == nil {
			t.Errorf("cut to %d bytes: no error", i)
		}
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, kpl.ErrNotAggregate},
		{"JSON", []byte(`{"value":21.5,"unit":"Cel"}`), kpl.ErrNotAggregate},
		{"magic alone", []byte("\xf3\x89\x9a\xc2"), kpl.ErrNotAggregate},
		{"sum", flipped, kpl.ErrChecksum},
		{"too large", seal(strings.Repeat("\x0a\x00", kpl.MaxSize/2)), kpl.ErrTooLarge},
		{"key index", seal("\x0a\x01k\x1a\x05\x08\x01\x1a\x01d"), nil},
		{"hash index", seal("\x0a\x01k\x1a\x07\x08\x00\x10\x00\x1a\x01d"), nil},
		{"no key", seal("\x0a\x01k\x1a\x03\x1a\x01d"), nil},
		{"no data", seal("\x0a\x01k\x1a\x02\x08\x00"), nil},
		{"group", seal("\x0b\x0c"), nil},
		{"table as number", seal("\x08\x01"), nil},
		{"data as number", seal("\x0a\x01k\x1a\x04\x08\x00\x18\x01"), nil},
		{"field 0", seal("\x00\x00"), nil},
		{"long length", seal("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), nil},
		{"endless number", seal("\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), nil},
	} {
		a, err := kpl.Decode(c.data)
		if err == nil || a != nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if a, err := kpl.Decode(seal("")); err != nil || a.Len() != 0 {
		t.Errorf("an aggregate of nothing: %v", err)
	}
}

func TestAllStops(t *testing.T) {
	a, err := kpl.Decode(encode(new(kpl.Encoder), []rec{{"a", "", "1"}, {"b", "", "2"}}))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range a.All() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d records after break", n)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(new(kpl.Encoder), nil), false)
	f.Add(encode(new(kpl.Encoder), []rec{{"k", "7", "d"}, {"k2", "", ""}}), false)
	f.Add([]byte("\x1a\x07\x08\x00\x10\x00\x1a\x01d\x0a\x01k\x12\x017"), true)
	f.Add([]byte("\x0a\x01k\x28\x05\x31abcdefgh\x3dabcd"), true)
	f.Fuzz(func(t *testing.T, data []byte, wrap bool) {
		if wrap {
			data = seal(string(data)) // else no mutation gets past the sum
		}
		if _, err := kpl.Decode(data); err != nil {
			return
		}
		// What decodes must come through our own encoder unchanged, and its
		// views must lie within data.
		recs := decode(t, data)
		again := decode(t, encode(new(kpl.Encoder), recs))
		if !same(again, recs) {
			t.Fatalf("%q became %q", recs, again)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	var e kpl.Encoder
	var dst []byte
	data := bytes.Repeat([]byte("x"), 100)
	b.SetBytes(100)
	b.ReportAllocs()
	for b.Loop() {
		if e.SizeWith("press-1/temp", "170141183460469231731687303715884105728", len(data)) > 1<<20 {
			dst = e.AppendTo(dst[:0])
			e.Reset()
		}
		e.Add("press-1/temp", "170141183460469231731687303715884105728", data)
	}
}
