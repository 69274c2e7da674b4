package serial_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"forebay/devices/serial"
)

// cut feeds pieces to a framer for lines and writes down what comes out, a
// damage as "!".
func cut(f serial.Framer, pieces ...[]byte) []string {
	out := []string{}
	for _, p := range pieces {
		f.Push(p)
		for fr, ok := f.Next(); ok; fr, ok = f.Next() {
			if fr.Err != nil {
				out = append(out, "!")
			} else {
				out = append(out, "="+string(fr.Data))
			}
		}
	}
	return out
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		drop           int
	}{
		{"LF", "a\nbc\n", "=a =bc", 0},
		{"CR LF", "a\r\nbc\r\n", "=a =bc", 0},
		{"one CR belongs to the end", "a\r\r\n", "=a\r", 0},
		{"CR inside stays", "a\rb\n", "=a\rb", 0},
		{"empty lines are passed over", "\n\r\n\na\n\n", "=a", 0},
		{"NUL and bytes that are no UTF-8", "a\x00b\n\xff\xfe\x80\n", "=a\x00b =\xff\xfe\x80", 0},
		{"rest is not a line", "a\nbc", "=a", 2},
		{"as long as allowed", "12345678\n12345678\r\n", "=12345678 =12345678", 0},
		{"one too long", "123456789\nok\n", "! =ok", 0},
		{"one too long by a CR", "12345678\r9\nok\n", "! =ok", 0},
		{"too long without an end", "1234567890123", "!", 0},
		{"two too long", "123456789\r\n123456789\nok\n", "! ! =ok", 0},
	} {
		f := serial.NewLines(8)
		got := strings.Join(cut(f, []byte(c.in)), " ")
		if got != c.want {
			t.Errorf("%s: %q gives %q, want %q", c.name, c.in, got, c.want)
		}
		if n := f.Drop(); n != c.drop {
			t.Errorf("%s: %d bytes were unfinished, want %d", c.name, n, c.drop)
		}
	}
}

// What a framer yields does not depend on where the reads fall.
func TestLinesSplitAtEveryByte(t *testing.T) {
	in := []byte("one\r\ntwo\n\nfar too long a line\r\n\x00\xff\r\n12345678\r\r\n123456789\r\nend\nrest")
	whole := serial.NewLines(8)
	want := cut(whole, in)
	for i := range in {
		for j := i; j <= len(in); j++ {
			f := serial.NewLines(8)
			if got := cut(f, in[:i], in[i:j], in[j:]); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("split at %d and %d: %q, want %q", i, j, got, want)
			}
			if f.Skipped() != whole.Skipped() || f.Resyncs() != whole.Resyncs() {
				t.Fatalf("split at %d and %d: skipped %d, resyncs %d; want %d, %d", i, j, f.Skipped(), f.Resyncs(), whole.Skipped(), whole.Resyncs())
			}
		}
	}
	if whole.Resyncs() != 3 {
		t.Errorf("%d resyncs, want 3", whole.Resyncs())
	}
}

// The lines are those of bytes.Split, and every byte is in a line, in a line's
// end, skipped, or unfinished.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\r\nb\n"), uint8(3), uint8(8))
	f.Add([]byte("\x00\xff\n\n\r\n"), uint8(1), uint8(1))
	f.Add([]byte("far too long\r\r\nx"), uint8(5), uint8(4))
	f.Fuzz(func(t *testing.T, in []byte, step, limit uint8) {
		maxFrame := int(limit)%64 + 1
		framer := serial.NewLines(maxFrame)
		var pieces [][]byte
		for rest := in; len(rest) > 0; {
			n := min(int(step)%17+1, len(rest))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		got := cut(framer, pieces...)

		var want []string
		parts := bytes.Split(in, []byte("\n"))
		for i, p := range parts {
			line := bytes.TrimSuffix(p, []byte("\r"))
			over := len(p) > maxFrame+1 || len(p) == maxFrame+1 && p[len(p)-1] != '\r'
			switch {
			case over:
				want = append(want, "!")
			case i < len(parts)-1 && len(line) > 0:
				want = append(want, "="+string(line))
			}
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}
