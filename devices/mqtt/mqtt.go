// Package mqtt reads a broker that already stands, as a client of it. A
// message is acknowledged to the broker after the commit that holds its
// record, in the order in which the messages came. The session is persistent,
// so that the broker queues while we are away.
//
// The topic is the partition key, the payload is the data, byte for byte. A
// topic of more than 256 characters has its MD5 as key and stands in the
// attribute "topic". A message that the broker sent because it was retained
// has the attribute "retained".
//
// At least once: what was stored but not acknowledged when the connection
// broke is sent again and stored again. Whether the broker keeps what it has
// acknowledged to its own clients is the broker's matter; see Config.
package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"forebay/spool/record"
)

const (
	connectTimeout = 10 * time.Second
	writeTimeout   = 20 * time.Second
	keepAlive      = 30 * time.Second
	// queueRecords and queueBytes bound what was received and waits for its
	// commit. Then no more is read from the broker.
	queueRecords = 1000
	queueBytes   = 4 << 20
	// stopTimeout is how long a stop waits for the commit that is on its way.
	stopTimeout = 5 * time.Second
	firstPause  = 250 * time.Millisecond
	lastPause   = 30 * time.Second
	lastRetry   = 2 * time.Second
	// steady is how long a connection must have held for the pause to start
	// from firstPause again.
	steady = 30 * time.Second

	droppedTopic = "$SYS/broker/publish/messages/dropped"
)

// An Inlet takes records to the log. Put blocks while the log's queue is full;
// ctx cancels only that wait. If it returns nil, done is called once, after
// the commit or its failure, and must not block. The records' bytes belong to
// the log until then.
type Inlet interface {
	Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error
}

// An Option changes a Source at New.
type Option func(*Source)

// OnShed has f called with the number of messages that Shed counts, each time;
// f must be quick and must not block.
func OnShed(f func(n uint64)) Option { return func(s *Source) { s.onShed = f } }

// A Source is one broker. Make it with New, run it with Run.
type Source struct {
	cfg Config
	log *slog.Logger
	tls *tls.Config
	// onShed may be nil.
	onShed func(uint64)

	errs    atomic.Uint64
	refused atomic.Uint64
	shed    atomic.Uint64

	mu     sync.Mutex
	state  string
	reason string
	held   error // why records are not stored at the moment
	// Of droppedTopic: the broker's count when it was first seen, what came on
	// top of it, and the last count.
	sawDrops  bool
	lastDrops uint64
	drops     uint64
}

// New checks the configuration and reads the CA file.
func New(cfg Config, log *slog.Logger, opts ...Option) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	t, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, log: log, tls: t, state: "down", reason: "not started"}
	for _, o := range opts {
		o(s)
	}
	return s, nil
}

// ID is the source's name in the config.
func (s *Source) ID() string { return string(s.cfg.ID) }

// Kind is "mqtt-client".
func (s *Source) Kind() string { return "mqtt-client" }

// Errors counts failed and lost connections, refused subscriptions and refused messages.
func (s *Source) Errors() uint64 { return s.errs.Load() }

// Refused counts messages that can never be stored. They are acknowledged to
// the broker, which would send them for ever.
func (s *Source) Refused() uint64 { return s.refused.Load() }

// Shed counts messages of QoS 0 that were received and not stored when the
// connection or the gateway ended.
func (s *Source) Shed() uint64 { return s.shed.Load() }

// Dropped is how many messages the broker says it has lost since this source
// first saw its count; for all the broker's subscribers together. It is 0
// unless Config.WatchDropped is set.
func (s *Source) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drops
}

// Health is up; degraded when records cannot be stored, a subscription was
// refused or the broker has dropped messages; connecting; or down.
func (s *Source) Health() (state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != "up":
		return s.state, s.reason
	case s.held != nil:
		return "degraded", "records cannot be stored: " + s.held.Error()
	case s.drops > 0:
		return "degraded", fmt.Sprintf("the broker has dropped %d messages; set max_queued_messages 0 there", s.drops)
	}
	return s.state, s.reason
}

func (s *Source) set(state, reason string) {
	s.mu.Lock()
	s.state, s.reason = state, reason
	s.mu.Unlock()
}

func (s *Source) hold(err error) {
	s.mu.Lock()
	first := s.held == nil && err != nil
	s.held = err
	s.mu.Unlock()
	if first {
		s.log.Warn("records cannot be stored, the broker waits", "error", err)
	}
}

// Run connects, reads, and connects again, until ctx ends; then it lets the
// commit that is on its way be acknowledged and returns nil.
func (s *Source) Run(ctx context.Context, in Inlet) error {
	defer s.set("down", "stopped")
	pause := firstPause
	subscribed := false
	for {
		s.set("connecting", s.cfg.Broker)
		began := time.Now()
		err := s.session(ctx, in, &subscribed)
		if ctx.Err() != nil {
			return nil
		}
		s.errs.Add(1)
		s.set("down", err.Error())
		s.log.Warn("broker cannot be read", "broker", s.cfg.Broker, "error", err)
		if time.Since(began) > steady {
			pause = firstPause
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		pause = min(2*pause, lastPause)
	}
}

// session is one connection, from CONNECT to its end. subscribed says whether
// the broker's session of us has our subscriptions.
func (s *Source) session(ctx context.Context, in Inlet, subscribed *bool) error {
	live, end := context.WithCancel(ctx)
	defer end()
	q := newQueue()
	// A handler that waits for room must not outlive the connection.
	defer context.AfterFunc(live, q.close)()
	lost := make(chan error, 1)
	dialled := &dialled{}
	opts, err := s.options(live, q, lost, dialled)
	if err != nil {
		return err
	}
	client := paho.NewClient(opts)
	token := client.Connect()
	unhang := context.AfterFunc(live, dialled.close) // CONNECT is not waited for any longer
	<-token.Done()
	unhang()
	if err := token.Error(); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		end()
		q.close()
		client.Disconnect(250)
		dialled.close()
	}()
	kept := false
	if t, ok := token.(*paho.ConnectToken); ok {
		kept = t.SessionPresent()
	}
	p := &pump{s: s, in: in, q: q}
	var wg sync.WaitGroup
	wg.Go(func() { p.run(live) })
	defer wg.Wait()
	defer end()
	if !kept || !*subscribed {
		if err := s.subscribe(live, client); err != nil {
			return err
		}
		*subscribed = true
	}
	s.set("up", "")
	s.log.Info("broker is read", "broker", s.cfg.Broker, "session_present", kept)
	select {
	case <-ctx.Done():
		return nil
	case err := <-lost:
		return fmt.Errorf("connection lost: %w", err)
	}
}

func (s *Source) options(live context.Context, q *queue, lost chan<- error, d *dialled) (*paho.ClientOptions, error) {
	hostport, _, err := s.cfg.address()
	if err != nil {
		return nil, err
	}
	o := paho.NewClientOptions().
		AddBroker("tcp://" + hostport). // the connection is made by d
		SetClientID(s.cfg.clientID()).
		SetProtocolVersion(4).
		SetCleanSession(false).
		SetResumeSubs(true).
		SetOrderMatters(true).
		SetAutoAckDisabled(true).
		SetAutoReconnect(false).
		SetConnectTimeout(connectTimeout).
		SetWriteTimeout(writeTimeout).
		SetKeepAlive(keepAlive)
	if s.cfg.Username != "" {
		o.SetUsername(s.cfg.Username)
		if s.cfg.Password.IsSet() {
			pw, err := s.cfg.Password.Reveal()
			if err != nil {
				return nil, fmt.Errorf("password: %w", err)
			}
			o.SetPassword(pw)
		}
	}
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		return d.dial(live, hostport, s.tls)
	})
	o.SetConnectionLostHandler(func(_ paho.Client, err error) {
		select {
		case lost <- err:
		default:
		}
	})
	// Set before Connect: a session that is resumed delivers at once.
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { s.receive(q, m) })
	return o, nil
}

// subscribe asks for our topics; it fails if the broker refuses one of them.
func (s *Source) subscribe(ctx context.Context, client paho.Client) error {
	filters := map[string]byte{}
	for _, t := range s.cfg.topics() {
		filters[t] = s.cfg.qos()
	}
	if s.cfg.WatchDropped {
		filters[droppedTopic] = 0
	}
	token := client.SubscribeMultiple(filters, nil)
	select {
	case <-token.Done():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(connectTimeout):
		return errors.New("subscribe: the broker does not answer")
	}
	if t, ok := token.(*paho.SubscribeToken); ok {
		for filter, code := range t.Result() {
			if code > 2 && filter != droppedTopic {
				return fmt.Errorf("subscribe: the broker refuses %q", filter)
			}
		}
	}
	if err := token.Error(); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// receive is called by paho for each message, in order. It may wait: that is
// the back-pressure; it never outlives the connection.
func (s *Source) receive(q *queue, m paho.Message) {
	if s.cfg.WatchDropped && m.Topic() == droppedTopic {
		s.dropped(string(m.Payload()))
		return
	}
	q.add(m)
}

// dropped reads the broker's count. It starts from 0 when the broker does.
func (s *Source) dropped(payload string) {
	n, err := strconv.ParseUint(strings.TrimSpace(payload), 10, 64)
	if err != nil {
		s.log.Debug("broker's count of dropped messages is not a number", "payload", payload)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.sawDrops:
	case n < s.lastDrops:
		s.drops += n
	default:
		s.drops += n - s.lastDrops
	}
	s.sawDrops, s.lastDrops = true, n
}

// recordOf makes the record of a message; it shares the payload's bytes.
func recordOf(m paho.Message) record.Record {
	key, long := record.KeyOf(m.Topic())
	r := record.Record{Key: key, Data: m.Payload()}
	if m.Retained() {
		r.Attrs = map[string]string{"retained": "true"}
	}
	if long {
		if r.Attrs == nil {
			r.Attrs = map[string]string{}
		}
		r.Attrs["topic"] = m.Topic()
	}
	return r
}

// A dialled is the socket of one connection, so that it can be closed while
// paho waits for the broker's first word.
type dialled struct {
	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

func (d *dialled) dial(ctx context.Context, hostport string, t *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if t == nil {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", hostport)
	} else {
		conn, err = (&tls.Dialer{Config: t}).DialContext(ctx, "tcp", hostport)
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn = conn
	if d.closed {
		_ = conn.Close() // whoever reads from it gets the error
	}
	return conn, nil
}

func (d *dialled) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.conn != nil {
		_ = d.conn.Close() // nothing is to be done about a socket that does not close
	}
}
