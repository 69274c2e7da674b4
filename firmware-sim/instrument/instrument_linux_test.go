package instrument_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forebay/firmware-sim/instrument"
	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// book is a ledger in memory.
type book struct {
	mu     sync.Mutex
	events []ledger.Event
}

func (b *book) Run() string      { return "run" }
func (b *book) FirstSeq() uint64 { return 1 }

func (b *book) Write(e ...ledger.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e...)
	return nil
}

func (b *book) seqs(what string) []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []uint64
	for _, e := range b.events {
		if e.Event == what {
			out = append(out, e.Seq)
		}
	}
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
		runtime.Gosched()
	}
}

// start runs an instrument until the test ends, and checks that nothing of it
// is left.
func start(t *testing.T, kind string, faults ...signals.Fault) (*instrument.Instrument, *book, func()) {
	t.Helper()
	before, led := runtime.NumGoroutine(), &book{}
	i := instrument.New(instrument.Config{
		Serial: plant.Serial{
			ID: "scale1", Kind: kind, Unit: "kg", Interval: plant.Interval(time.Millisecond),
			Signal: signals.Spec{Model: signals.Flow, Base: 800, Swing: 5, Noise: 1},
		},
		Dir: t.TempDir(), Seed: 1, Faults: faults,
	}, led)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			eventually(t, "every goroutine ends", func() bool { return runtime.NumGoroutine() <= before })
			if _, err := os.Lstat(i.Path()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the symlink is still there: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	eventually(t, "the port is there", func() bool { return i.Stats().Plugs == 1 })
	return i, led, stop
}

// gateway is the other end of the line.
type gateway struct {
	t *testing.T
	f *os.File
	r *bufio.Reader
}

func open(t *testing.T, path string) *gateway {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	t.Cleanup(func() { _ = f.Close() })
	if err := f.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &gateway{t: t, f: f, r: bufio.NewReader(f)}
}

type reading struct {
	Device string
	Seq    uint64
	Value  float64
	Unit   string
	Run    string
}

func (g *gateway) line() reading {
	g.t.Helper()
	s, err := g.r.ReadString('\n')
	if err != nil {
		g.t.Fatal(err)
	}
	var r reading
	if err := json.Unmarshal([]byte(s), &r); err != nil || r.Unit != "kg" || r.Device != "scale1" || r.Run != "run" {
		g.t.Fatalf("line %q: %+v, %v", s, r, err)
	}
	if !strings.HasSuffix(s, "\r\n") {
		g.t.Errorf("line %q does not end in CR LF", s)
	}
	return r
}

func (g *gateway) send(s string) {
	g.t.Helper()
	if _, err := io.WriteString(g.f, s); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) ask() reading {
	g.t.Helper()
	g.send("READ\r\n")
	return g.line()
}

func (g *gateway) close() {
	g.t.Helper()
	if err := g.f.Close(); err != nil {
		g.t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got []uint64, want ...uint64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
}

func TestScaleCountsByTheNextQuery(t *testing.T) {
	i, led, stop := start(t, plant.Scale)
	g := open(t, i.Path())
	if r := g.ask(); r.Seq != 1 || r.Value < 700 {
		t.Fatalf("%+v", r)
	}
	equal(t, "acknowledged by the first query", led.seqs(ledger.Ack))
	if r := g.ask(); r.Seq != 2 {
		t.Fatalf("%+v", r)
	}
	equal(t, "acknowledged by the second query", led.seqs(ledger.Ack), 1)
	g.send("noise\r\nREA")
	g.send("D\n")
	if r := g.line(); r.Seq != 3 {
		t.Fatalf("%+v", r)
	}
	equal(t, "acknowledged by the third query", led.seqs(ledger.Ack), 1, 2)
	g.close()
	stop()
	equal(t, "acknowledged at the end", led.seqs(ledger.Ack), 1, 2)
	equal(t, "left at the end", led.seqs(ledger.Unacked), 3)
}

// TestScaleRepeatsAfterAHangUp: an answer after which the line was closed never
// counts and comes again, whether it was read or not.
func TestScaleRepeatsAfterAHangUp(t *testing.T) {
	i, led, _ := start(t, plant.Scale)
	taken := uint64(0)
	for round := range uint64(30) {
		g := open(t, i.Path())
		switch round % 3 {
		case 0: // killed before it read the answer
			g.send("READ\r\n")
			eventually(t, "it is answered", func() bool { return i.Stats().Answers > 4*taken })
		case 1: // killed before the next query
			if r := g.ask(); r.Seq != taken+1 {
				t.Fatalf("round %d: seq %d after %d were taken", round, r.Seq, taken)
			}
		case 2:
			if a, b := g.ask(), g.ask(); a.Seq != taken+1 || b.Seq != taken+2 {
				t.Fatalf("round %d: seq %d, %d after %d were taken", round, a.Seq, b.Seq, taken)
			}
			taken++
		}
		g.close()
		eventually(t, "the hang-up is seen", func() bool { return i.Stats().HangUps == round+1 })
	}
	acked := led.seqs(ledger.Ack)
	if uint64(len(acked)) != taken || taken != 10 {
		t.Fatalf("%d acknowledged, %d taken", len(acked), taken)
	}
	for n, s := range acked {
		if s != uint64(n+1) {
			t.Fatalf("acknowledged %v", acked)
		}
	}
}

// TestNothingCountsThatWasNotRead opens again at once, before the scale can
// have seen the close: whatever is lost on the line, nothing may count as
// acknowledged that no session has read.
func TestNothingCountsThatWasNotRead(t *testing.T) {
	i, led, _ := start(t, plant.Scale)
	read := map[uint64]bool{}
	for round := 0; round < 100 || len(led.seqs(ledger.Ack)) < 10; round++ {
		g := open(t, i.Path())
		for range round % 5 {
			g.send("READ\r\n")
			if err := g.f.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			s, err := g.r.ReadString('\n')
			if err != nil {
				break // the query was lost with the session before
			}
			var r reading
			if err := json.Unmarshal([]byte(s), &r); err != nil {
				t.Fatalf("line %q: %v", s, err)
			}
			read[r.Seq] = true
		}
		if round%2 == 0 {
			g.send("READ\r\n") // and is killed before it reads
		}
		g.close()
		for _, s := range led.seqs(ledger.Ack) {
			if !read[s] {
				t.Fatalf("round %d: %d counts as acknowledged and was never read", round, s)
			}
		}
	}
}

func TestUnplug(t *testing.T) {
	i, led, _ := start(t, plant.Scale)
	g := open(t, i.Path())
	g.ask()
	g.ask()
	before, err := os.Readlink(i.Path())
	if err != nil {
		t.Fatal(err)
	}
	i.Unplug(time.Millisecond)
	if _, err := g.r.ReadString('\n'); err == nil {
		t.Error("the line goes on although the plug is out")
	}
	eventually(t, "it is plugged again", func() bool { return i.Stats().Plugs == 2 })
	after, err := os.Readlink(i.Path())
	if err != nil {
		t.Fatal(err)
	}
	if before == after {
		t.Errorf("the same device %s behind the symlink: it was held open", after)
	}
	g.close()
	if r := open(t, i.Path()).ask(); r.Seq != 2 {
		t.Errorf("seq %d after the plug was out, want 2 again", r.Seq)
	}
	equal(t, "acknowledged", led.seqs(ledger.Ack), 1)
	if n := len(led.seqs(ledger.Fault)); n != 1 {
		t.Errorf("%d faults in the ledger", n)
	}
}

func TestPlannedUnplugAndDropout(t *testing.T) {
	i, led, _ := start(t, plant.Scale,
		signals.Fault{Kind: signals.Unplug, At: 2 * time.Millisecond, For: time.Millisecond})
	g := open(t, i.Path())
	for err := error(nil); err == nil; { // until the plug is pulled
		if _, err = io.WriteString(g.f, "READ\r\n"); err == nil {
			_, err = g.r.ReadString('\n')
		}
	}
	eventually(t, "it is plugged again", func() bool { return i.Stats().Plugs == 2 })
	i.Inject(signals.Fault{Kind: signals.Dropout, For: 3 * time.Millisecond})
	g = open(t, i.Path())
	g.ask()
	g.send("READ\r\nREAD\r\nREAD\r\nREAD\r\nREAD\r\n") // some of them fall into the dropout
	if r := g.line(); r.Seq < 3 {
		t.Errorf("seq %d", r.Seq)
	}
	if n := len(led.seqs(ledger.Fault)); n != 2 {
		t.Errorf("%d faults in the ledger", n)
	}
}

func TestLineDeviceTalksToWhoListens(t *testing.T) {
	i, led, stop := start(t, plant.Line)
	g := open(t, i.Path())
	first := g.line()
	for n := uint64(1); n < 20; n++ {
		if r := g.line(); r.Seq != first.Seq+n {
			t.Fatalf("seq %d after %d", r.Seq, first.Seq+n-1)
		}
	}
	g.close()
	stop()
	sent := led.seqs(ledger.Sent)
	if len(sent) < 20 || sent[0] != first.Seq || uint64(len(sent)) != i.Stats().Answers {
		t.Errorf("%d in the ledger from %d, %d written; the first read was %d", len(sent), sent[0], i.Stats().Answers, first.Seq)
	}
	if n := len(led.seqs(ledger.Ack)); n != 0 {
		t.Errorf("%d acknowledged on a line that knows none", n)
	}
}

func TestNoPlaceForTheSymlink(t *testing.T) {
	i := instrument.New(instrument.Config{
		Serial: plant.Serial{ID: "s", Kind: plant.Scale, Interval: plant.Interval(time.Second)},
		Dir:    filepath.Join(t.TempDir(), "none"),
	}, &book{})
	if err := i.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
