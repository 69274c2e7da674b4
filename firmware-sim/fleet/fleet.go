// Package fleet is the MQTT half of the simulated floor: devices that measure
// at their own pace, keep what was not acknowledged, and send it again, in
// order and with the same number, until it was.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// Ledger is where the fleet writes down what was acknowledged.
type Ledger interface {
	Write(events ...ledger.Event) error
	Run() string
	FirstSeq() uint64
}

// Config of a fleet. Zero values mean the default in brackets.
type Config struct {
	Dial      func(ctx context.Context) (net.Conn, error) // to the broker
	Username  string
	Password  string
	Seed      uint64
	Rate      float64         // readings per second of every point [the device's own]
	QoS       *byte           // of every device [the device's own]
	Window    int             // messages in flight per device [32]
	Buffer    int             // messages that a device can keep [100,000]; beyond it drops its oldest
	KeepAlive time.Duration   // [10 s]; a silent broker is given up after one and a half
	Grace     time.Duration   // at the end, for acknowledgements still under way [5 s]
	Faults    []signals.Fault // injected when their time comes
	Log       *slog.Logger    // [discards]
}

// TCP is the usual Dial.
func TCP(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{Timeout: 5 * time.Second}
		return d.DialContext(ctx, "tcp", addr)
	}
}

// Stats is what the fleet did so far.
type Stats struct {
	Devices   int
	Connected int
	Produced  uint64 // messages made
	Acked     uint64 // acknowledged by the broker
	Sent      uint64 // at QoS 0
	Waiting   int    // kept by the devices, acknowledgement outstanding
	Dropped   uint64 // by full devices
	Connects  uint64 // connections made
}

// Fleet is a number of devices.
type Fleet struct {
	cfg     Config
	led     Ledger
	devices []*device

	connected atomic.Int64
	connects  atomic.Uint64
	produced  atomic.Uint64
	acked     atomic.Uint64
	sent      atomic.Uint64
	dropped   atomic.Uint64

	failOnce sync.Once
	failed   error // the ledger's error, set before stop is called
}

// New prepares a fleet; nothing runs yet. A fault whose point no device has
// is an error.
func New(cfg Config, devices []plant.Device, led Ledger) (*Fleet, error) {
	if cfg.Dial == nil {
		return nil, errors.New("fleet: no way to the broker is given")
	}
	if cfg.Window == 0 {
		cfg.Window = 32
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = 100_000
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = 10 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fleet{cfg: cfg, led: led}
	for _, p := range devices {
		f.devices = append(f.devices, f.newDevice(p))
	}
	for _, fault := range cfg.Faults {
		if err := f.inject(fault, false); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Inject starts a fault now; its At is not looked at.
func (f *Fleet) Inject(fault signals.Fault) error { return f.inject(fault, true) }

func (f *Fleet) inject(fault signals.Fault, now bool) error {
	for _, d := range f.devices {
		if d.plan(fault, now) {
			return nil
		}
	}
	return fmt.Errorf("fault %s: no device has the point %s", fault.Kind, fault.Point)
}

// Stats may be called at any time.
func (f *Fleet) Stats() Stats {
	s := Stats{
		Devices: len(f.devices), Connected: int(f.connected.Load()), Produced: f.produced.Load(),
		Acked: f.acked.Load(), Sent: f.sent.Load(), Dropped: f.dropped.Load(), Connects: f.connects.Load(),
	}
	for _, d := range f.devices {
		s.Waiting += d.waiting()
	}
	return s
}

// Run measures and sends until ctx ends, waits up to Grace for what is under
// way, and returns nil. It returns an error when the ledger cannot be written.
func (f *Fleet) Run(ctx context.Context) error {
	produce, stopProducing := context.WithCancel(ctx)
	defer stopProducing()
	talk, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	defer hangUp()
	var producers, talkers sync.WaitGroup
	for _, d := range f.devices {
		producers.Go(func() { d.produce(produce, func() { stopProducing(); hangUp() }) })
		talkers.Go(func() { d.talk(talk, func() { stopProducing(); hangUp() }) })
	}
	producers.Wait()
	grace := time.AfterFunc(f.cfg.Grace, hangUp)
	defer grace.Stop()
	for _, d := range f.devices {
		d.finish()
	}
	talkers.Wait()
	var left []ledger.Event
	unsent := 0
	for _, d := range f.devices {
		events, n := d.leftover()
		left, unsent = append(left, events...), unsent+n
	}
	if len(left)+unsent > 0 {
		f.cfg.Log.Warn("devices stopped before everything was acknowledged", "unacknowledged", len(left), "never_sent", unsent)
	}
	if f.failed == nil && len(left) > 0 {
		f.fail(f.led.Write(left...), func() {})
	}
	return f.failed
}

// record writes events; where that fails everything stops.
func (f *Fleet) record(stop func(), events ...ledger.Event) {
	if len(events) == 0 {
		return
	}
	f.fail(f.led.Write(events...), stop)
}

func (f *Fleet) fail(err error, stop func()) {
	if err == nil {
		return
	}
	f.failOnce.Do(func() { f.failed = err })
	stop()
}
