package broker_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"forebay/devices/broker"
	"forebay/gateway/conf"
	"forebay/spool/record"
)

// What MQTT 3.1.1 clients are told has the codes of MQTT 3.1.1 (table 3.1);
// where none fits there is no CONNACK ([MQTT-3.2.2-6]).
func TestReturnCodesOfMQTT311(t *testing.T) {
	t.Parallel()
	_, addr := start(t, broker.Config{Users: []broker.User{{Name: "a", Password: conf.NewSecret("b")}}}, newLog(t))
	connect := func(name string, level, flags byte, rest ...byte) []byte {
		return frame(0x10, append(append(str(name), level, flags, 0, 60), rest...))
	}
	login := append(append(str("x"), str("a")...), str("wrong")...)
	for _, k := range []struct {
		name   string
		packet []byte
		want   int // -1: no CONNACK
	}{
		{"no client id, session kept", connect("MQTT", 4, 0, 0, 0), 2},
		{"3.1, no client id, session kept", connect("MQIsdp", 3, 0, 0, 0), 2},
		{"level 0", connect("MQTT", 0, 2, 0, 1, 'a'), 1},
		{"level 3 of MQTT", connect("MQTT", 3, 2, 0, 1, 'a'), 1},
		{"level 6, of whatever form", connect("MQTT", 6, 2, 9), 1},
		{"a bridge's level", connect("MQTT", 0x84, 2, 0, 1, 'a'), 1},
		{"level 4 of MQIsdp", connect("MQIsdp", 4, 2, 0, 1, 'a'), 1},
		{"wrong password", connect("MQTT", 4, 0xC2, login...), 5},
		{"another protocol", connect("HTTP", 4, 2, 0, 1, 'a'), -1},
		{"reserved flag", connect("MQTT", 4, 3, 0, 1, 'a'), -1},
		{"wildcard in the will's topic", connect("MQTT", 4, 6, 0, 1, 'a', 0, 1, '#', 0, 1, 'x'), -1},
	} {
		c := dial(t, addr)
		c.send(k.packet)
		if k.want >= 0 {
			if p := c.ack(2); len(p.body) != 2 || p.body[0] != 0 || int(p.body[1]) != k.want {
				t.Errorf("%s: CONNACK % x, want %d", k.name, p.body, k.want)
			}
		}
		c.ends()
	}
	five := dial(t, addr)
	five.send(connect("MQTT", 5, 0xC2, append([]byte{0}, login...)...))
	if p := five.ack(2); p.body[1] != 0x86 {
		t.Errorf("MQTT 5: CONNACK % x, want code 0x86", p.body)
	}
}

// PUBREC goes before PUBCOMP, however fast the client is.
func TestQoS2BurstIsAnsweredInOrder(t *testing.T) {
	t.Parallel()
	for _, v5 := range []bool{false, true} {
		in := &manualInlet{}
		_, addr := start(t, broker.Config{}, in)
		c := connect(t, addr, hello{id: "burst", v5: v5})
		first := publishPacket(v5, 2, 7, "t", "x")
		again := append([]byte{first[0] | 8}, first[1:]...)
		rel := []byte{0x62, 2, 0, 7}
		want := func(kinds ...byte) {
			t.Helper()
			for i, k := range kinds {
				p := c.ack(k)
				code := byte(0)
				if v5 && k == 7 && i > 0 && kinds[i-1] == 7 {
					code = 0x92 // the identifier is free already
				}
				if p.id() != 7 || p.code() != code {
					t.Errorf("v5 %v, packet %d: % x", v5, i, p.body)
				}
			}
		}
		c.send(bytes.Join([][]byte{first, again, rel, rel}, nil))
		eventually(t, "the message is with the log", func() bool { return in.len() == 1 })
		in.finish(0, nil)
		want(5, 7, 7)
		// Stored before, and asked again behind a message that still waits.
		c.send(first)
		eventually(t, "the second is with the log", func() bool { return in.len() == 2 })
		in.finish(1, nil)
		want(5)
		c.send(publishPacket(v5, 1, 8, "t", "y"))
		eventually(t, "the third is with the log", func() bool { return in.len() == 3 })
		c.send(bytes.Join([][]byte{again, again, rel, rel}, nil))
		in.finish(2, nil)
		if p := c.ack(4); p.id() != 8 {
			t.Errorf("PUBACK % x", p.body)
		}
		want(5, 7, 7)
		// The identifier is free: a new message under it is a new message.
		c.send(first)
		eventually(t, "the fourth is with the log", func() bool { return in.len() == 4 })
		in.finish(3, nil)
		want(5)
		// Out of the order of commits: what is stored first is answered last.
		c.send(rel)
		want(7)
		c.send(publishPacket(v5, 1, 8, "t", "y"))
		eventually(t, "a message that waits", func() bool { return in.len() == 5 })
		c.send(first)
		eventually(t, "one behind it", func() bool { return in.len() == 6 })
		in.finish(5, nil)
		c.send(rel)
		in.finish(4, nil)
		c.ack(4)
		want(5, 7)
	}
}

// A PUBREC that was due when the connection ended is sent to the next one.
func TestPubrecIsOwedAcrossAReconnect(t *testing.T) {
	t.Parallel()
	in := &manualInlet{}
	_, addr := start(t, broker.Config{}, in)
	keep := hello{id: "keeps", persistent: true}
	c := connect(t, addr, keep)
	c.publish(1, 1, "t", "a")
	eventually(t, "the first is with the log", func() bool { return in.len() == 1 })
	c.publish(2, 2, "t", "b")
	eventually(t, "the second is with the log", func() bool { return in.len() == 2 })
	in.finish(1, nil) // stored; its PUBREC waits for the first
	_ = c.Close()
	next := connect(t, addr, keep)
	p := publishPacket(false, 2, 2, "t", "b")
	next.send(append(append([]byte{p[0] | 8}, p[1:]...), 0x62, 2, 0, 2))
	in.finish(0, errors.New("disk"))
	if p := next.ack(5); p.id() != 2 {
		t.Errorf("PUBREC % x", p.body)
	}
	next.ack(7)
	if in.len() != 2 {
		t.Errorf("%d batches: the message came twice", in.len())
	}
}

// notes are log lines, for several goroutines.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// A message that is refused says in the log which topic and whose it was: once
// for many, and no more of the topic than helps.
func TestRefusedPublishIsLogged(t *testing.T) {
	t.Parallel()
	var lines notes
	b, err := broker.New(broker.Config{Listen: "127.0.0.1:0", Users: []broker.User{{Name: "press", Password: conf.NewSecret("p"), Publish: []string{"ok/#"}}}},
		slog.New(slog.NewJSONHandler(&lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	log := newLog(t)
	log.failWith(func(r *record.Record) error {
		if r.Key == "ok/bad" {
			return &record.InvalidError{Field: "data", Reason: "is not welcome"}
		}
		return nil
	})
	go func() { ended <- b.Run(ctx, log) }()
	eventually(t, "broker listens", func() bool { return b.Addr() != nil })
	c := connect(t, b.Addr().String(), hello{id: "p1", v5: true, user: "press", pass: "p"})
	for id := range uint16(5) {
		c.publish(1, id+1, "no\n/"+strings.Repeat("x", 500), "1")
		c.ack(4)
	}
	d := connect(t, b.Addr().String(), hello{id: "p2", v5: true, user: "press", pass: "p"})
	d.publish(1, 1, "ok/bad", "1")
	if p := d.ack(4); p.code() != 0x99 {
		t.Errorf("PUBACK % x", p.body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	got := lines.String()
	for _, want := range []string{
		`"msg":"message is refused","client":"p1","user":"press","topic":"\"no\\n/` + strings.Repeat("x", 124) + `\"","reason":"0x87"`,
		`"msg":"message cannot be stored","client":"p2","user":"press","topic":"\"ok/bad\"","reason":"0x99"`,
	} {
		if strings.Count(got, want) != 1 {
			t.Errorf("log has not once %s:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "message is refused"); n != 1 || b.Refused() != 6 {
		t.Errorf("%d lines, %d refused", n, b.Refused())
	}
}

// A group of subscribers gets each message once, and CONNACK does not say that
// there are none (MQTT 5, 3.2.2.3.13: without the property there are).
func TestSharedSubscription(t *testing.T) {
	t.Parallel()
	_, addr := start(t, broker.Config{}, newLog(t))
	members := make(chan string, 20)
	for _, id := range []string{"one", "two"} {
		c := dial(t, addr)
		c.send(connectPacket(hello{id: id, v5: true}))
		if p := c.ack(2); bytes.Contains(p.body, []byte{0x2A, 0}) {
			t.Errorf("CONNACK % x denies what is there", p.body)
		}
		c.send(frame(0x82, append(append([]byte{0, 1, 0}, str("$share/g/t")...), 0)))
		if p := c.ack(9); p.body[3] != 0 {
			t.Fatalf("SUBACK % x", p.body)
		}
		go func() {
			for {
				p, err := c.read()
				if err != nil {
					return // the test is over
				}
				members <- string(p.body[len(p.body)-1:])
			}
		}()
	}
	p := connect(t, addr, hello{id: "p"})
	want := "abcdefgh"
	for i := range want {
		p.publish(1, uint16(i+1), "t", want[i:i+1])
		p.ack(4)
	}
	got := map[string]bool{}
	for range want {
		m := <-members
		if got[m] {
			t.Errorf("%q came twice", m)
		}
		got[m] = true
	}
}
