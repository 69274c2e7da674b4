package broker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	// writesPending and inflight bound what waits in the server behind us for
	// one subscriber, in messages.
	writesPending = 256
	inflight      = 1024
	// maxFilters bounds the subscriptions of one client.
	maxFilters = 1000
	// sessionExpiry is how long the session of a client that is away is kept,
	// in seconds.
	sessionExpiry = 24 * 3600
)

// The core is the MQTT server behind the connections: it knows CONNECT,
// SUBSCRIBE, PING, retained messages, and delivery to subscribers. It never
// sees a PUBLISH of a client. This file is the only one that knows mochi-mqtt.
type core struct {
	srv *mochi.Server

	mu    sync.Mutex
	peers map[*conn]*mochi.Client

	from map[string]*mochi.Client // senders of messages; the fanout's goroutine only
}

func newCore(b *Broker) (*core, error) {
	caps := mochi.NewDefaultServerCapabilities()
	caps.MaximumClients = int64(b.cfg.maxConnections())
	caps.MaximumMessageExpiryInterval = 0 // the sender's alone counts
	caps.MaximumClientWritesPending = writesPending
	caps.MaximumSessionExpiryInterval = sessionExpiry
	caps.MaximumPacketSize = uint32(max(b.cfg.maxPacket(), maxConnect))
	caps.ReceiveMaximum = uint16(b.cfg.maxPending())
	caps.MaximumInflight = inflight
	srv := mochi.New(&mochi.Options{
		Capabilities: caps,
		// Its log lines hold whole packets, passwords too.
		Logger:                  slog.New(slog.DiscardHandler),
		InlineClient:            true,
		ClientNetReadBufferSize: 512,
		// $SYS costs a stop of the world each time and is nobody's interface.
		SysTopicResendInterval: 1 << 30,
	})
	c := &core{srv: srv, peers: map[*conn]*mochi.Client{}, from: map[string]*mochi.Client{}}
	if err := srv.AddHook(&hook{b: b, core: c}, nil); err != nil {
		return nil, fmt.Errorf("set up the MQTT server: %w", err)
	}
	if err := srv.Serve(); err != nil {
		return nil, fmt.Errorf("start the MQTT server: %w", err)
	}
	for topic := range srv.Topics.Retained.GetAll() {
		if strings.HasPrefix(topic, mochi.SysPrefix) {
			srv.Topics.Retained.Delete(topic)
		}
	}
	return c, nil
}

// attach serves a connection until it ends. A panic in the server behind us
// ends this connection only: mochi-mqtt 2.7.9 panics on a SUBSCRIBE that is
// cut short (packets.go:959).
func (k *core) attach(c *conn) (err error) {
	defer func() {
		k.mu.Lock()
		cl := k.peers[c]
		delete(k.peers, c)
		k.mu.Unlock()
		r := recover()
		if r == nil {
			return
		}
		err = malformed(fmt.Sprintf("a packet made the MQTT server panic: %v", r))
		c.end(codeMalformed)
		if cl != nil {
			k.srv.UnsubscribeClient(cl)
			cl.ClearInflights()
			if now, ok := k.srv.Clients.Get(cl.ID); ok && now == cl {
				k.srv.Clients.Delete(cl.ID)
			}
			c.expires = true
		}
	}()
	err = k.srv.EstablishConnection("mqtt", c)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// deliver hands a stored message to the subscribers. Called by one goroutine.
func (k *core) deliver(m *message) {
	defer func() {
		if r := recover(); r != nil {
			delete(k.from, m.from)
		}
	}()
	cl := k.from[m.from]
	if cl == nil {
		if len(k.from) >= 256 {
			clear(k.from)
		}
		cl = k.srv.NewClient(nil, mochi.LocalListener, m.from, true) // its id makes No Local work ([MQTT-3.8.3-3])
		k.from[m.from] = cl
	}
	cl.Properties.ProtocolVersion = 4
	if m.v5 {
		cl.Properties.ProtocolVersion = 5
	}
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: m.qos, Retain: m.retain},
		TopicName:   m.topic,
		Payload:     m.payload,
	}
	if m.qos > 0 {
		pk.PacketID = 1 // never sent: each subscriber gets his own
	}
	if q := m.props; q != nil {
		pk.Properties = packets.Properties{
			PayloadFormatFlag:     q.utf8Payload,
			ContentType:           q.contentType,
			ResponseTopic:         q.responseTopic,
			CorrelationData:       q.correlation,
			MessageExpiryInterval: q.expiry,
		}
		if q.utf8Payload {
			pk.Properties.PayloadFormat = 1
		}
		for _, u := range q.user {
			pk.Properties.User = append(pk.Properties.User, packets.UserProperty{Key: u[0], Val: u[1]})
		}
	}
	// It fails only for a packet that breaks the rules that ours was checked by.
	_ = k.srv.InjectPacket(cl, pk) // see above
}

// filters are the filters of all subscriptions, some more than once.
func (k *core) filters() []string {
	var all []string
	for _, cl := range k.srv.Clients.GetAll() {
		for f := range cl.State.Subscriptions.GetAll() {
			all = append(all, f)
		}
	}
	return all
}

// retained are the sizes of the retained messages by topic.
func (k *core) retained() map[string]int {
	m := map[string]int{}
	for t, pk := range k.srv.Topics.Retained.GetAll() {
		m[t] = retainedSize(t, pk.Payload)
	}
	return m
}

// close ends the server; all connections have ended before.
func (k *core) close() error { return k.srv.Close() }

// The hook is what the server behind us tells.
type hook struct {
	mochi.HookBase
	b    *Broker
	core *core
}

func (h *hook) ID() string { return "forebay" }

func (h *hook) Provides(which byte) bool {
	switch which {
	case mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnACLCheck,
		mochi.OnSessionEstablished, mochi.OnDisconnect, mochi.OnPacketEncode,
		mochi.OnSubscribe, mochi.OnSubscribed, mochi.OnUnsubscribed,
		mochi.OnClientExpired, mochi.OnPublishDropped:
		return true
	}
	return false
}

// OnConnect refuses what the server behind us would let pass.
func (h *hook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	// It sends a topic alias whose first use it may have dropped.
	cl.Properties.Props.TopicAliasMaximum = 0
	refuse := func(code packets.Code) error {
		if err := h.core.srv.SendConnack(cl, code, false, nil); err != nil {
			return fmt.Errorf("send CONNACK: %w", err)
		}
		return code
	}
	if pk.Connect.WillFlag {
		t := pk.Connect.WillTopic
		if t == "" || strings.ContainsAny(t, "+#") { // [MQTT-4.7.3-1], [MQTT-4.7.1-1]
			return refuse(packets.ErrTopicNameInvalid)
		}
	}
	if _, known := h.core.srv.Clients.Get(cl.ID); !known && h.core.srv.Clients.Len() > 4*h.b.cfg.maxConnections() {
		if cl.Properties.ProtocolVersion < 5 {
			return refuse(packets.ErrServerUnavailable)
		}
		return refuse(packets.ErrServerBusy)
	}
	return nil
}

func (h *hook) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return false
	}
	acl, ok, err := h.b.login(string(pk.Connect.Username), string(pk.Connect.Password))
	if err != nil {
		h.b.log.Error("client cannot be let in", "client", cl.ID, "error", err)
	}
	if !ok {
		h.b.errs.Add(1)
		h.b.log.Warn("client gave a wrong user name or password", "client", cl.ID, "remote", cl.Net.Remote)
		return false
	}
	c.acl = acl
	return true
}

// OnACLCheck is asked for each filter that is subscribed to, and for each
// message before it goes to a subscriber.
func (h *hook) OnACLCheck(cl *mochi.Client, topic string, write bool) bool {
	c, ok := cl.Net.Conn.(*conn)
	if !ok || write { // a PUBLISH never gets here
		return cl.Net.Inline
	}
	return c.acl.maySubscribe(topic)
}

func (h *hook) OnSessionEstablished(cl *mochi.Client, pk packets.Packet) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return
	}
	h.core.mu.Lock()
	h.core.peers[c] = cl
	h.core.mu.Unlock()
	v5 := cl.Properties.ProtocolVersion == 5
	var w *will
	if pk.Connect.WillFlag {
		w = &will{
			topic: pk.Connect.WillTopic, payload: pk.Connect.WillPayload,
			qos: pk.Connect.WillQos, retain: pk.Connect.WillRetain,
		}
		if v5 {
			q := &pk.Connect.WillProperties
			w.props = &props{
				utf8Payload: q.PayloadFormat == 1, expires: q.MessageExpiryInterval > 0, expiry: q.MessageExpiryInterval,
				contentType: q.ContentType, responseTopic: q.ResponseTopic, correlation: q.CorrelationData,
			}
			for _, u := range q.User {
				w.props.user = append(w.props.user, [2]string{u.Key, u.Val})
			}
			// The will is sent when the session ends, if that is sooner (3.1.3.2.2).
			w.delay = time.Duration(min(q.WillDelayInterval, cl.Properties.Props.SessionExpiryInterval)) * time.Second
		}
	}
	// Ours to send, after it is stored.
	cl.Properties.Will = mochi.Will{}
	var filters []string
	for f := range cl.State.Subscriptions.GetAll() {
		filters = append(filters, f)
	}
	if len(filters) > 0 {
		h.b.fan.subscribed(filters)
	}
	h.b.bind(c, cl.ID, v5, cl.State.Keepalive, w)
}

func (h *hook) OnDisconnect(cl *mochi.Client, _ error, expire bool) {
	if c, ok := cl.Net.Conn.(*conn); ok && expire {
		c.expires = true
		h.b.fan.stale.Store(true)
	}
}

func (h *hook) OnClientExpired(cl *mochi.Client) {
	h.b.fan.stale.Store(true)
	if c, ok := cl.Net.Conn.(*conn); ok {
		h.b.endSession(c)
	}
}

// OnPacketEncode tells an MQTT 5 client our limits in CONNACK (3.2.2.3).
func (h *hook) OnPacketEncode(_ *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Connack {
		pk.Properties.TopicAliasMaximum = maxAliases
		pk.Properties.MaximumPacketSize = uint32(h.b.cfg.maxPacket())
	}
	return pk
}

// OnSubscribe empties filters that the server behind us would take though they
// are not valid or too many; an empty one it refuses.
func (h *hook) OnSubscribe(cl *mochi.Client, pk packets.Packet) packets.Packet {
	room := maxFilters - cl.State.Subscriptions.Len()
	for i := range pk.Filters {
		f := pk.Filters[i].Filter
		if room--; room < 0 || !subscribable(f) {
			pk.Filters[i].Filter = ""
		}
	}
	return pk
}

func (h *hook) OnSubscribed(_ *mochi.Client, pk packets.Packet, codes []byte) {
	var filters []string
	for i, s := range pk.Filters {
		if i < len(codes) && codes[i] <= 2 {
			filters = append(filters, s.Filter)
		}
	}
	h.b.fan.subscribed(filters)
}

func (h *hook) OnUnsubscribed(*mochi.Client, packets.Packet) { h.b.fan.stale.Store(true) }

func (h *hook) OnPublishDropped(*mochi.Client, packets.Packet) { h.b.fan.dropped.Add(1) }
