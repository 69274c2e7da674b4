package fleet

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// message is one reading on its way. Its number never changes, however often
// it is sent.
type message struct {
	seq     uint64
	topic   string
	payload []byte
	qos     byte
	again   bool   // the second copy that a stuttering device makes
	id      uint16 // packet id, from the first sending on
	tries   int
	state   state
}

type state byte

const (
	fresh    state = iota // not sent on this connection
	sent                  // PUBLISH is out
	received              // QoS 2: PUBREC came, the broker has it; PUBREL is due or out
	done
)

// device measures (produce) and sends (talk). mu guards the queue, which both
// of them and the reader of the connection use.
type device struct {
	fleet  *Fleet
	id     string
	qos    byte
	period time.Duration
	jitter *rand.Rand // of the reconnects; only talk uses it
	wake   chan struct{}

	mu       sync.Mutex
	points   []point
	seq      uint64
	queue    []*message // oldest first
	next     int        // queue[:next] was handled on this connection
	inflight int
	ids      map[uint16]*message
	lastID   uint16
	rels     []uint16 // PUBRELs to send
	up       bool     // CONNACK came
	ending   bool     // nothing is measured any more
}

type point struct {
	name, topic, unit string
	signal            *signals.Signal
	planned           []signals.Fault
}

func (f *Fleet) newDevice(p plant.Device) *device {
	d := &device{
		fleet: f, id: p.ID, qos: 1, wake: make(chan struct{}, 1), ids: map[uint16]*message{},
		seq: f.led.FirstSeq(), jitter: signals.Rand(f.cfg.Seed, p.ID+" reconnect"),
	}
	if p.QoS != nil {
		d.qos = *p.QoS
	}
	if f.cfg.QoS != nil {
		d.qos = *f.cfg.QoS
	}
	rate := 1.0
	if p.Rate > 0 {
		rate = p.Rate
	}
	if f.cfg.Rate > 0 {
		rate = f.cfg.Rate
	}
	d.period = max(time.Duration(float64(time.Second)/rate), 10*time.Microsecond)
	for _, pt := range p.Points {
		d.points = append(d.points, point{
			name: pt.Name, topic: p.Topic(pt), unit: pt.Unit,
			signal: signals.New(pt.Signal, f.cfg.Seed, p.ID+"/"+pt.Name),
		})
	}
	return d
}

// plan takes a fault that is meant for one of the device's points.
func (d *device) plan(f signals.Fault, now bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.points {
		if p := &d.points[i]; d.id+"/"+p.name == f.Point {
			if now {
				f.At = 0
			}
			p.planned = append(p.planned, f)
			return true
		}
	}
	return false
}

// produce measures at the device's pace until ctx ends. Where the machine was
// late it makes up for it, so that the number of readings does not depend on
// the machine.
func (d *device) produce(ctx context.Context, stop func()) {
	start := time.Now()
	tick := time.NewTicker(max(d.period, time.Millisecond))
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := int(time.Since(start) / d.period)
		var events []ledger.Event
		for ; n < due; n++ {
			events = append(events, d.measure()...)
		}
		d.fleet.record(stop, events...)
		d.signal()
	}
}

// measure reads every point once and queues what it shows. The events are
// faults that began and readings that the full device threw away.
func (d *device) measure() []ledger.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	var events []ledger.Event
	now := time.Now()
	for i := range d.points {
		p := &d.points[i]
		events = append(events, p.begin(d.id, now)...)
		r := p.signal.Step(d.period)
		if r.Copies == 0 || (d.qos == 0 && !d.up) {
			continue
		}
		m := message{seq: d.seq, topic: p.topic, qos: d.qos}
		m.payload = d.payload(p, r.Value, now)
		d.seq++
		for c := range r.Copies {
			copied := m
			copied.again = c > 0
			d.queue = append(d.queue, &copied)
			d.fleet.produced.Add(1)
		}
	}
	if over := len(d.queue) - d.fleet.cfg.Buffer; over > 0 {
		over = min(over, len(d.queue)-d.next)
		for _, m := range d.queue[d.next : d.next+over] {
			delete(d.ids, m.id) // known only if it was sent on an earlier connection
		}
		d.queue = append(d.queue[:d.next], d.queue[d.next+over:]...)
		d.fleet.dropped.Add(uint64(over))
		events = append(events, ledger.Event{
			Event: ledger.Dropped, Kind: ledger.MQTT, Device: d.id, Count: uint64(over), At: now,
		})
	}
	return events
}

// begin injects the planned faults whose time has come.
func (p *point) begin(device string, now time.Time) []ledger.Event {
	var events []ledger.Event
	kept := p.planned[:0]
	for _, f := range p.planned {
		if f.At > p.signal.Elapsed() {
			kept = append(kept, f)
			continue
		}
		p.signal.Inject(f)
		events = append(events, ledger.Event{
			Event: ledger.Fault, Kind: f.Kind, Device: device, Key: p.topic, At: now,
			Seconds: f.For.Seconds(), By: f.By,
		})
	}
	p.planned = kept
	return events
}

func (d *device) payload(p *point, value float64, now time.Time) []byte {
	b := make([]byte, 0, 192)
	b = append(b, `{"device":"`...)
	b = append(b, d.id...)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, d.seq, 10)
	b = append(b, `,"name":`...)
	b = strconv.AppendQuote(b, p.name)
	b = append(b, `,"value":`...)
	b = strconv.AppendFloat(b, value, 'f', -1, 64)
	b = append(b, `,"unit":`...)
	b = strconv.AppendQuote(b, p.unit)
	b = append(b, `,"quality":"good","time":"`...)
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","run":"`...)
	b = append(b, d.fleet.led.Run()...)
	return append(b, `"}`...)
}

// signal wakes the sender.
func (d *device) signal() {
	select {
	case d.wake <- struct{}{}:
	default: // it is awake
	}
}

// finish says that nothing more will be measured.
func (d *device) finish() {
	d.mu.Lock()
	d.ending = true
	d.mu.Unlock()
	d.signal()
}

// idle reports whether the device has ended and nothing waits.
func (d *device) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ending && len(d.queue) == 0
}

func (d *device) waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.queue)
}

// leftover lists what was sent and not acknowledged, and counts what was
// never sent.
func (d *device) leftover() (events []ledger.Event, unsent int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range d.queue {
		switch {
		case m.state == received || m.state == done: // it is in the ledger already
		case m.tries == 0:
			unsent++
		default:
			events = append(events, d.event(ledger.Unacked, m, time.Now()))
		}
	}
	return events, unsent
}

func (d *device) event(what string, m *message, at time.Time) ledger.Event {
	return ledger.Event{
		Event: what, Kind: ledger.MQTT, Device: d.id, Key: m.topic, Seq: m.seq, QoS: m.qos,
		Sum: ledger.Sum(m.payload), Again: m.again, At: at,
	}
}
