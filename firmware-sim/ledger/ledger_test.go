package ledger_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/firmware-sim/ledger"
)

func readAll(t *testing.T, path string) []ledger.Event {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []ledger.Event
	if _, err := ledger.Read(f, func(e ledger.Event) error { all = append(all, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.jsonl")
	l, err := ledger.Open(path, 42)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := []ledger.Event{
		{Event: ledger.Ack, Kind: ledger.MQTT, Device: "d", Key: "a/b", Seq: 1, QoS: 2, Sum: ledger.Sum([]byte("x")), At: at},
		{Event: ledger.Fault, Kind: "ramp", Device: "d", Seconds: 20, By: 30, At: at},
		{Event: ledger.Ack, Kind: ledger.Camera, Device: "cam1", Name: "c-1.mp4", Bytes: 9, Sum: "aa", At: at},
	}
	if err := l.Write(want[0], want[1]); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(want[2]); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(want[0]); err == nil {
		t.Error("a closed ledger took an event")
	}
	got := readAll(t, path)
	if len(got) != 5 {
		t.Fatalf("%d events, want begin, 3, end", len(got))
	}
	if b := got[0]; b.Event != ledger.Begin || b.Seed != 42 || b.Run != l.Run() || len(b.Run) != 16 || b.Session != 0 {
		t.Errorf("begin: %+v", b)
	}
	for i, w := range want {
		if got[i+1] != w {
			t.Errorf("event %d: %+v, want %+v", i, got[i+1], w)
		}
	}
	if got[4].Event != ledger.End {
		t.Errorf("last: %+v", got[4])
	}
}

// TestTornTail cuts the file at every byte of its last line: what was whole
// stays, what was torn goes, and the next session's numbers start higher.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "l.jsonl")
	l, err := ledger.Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	for seq := l.FirstSeq(); seq < l.FirstSeq()+2; seq++ {
		if err := l.Write(ledger.Event{Event: ledger.Ack, Device: "d", Seq: seq}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := strings.LastIndex(strings.TrimSuffix(string(b), "\n"), "\n") + 1
	for cut := last; cut < len(b); cut++ {
		torn := filepath.Join(dir, "torn.jsonl")
		if err := os.WriteFile(torn, b[:cut], 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := ledger.Open(torn, 1)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if m.Run() != l.Run() {
			t.Fatalf("cut at %d: another run", cut)
		}
		if want := uint64(ledger.SessionSpan + 1); m.FirstSeq() != want {
			t.Fatalf("cut at %d: first seq %d, want %d", cut, m.FirstSeq(), want)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		got := readAll(t, torn)
		if len(got) != 4 || got[1].Seq != 1 || got[2].Event != ledger.Begin || got[3].Event != ledger.End {
			t.Fatalf("cut at %d: %+v", cut, got)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBadLines(t *testing.T) {
	begin := `{"e":"begin","run":"r","version":1,"at":"2026-01-01T00:00:00Z"}` + "\n"
	for name, c := range map[string]struct{ text, want string }{
		"in the middle": {begin + "{oops\n" + begin, "line 2"},
		"newer version": {`{"e":"begin","version":99}` + "\n", "newer"},
		"no header":     {`{"e":"ack"}` + "\n", "not a ledger"},
	} {
		path := filepath.Join(t.TempDir(), "l")
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ledger.Open(path, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != c.text {
			t.Errorf("%s: the file was changed: %q, %v", name, b, err)
		}
	}
}

func TestManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.jsonl")
	l, err := ledger.Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if err := l.Write(ledger.Event{Event: ledger.Ack, Seq: uint64(i)}, ledger.Event{Event: ledger.Ack}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := len(readAll(t, path)); got != 1602 {
		t.Errorf("%d events, want 1602", got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("{\"e\":\"begin\",\"version\":1}\n{\"e\":\"ack\"}\n")
	f.Add("{\"e\":")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		whole, err := ledger.Read(strings.NewReader(s), func(ledger.Event) error { return nil })
		if whole < 0 || whole > int64(len(s)) {
			t.Fatalf("%d of %d bytes, %v", whole, len(s), err)
		}
		if whole > 0 && s[whole-1] != '\n' {
			t.Fatalf("whole ends at %d, not at a line's end", whole)
		}
	})
}
