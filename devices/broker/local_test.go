package broker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"forebay/devices/broker"
	"forebay/gateway/conf"
	"forebay/spool/record"
)

func paho(tb testing.TB, addr, id string, change ...func(*mqtt.ClientOptions)) mqtt.Client {
	tb.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetConnectTimeout(patience)
	for _, f := range change {
		f(o)
	}
	c := mqtt.NewClient(o)
	done(tb, c.Connect())
	tb.Cleanup(func() { c.Disconnect(0) })
	return c
}

func done(tb testing.TB, t mqtt.Token) {
	tb.Helper()
	if !t.WaitTimeout(patience) {
		tb.Fatal("token is not done")
	}
	if err := t.Error(); err != nil {
		tb.Fatal(err)
	}
}

func TestPahoPublishes(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	c := paho(t, addr, "paho")
	var tokens []mqtt.Token
	for i := range 300 {
		tokens = append(tokens, c.Publish(fmt.Sprint("t/", i%3), byte(i%3), false, fmt.Sprint(i)))
	}
	for _, k := range tokens {
		done(t, k)
	}
	for i, s := range log.waitStored(t, 300) {
		if string(s.Data) != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, s.Data)
		}
	}
}

func TestLocalSubscribers(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	got := make(chan mqtt.Message, 100)
	tool := paho(t, addr, "tool")
	done(t, tool.Subscribe("plant/+/temp", 1, func(_ mqtt.Client, m mqtt.Message) { got <- m }))
	log.pause(true)
	dev := connect(t, addr, hello{id: "dev"})
	dev.publish(1, 1, "plant/a/temp", "1")
	dev.publish(1, 2, "plant/a/hum", "2")
	dev.ping()
	select {
	case m := <-got:
		t.Fatalf("%s was delivered before its commit", m.Topic())
	case <-time.After(50 * time.Millisecond):
	}
	log.pause(false)
	if m := <-got; m.Topic() != "plant/a/temp" || string(m.Payload()) != "1" || m.Qos() != 1 {
		t.Errorf("got %s %s %d", m.Topic(), m.Payload(), m.Qos())
	}
	dev.ack(4)
	dev.ack(4)
	for i := range 50 { // in order
		dev.publish(0, 0, "plant/a/temp", fmt.Sprint(i))
	}
	for i := range 50 {
		if m := <-got; string(m.Payload()) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Payload())
		}
	}
	done(t, tool.Unsubscribe("plant/+/temp"))
	handedOn := make(chan mqtt.Message, 1) // PUBACK says stored, this says handed on
	done(t, paho(t, addr, "witness").Subscribe("plant/a/temp", 1, func(_ mqtt.Client, m mqtt.Message) { handedOn <- m }))
	dev.publish(1, 3, "plant/a/temp", "x")
	dev.ack(4)
	<-handedOn
	done(t, tool.Subscribe("#", 0, func(_ mqtt.Client, m mqtt.Message) { got <- m }))
	dev.publish(1, 3, "other", "y")
	if m := <-got; string(m.Payload()) != "y" {
		t.Errorf("got %s %s", m.Topic(), m.Payload())
	}
}

// Not stored, not delivered, not retained.
func TestFailedMessageIsNotDelivered(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.failWith(func(r *record.Record) error {
		if string(r.Data) == "bad" {
			return &record.InvalidError{Field: "data"}
		}
		return nil
	})
	_, addr := start(t, broker.Config{}, log)
	got := make(chan mqtt.Message, 100)
	tool := paho(t, addr, "tool")
	done(t, tool.Subscribe("#", 0, func(_ mqtt.Client, m mqtt.Message) { got <- m }))
	dev := connect(t, addr, hello{id: "dev", v5: true})
	dev.publish(1, 1, "a", "bad")
	dev.publish(1, 2, "a", "good")
	dev.ack(4)
	dev.ack(4)
	if m := <-got; string(m.Payload()) != "good" {
		t.Errorf("got %s", m.Payload())
	}
}

func TestRetained(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	dev := paho(t, addr, "dev")
	done(t, dev.Publish("state", 1, true, "on"))
	n := 0
	late := func() string {
		n++
		got := make(chan mqtt.Message, 10)
		c := paho(t, addr, fmt.Sprint("late", n))
		done(t, c.Subscribe("#", 1, func(_ mqtt.Client, m mqtt.Message) { got <- m }))
		done(t, dev.Publish("marker", 1, false, "m"))
		for seen := ""; ; {
			m := <-got
			if m.Topic() == "marker" {
				return seen
			}
			if !m.Retained() { // it was on its way when we subscribed
				return "live"
			}
			seen += string(m.Payload())
		}
	}
	eventually(t, "the message is retained", func() bool { return late() == "on" })
	done(t, dev.Publish("state", 1, true, ""))
	eventually(t, "the message is cleared", func() bool { return late() == "" })
	if s := log.records()[0]; s.Key != "state" || string(s.Data) != "on" {
		t.Errorf("stored %+v", s)
	}
}

func TestWills(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	h := hello{id: "dev", will: append(str("dev/state"), str("dead")...), willFlags: 4 | 1<<3}
	c := connect(t, addr, h)
	c.send([]byte{0xE0, 0}) // DISCONNECT: no will
	c.ends()
	c = connect(t, addr, h)
	c.publish(1, 1, "t", "last")
	_ = c.Close()
	r := log.waitStored(t, 2)
	if r[0].Key != "t" || r[1].Key != "dev/state" || string(r[1].Data) != "dead" {
		t.Errorf("stored %q", log.payloads())
	}
	five := hello{id: "five", v5: true, will: append([]byte{0}, h.will...), willFlags: 4}
	c = connect(t, addr, five)
	c.send([]byte{0xE0, 1, 4}) // DISCONNECT with will
	c.ends()
	log.waitStored(t, 3)
	// A session that stays: the will waits, and coming back in time cancels it.
	delayed := five
	delayed.persistent = true
	delayed.props = []byte{0x11, 0, 0, 0, 100}
	delayed.will = append([]byte{5, 0x18, 0, 0, 0, 60}, h.will...)
	_ = connect(t, addr, delayed).Close()
	c = connect(t, addr, delayed)
	c.publish(1, 1, "t", "back")
	c.ack(4)
	// A new session ends the old one, and so sends its will (3.1.3.2.2).
	_ = c.Close()
	fresh := delayed
	fresh.persistent = false
	// The old connection's end may come after the new one's start; both ways are right.
	c = connect(t, addr, fresh)
	c.send([]byte{0xE0, 0})
	log.waitStored(t, 5)
	if s := strings.Join(log.payloads(), " "); s != "last dead dead back dead" {
		t.Errorf("stored %q", s)
	}
}

func TestSlowSubscriberDoesNotDelayAcknowledgements(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.keep = false
	b, addr := start(t, broker.Config{}, log)
	deaf := connect(t, addr, hello{id: "deaf"})
	deaf.send(frame(0x82, append(append([]byte{0, 1}, str("#")...), 0)))
	deaf.ack(9)
	dev := connect(t, addr, hello{id: "dev"})
	payload := strings.Repeat("x", 10000)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 5000 {
			dev.send(publishPacket(false, 1, uint16(i+1), "t", payload))
		}
	})
	for i := range 5000 {
		if p := dev.ack(4); int(p.id()) != i+1 {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
	wg.Wait()
	eventually(t, "what the subscriber did not take is counted", func() bool { return b.Undelivered() > 0 })
}

func TestTLSAndPassword(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	cert, key, pool := selfSigned(t)
	cfg := broker.Config{TLSCert: cert, TLSKey: key, Users: []broker.User{{Name: "u", Password: conf.NewSecret("p")}}}
	_, addr := start(t, cfg, log)
	c := paho(t, addr, "tls", func(o *mqtt.ClientOptions) {
		o.Servers = nil
		o.AddBroker("ssl://" + addr).SetTLSConfig(pool).SetUsername("u").SetPassword("p")
	})
	done(t, c.Publish("t", 1, false, "x"))
	done(t, c.Publish("t", 2, false, "y"))
	if s := strings.Join(log.payloads(), ""); s != "xy" {
		t.Errorf("stored %q", s)
	}
}
