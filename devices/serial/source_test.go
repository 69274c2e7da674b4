package serial_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/devices/serial"
	"forebay/gateway/conf"
	"forebay/spool/record"
)

func TestPollAsksAgainOnlyAfterTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		n := 0
		d.answer = func(string) string { n++; return fmt.Sprintf("+%d.0 kg\r\n", n) }
		m := &memory{commit: make(chan struct{})}
		s := start(t, serial.Config{ID: "scale", Port: "p", Query: `SI\r\n`, Key: "line3/scale"}, m, d.open)

		time.Sleep(time.Hour) // of the bubble's clock
		if got := d.queries(); got != 1 {
			t.Fatalf("%d queries while the first answer was not on disk, want 1", got)
		}
		for range 5 {
			m.commit <- struct{}{}
			time.Sleep(5 * time.Second)
		}
		if got := d.queries(); got != 6 {
			t.Errorf("%d queries after 5 commits, want 6", got)
		}
		close(m.commit)
		s.stop()
		m.commits.Wait()
		if d.asked[0] != "SI\r\n" {
			t.Errorf("device was asked %q", d.asked[0])
		}
		if got := strings.Join(m.data()[:5], "|"); got != "+1.0 kg|+2.0 kg|+3.0 kg|+4.0 kg|+5.0 kg" {
			t.Errorf("stored %q", got)
		}
		if m.recs[0].Key != "line3/scale" {
			t.Errorf("key is %q", m.recs[0].Key)
		}
	})
}

func TestPollKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		d.answer = func(string) string { return "x\n" }
		m := &memory{}
		s := start(t, serial.Config{ID: "scale", Port: "p", Query: `\x05`, Interval: conf.Duration(250 * time.Millisecond)}, m, d.open)
		time.Sleep(10*time.Second + 100*time.Millisecond)
		s.stop()
		if got := d.queries(); got != 41 {
			t.Errorf("%d queries in 10.1 s at 0.25 s, want 41", got)
		}
		if d.asked[0] != "\x05" {
			t.Errorf("device was asked %q", d.asked[0])
		}
		if got := len(m.data()); got != 41 {
			t.Errorf("%d answers stored", got)
		}
	})
}

func TestPollRetriesAnAnswerThatWasNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		n := 0
		d.answer = func(string) string { n++; return fmt.Sprintf("%d\n", n) }
		m := &memory{verdict: func(record.Record) error { return record.ErrFull }}
		s := start(t, serial.Config{ID: "scale", Port: "p", Query: "?"}, m, d.open)
		time.Sleep(10 * time.Minute)
		if state, reason := s.Health(); state != "degraded" || !strings.Contains(reason, "full") {
			t.Errorf("health is %s, %q", state, reason)
		}
		if d.queries() != 1 || m.puts < 10 {
			t.Errorf("%d queries and %d tries, want 1 and many", d.queries(), m.puts)
		}
		m.set(func() { m.verdict = nil })
		time.Sleep(time.Minute)
		if state, _ := s.Health(); state != "up" {
			t.Errorf("health is %s", state)
		}
		s.stop()
		for i, got := range m.data() {
			if got != fmt.Sprint(i+1) {
				t.Fatalf("answer %d is %q", i+1, got)
			}
		}
		if s.Errors() != 0 || len(m.data()) < 20 {
			t.Errorf("%d errors, %d answers", s.Errors(), len(m.data()))
		}
	})
}

func TestPollCountsWhatIsNotAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		replies := []string{"", "half", "one\ntwo\nthree\n", strings.Repeat("x", 50) + "\n", "last\n"}
		d.answer = func(string) string {
			r := ""
			if len(replies) > 0 {
				r, replies = replies[0], replies[1:]
			}
			return r
		}
		m := &memory{}
		s := start(t, serial.Config{ID: "scale", Port: "p", Query: "?", MaxFrame: 20, Interval: conf.Duration(5 * time.Second)}, m, d.open)
		time.Sleep(7 * time.Second)
		if state, reason := s.Health(); state != "degraded" || !strings.Contains(reason, "last 2 queries") {
			t.Errorf("health is %s, %q", state, reason)
		}
		time.Sleep(15 * time.Second)
		s.stop()
		if got := strings.Join(m.data(), "|"); got != "one|two|three|last" {
			t.Errorf("stored %q", got)
		}
		st := s.Stats()
		if st.NoAnswers != 2 || st.Partials != 1 || st.Unasked != 2 || st.Oversize != 1 || s.Errors() != 4 {
			t.Errorf("counts are %+v", st)
		}
		if s.shed.of(serial.ReasonNoAnswer) != 1 || s.shed.of(serial.ReasonOversize) != 1 {
			t.Errorf("shed %v", s.shed.by)
		}
	})
}

// An answer that comes after its time is kept, and is on disk before the
// device is asked again.
func TestPollKeepsALateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		n := 0
		d.answer = func(string) string {
			if n++; n == 1 {
				time.AfterFunc(1500*time.Millisecond, func() { d.send("late\n") })
				return ""
			}
			return fmt.Sprintf("answer %d\n", n)
		}
		m := &memory{}
		s := start(t, serial.Config{ID: "scale", Port: "p", Query: "?", Interval: conf.Duration(2 * time.Second)}, m, d.open)
		time.Sleep(3 * time.Second)
		s.stop()
		if got := strings.Join(m.data(), "|"); got != "late|answer 2" {
			t.Errorf("stored %q", got)
		}
		if st := s.Stats(); st.Unasked != 1 || st.NoAnswers != 1 {
			t.Errorf("counts are %+v", st)
		}
	})
}

// A port that answers every read at once with nothing, but is there, must not
// keep the processor busy.
func TestNoSpinOnQuickReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		d.quickly = true
		s := start(t, serial.Config{ID: "scale", Port: "p"}, &memory{}, d.open)
		time.Sleep(10 * time.Second)
		s.stop()
		if d.reads > 310 {
			t.Errorf("%d reads in 10 s, want at most 3 each 100 ms", d.reads)
		}
	})
}

// The log takes nothing: the oldest lines go, are counted and reported; what
// stays is stored in order when the log is back.
func TestHoldBackDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m := &memory{gate: make(chan struct{})}
		s := start(t, serial.Config{ID: "scale", Port: "p", MaxFrame: 100, Buffer: 1000}, m, d.open)
		for i := range 500 {
			d.send(fmt.Sprintf("%06d\n", i))
			time.Sleep(10 * time.Millisecond)
		}
		close(m.gate)
		time.Sleep(time.Second)
		d.send("000500\n")
		s.stop()
		got := m.data()
		lost := s.shed.of(serial.ReasonHeldBack)
		if uint64(len(got))+lost != 501 || lost < 480 || s.Stats().HeldBack != lost || s.Errors() != lost {
			t.Errorf("stored %d, shed %d, counted %d", len(got), lost, s.Stats().HeldBack)
		}
		for i := 1; i < len(got); i++ {
			if got[i] <= got[i-1] {
				t.Errorf("%q came after %q", got[i], got[i-1])
			}
		}
		if got[len(got)-1] != "000500" {
			t.Errorf("last is %q", got[len(got)-1])
		}
	})
}

// A commit that fails loses nothing as long as the buffer lasts.
func TestFailedCommitIsTriedAgain(t *testing.T) {
	for _, where := range []string{"commit", "put"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice()
				m := &memory{}
				m.set(func() {
					if where == "put" {
						m.refuse = record.ErrReadOnly
					} else {
						m.verdict = func(record.Record) error { return record.ErrCannotStore }
					}
				})
				s := start(t, serial.Config{ID: "scale", Port: "p"}, m, d.open)
				for i := range 100 {
					d.send(fmt.Sprintf("%03d\n", i))
					time.Sleep(time.Second)
				}
				if state, _ := s.Health(); state != "degraded" {
					t.Errorf("health is %s", state)
				}
				m.set(func() { m.refuse, m.verdict = nil, nil })
				time.Sleep(time.Minute)
				s.stop()
				got := m.data()
				for i := range got {
					if got[i] != fmt.Sprintf("%03d", i) {
						t.Fatalf("line %d is %q", i, got[i])
					}
				}
				if len(got) != 100 || s.Errors() != 0 {
					t.Errorf("%d lines stored, %d errors", len(got), s.Errors())
				}
			})
		})
	}
}

func TestRefusedLineDoesNotBlockTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m := &memory{verdict: func(r record.Record) error {
			if string(r.Data) == "bad" {
				return &record.InvalidError{Field: "data", Reason: "is bad"}
			}
			return nil
		}}
		s := start(t, serial.Config{ID: "scale", Port: "p"}, m, d.open)
		d.send("a\nbad\nb\n")
		time.Sleep(time.Second)
		s.stop()
		if got := m.data(); !reflect.DeepEqual(got, []string{"a", "b"}) {
			t.Errorf("stored %q", got)
		}
		if s.shed.of(serial.ReasonRefused) != 1 || s.Stats().Refused != 1 {
			t.Errorf("shed %v", s.shed.by)
		}
	})
}

// What was read before the stop is stored, and what cannot be is counted.
func TestStop(t *testing.T) {
	for _, dead := range []bool{false, true} {
		t.Run(fmt.Sprintf("dead log %v", dead), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice()
				m := &memory{verdict: func(record.Record) error { return record.ErrFull }}
				s := start(t, serial.Config{ID: "scale", Port: "p"}, m, d.open)
				d.send("a\nb\nc\nhalf")
				time.Sleep(time.Minute)
				if !dead {
					m.set(func() { m.verdict = nil })
				}
				s.stop()
				if s.shed.of(serial.ReasonStopped) != s.Stats().Partials+s.Stats().Unstored || s.Stats().Partials != 1 {
					t.Errorf("shed %v, counted %+v", s.shed.by, s.Stats())
				}
				if got := uint64(len(m.data())) + s.Stats().Unstored; got != 3 {
					t.Errorf("stored %d and lost %d of 3", len(m.data()), s.Stats().Unstored)
				}
				if !dead && len(m.data()) != 3 {
					t.Errorf("stored %q", m.data())
				}
			})
		})
	}
}

// However many batches wait, a log that takes nothing holds a stop up once, for
// two seconds.
func TestStopIsNotLongerForManyLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m := &memory{gate: make(chan struct{})} // never opened
		s := start(t, serial.Config{ID: "scale", Port: "p"}, m, d.open)
		d.send(strings.Repeat("1.0\n", 2000))
		time.Sleep(time.Minute)
		began := time.Now()
		s.stop()
		if took := time.Since(began); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("the stop took %v", took)
		}
		if n := s.Stats().Unstored; n != 2000 || s.shed.of(serial.ReasonStopped) != n {
			t.Errorf("%d lines lost, shed %v; want 2000", n, s.shed.by)
		}
	})
}

func TestMissingPortIsDownAndTriedEachTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		s := start(t, serial.Config{ID: "scale", Port: "/dev/nowhere"}, &memory{}, func(serial.Params) (serial.Transport, error) {
			tries++
			return nil, errors.New("no such device")
		})
		time.Sleep(time.Minute)
		state, reason := s.Health()
		s.stop()
		if state != "down" || !strings.Contains(reason, "no such device") {
			t.Errorf("health is %s, %q", state, reason)
		}
		if tries < 30 || tries > 66 {
			t.Errorf("%d tries in a minute, want one each 1 to 2 s", tries)
		}
	})
}
