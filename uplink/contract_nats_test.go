package uplink_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// natsFar is a NATS server of this process, behind a link that breaks.
func natsFar(t *testing.T, cfg nats.Config, atomic bool) (uplink.Sink, *far) {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 256 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	nc, err := natsgo.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	create := fmt.Sprintf(`{"name":"TARGET","subjects":["forebay.>"],"storage":"file","num_replicas":1,"retention":"limits","discard":"old","allow_atomic":%v}`, atomic)
	if m, err := nc.Request("$JS.API.STREAM.CREATE.TARGET", []byte(create), 10*time.Second); err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Fatalf("create the stream: %v", err)
	}
	cable := newCable(t, strings.TrimPrefix(srv.ClientURL(), "nats://"))
	cfg.Servers, cfg.Stream = []string{"nats://" + cable.l.Addr().String()}, "TARGET"
	s, err := uplink.New(uplink.Config{ID: "x", NATS: &cfg}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, &far{
		payloads: func(l lane.Lane) (out []string) {
			subject := fmt.Sprintf("forebay.edge-07.%s.%d", l.Stream, l.Shard)
			js, err := nc.JetStream()
			if err != nil {
				t.Fatal(err)
			}
			info, err := js.StreamInfo("TARGET", &natsgo.StreamInfoRequest{SubjectsFilter: subject})
			if err != nil {
				t.Fatal(err)
			}
			sub, err := js.SubscribeSync(subject, natsgo.OrderedConsumer())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Unsubscribe() }()
			for range info.State.Subjects[subject] {
				m, err := sub.NextMsg(10 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if cfg.Format == "raw" {
					out = append(out, string(m.Data))
					continue
				}
				o, err := envelope.Open(m.Data)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, string(o.Data))
			}
			return out
		},
		flaky:    cable.flaky,
		gone:     srv.Shutdown,
		largest:  700 << 10, // as base64 in the envelope
		tooLarge: 1 << 20,
	}
}

// A cable is a link to a server that is cut now and then, in either direction.
type cable struct {
	l  net.Listener
	to string

	mu    sync.Mutex
	rng   *rand.Rand
	bad   bool
	conns map[net.Conn]bool
}

func newCable(t *testing.T, to string) *cable {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{l: l, to: to, rng: rand.New(rand.NewPCG(5, 6)), conns: make(map[net.Conn]bool)}
	ctx := t.Context()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			up, down := c.add(near, far)
			for _, d := range []struct {
				to, from net.Conn
				n        int64
			}{{far, near, up}, {near, far, down}} {
				wg.Go(func() {
					_, _ = io.CopyN(d.to, d.from, d.n) // the end of either is the end of both
					_, _ = near.Close(), far.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for x := range c.conns {
			_ = x.Close()
		}
		c.mu.Unlock()
		wg.Wait()
	})
	return c
}

// add gives how many bytes a new connection lives for, up and down.
func (c *cable) add(conns ...net.Conn) (up, down int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range conns {
		c.conns[x] = true
	}
	if !c.bad {
		return 1 << 40, 1 << 40
	}
	return 1000 + c.rng.Int64N(60<<10), 600 + c.rng.Int64N(6<<10)
}

func (c *cable) flaky(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad = on
}

// A pump drains into JetStream over a link that breaks all the time; the stream
// has each record once, in order.
func TestPumpToJetStream(t *testing.T) {
	sink, far := natsFar(t, nats.Config{}, true)
	log := newLog(t)
	for range 3 {
		log.shard("mqtt").put(1000, "press-1/temp")
	}
	far.flaky(true)
	p := uplink.NewPump(uplink.Config{ID: "site", Linger: conf.Duration(time.Millisecond), RetryMax: conf.Duration(time.Second)}, sink, log, uplink.Options{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	until(t, "records are still waiting", func() bool { return log.pending() < 2700 })
	far.flaky(false)
	until(t, "records are still waiting", func() bool { return log.pending() == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	for _, cur := range log.cursors {
		var want []string
		for _, r := range cur.recs {
			want = append(want, string(r.Data))
		}
		if got := far.payloads(cur.lane); !slices.Equal(got, want) {
			t.Errorf("lane %d: %d messages, want %d in order, each once", cur.lane.Shard, len(got), len(want))
		}
	}
	if err := sink.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
