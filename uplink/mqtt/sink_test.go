package mqtt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/mochi-mqtt/server/v2/listeners"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

func tcp(addr string) mqtt.Link { return mqtt.Link{Broker: "tcp://" + addr} }

// Records come out under their topics, in an envelope with their ids.
func TestTopicsAndEnvelopes(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	s := open(t, mqtt.Config{Link: tcp(b.addr()), Topic: "acme/plant1/{stream}/{source}/{key}", Retain: true})
	l := laneOf("mqtt", 3)
	long := strings.Repeat("level/", 60) + "end"
	key, _ := record.KeyOf(long)
	r := rec(l, 3, key, "x")
	r.Attrs = map[string]string{"topic": long}
	out := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "line4/temp", `{"v":1}`), rec(l, 2, "a+b#\x00\x1f", "\xff"), r)})[0]
	if out.Done != 3 || out.Requests != 3 || out.Bytes == 0 {
		t.Fatalf("%+v", out)
	}
	want := []string{"acme/plant1/mqtt/press/line4/temp", "acme/plant1/mqtt/press/a%2Bb%23%00%1F", "acme/plant1/mqtt/press/" + long}
	for i, g := range b.all() {
		e, err := envelope.Open([]byte(g.payload))
		if err != nil || g.topic != want[i] || e.ID != fmt.Sprintf("edge-07/0000000000001234/3/%d", i+1) || !g.retain || g.qos != 1 {
			t.Errorf("message %d: %+v, %v", i, g, err)
		}
	}
	if n := len(b.all()); n != 3 {
		t.Errorf("%d messages", n)
	}
}

func TestRaw(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	s := open(t, mqtt.Config{Link: tcp(b.addr()), Format: "raw", Topic: "{key}"})
	l := laneOf("s", 1)
	if out := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "$SYS/x", "\x00\xff"), rec(l, 2, "$", ""))})[0]; out.Done != 2 {
		t.Fatalf("%+v", out)
	}
	if g := b.all(); len(g) != 2 || g[0].topic != "%24SYS/x" || g[0].payload != "\x00\xff" || g[1].topic != "%24" || g[1].payload != "" {
		t.Errorf("%+v", g)
	}
}

// The records of an aggregate are messages of their own, with ids of their
// own; the stored record is done with its last.
func TestAggregatesAreOpened(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	s := open(t, mqtt.Config{Link: tcp(b.addr())})
	var enc kpl.Encoder
	enc.Reset()
	enc.Add("k1", "1", []byte("one"))
	enc.Add("k2", "1", []byte("two"))
	l := laneOf("s", 1)
	out := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 7, "outer", string(enc.AppendTo(nil))), rec(l, 8, "k3", "three"))})[0]
	if out.Done != 2 || out.Requests != 3 {
		t.Fatalf("%+v", out)
	}
	var seen []string
	for _, g := range b.all() {
		e, err := envelope.Open([]byte(g.payload))
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, g.topic+" "+e.ID[strings.Index(e.ID, "/1/"):]+" "+string(e.Data))
	}
	want := []string{"edge-07/s/k1 /1/7/1 one", "edge-07/s/k2 /1/7/2 two", "edge-07/s/k3 /1/8 three"}
	if !slices.Equal(seen, want) {
		t.Errorf("%q", seen)
	}
}

// A record that the broker never takes is found among others, by the broker
// ending the connection, and goes out of the way; nothing else does.
func TestTheCulpritIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		max    uint32
		refuse func(topic string, payload []byte) bool
		bad    func(l lane.Lane, seq int) record.Record
	}{
		"topic": {
			refuse: func(topic string, _ []byte) bool { return strings.Contains(topic, "forbidden") },
			bad:    func(l lane.Lane, seq int) record.Record { return rec(l, seq, "forbidden/x", "1") },
		},
		"size": {
			max: 64 << 10,
			bad: func(l lane.Lane, seq int) record.Record { return rec(l, seq, "k", strings.Repeat("x", 100_000)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t, listen(t), c.max)
			b.refusing(c.refuse)
			s := open(t, mqtt.Config{Link: tcp(b.addr()), Window: 20})
			bad := laneOf("s", 1)
			var recs []record.Record
			for i := range 60 {
				if seq := i + 1; seq == 30 || seq == 31 {
					recs = append(recs, c.bad(bad, seq))
				} else {
					recs = append(recs, rec(bad, seq, "k", fmt.Sprint(seq)))
				}
			}
			var wg sync.WaitGroup
			stop := make(chan struct{})
			var others atomic.Int64
			wg.Go(func() { // another lane, all the while
				l := laneOf("s", 2)
				for seq := 1; ; seq++ {
					select {
					case <-stop:
						return
					default:
					}
					for _, o := range s.Send(t.Context(), []lane.Batch{batch(l, rec(l, seq, "k", "1"))}) {
						if o.Class == lane.Poison {
							t.Errorf("a sound record is called poison: %v", o.Err)
						}
						others.Add(int64(o.Done))
					}
				}
			})
			poison, classes, last := drain(t, s, batch(bad, recs...), 200)
			close(stop)
			wg.Wait()
			if !slices.Equal(poison, []uint64{30, 31}) || classes[lane.Class(200)] > 0 {
				t.Fatalf("poison %v, %v, %v", poison, classes, last)
			}
			next := 1
			for _, g := range b.all() {
				e, err := envelope.Open([]byte(g.payload))
				if err != nil || !strings.Contains(e.ID, "/1/") {
					continue
				}
				var n int
				if _, err := fmt.Sscan(string(e.Data), &n); err != nil || n > next {
					t.Fatalf("%q before %d", e.Data, next)
				}
				if n == next {
					if next++; next == 30 {
						next = 32
					}
				}
			}
			if next != 61 || others.Load() == 0 {
				t.Errorf("up to %d arrived; %d of the other lane", next-1, others.Load())
			}
			t.Logf("classes %v", classes)
		})
	}
}

// A broker that takes nothing is a matter of its configuration or ours: no
// record is to blame.
func TestABrokerThatRefusesEverything(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	b.refusing(func(string, []byte) bool { return true })
	s := open(t, mqtt.Config{Link: tcp(b.addr())})
	l := laneOf("s", 1)
	in := batch(l, rec(l, 1, "k", "1"), rec(l, 2, "k", "2"))
	poison, classes, last := drain(t, s, in, 20)
	if len(poison) > 0 || classes[lane.Misconfigured] < 10 {
		t.Fatalf("poison %v, %v", poison, classes)
	}
	if !strings.Contains(last.Error(), "does it allow the topic") {
		t.Errorf("%v", last)
	}
	b.refusing(nil)
	if _, classes, _ := drain(t, s, in, 2); classes[lane.Class(200)] > 0 {
		t.Errorf("it takes them now, yet %v", classes)
	}
	// One that took them once, and now does not.
	b.refusing(func(string, []byte) bool { return true })
	poison, classes, last = drain(t, s, batch(l, rec(l, 3, "k", "3")), 30)
	if len(poison) > 0 || classes[lane.Misconfigured] < 10 || !strings.Contains(last.Error(), "also on one that it took before") {
		t.Errorf("poison %v, %v, %v", poison, classes, last)
	}
}

// A whole stream that is forbidden stands still, and does not become poison
// because others are taken.
func TestAForbiddenStream(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	b.refusing(func(topic string, _ []byte) bool { return strings.Contains(topic, "/alarms/") })
	s := open(t, mqtt.Config{Link: tcp(b.addr())})
	good, bad := laneOf("mqtt", 1), laneOf("alarms", 1)
	if _, classes, _ := drain(t, s, batch(good, rec(good, 1, "k", "1")), 1); classes[lane.OK] != 1 {
		t.Fatal("not taken")
	}
	poison, classes, _ := drain(t, s, batch(bad, rec(bad, 1, "k", "1")), 20)
	if len(poison) > 0 || classes[lane.Misconfigured] == 0 {
		t.Errorf("poison %v, %v", poison, classes)
	}
	if _, classes, _ := drain(t, s, batch(good, rec(good, 2, "k", "2")), 1); classes[lane.OK] != 1 {
		t.Error("the other stream does not go on")
	}
}

// Acknowledgements count from the front only, and none counts that did not come.
func TestAcknowledgementsInOrder(t *testing.T) {
	addr := speak(t, func(c net.Conn) {
		var ids []uint16
		for {
			pk, err := packets.ReadPacket(c)
			if err != nil {
				return
			}
			switch m := pk.(type) {
			case *packets.ConnectPacket:
				err = packets.NewControlPacket(packets.Connack).Write(c)
			case *packets.PublishPacket:
				if ids = append(ids, m.MessageID); len(ids) < 6 {
					continue
				}
				for _, i := range []int{1, 0, 4, 3} { // not the third, and not the last
					ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
					ack.MessageID = ids[i]
					if err = ack.Write(c); err != nil {
						return
					}
				}
				return
			}
			if err != nil {
				return
			}
		}
	})
	s := open(t, mqtt.Config{Link: tcp(addr)})
	l := laneOf("s", 1)
	var recs []record.Record
	for i := range 6 {
		recs = append(recs, rec(l, i+1, "k", "1"))
	}
	if o := s.Send(t.Context(), []lane.Batch{batch(l, recs...)})[0]; o.Done != 2 || o.Class != lane.Ambiguous {
		t.Errorf("%+v", o)
	}
}

// The window bounds what waits; it is the connection's, not a lane's.
func TestWindow(t *testing.T) {
	var most, now int
	var mu sync.Mutex
	release := make(chan struct{})
	addr := speak(t, func(c net.Conn) {
		acks := make(chan uint16, 1000)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer close(acks)
		wg.Go(func() {
			for id := range acks {
				<-release
				mu.Lock()
				now--
				mu.Unlock()
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = id
				if ack.Write(c) != nil {
					return
				}
			}
		})
		for {
			pk, err := packets.ReadPacket(c)
			if err != nil {
				return
			}
			switch m := pk.(type) {
			case *packets.ConnectPacket:
				if packets.NewControlPacket(packets.Connack).Write(c) != nil {
					return
				}
			case *packets.PublishPacket:
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				acks <- m.MessageID
			}
		}
	})
	s := open(t, mqtt.Config{Link: tcp(addr), Window: 7})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			l := laneOf("s", i+1)
			var recs []record.Record
			for k := range 50 {
				recs = append(recs, rec(l, k+1, "k", "1"))
			}
			if o := s.Send(t.Context(), []lane.Batch{batch(l, recs...)})[0]; o.Done != 50 {
				t.Errorf("%+v", o)
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			release <- struct{}{}
		}
	})
	wg.Wait()
	if most != 7 {
		t.Errorf("%d at a time, want 7", most)
	}
}

// A link that swallows everything is found out, and nothing is called
// delivered or poison.
func TestHalfOpen(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	p := newLink(t, b.addr())
	s := open(t, mqtt.Config{Link: mqtt.Link{Broker: "tcp://" + p.addr(), RequestTimeout: conf.Duration(time.Second)}})
	l := laneOf("s", 1)
	if o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "k", "1"))})[0]; o.Done != 1 {
		t.Fatalf("%+v", o)
	}
	p.swallow(true)
	if o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 2, "k", "2"))})[0]; o.Done != 0 || o.Class != lane.Ambiguous {
		t.Errorf("%+v", o)
	}
	if o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 2, "k", "2"))})[0]; o.Done != 0 || o.Class != lane.Offline {
		t.Errorf("%+v, %v", o, o.Err)
	}
	p.swallow(false)
	p.cut()
	if _, classes, last := drain(t, s, batch(l, rec(l, 2, "k", "2")), 5); classes[lane.Class(200)] > 0 {
		t.Errorf("%v, %v", classes, last)
	}
}

// A link that stands still for a while, with a large message half written,
// loses nothing, and what waits behind that message is sent after it.
func TestASlowLink(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	p := newLink(t, b.addr())
	s := open(t, mqtt.Config{Link: tcp(p.addr())})
	large := laneOf("s", 1)
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	release := p.hold()
	defer release()
	before := p.passed()
	var wg sync.WaitGroup
	wg.Go(func() {
		if o := s.Send(t.Context(), []lane.Batch{batch(large, rec(large, 1, "k", strings.Repeat("x", 9<<20)))})[0]; o.Done != 1 {
			t.Errorf("large: %+v", o)
		}
	})
	for end := time.Now().Add(10 * time.Second); p.passed() < before+4000; time.Sleep(time.Millisecond) { // it is being written
		if time.Now().After(end) {
			t.Fatal("nothing is written")
		}
	}
	for i := range 3 {
		wg.Go(func() {
			small := laneOf("s", i+2)
			var recs []record.Record
			for i := range 20 {
				recs = append(recs, rec(small, i+1, "k", "1"))
			}
			if o := s.Send(t.Context(), []lane.Batch{batch(small, recs...)})[0]; o.Done != 20 {
				t.Errorf("small: %+v, %v", o, o.Err)
			}
		})
	}
	<-time.After(2500 * time.Millisecond) // the stall: longer than paho waits for its writer
	release()
	wg.Wait()
}

// What a broker or something else says to a connect, in words and classes.
func TestRefusedConnects(t *testing.T) {
	for code, class := range map[byte]lane.Class{
		1: lane.Misconfigured, 2: lane.Misconfigured, 3: lane.Offline, 4: lane.Auth, 5: lane.Auth,
	} {
		addr := speak(t, func(c net.Conn) {
			if _, err := packets.ReadPacket(c); err != nil {
				return
			}
			ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			ack.ReturnCode = code
			_ = ack.Write(c) // the client may have gone
		})
		s := open(t, mqtt.Config{Link: tcp(addr)})
		l := laneOf("s", 1)
		o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "k", "1"))})[0]
		if o.Class != class || o.Done != 0 || !strings.Contains(o.Err.Error(), fmt.Sprintf("CONNACK %d", code)) {
			t.Errorf("code %d: %+v", code, o)
		}
	}
	for name, f := range map[string]func(c net.Conn){
		"portal": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://portal.invalid/"+strings.Repeat("x", 200)+"\r\n\r\n") // the client may have gone
		},
		"closes": func(net.Conn) {},
		"ssh": func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1 Debian\r\n"+strings.Repeat("y", 200))
		}, // as above
	} {
		s := open(t, mqtt.Config{Link: mqtt.Link{Broker: "tcp://" + speak(t, f), RequestTimeout: conf.Duration(time.Second)}})
		if err := s.Probe(t.Context()); err == nil || classOf(err) != lane.Offline {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func classOf(err error) lane.Class {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e.Class
	}
	return lane.OK
}

// A connect through a proxy that lets connections through, and one that does not.
func TestProxy(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	var asked atomic.Value
	proxy := speak(t, func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		asked.Store(req.Method + " " + req.Host)
		if strings.HasPrefix(req.Host, "10.") {
			_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\n\r\n") // the client may have gone
			return
		}
		out, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", req.Host)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n") // as above
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.Copy(out, c) // ends with either side
			_ = out.Close()
		})
		_, _ = io.Copy(c, out) // as above
		_ = c.Close()
		wg.Wait()
	})
	s := open(t, mqtt.Config{Link: mqtt.Link{Broker: "tcp://" + b.addr(), Proxy: "http://" + proxy}})
	l := laneOf("s", 1)
	if o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "k", "1"))})[0]; o.Done != 1 || asked.Load() != "CONNECT "+b.addr() {
		t.Errorf("%+v, asked %v", o, asked.Load())
	}
	if err := s.Close(); err != nil { // the proxy's goroutines end with it
		t.Error(err)
	}
	s = open(t, mqtt.Config{Link: mqtt.Link{Broker: "tcp://10.1.2.3:1883", Proxy: "http://" + proxy}})
	if err := s.Probe(t.Context()); classOf(err) != lane.Offline || !strings.Contains(err.Error(), "403 Forbidden") {
		t.Errorf("%v", err)
	}
}

func TestWebsocket(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	ln := listen(t) // for a free port: this listener tells none
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	ws := listeners.NewWebsocket(listeners.Config{ID: "ws", Address: addr})
	if err := b.srv.AddListener(ws); err != nil {
		t.Fatal(err)
	}
	go ws.Serve(b.srv.EstablishConnection) // ends with the broker
	s := open(t, mqtt.Config{Link: mqtt.Link{Broker: "ws://" + addr + "/mqtt"}})
	l := laneOf("s", 1)
	if _, classes, last := drain(t, s, batch(l, rec(l, 1, "k", strings.Repeat("x", 100_000))), 200); classes[lane.Class(200)] > 0 {
		t.Errorf("%v", last)
	}
}

// The password is in no error.
func TestSecretsStaySecret(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	s := open(t, mqtt.Config{Link: mqtt.Link{Broker: "tcp://" + b.addr(), Username: "u", Password: conf.NewSecret("wrong")}})
	err := s.Probe(t.Context())
	if classOf(err) != lane.Auth || strings.Contains(err.Error(), "wrong") {
		t.Errorf("%v", err)
	}
}
