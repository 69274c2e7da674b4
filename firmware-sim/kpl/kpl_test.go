package kpl_test

import (
	"bytes"
	"crypto/md5"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/firmware-sim/kpl"
)

// TestGolden reads aggregates that another implementation made (npm
// aws-kinesis-agg 4.2.8, its RecordAggregator): NAME.bin is the record,
// NAME.json what went in.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		j, err := os.ReadFile(strings.TrimSuffix(name, ".bin") + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var want []struct {
			Key, Hash string
			Data      []byte
		}
		if err := json.Unmarshal(j, &want); err != nil {
			t.Fatal(err)
		}
		got, ok, err := kpl.Decode(b)
		if err != nil || !ok || len(got) != len(want) {
			t.Fatalf("%s: %d records of %d, aggregate %v, %v", name, len(got), len(want), ok, err)
		}
		for i, w := range want {
			if g := got[i]; g.Key != w.Key || g.HashKey != w.Hash || !bytes.Equal(g.Data, w.Data) {
				t.Errorf("%s: record %d is %+v, want %+v", name, i, g, w)
			}
		}
	}
}

func frame(msg string) []byte {
	sum := md5.Sum([]byte(msg))
	return append([]byte("\xF3\x89\x9A\xC2"+msg), sum[:]...)
}

func TestNotAnAggregate(t *testing.T) {
	good := frame("\x0a\x01k\x1a\x05\x08\x00\x1a\x01x")
	if recs, ok, err := kpl.Decode(good); !ok || err != nil || len(recs) != 1 || string(recs[0].Data) != "x" {
		t.Fatalf("%v %v %v", recs, ok, err)
	}
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1
		if _, ok, err := kpl.Decode(flipped); ok || err != nil {
			t.Errorf("a bit flipped at byte %d: aggregate %v, %v", i, ok, err)
		}
	}
	for cut := range good {
		if _, ok, _ := kpl.Decode(good[:cut]); ok {
			t.Errorf("cut at %d still passes", cut)
		}
	}
}

func TestMalformed(t *testing.T) {
	for name, msg := range map[string]string{
		"key index out of range":  "\x0a\x01k\x1a\x05\x08\x01\x1a\x01x",
		"hash index out of range": "\x0a\x01k\x1a\x07\x08\x00\x10\x00\x1a\x01x",
		"no data":                 "\x0a\x01k\x1a\x02\x08\x00",
		"no key":                  "\x0a\x01k\x1a\x03\x1a\x01x",
		"length past the end":     "\x0a\x7fk",
		"varint past the end":     "\x0a\x01k\x1a\x02\x08\xff",
		"group":                   "\x0b",
		"field 0":                 "\x02\x00",
		"record is a number":      "\x18\x01",
	} {
		if _, ok, err := kpl.Decode(frame(msg)); !ok || !errors.Is(err, kpl.ErrMalformed) {
			t.Errorf("%s: aggregate %v, %v", name, ok, err)
		}
	}
	if recs, ok, err := kpl.Decode(frame("")); !ok || err != nil || len(recs) != 0 {
		t.Errorf("an empty aggregate: %v %v %v", recs, ok, err)
	}
}

// FuzzDecode frames arbitrary messages, so that the fuzzer gets past the
// checksum.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.bin")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[4 : len(b)-16])
	}
	f.Add([]byte("\x0a\x01k\x1a\x05\x08\x00\x1a\x01x"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		recs, ok, err := kpl.Decode(frame(string(msg)))
		if !ok {
			t.Fatal("a framed message was taken for a plain record")
		}
		if err != nil && recs != nil {
			t.Fatal("records beside an error")
		}
		total := 0
		for _, r := range recs {
			total += len(r.Data)
		}
		if total > len(msg) {
			t.Fatalf("%d bytes of data out of %d", total, len(msg))
		}
		if _, _, err := kpl.Decode(msg); err != nil && !bytes.HasPrefix(msg, []byte("\xF3\x89\x9A\xC2")) {
			t.Fatal(err)
		}
	})
}
