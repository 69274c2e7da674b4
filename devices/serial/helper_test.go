package serial_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"forebay/devices/serial"
	"forebay/spool/record"
)

// memory is a log that keeps records in memory. Each Put takes its turn at the
// gate; verdict says what becomes of a record.
type memory struct {
	mu      sync.Mutex
	recs    []record.Record
	puts    int
	gate    chan struct{} // if set, Put waits for a token or for the end of ctx
	commit  chan struct{} // if set, each commit waits for a token
	verdict func(record.Record) error
	refuse  error // of Put itself
	commits sync.WaitGroup
}

func (m *memory) Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	m.puts++
	refuse := m.refuse
	m.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	m.commits.Go(func() {
		if m.commit != nil {
			<-m.commit
		}
		m.mu.Lock()
		results := make([]record.Result, len(recs))
		for i, r := range recs {
			if m.verdict != nil {
				results[i].Err = m.verdict(r)
			}
			if results[i].Err == nil {
				m.recs = append(m.recs, r)
				results[i].Pos = record.Pos{Shard: 1, Seq: uint64(len(m.recs))}
			}
		}
		m.mu.Unlock()
		done(results)
	})
	return nil
}

func (m *memory) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *memory) data() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []string{}
	for _, r := range m.recs {
		out = append(out, string(r.Data))
	}
	return out
}

// sheds counts what a source reports as lost.
type sheds struct {
	mu sync.Mutex
	by map[string]uint64
}

func (s *sheds) add(n uint64, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[string]uint64{}
	}
	s.by[reason] += n
}

func (s *sheds) of(reason string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[reason]
}

// running is a source that a test has started; stop waits for its Run.
type running struct {
	*serial.Source
	shed *sheds
	stop func()
}

func start(t *testing.T, cfg serial.Config, in serial.Inlet, open func(serial.Params) (serial.Transport, error)) running {
	t.Helper()
	shed := &sheds{}
	s, err := serial.New(cfg, slog.New(slog.DiscardHandler), serial.Options{Open: open, Shed: shed.add})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, in) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Error("Run did not end")
			}
		})
	}
	t.Cleanup(stop)
	return running{s, shed, stop}
}

// eventually polls until ok, and fails the test after ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never came: %s", what)
		}
	}
}

func isUp(s running) func() bool {
	return func() bool { state, _ := s.Health(); return state == "up" }
}

// device is a transport without a kernel behind it, for tests in a bubble of
// synctest. Reads wait for bytes or, by the bubble's clock, for the timeout.
type device struct {
	mu      sync.Mutex
	unread  []byte
	came    chan struct{}
	reads   int
	quickly bool // silent reads return at once, as from a port that is gone
	answer  func(query string) string
	asked   []string
}

func newDevice() *device { return &device{came: make(chan struct{}, 1)} }

func (d *device) open(serial.Params) (serial.Transport, error) { return d, nil }

func (d *device) Read(p []byte) (int, error) {
	for range 2 {
		d.mu.Lock()
		d.reads++
		n := copy(p, d.unread)
		d.unread = d.unread[n:]
		quickly := d.quickly
		d.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		if quickly {
			return 0, io.EOF
		}
		select {
		case <-d.came:
		case <-time.After(serial.ReadTimeout):
			return 0, io.EOF
		}
	}
	return 0, io.EOF
}

func (d *device) Write(p []byte) (int, error) {
	d.mu.Lock()
	d.asked = append(d.asked, string(p))
	d.mu.Unlock()
	if d.answer != nil {
		d.send(d.answer(string(p)))
	}
	return len(p), nil
}

func (d *device) send(s string) {
	d.mu.Lock()
	d.unread = append(d.unread, s...)
	d.mu.Unlock()
	select {
	case d.came <- struct{}{}:
	default:
	}
}

func (d *device) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unread = nil
	return nil
}

func (d *device) Close() error { return nil }

func (d *device) queries() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.asked)
}
