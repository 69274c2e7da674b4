package serial_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"

	"forebay/devices/serial"
)

// A cable is a symbolic link to the line side of a pty, as udev makes one to a
// USB adapter; pulled and plugged, the same link leads to another pty.
type cable struct {
	t      *testing.T
	link   string
	master *os.File
	line   *os.File // kept open, so that a test can write before the source reads
}

func newCable(t *testing.T) *cable {
	c := &cable{t: t, link: filepath.Join(t.TempDir(), "usb-scale")}
	c.plug()
	t.Cleanup(c.pull)
	return c
}

func (c *cable) plug() {
	c.t.Helper()
	master, line, err := pty.Open()
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := term.MakeRaw(int(line.Fd())); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Symlink(line.Name(), c.link); err != nil {
		c.t.Fatal(err)
	}
	c.master, c.line = master, line
}

func (c *cable) pull() {
	if c.master == nil {
		return
	}
	if err := os.Remove(c.link); err != nil && !os.IsNotExist(err) {
		c.t.Error(err)
	}
	c.line.Close()
	c.master.Close()
	c.master = nil
}

func (c *cable) send(s string) {
	c.t.Helper()
	if _, err := c.master.WriteString(s); err != nil {
		c.t.Fatal(err)
	}
}

func TestPtyLinesByteForByte(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	m := &memory{}
	s := start(t, serial.Config{ID: "scale", Port: c.link}, m, nil)
	eventually(t, "up", isUp(s))
	all := make([]byte, 0, 256)
	for b := range 256 {
		if b != '\n' && b != '\r' {
			all = append(all, byte(b))
		}
	}
	c.send("first\r\nsecond\n\x00\xff\xfe\r\n" + string(all) + "\nla")
	c.send("st\r\n")
	eventually(t, "five lines", func() bool { return len(m.data()) == 5 })
	want := []string{"first", "second", "\x00\xff\xfe", string(all), "last"}
	if got := m.data(); !reflect.DeepEqual(got, want) {
		t.Errorf("stored %q, want %q", got, want)
	}
	if r := m.recs[0]; r.Key != "scale" || r.Arrived.IsZero() || !r.At.IsZero() {
		t.Errorf("record is %+v", r)
	}
	if s.ID() != "scale" || s.Kind() != "serial" || s.Stream() != "serial" || s.Errors() != 0 {
		t.Errorf("source is %s, %s, %s, %d errors", s.ID(), s.Kind(), s.Stream(), s.Errors())
	}
}

func TestPtyOversize(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	m := &memory{}
	s := start(t, serial.Config{ID: "scale", Port: c.link, MaxFrame: 100}, m, nil)
	eventually(t, "up", isUp(s))
	c.send("before\n" + strings.Repeat("x", 3000) + "\r\nafter\n")
	eventually(t, "two lines", func() bool { return len(m.data()) == 2 })
	if got := m.data(); !reflect.DeepEqual(got, []string{"before", "after"}) {
		t.Errorf("stored %q", got)
	}
	st := s.Stats()
	if st.Oversize != 1 || st.Resyncs != 1 || st.Skipped < 3000 || s.shed.of(serial.ReasonOversize) != 1 {
		t.Errorf("counts are %+v, shed %v", st, s.shed.by)
	}
}

func TestPtyUnplugAndReplug(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	m := &memory{}
	s := start(t, serial.Config{ID: "scale", Port: c.link}, m, nil)
	eventually(t, "up", isUp(s))
	c.send("one\nhal")
	eventually(t, "first line and the rest", func() bool { return len(m.data()) == 1 && s.Stats().Bytes == 7 })
	c.pull()
	eventually(t, "down", func() bool { state, _ := s.Health(); return state == "down" })
	if s.Stats().Partials != 1 || s.shed.of(serial.ReasonUnplugged) != 1 {
		t.Errorf("counts are %+v, shed %v", s.Stats(), s.shed.by)
	}
	c.plug()
	eventually(t, "up again", isUp(s))
	c.send("two\n")
	eventually(t, "second line", func() bool { return len(m.data()) == 2 })
	if got := m.data(); got[1] != "two" {
		t.Errorf("stored %q", got)
	}
}

// counting counts the reads of a port.
type counting struct {
	serial.Transport
	reads *atomic.Int64
}

func (c counting) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Transport.Read(p)
}

// A pulled port answers each read at once with EOF, for ever; three are enough
// to know.
func TestPtyNoSpinAfterUnplug(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	var reads atomic.Int64
	s := start(t, serial.Config{ID: "scale", Port: c.link}, &memory{}, func(p serial.Params) (serial.Transport, error) {
		tr, err := serial.OpenTarm(p)
		if err != nil {
			return nil, err
		}
		return counting{tr, &reads}, nil
	})
	eventually(t, "up", isUp(s))
	before := reads.Load()
	c.pull()
	eventually(t, "down", func() bool { state, _ := s.Health(); return state == "down" })
	s.stop()
	// Reads that timed out while the cable was being pulled count too, ten a
	// second; a spin makes half a million.
	if n := reads.Load() - before; n > 100 {
		t.Errorf("%d reads after the unplug", n)
	}
	if u := s.Stats().Unplugs; u != 1 {
		t.Errorf("%d unplugs", u)
	}
}

func TestPtyPoll(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	// The device: answers each "READ\r\n" and nothing else.
	answered := make(chan int, 1)
	go func(master *os.File) {
		buf := make([]byte, 256)
		var seen string
		n := 0
		for {
			k, err := master.Read(buf)
			if err != nil {
				answered <- n
				return
			}
			seen += string(buf[:k])
			for strings.HasPrefix(seen, "READ\r\n") {
				seen = seen[6:]
				n++
				fmt.Fprintf(master, "%d\r\n", n)
			}
		}
	}(c.master)
	m := &memory{}
	s := start(t, serial.Config{ID: "scale", Port: c.link, Query: "READ\r\n", Interval: 1e6}, m, nil)
	eventually(t, "20 answers", func() bool { return len(m.data()) >= 20 })
	s.stop()
	c.pull()
	for i, d := range m.data() {
		if d != fmt.Sprint(i+1) {
			t.Fatalf("answer %d is %q", i+1, d)
		}
	}
	if n := <-answered; n < len(m.data()) || n > len(m.data())+1 {
		t.Errorf("device answered %d times, %d stored", n, len(m.data()))
	}
}

func TestPtyIsExclusive(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	first := start(t, serial.Config{ID: "first", Port: c.link}, &memory{}, nil)
	eventually(t, "up", isUp(first))
	m := &memory{}
	second := start(t, serial.Config{ID: "second", Port: c.link}, m, nil)
	eventually(t, "second is told that the port is in use", func() bool {
		state, reason := second.Health()
		return state == "down" && strings.Contains(reason, serial.ErrInUse.Error())
	})
	first.stop()
	eventually(t, "up", isUp(second))
	c.send("mine\n")
	eventually(t, "a line", func() bool { return len(m.data()) == 1 })
}

// Fifty times pulled and plugged, nothing is left behind. Not parallel: it
// counts the process's descriptors.
func TestPtyReplugLeaksNothing(t *testing.T) {
	c := newCable(t)
	m := &memory{}
	s := start(t, serial.Config{ID: "scale", Port: c.link}, m, nil)
	eventually(t, "up", isUp(s))
	fds, routines := openFiles(t), runtime.NumGoroutine()
	for i := range 50 {
		c.pull()
		c.plug()
		eventually(t, "port is open again", func() bool { return s.Stats().Opens == uint64(i)+2 })
		c.send(fmt.Sprintf("%d\n", i))
		eventually(t, "a line", func() bool { return len(m.data()) == i+1 })
	}
	m.commits.Wait()
	eventually(t, "goroutines are as before", func() bool { return runtime.NumGoroutine() <= routines })
	eventually(t, "descriptors are as before", func() bool { return openFiles(t) <= fds })
	if s.Stats().Unplugs != 50 {
		t.Errorf("%d unplugs", s.Stats().Unplugs)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
