package spool_test

import (
	"bytes"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

func sampleBlock() (head, body []byte) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return spool.EncodeBlock(3, 41, []record.Record{
		{Key: "a", Arrived: at},
		{Key: "b", Arrived: at.Add(time.Millisecond), At: at, Mono: 5, Source: "press", SourceSeq: 9, Type: "application/json", Attrs: map[string]string{"k": "v"}, Data: []byte(`{"value":1}`)},
		{Key: "c", Arrived: at.Add(-time.Hour), HashKey: &record.HashKey{1}, Source: "oven", SourceSeq: 2, Blob: []byte("blob"), Data: bytes.Repeat([]byte("x"), 300)},
	})
}

func TestEveryByteOfABlockIsGuarded(t *testing.T) {
	head, body := sampleBlock()
	if n, err := spool.DecodeBlock(head, body); n != 3 || err != nil {
		t.Fatalf("%d records, %v", n, err)
	}
	for _, part := range [][]byte{head, body} {
		for i := range part {
			for _, mask := range []byte{1, 0x80, 0xff} {
				part[i] ^= mask
				if _, err := spool.DecodeBlock(head, body); err == nil {
					t.Errorf("byte %d changed by %#x is not noticed", i, mask)
				}
				part[i] ^= mask
			}
		}
	}
	for n := range head {
		if _, err := spool.DecodeBlock(head[:n], body); err == nil {
			t.Errorf("a head cut to %d bytes is not noticed", n)
		}
	}
	for n := range body {
		if _, err := spool.DecodeBlock(head, body[:n]); err == nil {
			t.Errorf("a body cut to %d bytes is not noticed", n)
		}
	}
}

// What the decoder is given may be anything: it answers with an error, and
// never reads outside or allocates for what is only claimed.
func FuzzDecodeBlock(f *testing.F) {
	head, body := sampleBlock()
	f.Add(head, body)
	f.Add(head[:80], []byte{})
	f.Add([]byte("FBK1"), []byte{1, 2, 3})
	f.Add(append(bytes.Clone(head), 0), body)
	huge := bytes.Clone(head)
	copy(huge[16:32], bytes.Repeat([]byte{0xff}, 16))
	f.Add(huge, body)
	f.Fuzz(func(t *testing.T, head, body []byte) {
		n, err := spool.DecodeBlockUnchecked(head, body)
		if n < 0 || n > len(body) {
			t.Errorf("%d records in %d bytes", n, len(body))
		}
		if err == nil && n == 0 && len(body) == 0 {
			return
		}
		if _, err := spool.DecodeBlock(head, body); err == nil && n == 0 && len(body) > 0 {
			t.Errorf("a good block of %d bytes has no records", len(body))
		}
	})
}

// Two builds of the same records are the same but for the order of attributes.
func TestEncodingIsStable(t *testing.T) {
	h1, b1 := sampleBlock()
	h2, b2 := sampleBlock()
	if !bytes.Equal(h1, h2) || !bytes.Equal(b1, b2) {
		t.Error("the same records gave different blocks")
	}
}
