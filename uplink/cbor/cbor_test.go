package cbor_test

import (
	"bytes"
	"math"
	"strings"
	"testing"

	lib "github.com/fxamacker/cbor/v2"

	"forebay/uplink/cbor"
)

// Heads are as short as they can be, and read as they were written.
func TestHeads(t *testing.T) {
	for _, n := range []uint64{0, 23, 24, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64} {
		b := cbor.AppendHead(nil, cbor.Uint, n)
		want, err := lib.Marshal(n)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%d: %x, the library writes %x, %v", n, b, want, err)
		}
		r := cbor.NewReader(b)
		if first, got := r.Head(); first&cbor.Major != cbor.Uint || got != n || !r.AtEnd() {
			t.Errorf("%d: read %x, %d", n, first, got)
		}
	}
	for n := range 300 {
		s := strings.Repeat("x", n)
		b := cbor.AppendBytes(cbor.AppendText(nil, s), []byte(s))
		r := cbor.NewReader(b)
		if string(r.Whole(cbor.Text)) != s || string(r.String(cbor.Bytes)) != s || !r.AtEnd() {
			t.Fatalf("strings of %d", n)
		}
	}
}

func TestPieces(t *testing.T) {
	r := cbor.NewReader([]byte("\x7f\x62ab\x60\x61c\xff\x01"))
	if s := r.Whole(cbor.Text); string(s) != "abc" {
		t.Errorf("%q", s)
	}
	if _, n := r.Head(); n != 1 || !r.AtEnd() {
		t.Error("what follows is lost")
	}
}

// Nothing that is cut short, endless, too deep or of another kind is read.
func TestFaults(t *testing.T) {
	for name, b := range map[string]string{
		"nothing": "", "a head without its argument": "\x1b\x00", "a reserved head": "\x1c", "a number without an end": "\x1f",
		"a string cut short": "\x64abc", "a string of 2^64-1": "\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
		"a list of 2^32-1": "\x9a\xff\xff\xff\xff", "a list without its break": "\x9f\x01", "a map without a value": "\xbf\x01\xff",
		"pieces without a break": "\x7f\x61a", "pieces of another kind": "\x7f\x41a\xff", "pieces in pieces": "\x7f\x7f\x61a\xff\xff",
		"a lone break": "\xff", "a tag of nothing": "\xc1", "too deep": strings.Repeat("\x81", 17) + "\x01",
		"deep without an end": strings.Repeat("\x9f", 100_000), "tags without an end": strings.Repeat("\xc1", 100_000), "too many tags": "\xc1\xc1\xc1\xc1\xc1\x01",
	} {
		r := cbor.NewReader([]byte(b))
		if r.Skip(); !r.Failed() || r.AtEnd() {
			t.Errorf("%s: passes", name)
		}
	}
	r := cbor.NewReader([]byte("\x7f\x61a"))
	if s := r.Whole(cbor.Text); s != nil || !r.Failed() {
		t.Errorf("pieces without a break: %q", s)
	}
	r = cbor.NewReader([]byte("\x82\x01\x02"))
	if r.Items(cbor.Array, 1); !r.Failed() {
		t.Error("more items than are wanted")
	}
}

// What is skipped is one item as the library sees it, and what it refuses is
// refused.
func FuzzSkip(f *testing.F) {
	for _, s := range []string{"\x00", "\xa1\x61a\xc1\x1a\x00\x00\x00\x01", "\x9f\x01\x82\x02\x03\xff", "\x7f\x61a\xff", "\xf9\x3c\x00", "\xf6", "\xd9\xd9\xf7\xa0", "\xf8\x20"} {
		f.Add([]byte(s))
	}
	dec, err := lib.DecOptions{MaxNestedLevels: 256, MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := cbor.NewReader(b)
		r.Skip()
		if r.AtEnd() && len(b) > 0 && b[0] != 0xf8 && !bytes.Contains(b, []byte{0xf8}) { // two bytes for a simple value below 32 are refused by the library alone
			if err := dec.Wellformed(b); err != nil {
				t.Fatalf("%x passes, the library says %v", b, err)
			}
		}
	})
}
