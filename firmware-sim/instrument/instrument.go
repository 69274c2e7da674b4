// Package instrument is the serial half of the simulated floor: instruments
// on pseudo-terminals. A scale answers a query and knows by the next query
// that its answer was taken; a line device talks by itself and never knows.
//
// Pseudo-terminals are made on Linux; elsewhere Run says that it cannot.
package instrument

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// Query is what a scale answers, with any line end.
const Query = "READ"

// ErrUnsupported is returned by Run where the system has no pseudo-terminals
// that this package can make.
var ErrUnsupported = errors.New("serial instruments are simulated on Linux only")

// Ledger is where an instrument writes down what was taken.
type Ledger interface {
	Write(events ...ledger.Event) error
	Run() string
	FirstSeq() uint64
}

// Config of an instrument.
type Config struct {
	Serial plant.Serial
	Dir    string // of the symlink that stays the same over replugging; its name is the instrument's id
	Seed   uint64
	Faults []signals.Fault
	Log    *slog.Logger // nil discards
}

// Stats is what an instrument did so far.
type Stats struct {
	Answers uint64 // lines written
	Acked   uint64 // of a scale: answers that were followed by the next query
	Plugs   uint64 // ports made
	HangUps uint64 // of a scale: sessions that were seen to end
}

// Instrument is a scale or a line device.
type Instrument struct {
	cfg  Config
	led  Ledger
	path string

	answers, acked, plugs, hangUps atomic.Uint64

	mu      sync.Mutex
	signal  *signals.Signal
	seq     uint64
	pending []byte // a scale's answer that was not taken yet
	given   bool   // pending was given in the session that is open now
	planned []signals.Fault
	unplug  func(time.Duration) // set while plugged
}

// New prepares an instrument.
func New(cfg Config, led Ledger) *Instrument {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Instrument{
		cfg: cfg, led: led, path: filepath.Join(cfg.Dir, cfg.Serial.ID), seq: led.FirstSeq() - 1,
		signal:  signals.New(cfg.Serial.Signal, cfg.Seed, cfg.Serial.ID),
		planned: cfg.Faults,
	}
}

// Path is the symlink that a gateway opens.
func (i *Instrument) Path() string { return i.path }

// Stats may be called at any time.
func (i *Instrument) Stats() Stats {
	return Stats{Answers: i.answers.Load(), Acked: i.acked.Load(), Plugs: i.plugs.Load(), HangUps: i.hangUps.Load()}
}

// errUnplugged ends a port on purpose.
type errUnplugged struct{ gap time.Duration }

func (e errUnplugged) Error() string { return fmt.Sprintf("unplugged for %v", e.gap) }

// Unplug pulls the plug for gap: the port is gone, and a new one comes behind
// the same symlink. It does nothing while the plug is out.
func (i *Instrument) Unplug(gap time.Duration) {
	i.mu.Lock()
	f := i.unplug
	i.mu.Unlock()
	if f != nil {
		f(gap)
	}
}

// Run keeps the instrument plugged until ctx ends.
func (i *Instrument) Run(ctx context.Context) error {
	for {
		err := i.plugged(ctx)
		var out errUnplugged
		switch {
		case ctx.Err() != nil:
			return errors.Join(i.leftover(), ignoreEnd(err))
		case !errors.As(err, &out):
			return err
		}
		e := ledger.Event{
			Event: ledger.Fault, Kind: signals.Unplug, Device: i.cfg.Serial.ID, Seconds: out.gap.Seconds(), At: time.Now(),
		}
		if err := i.led.Write(e); err != nil {
			return err
		}
		wait := time.NewTimer(out.gap)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}

// ignoreEnd drops the error by which a port ended because it was told to.
func ignoreEnd(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &errUnplugged{}) {
		return nil
	}
	return err
}

// plugged is one life of the port.
func (i *Instrument) plugged(ctx context.Context) error {
	scale := i.cfg.Serial.Kind == plant.Scale
	p, err := openPort(scale)
	if err != nil {
		return fmt.Errorf("serial %s: %w", i.cfg.Serial.ID, err)
	}
	ctx, pull := context.WithCancelCause(ctx)
	defer pull(nil)
	if err := relink(p.name(), i.path); err != nil {
		return errors.Join(fmt.Errorf("serial %s: %w", i.cfg.Serial.ID, err), p.close())
	}
	i.mu.Lock()
	i.given = false
	i.unplug = func(gap time.Duration) { pull(errUnplugged{gap}) }
	i.mu.Unlock()
	i.plugs.Add(1)
	var interrupted sync.WaitGroup
	interrupted.Add(1)
	keep := context.AfterFunc(ctx, func() { defer interrupted.Done(); p.interrupt() })
	if scale {
		err = i.scale(ctx, p)
	} else {
		err = i.line(ctx, p)
	}
	i.mu.Lock()
	i.unplug = nil
	i.mu.Unlock()
	if !keep() {
		interrupted.Wait() // it uses the port
	}
	err = errors.Join(err, os.Remove(i.path), p.close())
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// relink points the symlink at a device, at once for whoever looks.
func relink(device, path string) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(device, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// scale answers queries until ctx ends.
func (i *Instrument) scale(ctx context.Context, p *port) error {
	var in []byte
	buf := make([]byte, 256)
	for ctx.Err() == nil {
		n, ended, err := p.read(ctx, buf)
		if ended {
			i.hungUp()
			in = in[:0]
		}
		if err != nil {
			return err
		}
		in = append(in, buf[:n]...)
		for {
			line, rest, ok := bytes.Cut(in, []byte("\n"))
			if !ok {
				in = in[max(0, len(in)-len(buf)):] // noise without a line end is not kept for ever
				break
			}
			in = rest
			if string(bytes.TrimSpace(line)) != Query {
				continue
			}
			answer, events := i.query(time.Now())
			if err := i.led.Write(events...); err != nil {
				return err
			}
			if answer == nil {
				continue
			}
			if err := p.write(answer); err != nil {
				i.cfg.Log.Debug("answer not written", "device", i.cfg.Serial.ID, "error", err)
				continue
			}
			i.answers.Add(1)
		}
	}
	return nil
}

// query is a scale's whole bookkeeping: a query in the session in which the
// last answer was given says that the answer was taken.
func (i *Instrument) query(now time.Time) (answer []byte, events []ledger.Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pending != nil && i.given {
		events = append(events, i.event(ledger.Ack, i.pending, now))
		i.acked.Add(1)
		i.pending = nil
	}
	if i.pending == nil {
		var begun []ledger.Event
		i.pending, begun = i.measure(now)
		events = append(events, begun...)
	}
	if i.pending == nil {
		return nil, events // a dropout: the scale is silent
	}
	i.given = true
	return append(bytes.Clone(i.pending), '\r', '\n'), events
}

// hungUp says that the session ended: whether the last answer was taken is
// not known, so it will be given again.
func (i *Instrument) hungUp() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.given = false
	i.hangUps.Add(1)
}

func (i *Instrument) leftover() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pending == nil {
		return nil
	}
	e := i.event(ledger.Unacked, i.pending, time.Now())
	i.pending = nil
	return i.led.Write(e)
}

// line talks until ctx ends, to whoever has the port open.
func (i *Instrument) line(ctx context.Context, p *port) error {
	tick := time.NewTicker(time.Duration(i.cfg.Serial.Interval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		i.mu.Lock()
		text, events := i.measure(time.Now())
		i.mu.Unlock()
		open, err := p.isOpen()
		if err != nil {
			return err
		}
		if text != nil && open {
			if err := p.write(append(bytes.Clone(text), '\r', '\n')); err != nil {
				i.cfg.Log.Debug("line lost: nobody reads", "device", i.cfg.Serial.ID, "error", err)
			} else {
				i.answers.Add(1)
			}
			i.mu.Lock()
			events = append(events, i.event(ledger.Sent, text, time.Now()))
			i.mu.Unlock()
		}
		if len(events) > 0 {
			if err := i.led.Write(events...); err != nil {
				return err
			}
		}
	}
}

// measure reads the signal once; nil where a dropout swallowed the reading.
// i.mu is held.
func (i *Instrument) measure(now time.Time) (text []byte, events []ledger.Event) {
	kept := i.planned[:0:0]
	for _, f := range i.planned {
		switch {
		case f.At > i.signal.Elapsed():
			kept = append(kept, f)
		case f.Kind == signals.Unplug:
			i.unplug(f.For) // it is plugged, or it would not measure
		default:
			i.signal.Inject(f)
			events = append(events, ledger.Event{
				Event: ledger.Fault, Kind: f.Kind, Device: i.cfg.Serial.ID, Seconds: f.For.Seconds(), By: f.By, At: now,
			})
		}
	}
	i.planned = kept
	r := i.signal.Step(time.Duration(i.cfg.Serial.Interval))
	if r.Copies == 0 {
		return nil, events
	}
	i.seq++
	b := append([]byte(`{"device":"`), i.cfg.Serial.ID...)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, i.seq, 10)
	b = append(b, `,"value":`...)
	b = strconv.AppendFloat(b, r.Value, 'f', -1, 64)
	b = append(b, `,"unit":`...)
	b = strconv.AppendQuote(b, i.cfg.Serial.Unit)
	b = append(b, `,"run":"`...)
	b = append(b, i.led.Run()...)
	return append(b, `"}`...), events
}

// event is about the newest reading: an instrument has one at a time. i.mu is
// held.
func (i *Instrument) event(what string, text []byte, at time.Time) ledger.Event {
	return ledger.Event{
		Event: what, Kind: ledger.Serial, Device: i.cfg.Serial.ID, Key: i.cfg.Serial.ID, Seq: i.seq,
		Sum: ledger.Sum(text), At: at,
	}
}

// Inject starts a fault now; its At is not looked at.
func (i *Instrument) Inject(f signals.Fault) {
	if f.Kind == signals.Unplug {
		i.Unplug(f.For)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	f.At = 0
	i.planned = append(i.planned, f)
}
