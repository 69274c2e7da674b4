package mqtt_test

import (
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"forebay/firmware-sim/mqttport"
	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}

type got struct {
	topic, payload string
	retain         bool
	qos            byte
}

// A broker is mochi, with a hook that notes what it takes, and may refuse as
// AWS IoT Core does: by ending the connection.
type broker struct {
	mochi.HookBase
	srv *mochi.Server
	ln  net.Listener

	mu     sync.Mutex
	got    []got
	refuse func(topic string, payload []byte) bool
	ids    []string // of the clients that came
}

func (b *broker) ID() string { return "test" }
func (b *broker) Provides(which byte) bool {
	return slices.Contains([]byte{mochi.OnPublish, mochi.OnConnectAuthenticate, mochi.OnACLCheck}, which)
}

func (b *broker) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ids = append(b.ids, cl.ID)
	return string(pk.Connect.Password) != "wrong"
}
func (b *broker) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (b *broker) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil && b.refuse(pk.TopicName, pk.Payload) {
		cl.Stop(packets.ErrNotAuthorized)
		return pk, packets.ErrRejectPacket
	}
	b.got = append(b.got, got{pk.TopicName, string(pk.Payload), pk.FixedHeader.Retain, pk.FixedHeader.Qos})
	return pk, nil
}

func (b *broker) all() []got {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func (b *broker) refusing(f func(topic string, payload []byte) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = f
}

func (b *broker) addr() string { return b.ln.Addr().String() }

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() }) // it may be closed already
	return ln
}

func newBroker(t *testing.T, ln net.Listener, maxPacket uint32) *broker {
	t.Helper()
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumPacketSize = maxPacket
	b := &broker{srv: mochi.New(&mochi.Options{Capabilities: caps, Logger: slog.New(slog.DiscardHandler)}), ln: ln}
	if err := b.srv.AddHook(b, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.srv.AddListener(mqttport.New(ln)); err != nil {
		t.Fatal(err)
	}
	if err := b.srv.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.srv.Close() }) // a listener may be closed already
	return b
}

// A link is a TCP proxy that can swallow what passes.
type link struct {
	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	deaf  bool
	held  chan struct{} // nothing is read until it is closed
	read  int           // bytes from either side
	conns []net.Conn
}

func newLink(t *testing.T, to string) *link {
	l := &link{ln: listen(t)}
	l.wg.Go(func() {
		for {
			in, err := l.ln.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = in.Close() // the client sees the end
				continue
			}
			if c, ok := in.(*net.TCPConn); ok && c.SetReadBuffer(16<<10) != nil { // a link holds little
				t.Error("no small buffer")
			}
			l.mu.Lock()
			l.conns = append(l.conns, in, out)
			l.mu.Unlock()
			l.wg.Go(func() { l.copy(in, out) })
			l.wg.Go(func() { l.copy(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = l.ln.Close() // it may be closed already
		l.cut()
		l.wg.Wait()
	})
	return l
}

func (l *link) addr() string { return l.ln.Addr().String() }

func (l *link) copy(from, to net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		l.read += n
		deaf, held := l.deaf, l.held
		l.mu.Unlock()
		if held != nil {
			<-held
		}
		if err == nil && !deaf {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			_ = from.Close() // both ends see it
			_ = to.Close()
			return
		}
	}
}

// swallow makes the link half-open: nothing passes, nobody is told.
func (l *link) swallow(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = on
}

// hold stops the link until the returned function is called; both sides wait.
func (l *link) hold() (release func()) {
	held := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = nil
		close(held)
	})
}

func (l *link) passed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.read
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close() // some are closed already
	}
	l.conns = nil
}

func open(t *testing.T, cfg mqtt.Config) *mqtt.Sink {
	t.Helper()
	s, err := mqtt.New(cfg, lane.Home{Uplink: "up", ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func laneOf(stream string, shard int) lane.Lane {
	return lane.Lane{Stream: stream, Shard: record.ShardID(shard)}
}

func rec(l lane.Lane, seq int, key, data string) record.Record {
	return record.Record{Key: key, Source: "press", Data: []byte(data), Pos: record.Pos{Shard: l.Shard, Seq: uint64(seq)}}
}

func batch(l lane.Lane, recs ...record.Record) lane.Batch { return lane.Batch{Lane: l, Recs: recs} }

// drain sends a batch as a pump does, until it is through, and gives how many
// were called poison, and the classes that were seen.
func drain(t *testing.T, s *mqtt.Sink, b lane.Batch, tries int) (poison []uint64, classes map[lane.Class]int, last error) {
	t.Helper()
	classes = map[lane.Class]int{}
	for range tries {
		if len(b.Recs) == 0 {
			return poison, classes, last
		}
		o := s.Send(t.Context(), []lane.Batch{b})[0]
		if (o.Done == len(b.Recs)) != (o.Class == lane.OK) {
			t.Fatalf("%d of %d done, %v", o.Done, len(b.Recs), o.Class)
		}
		classes[o.Class]++
		b.Recs = b.Recs[o.Done:]
		if o.Err != nil {
			last = o.Err
		}
		if o.Class == lane.Poison {
			poison = append(poison, b.Recs[0].Pos.Seq)
			b.Recs = b.Recs[1:]
		}
	}
	if len(b.Recs) > 0 {
		classes[lane.Class(200)] = len(b.Recs) // left
	}
	return poison, classes, last
}

// speak serves one connection after another with f.
func speak(t *testing.T, f func(c net.Conn)) string {
	t.Helper()
	ln := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				f(c)
				_ = c.Close() // the other side may have been faster
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close() // it ends Accept
		wg.Wait()
	})
	return ln.Addr().String()
}

var _ io.Closer = (*mqtt.Sink)(nil)
