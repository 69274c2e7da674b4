// Package factory runs the whole simulated floor: the MQTT fleet, the serial
// instruments and the cameras, with one ledger.
package factory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"forebay/firmware-sim/camera"
	"forebay/firmware-sim/fleet"
	"forebay/firmware-sim/instrument"
	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// Config of a factory.
type Config struct {
	Plant     *plant.Plant
	Devices   int    // MQTT devices; beyond the plant's table further copies of it
	MQTT      string // broker's address; "" leaves the fleet out
	Username  string // for the broker
	Password  string
	API       string // gateway's base URL, for cameras; "" leaves them out
	Token     string // for the API
	SerialDir string // where the ports' symlinks stand; "" leaves the instruments out
	Ledger    string // file
	Seed      uint64
	Rate      float64 // readings per second of every point; 0 is the plant's own
	QoS       string  // 0, 1, 2 of every device, or mix: the plant's own
	Faults    []signals.Fault
	Grace     time.Duration // at the end, for what is under way; 0 is 5 s
	Log       *slog.Logger  // nil discards
}

// Stats is what the factory did so far.
type Stats struct {
	Fleet     fleet.Stats
	Serial    uint64 // lines given
	SerialAck uint64
	Chunks    uint64 // pushes of all cameras that were acknowledged
}

// Factory is a floor that can be run once.
type Factory struct {
	cfg         Config
	led         *ledger.Ledger
	fleet       *fleet.Fleet
	instruments []*instrument.Instrument

	mu     sync.Mutex
	chunks uint64
	failed error // the ledger's error, met by a camera
}

// New prepares a factory and opens its ledger; Run closes it.
func New(cfg Config) (*Factory, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	led, err := ledger.Open(cfg.Ledger, cfg.Seed)
	if err != nil {
		return nil, err
	}
	f := &Factory{cfg: cfg, led: led}
	if err := f.build(); err != nil {
		return nil, errors.Join(err, led.Close())
	}
	return f, nil
}

func (f *Factory) build() error {
	qos, err := parseQoS(f.cfg.QoS)
	if err != nil {
		return err
	}
	onSerial := map[string][]signals.Fault{}
	var onFleet []signals.Fault
	for _, fault := range f.cfg.Faults {
		if id, ok := f.serialOf(fault); ok {
			onSerial[id] = append(onSerial[id], fault)
		} else {
			onFleet = append(onFleet, fault)
		}
	}
	if f.cfg.SerialDir != "" && len(f.cfg.Plant.Serial) > 0 {
		if err := os.MkdirAll(f.cfg.SerialDir, 0o755); err != nil {
			return fmt.Errorf("directory of the serial ports: %w", err)
		}
		for _, s := range f.cfg.Plant.Serial {
			f.instruments = append(f.instruments, instrument.New(instrument.Config{
				Serial: s, Dir: f.cfg.SerialDir, Seed: f.cfg.Seed, Faults: onSerial[s.ID], Log: f.cfg.Log,
			}, f.led))
		}
	}
	devices := f.cfg.Plant.Fleet(f.cfg.Devices)
	if f.cfg.MQTT == "" {
		devices = nil
	}
	f.fleet, err = fleet.New(fleet.Config{
		Dial: fleet.TCP(f.cfg.MQTT), Username: f.cfg.Username, Password: f.cfg.Password, Seed: f.cfg.Seed,
		Rate: f.cfg.Rate, QoS: qos, Faults: onFleet, Grace: f.cfg.Grace, Log: f.cfg.Log,
	}, devices, f.led)
	return err
}

// serialOf says whether a fault is meant for a serial instrument.
func (f *Factory) serialOf(fault signals.Fault) (string, bool) {
	id, _, _ := strings.Cut(fault.Point, "/")
	for _, s := range f.cfg.Plant.Serial {
		if s.ID == id {
			return id, true
		}
	}
	return "", false
}

func parseQoS(s string) (*byte, error) {
	switch s {
	case "", "mix":
		return nil, nil
	case "0", "1", "2":
		q := s[0] - '0'
		return &q, nil
	}
	return nil, fmt.Errorf("qos: %q is not 0, 1, 2 or mix", s)
}

// Inject starts a fault now.
func (f *Factory) Inject(fault signals.Fault) error {
	id, ok := f.serialOf(fault)
	if !ok {
		return f.fleet.Inject(fault)
	}
	for _, i := range f.instruments {
		if i.Path() == f.cfg.SerialDir+string(os.PathSeparator)+id {
			i.Inject(fault)
			return nil
		}
	}
	return fmt.Errorf("fault %s: %s is not simulated in this run", fault.Kind, id)
}

// Stats may be called at any time.
func (f *Factory) Stats() Stats {
	s := Stats{Fleet: f.fleet.Stats()}
	for _, i := range f.instruments {
		st := i.Stats()
		s.Serial += st.Answers
		s.SerialAck += st.Acked
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Chunks = f.chunks
	return s
}

// Run runs everything until ctx ends, lets what is under way come to its end,
// and closes the ledger. The first part that fails ends the others.
func (f *Factory) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	part := func(run func(context.Context) error) {
		wg.Go(func() {
			err := run(ctx)
			if errors.Is(err, instrument.ErrUnsupported) {
				f.cfg.Log.Warn("no serial instruments on this system", "reason", err)
				return
			}
			if err != nil {
				mu.Lock()
				failed = errors.Join(failed, err)
				mu.Unlock()
				cancel()
			}
		})
	}
	part(f.fleet.Run)
	for _, i := range f.instruments {
		part(i.Run)
	}
	if f.cfg.API != "" {
		for n, c := range f.cfg.Plant.Cameras {
			part(func(ctx context.Context) error {
				return camera.Run(ctx, camera.Config{
					ID: c.ID, Endpoint: f.cfg.API, Token: f.cfg.Token, Seed: int64(f.cfg.Seed) + int64(n), Grace: f.cfg.Grace,
					Ledger: func(e camera.Event) { f.push(e, cancel) },
				})
			})
		}
	}
	wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(failed, f.failed, f.led.Close())
}

// push writes down what became of a camera's push.
func (f *Factory) push(e camera.Event, cancel func()) {
	out := ledger.Event{
		Event: ledger.Ack, Kind: ledger.Camera, Device: e.Camera, Key: e.Camera, Seq: e.Seq,
		Name: e.Name, Bytes: int64(e.Bytes), Sum: e.SHA256, At: e.At,
	}
	switch {
	case e.Kind == camera.Acked:
	case e.Tries > 0: // it may be there all the same
		out.Event = ledger.Unacked
	default:
		out = ledger.Event{Event: ledger.Dropped, Kind: ledger.Camera, Device: e.Camera, Count: 1, At: e.At}
	}
	if e.Kind != camera.Acked {
		f.cfg.Log.Warn("camera push dropped", "camera", e.Camera, "name", e.Name, "reason", e.Reason, "tries", e.Tries)
	}
	err := f.led.Write(out)
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.Kind == camera.Acked {
		f.chunks++
	}
	if err != nil && f.failed == nil {
		f.failed = err
		cancel()
	}
}
