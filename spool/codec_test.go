package spool_test

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/golang/snappy"

	"forebay/spool"
	"forebay/spool/record"
)

// What is packed, and what lies in the chunk file, reads back as it came, from
// memory and from the disk.
func TestBodiesReadBackWhereverTheyLie(t *testing.T) {
	noise := make([]byte, 100<<10)
	rand.New(rand.NewSource(1)).Read(noise)
	for name, data := range map[string]func(i int) []byte{
		"small":            func(i int) []byte { return fmt.Appendf(nil, `{"value":%d}`, i) },
		"packed":           func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%d ", i), 3000) },
		"beside":           func(i int) []byte { return append(noise, byte(i)) },
		"beside, packed":   func(i int) []byte { return append(append(noise, noise...), byte(i)) },
		"data in a chunk":  func(i int) []byte { return bytes.Repeat(append(noise, byte(i)), 3) },
		"an empty payload": func(int) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, spool.Config{})
			st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
			var recs []record.Record
			for i := range 10 {
				recs = append(recs, record.Record{Key: fmt.Sprint(i), Source: "press", Data: data(i)})
			}
			put(t, st, recs...)
			compare := func() {
				t.Helper()
				n := 0
				for _, sh := range st.Shards() {
					got, losses := scan(t, st, sh.ID, spool.Oldest())
					for _, r := range got {
						i := int(r.Key[0] - '0')
						if !bytes.Equal(r.Data, data(i)) {
							t.Errorf("record %d came back with %d bytes", i, len(r.Data))
						}
						n++
					}
					if len(losses) > 0 {
						t.Error(losses)
					}
				}
				if n != len(recs) {
					t.Errorf("%d records of %d", n, len(recs))
				}
			}
			compare()
			spool.DropCache(st)
			compare()
			b.reopen()
			st = b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2})
			compare()
		})
	}
}

// A large body is not in the segment's file, a small one is not in the chunk
// file.
func TestOnlyLargeBodiesLieBeside(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	small, large := bytes.Repeat([]byte("small"), 100), bytes.Repeat([]byte("large"), 30000)
	put(t, st, record.Record{Key: "k", Source: "press", Data: small})
	put(t, st, record.Record{Key: "k", Source: "press", Data: large}, record.Record{Key: "k", Source: "press", Data: large})
	dir := spool.LogDir(st)
	b.close()
	seg, err := os.ReadFile(filepath.Join(dir, "0000000001.seg"))
	if err != nil {
		t.Fatal(err)
	}
	chunks, err := os.ReadFile(filepath.Join(dir, "0000000001.chunks"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(seg, large[:4096]) || !bytes.Contains(chunks, large) {
		t.Error("the large body is not where it belongs")
	}
	if !bytes.Contains(seg, small) || bytes.Contains(chunks, small) {
		t.Error("the small body is not where it belongs")
	}
	b.open()
}

// Any reader of Snappy unpacks what we pack.
func TestPackedBodiesAreSnappy(t *testing.T) {
	raw := bytes.Repeat([]byte(`{"value":21.5,"unit":"Cel"}`), 1000)
	packed := spool.Pack(raw)
	if len(packed) > len(raw)/4 {
		t.Errorf("%d bytes became %d", len(raw), len(packed))
	}
	got, err := snappy.Decode(nil, packed)
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What does not add up is an error, never a panic or more memory than the head
// speaks of.
func FuzzUnpack(f *testing.F) {
	f.Add(spool.Pack(bytes.Repeat([]byte("abcd"), 4000)), uint32(16000))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, uint32(1<<22))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, stored []byte, raw uint32) {
		raw %= 1 << 23
		body, err := spool.Unpack(stored, raw)
		if err == nil && uint32(len(body)) != raw {
			t.Errorf("%d bytes where the head says %d", len(body), raw)
		}
	})
}
