package uplink_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"forebay/firmware-sim/mqttport"
	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
	"forebay/uplink/sparkplug"
)

// A mqttBroker is mochi that notes what is published.
type mqttBroker struct {
	mochi.HookBase
	srv  *mochi.Server
	mu   sync.Mutex
	sent []packets.Packet
}

func (b *mqttBroker) ID() string { return "far" }
func (b *mqttBroker) Provides(which byte) bool {
	return slices.Contains([]byte{mochi.OnPublish, mochi.OnConnectAuthenticate, mochi.OnACLCheck}, which)
}
func (b *mqttBroker) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (b *mqttBroker) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

func (b *mqttBroker) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, pk)
	return pk, nil
}

func (b *mqttBroker) all() []packets.Packet {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sent)
}

// A faultyLink is a TCP link to a broker that breaks as it is told.
type faultyLink struct {
	ln  net.Listener
	to  string
	wg  sync.WaitGroup
	mu  sync.Mutex
	bad bool
	rng *rand.Rand
	all []net.Conn
}

func newFaultyLink(t *testing.T, to string) *faultyLink {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &faultyLink{ln: ln, to: to, rng: rand.New(rand.NewPCG(5, 6))}
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.serve(t, c)
		}
	})
	t.Cleanup(func() {
		l.end()
		l.wg.Wait()
	})
	return l
}

// end makes the far side unreachable.
func (l *faultyLink) end() {
	_ = l.ln.Close() // it may be closed already
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.all {
		_ = c.Close() // as above
	}
}

// serve passes a connection on, as long as its fate allows.
func (l *faultyLink) serve(t *testing.T, c net.Conn) {
	l.mu.Lock()
	up, down := 1<<30, 1<<30 // bytes until it is cut
	fate := 0
	if l.bad {
		fate = l.rng.IntN(8)
		switch fate {
		case 0: // at once
			up = 0
		case 1: // a portal
			_, _ = c.Write([]byte("HTTP/1.1 302 Found\r\nLocation: http://portal.invalid/\r\nContent-Length: 0\r\n\r\n" + strings.Repeat("x", 100))) // the client may have gone
			up = 0
		case 2, 3: // on the way there
			up = 20 + l.rng.IntN(20_000)
		case 4, 5, 6: // on the way back: it is committed, and nobody hears
			down = 4 + l.rng.IntN(300)
		}
	}
	l.mu.Unlock()
	out, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.to)
	if err != nil || up == 0 {
		_ = c.Close() // the client sees the end
		if err == nil {
			_ = out.Close() // the broker too
		}
		return
	}
	l.mu.Lock()
	l.all = append(l.all, c, out)
	l.mu.Unlock()
	pass := func(from, to net.Conn, left int) {
		buf := make([]byte, 512)
		for {
			n, err := from.Read(buf)
			if err == nil {
				_, err = to.Write(buf[:min(n, left)])
				left -= n
			}
			if err != nil || left <= 0 {
				_ = from.Close() // both sides see the end
				_ = to.Close()
				return
			}
		}
	}
	l.wg.Go(func() { pass(c, out, up) })
	l.wg.Go(func() { pass(out, c, down) })
}

func newMQTTFar(t *testing.T) (*mqttBroker, *faultyLink) {
	b := &mqttBroker{srv: mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{b.srv.AddHook(b, nil), b.srv.AddListener(mqttport.New(ln)), b.srv.Serve()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := b.srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, newFaultyLink(t, ln.Addr().String())
}

func openFar(t *testing.T, cfg uplink.Config) uplink.Sink {
	cfg.ID = "x"
	s, err := uplink.New(cfg, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mqttFar(t *testing.T) (uplink.Sink, *far) {
	b, l := newMQTTFar(t)
	s := openFar(t, uplink.Config{MQTT: &mqtt.Config{
		Link:       mqtt.Link{Broker: "tcp://" + l.ln.Addr().String(), RequestTimeout: conf.Duration(2 * time.Second)},
		MaxPayload: 1 << 20,
	}})
	return s, &far{
		payloads: func(ln lane.Lane) (out []string) {
			for _, pk := range b.all() {
				e, err := envelope.Open(pk.Payload)
				if err != nil {
					t.Fatalf("%s: %v", pk.TopicName, err)
				}
				if e.Stream == ln.Stream && strings.Contains(e.ID, fmt.Sprintf("/%d/", ln.Shard)) {
					out = append(out, string(e.Data))
				}
			}
			return out
		},
		flaky:    l.set,
		gone:     l.end,
		largest:  700 << 10, // as base64 in the envelope
		tooLarge: 1 << 20,
	}
}

func (l *faultyLink) set(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bad = on
}

// What a host reads: the values of DDATA, device by device.
func sparkplugFar(t *testing.T) (uplink.Sink, *far) {
	b, l := newMQTTFar(t)
	s := openFar(t, uplink.Config{Sparkplug: &sparkplug.Config{
		Link:  mqtt.Link{Broker: "tcp://" + l.ln.Addr().String(), RequestTimeout: conf.Duration(2 * time.Second)},
		Group: "plant", Device: "{stream}-{shard}", Metric: "{key}", Format: "raw",
	}})
	return s, &far{
		payloads: func(ln lane.Lane) (out []string) {
			for _, pk := range b.all() {
				if pk.TopicName != fmt.Sprintf("spBv1.0/plant/DDATA/edge-07/%s-%d", ln.Stream, ln.Shard) {
					continue
				}
				p, err := sparkplug.Decode(pk.Payload)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range p.Metrics {
					out = append(out, string(m.Value.Bytes))
				}
			}
			return out
		},
		flaky:    l.set,
		gone:     l.end,
		largest:  700 << 10,
		tooLarge: 1 << 20,
	}
}
