package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/firmware-sim/fleet"
	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/mqtt"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// book is a ledger in memory.
type book struct {
	mu     sync.Mutex
	events []ledger.Event
	fail   error
}

func (b *book) Run() string      { return "run" }
func (b *book) FirstSeq() uint64 { return 1 }

func (b *book) Write(e ...ledger.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e...)
	return b.fail
}

func (b *book) all(what string) []ledger.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []ledger.Event
	for _, e := range b.events {
		if e.Event == what {
			out = append(out, e)
		}
	}
	return out
}

// arrival is a PUBLISH as the broker saw it.
type arrival struct {
	Device string
	Seq    uint64
	Value  float64
	Run    string
	topic  string
	qos    byte
	dup    bool
	conn   int
}

// broker stands in for a gateway. Every connection is a pipe.
type broker struct {
	t    *testing.T
	wg   sync.WaitGroup
	mu   sync.Mutex
	got  []arrival
	conn int
	// rule says what happens to the n-th publish (from 1) of a connection.
	rule func(conn, n int) action
}

type action int

const (
	ack       action = iota
	swallow          // no acknowledgement
	hangUp           // closed instead of an acknowledgement
	ackHangUp        // closed after the acknowledgement
)

func (b *broker) dial(context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	b.mu.Lock()
	b.conn++
	n := b.conn
	b.mu.Unlock()
	b.wg.Go(func() { b.serve(there, n) })
	return here, nil
}

func (b *broker) serve(c net.Conn, number int) {
	defer c.Close()
	var buf []byte
	publishes := 0
	for {
		p, n, err := mqtt.Decode(buf, 1<<20)
		if err != nil {
			b.t.Errorf("broker got rubbish: %v", err)
			return
		}
		if n == 0 {
			chunk := make([]byte, 4096)
			k, err := c.Read(chunk)
			if err != nil {
				return
			}
			buf = append(buf, chunk[:k]...)
			continue
		}
		var out []byte
		act := ack
		switch p.Type {
		case mqtt.Connect:
			out = mqtt.AppendConnack(nil, number > 1, 0)
		case mqtt.Pingreq:
			out = mqtt.AppendEmpty(nil, mqtt.Pingresp)
		case mqtt.Pubrel:
			out = mqtt.AppendAck(nil, mqtt.Pubcomp, p.ID)
		case mqtt.Publish:
			publishes++
			b.take(p, number)
			if act = b.rule(number, publishes); act == ack || act == ackHangUp {
				switch p.QoS {
				case 1:
					out = mqtt.AppendAck(nil, mqtt.Puback, p.ID)
				case 2:
					out = mqtt.AppendAck(nil, mqtt.Pubrec, p.ID)
				}
			}
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
		}
		if act == hangUp || act == ackHangUp {
			return
		}
		buf = buf[n:]
	}
}

func (b *broker) take(p mqtt.Packet, conn int) {
	var a arrival
	if err := json.Unmarshal(p.Payload, &a); err != nil {
		b.t.Errorf("payload %s: %v", p.Payload, err)
	}
	a.topic, a.qos, a.dup, a.conn = string(p.Topic), p.QoS, p.Dup, conn
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, a)
}

func device(qos byte) []plant.Device {
	return []plant.Device{{
		ID: "press1", Place: "s/a/l/c", QoS: &qos, Rate: 2,
		Points: []plant.Point{{Name: "temperature", Unit: "Cel", Signal: signals.Spec{Model: signals.Thermal, Base: 60, Swing: 5, Noise: 1}}},
	}}
}

// play runs one device for a time against a broker with the rule.
func play(t *testing.T, qos byte, d time.Duration, rule func(conn, n int) action, faults ...signals.Fault) (*broker, *book, fleet.Stats) {
	t.Helper()
	b, led := &broker{t: t, rule: rule}, &book{}
	f, err := fleet.New(fleet.Config{Dial: b.dial, Seed: 1, Faults: faults}, device(qos), led)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := f.Run(ctx); err != nil {
		t.Fatal(err)
	}
	b.wg.Wait()
	return b, led, f.Stats()
}

func always(a action) func(int, int) action { return func(int, int) action { return a } }

func TestEveryAcknowledgementIsInTheLedger(t *testing.T) {
	for qos := range byte(3) {
		t.Run(fmt.Sprint("qos", qos), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, led, stats := play(t, qos, 10*time.Second, always(ack))
				what := ledger.Ack
				if qos == 0 {
					what = ledger.Sent
				}
				acks := led.all(what)
				if len(acks) < 18 || len(acks) != len(b.got) {
					t.Fatalf("%d in the ledger, %d arrived", len(acks), len(b.got))
				}
				for i, e := range acks {
					if e.Seq != uint64(i+1) || b.got[i].Seq != e.Seq || e.QoS != qos || b.got[i].qos != qos ||
						e.Key != "s/a/l/c/temperature" || b.got[i].topic != e.Key || b.got[i].Run != "run" {
						t.Fatalf("%d: ledger %+v, broker %+v", i, e, b.got[i])
					}
				}
				if stats.Waiting != 0 || len(led.all(ledger.Unacked)) != 0 {
					t.Errorf("something waits after the end: %+v", stats)
				}
			})
		})
	}
}

// TestResend: every connection breaks at its fifth publish, with or without
// the acknowledgement. What was not acknowledged comes again with its number,
// marked DUP, before anything newer.
func TestResend(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		for _, last := range []action{hangUp, ackHangUp} {
			t.Run(fmt.Sprintf("qos%d/%d", qos, last), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, led, stats := play(t, qos, time.Minute, func(_, n int) action {
						if n == 5 {
							return last
						}
						return ack
					})
					if stats.Connects < 5 {
						t.Fatalf("only %d connections", stats.Connects)
					}
					var first []uint64
					seen := map[uint64]bool{}
					for _, a := range b.got {
						if seen[a.Seq] != a.dup {
							t.Errorf("seq %d: dup %v, seen before %v", a.Seq, a.dup, seen[a.Seq])
						}
						if !seen[a.Seq] {
							first = append(first, a.Seq)
						}
						seen[a.Seq] = true
					}
					if !slices.IsSorted(first) {
						t.Errorf("first arrivals out of order: %v", first)
					}
					if again := len(b.got) - len(first); (again > 0) != (last == hangUp) {
						t.Errorf("%d resent", again)
					}
					acked := map[uint64]int{}
					for _, e := range led.all(ledger.Ack) {
						acked[e.Seq]++
					}
					for _, s := range first {
						if acked[s] != 1 {
							t.Errorf("seq %d is in the ledger %d times", s, acked[s])
						}
					}
				})
			})
		}
	}
}

func TestWindowIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, led, stats := play(t, 1, 30*time.Second, always(swallow))
		if n := len(led.all(ledger.Ack)); n != 0 {
			t.Errorf("%d acknowledged by a broker that never did", n)
		}
		if len(b.got) != 32 {
			t.Errorf("%d in flight, the window is 32", len(b.got))
		}
		unacked := led.all(ledger.Unacked)
		if len(unacked) != 32 || stats.Waiting < 58 {
			t.Errorf("%d unacknowledged in the ledger, %d wait", len(unacked), stats.Waiting)
		}
	})
}

// TestSilentBroker: a connection that answers nothing is given up after one
// and a half keep-alives.
func TestSilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := 0
		var wg sync.WaitGroup
		dial := func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			conns++
			wg.Go(func() {
				defer there.Close()
				buf := make([]byte, 1<<16)
				if _, err := there.Read(buf); err != nil {
					return
				}
				if _, err := there.Write(mqtt.AppendConnack(nil, false, 0)); err != nil {
					return
				}
				for {
					if _, err := there.Read(buf); err != nil {
						return
					}
				}
			})
			return here, nil
		}
		f, err := fleet.New(fleet.Config{Dial: dial, Seed: 1}, device(1), &book{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		if err := f.Run(ctx); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if conns != 4 {
			t.Errorf("%d connections in 50 s of silence, want 4", conns)
		}
	})
}

func TestFullDeviceDropsItsOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		led := &book{}
		refuse := func(context.Context) (net.Conn, error) { return nil, errors.New("refused") }
		f, err := fleet.New(fleet.Config{Dial: refuse, Seed: 1, Buffer: 10}, device(1), led)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := f.Run(ctx); err != nil {
			t.Fatal(err)
		}
		s := f.Stats()
		var counted uint64
		for _, e := range led.all(ledger.Dropped) {
			counted += e.Count
		}
		if s.Waiting != 10 || s.Dropped != s.Produced-10 || counted != s.Dropped || s.Dropped < 25 {
			t.Errorf("%+v, %d in the ledger", s, counted)
		}
		if n := len(led.all(ledger.Unacked)); n != 0 {
			t.Errorf("%d unacknowledged, and nothing was ever sent", n)
		}
	})
}

func TestFaultsInTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		point := "press1/temperature"
		b, led, _ := play(t, 1, 40*time.Second, always(ack),
			signals.Fault{Kind: signals.Ramp, Point: point, At: 5 * time.Second, For: 10 * time.Second, By: 40},
			signals.Fault{Kind: signals.Duplicate, Point: point, At: 30 * time.Second, For: 2 * time.Second})
		if n := len(led.all(ledger.Fault)); n != 2 {
			t.Errorf("%d faults in the ledger, want 2", n)
		}
		top, copies := 0.0, map[uint64]int{}
		for _, a := range b.got {
			top = max(top, a.Value)
			copies[a.Seq]++
		}
		if top < 90 {
			t.Errorf("the ramp went to %v", top)
		}
		again, twice := 0, 0
		for _, e := range led.all(ledger.Ack) {
			if e.Again {
				again++
			}
		}
		for _, n := range copies {
			if n == 2 {
				twice++
			}
		}
		if again == 0 || again != twice {
			t.Errorf("%d stutters in the ledger, %d arrived twice", again, twice)
		}
	})
	if _, err := fleet.New(fleet.Config{Dial: fleet.TCP("x"), Faults: []signals.Fault{{Kind: signals.Stuck, Point: "a/b"}}}, device(1), &book{}); err == nil {
		t.Error("a fault for a point that is not there was taken")
	}
}

func TestALedgerThatFailsStopsTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, led := &broker{t: t, rule: always(ack)}, &book{fail: errors.New("disk full")}
		f, err := fleet.New(fleet.Config{Dial: b.dial, Seed: 1}, device(1), led)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := f.Run(t.Context()); !errors.Is(err, led.fail) {
			t.Errorf("ended with %v", err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("went on for %v", d)
		}
		b.wg.Wait()
	})
}
