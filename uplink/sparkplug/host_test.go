package sparkplug_test

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"forebay/firmware-sim/mqttport"
	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
	"forebay/uplink/sparkplug"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}

const patience = 10 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// A tag is what a host knows of a metric.
type tag struct {
	alias   uint64
	typ     sparkplug.Datatype
	current sparkplug.Metric // what it would show
}

// A value is one of a DDATA.
type value struct {
	device, name string
	sparkplug.Metric
}

// A host is a primary host, and the broker with it, that holds the node to the
// specification: whatever breaks a rule fails the test.
type host struct {
	mochi.HookBase
	t   *testing.T
	srv *mochi.Server
	ln  net.Listener

	mu       sync.Mutex
	will     *sparkplug.Metric // bdSeq of the last CONNECT
	connects int
	online   bool // the node
	bdSeq    uint64
	seq      uint8
	devices  map[string]map[string]*tag // born in this session
	aliases  map[uint64]string
	history  []string // verbs with their devices, in order
	values   []value
	cut      func(topic string, payload []byte) bool
	deaf     chan struct{} // barriers wait for it
}

func (h *host) ID() string { return "host" }
func (h *host) Provides(which byte) bool {
	return slices.Contains([]byte{mochi.OnPublish, mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnWill}, which)
}
func (h *host) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (h *host) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

const groupTopic = "spBv1.0/plant/"

func (h *host) errorf(format string, args ...any) {
	h.t.Helper()
	h.t.Errorf(format, args...)
}

// OnConnect checks the will: the node's death.
func (h *host) OnConnect(_ *mochi.Client, pk packets.Packet) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := pk.Connect
	if !c.WillFlag || c.WillTopic != groupTopic+"NDEATH/edge-07" || c.WillQos != 1 || c.WillRetain || !c.Clean {
		h.errorf("CONNECT: will %v topic %q qos %d retain %v clean %v", c.WillFlag, c.WillTopic, c.WillQos, c.WillRetain, c.Clean)
		return nil
	}
	p, err := sparkplug.Decode(c.WillPayload)
	if err != nil || p.HasSeq || len(p.Metrics) != 1 || p.Metrics[0].Name != "bdSeq" || p.Metrics[0].Type != sparkplug.Int64 {
		h.errorf("will %+v, %v", p, err)
		return nil
	}
	if got, want := p.Metrics[0].Value.Int, uint64(h.connects%256); got != want {
		h.errorf("CONNECT %d has bdSeq %d", h.connects, got)
	}
	h.connects++
	h.will = &p.Metrics[0]
	return nil
}

// OnWill is the broker publishing the death.
func (h *host) OnWill(_ *mochi.Client, w mochi.Will) (mochi.Will, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.death(w.Payload)
	return w, nil
}

func (h *host) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if cl.Net.Inline {
		return pk, nil // the host's own
	}
	h.mu.Lock()
	deaf := h.deaf
	cut := h.cut
	h.mu.Unlock()
	if cut != nil && cut(pk.TopicName, pk.Payload) {
		_ = cl.Net.Conn.Close() // not Stop, which forgets the will
		return pk, packets.ErrRejectPacket
	}
	if strings.HasPrefix(pk.TopicName, "forebay/") {
		if deaf != nil {
			<-deaf
		}
		if pk.FixedHeader.Qos != 1 || pk.FixedHeader.Retain {
			h.errorf("barrier with QoS %d, retain %v", pk.FixedHeader.Qos, pk.FixedHeader.Retain)
		}
		return pk, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.take(pk)
	return pk, nil
}

func (h *host) take(pk packets.Packet) {
	rest, ok := strings.CutPrefix(pk.TopicName, groupTopic)
	part := strings.Split(rest, "/")
	if !ok || len(part) < 2 || part[1] != "edge-07" || len(part) > 3 {
		h.errorf("topic %q", pk.TopicName)
		return
	}
	verb, dev := part[0], ""
	if len(part) == 3 {
		dev = part[2]
	}
	h.history = append(h.history, strings.TrimSuffix(verb+" "+dev, " "))
	if verb == "NDEATH" {
		h.death(pk.Payload)
		return
	}
	if pk.FixedHeader.Qos != 0 || pk.FixedHeader.Retain {
		h.errorf("%s with QoS %d, retain %v", verb, pk.FixedHeader.Qos, pk.FixedHeader.Retain)
	}
	p, err := sparkplug.Decode(pk.Payload)
	if err != nil || !p.HasSeq || p.Time == 0 {
		h.errorf("%s: %+v, %v", verb, p, err)
		return
	}
	if verb == "NBIRTH" {
		h.nodeBirth(p)
		return
	}
	if !h.online || p.Seq != h.seq+1 {
		h.errorf("%s: seq %d after %d, node online %v", verb, p.Seq, h.seq, h.online)
	}
	h.seq = p.Seq
	switch {
	case dev != "" && verb == "DBIRTH":
		h.birth(dev, p)
	case dev != "" && verb == "DDATA":
		h.data(dev, p)
	default:
		h.errorf("verb %q, device %q", verb, dev)
	}
}

func (h *host) death(b []byte) {
	p, err := sparkplug.Decode(b)
	if err != nil || p.HasSeq || len(p.Metrics) != 1 || p.Metrics[0].Name != "bdSeq" {
		h.errorf("NDEATH %+v, %v", p, err)
		return
	}
	if p.Metrics[0].Value.Int == h.bdSeq {
		h.online = false
	}
}

func (h *host) nodeBirth(p sparkplug.Payload) {
	if p.Seq != 0 {
		h.errorf("NBIRTH with seq %d", p.Seq)
	}
	h.seq, h.online = 0, true
	h.devices, h.aliases = map[string]map[string]*tag{}, map[uint64]string{}
	found := 0
	for _, m := range p.Metrics {
		switch m.Name {
		case "bdSeq":
			found++
			if m.Type != sparkplug.Int64 || h.will == nil || m.Value.Int != h.will.Value.Int {
				h.errorf("NBIRTH: bdSeq %+v, the will's is %+v", m, h.will)
			}
			h.bdSeq = m.Value.Int
		case "Node Control/Rebirth":
			found++
			if m.Type != sparkplug.Boolean || m.Value.Type != sparkplug.Boolean || m.Value.Bool || m.Alias != 0 {
				h.errorf("NBIRTH: rebirth %+v", m)
			}
		}
		if m.Time == 0 {
			h.errorf("NBIRTH: %s has no time", m.Name)
		}
	}
	if found != 2 {
		h.errorf("NBIRTH: %+v", p)
	}
}

func (h *host) birth(dev string, p sparkplug.Payload) {
	h.devices[dev] = map[string]*tag{}
	for _, m := range p.Metrics {
		if m.Name == "" || m.Type == sparkplug.Unknown || m.Time == 0 || m.Historical || m.Null == (m.Value.Type != sparkplug.Unknown) {
			h.errorf("DBIRTH %s: %+v", dev, m)
		}
		if !m.Null && !fits(m) {
			h.errorf("DBIRTH %s: the value is not of its type: %+v", dev, m)
		}
		if h.devices[dev][m.Name] != nil {
			h.errorf("DBIRTH %s: %s stands twice", dev, m.Name)
		}
		if m.Alias > 0 {
			if other, taken := h.aliases[m.Alias]; taken && other != dev+" "+m.Name {
				h.errorf("alias %d means %s and %s", m.Alias, other, dev+" "+m.Name)
			}
			h.aliases[m.Alias] = dev + " " + m.Name
		}
		h.devices[dev][m.Name] = &tag{alias: m.Alias, typ: m.Type, current: m}
	}
}

// fits reports whether a value is of its type: what stands in a long may be
// any of its integers.
func fits(m sparkplug.Metric) bool {
	if m.Type == sparkplug.Int64 {
		return m.Value.Type == sparkplug.UInt64
	}
	return m.Type == m.Value.Type
}

func (h *host) data(dev string, p sparkplug.Payload) {
	newest := uint64(0)
	for _, m := range p.Metrics {
		name := m.Name
		if m.Alias > 0 {
			if name != "" {
				h.errorf("DDATA with name %q and alias %d", name, m.Alias)
			}
			_, name, _ = strings.Cut(h.aliases[m.Alias], " ")
		}
		known := h.devices[dev][name]
		if known == nil {
			h.errorf("DDATA %s: %s is in no birth", dev, name)
			continue
		}
		if m.Type != known.typ || !m.Null && !fits(m) || m.Time == 0 {
			h.errorf("DDATA %s: %+v, born as %d", dev, m, known.typ)
		}
		if !m.Historical {
			if m.Time < newest {
				h.errorf("DDATA %s: %s is older than the one before it", dev, name)
			}
			newest = m.Time
			known.current = m
		}
		m.Name = name
		h.values = append(h.values, value{dev, name, m})
	}
}

func newHost(t *testing.T) *host {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, ln: ln}
	h.srv = mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: true})
	for _, err := range []error{h.srv.AddHook(h, nil), h.srv.AddListener(mqttport.New(ln)), h.srv.Serve()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := h.srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// publish is the host's own word.
func (h *host) publish(topic string, payload []byte, retain bool) {
	h.t.Helper()
	if err := h.srv.Publish(topic, payload, retain, 1); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) state(online bool, at int64) {
	h.t.Helper()
	h.publish("spBv1.0/STATE/scada", fmt.Appendf(nil, `{"online":%v,"timestamp":%d}`, online, at), true)
}

func (h *host) said() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.history)
}

func (h *host) read() []value {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.values)
}

func (h *host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values, h.history = nil, nil
}

// current is what the host shows of a metric.
func (h *host) current(dev, name string) sparkplug.Metric {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.devices[dev][name]; g != nil {
		return g.current
	}
	return sparkplug.Metric{}
}

func (h *host) alive() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.online
}

func (h *host) addr() mqtt.Link { return mqtt.Link{Broker: "tcp://" + h.ln.Addr().String()} }

func open(t *testing.T, cfg sparkplug.Config) *sparkplug.Sink {
	t.Helper()
	cfg.Group = "plant"
	s, err := sparkplug.New(cfg, lane.Home{Uplink: "up", ID: identity, Log: slog.New(slog.DiscardHandler)})
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

var line = lane.Lane{Stream: "mqtt", Shard: 1}

func rec(seq int, key, data string, arrived time.Time) record.Record {
	return record.Record{Key: key, Source: "broker", Data: []byte(data), Arrived: arrived, Pos: record.Pos{Shard: 1, Seq: uint64(seq)}}
}

func send(t *testing.T, s *sparkplug.Sink, backlog bool, recs ...record.Record) lane.Outcome {
	t.Helper()
	out := s.Send(t.Context(), []lane.Batch{{Lane: line, Recs: recs, Backlog: backlog}})[0]
	if (out.Done == len(recs)) != (out.Class == lane.OK) {
		t.Fatalf("%+v of %d", out, len(recs))
	}
	return out
}
