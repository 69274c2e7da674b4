// Package broker is our own MQTT broker (3.1.1 and 5). PUBACK and PUBREC mean
// that the message is on disk: they are sent after the commit that holds the
// record, in the order in which the messages were received, and never for a
// message that was not stored. A connection is read no further than its bound
// of records that wait, so that a slow disk is felt by the sender and nobody
// else; a client that does not read its acknowledgements stalls itself only.
//
// The topic is the partition key, the payload is the data, byte for byte. A
// topic of more than 256 characters has its MD5 as key and stands in the
// attribute "topic". MQTT 5 user properties become attributes, the content
// type becomes the type. $SYS topics are refused. A will is stored like any
// message.
//
// At least once: sessions are kept in memory. While the gateway runs, a packet
// of QoS 2 is stored once, whatever the connection does; after a crash of the
// gateway what was not acknowledged is sent and stored again.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

const (
	// drainTimeout is how long a stop waits for commits whose records were
	// taken; lastTimeout how long it waits for connections to end after that.
	drainTimeout = 5 * time.Second
	lastTimeout  = 3 * time.Second
	// totalPending bounds the records of all clients that wait for their
	// commit, in bytes, but for one batch of each client; totalReading the big
	// packets that are being read.
	totalPending = 64 << 20
	totalReading = 64 << 20
	// willPatience is how long a will that cannot be stored is tried again.
	willPatience = 30 * time.Second
)

// An Inlet takes records to the log. Put blocks while the log's queue is full;
// ctx cancels only that wait. If it returns nil, done is called once, after
// the commit or its failure, and must not block. The records' bytes belong to
// the log until then.
type Inlet interface {
	Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error
}

// An Option changes a Broker at New.
type Option func(*Broker)

// OnShed has f called with the number of records of QoS 0 that were let go,
// each time; f must be quick and must not block.
func OnShed(f func(n uint64)) Option { return func(b *Broker) { b.onShed = f } }

// A Broker is the MQTT door. Make it with New, run it with Run.
type Broker struct {
	cfg      Config
	log      *slog.Logger
	tls      *tls.Config
	accounts map[string]*account
	onShed   func(uint64)

	memory  *budget
	reading *budget
	flush   *flusher
	fan     *fanout
	core    *core

	errs    atomic.Uint64
	refused atomic.Uint64
	shed    atomic.Uint64
	clients atomic.Int64
	held    atomic.Int64
	heldBy  atomic.Pointer[string]

	mu       sync.Mutex
	conns    map[*conn]struct{}
	sessions map[string]*session
	late     int // wills that wait for their delay
	addr     net.Addr
	down     string // why no door is open; "" when it is
	stopping bool
}

// New checks the configuration and reads the TLS files. Nothing listens yet.
func New(cfg Config, log *slog.Logger, opts ...Option) (*Broker, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	tc, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	acc, err := accounts(cfg.Users)
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, log: log, tls: tc, accounts: acc, down: "not started"}
	for _, o := range opts {
		o(b)
	}
	return b, nil
}

// ID is "mqtt".
func (b *Broker) ID() string { return "mqtt" }

// Kind is "mqtt-broker".
func (b *Broker) Kind() string { return "mqtt-broker" }

// Addr is where the door is open, nil while it is not.
func (b *Broker) Addr() net.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.addr
}

// Clients is the number of clients that are let in.
func (b *Broker) Clients() int { return int(b.clients.Load()) }

// Errors counts broken packets, refused messages and failed logins.
func (b *Broker) Errors() uint64 { return b.errs.Load() }

// Shed counts records of QoS 0 that were let go because they could not be
// stored in time.
func (b *Broker) Shed() uint64 { return b.shed.Load() }

// Refused counts messages that can never be stored: too large, a topic that
// is not allowed.
func (b *Broker) Refused() uint64 { return b.refused.Load() }

// Undelivered counts stored messages that did not reach a local subscriber,
// or were not retained, because too much was waiting.
func (b *Broker) Undelivered() uint64 {
	b.mu.Lock()
	f := b.fan
	b.mu.Unlock()
	if f == nil {
		return 0
	}
	return f.dropped.Load()
}

// Health is up, degraded while clients are held back, or down.
func (b *Broker) Health() (state, reason string) {
	b.mu.Lock()
	down := b.down
	b.mu.Unlock()
	if down != "" {
		return "down", down
	}
	if n := b.held.Load(); n > 0 {
		why := "records cannot be stored"
		if s := b.heldBy.Load(); s != nil {
			why = *s
		}
		return "degraded", fmt.Sprintf("%d clients are held back: %s", n, why)
	}
	return "up", ""
}

func (b *Broker) holding(delta int64, err error) {
	if err != nil {
		s := err.Error()
		b.heldBy.Store(&s)
	}
	if b.held.Add(delta) == 1 && delta > 0 {
		b.log.Warn("clients are held back until records can be stored again", "error", err)
	}
}

func (b *Broker) shedRecords(n int) {
	if n <= 0 {
		return
	}
	b.shed.Add(uint64(n))
	if b.onShed != nil {
		b.onShed(uint64(n))
	}
}

// Run opens the door until ctx ends; then it reads no more, lets commits that
// are on their way be acknowledged (for a bounded time), and returns nil. A
// port that is taken is tried again.
func (b *Broker) Run(ctx context.Context, in Inlet) error {
	if b.cfg.listen().Off() {
		b.setDown("switched off")
		<-ctx.Done()
		return nil
	}
	if err := b.begin(); err != nil {
		return err
	}
	k := b.core
	ln := b.open(ctx)
	if ln == nil {
		return k.close()
	}
	r := &running{b: b, in: in, stop: make(chan struct{})}
	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var fan sync.WaitGroup
	fan.Go(func() { b.fan.run(k) })
	r.wg.Go(func() { r.accept(hard, ln) })
	<-ctx.Done()
	b.setDown("stopped")
	r.shutdown(ln, cancel)
	b.flush.wait()
	b.fan.close()
	fan.Wait()
	return k.close()
}

// begin sets up what one run needs.
func (b *Broker) begin() error {
	b.mu.Lock()
	b.memory, b.reading, b.flush, b.fan = newBudget(totalPending), newBudget(totalReading), newFlusher(), newFanout()
	b.conns, b.sessions, b.stopping = map[*conn]struct{}{}, map[string]*session{}, false
	b.mu.Unlock()
	k, err := newCore(b)
	b.core = k
	return err
}

func (b *Broker) setDown(why string) {
	b.mu.Lock()
	b.down = why
	if why != "" {
		b.addr = nil
	}
	b.mu.Unlock()
}

// open listens; nil when ctx ended before it could.
func (b *Broker) open(ctx context.Context) net.Listener {
	pause := 250 * time.Millisecond
	for {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", string(b.cfg.listen()))
		if err == nil {
			if b.tls != nil {
				ln = tls.NewListener(ln, b.tls)
			}
			b.mu.Lock()
			b.addr, b.down = ln.Addr(), ""
			b.mu.Unlock()
			b.log.Info("MQTT broker listens", "address", ln.Addr().String(), "tls", b.tls != nil)
			return ln
		}
		b.setDown(err.Error())
		b.log.Warn("MQTT broker cannot listen", "error", err)
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// A running is one run of the broker: what its connections share and wait for.
type running struct {
	b    *Broker
	in   Inlet
	stop chan struct{} // closed when the stop begins
	wg   sync.WaitGroup
}

func (r *running) accept(hard context.Context, ln net.Listener) {
	b := r.b
	most := b.cfg.maxConnections() + b.cfg.maxConnections()/10 + 16 // some more: those get a CONNACK that says so
	for {
		raw, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			b.log.Warn("connection cannot be accepted", "error", err)
			select {
			case <-r.stop:
				return
			case <-time.After(100 * time.Millisecond): // out of file descriptors, most likely
			}
			continue
		}
		c := r.newConn(hard, raw)
		b.mu.Lock()
		full := len(b.conns) >= most || b.stopping
		if !full {
			b.conns[c] = struct{}{}
		}
		b.mu.Unlock()
		if full {
			c.cancel()
			b.errs.Add(1)
			_ = raw.Close() // nothing is to be done about a socket that does not close
			continue
		}
		r.wg.Go(func() { r.serve(hard, c) })
	}
}

// newConn makes a connection; what waits for the inlet on its behalf stops
// waiting when it is shut, or when hard ends.
func (r *running) newConn(hard context.Context, raw net.Conn) *conn {
	life, cancel := context.WithCancel(hard)
	c := newConn(r.b, raw, func() *turn { return r.turn(life) })
	c.cancel = cancel
	c.nextTurn()
	return c
}

// turn begins a turn of the connection whose life this is.
func (r *running) turn(life context.Context) *turn {
	ctx, end := context.WithCancel(life)
	return &turn{end: end, put: func(limit time.Duration, recs []record.Record, done func([]record.Result)) error {
		return r.put(ctx, limit, recs, done)
	}}
}

// put is a connection's way to the inlet; ctx ends with the connection, or with
// its turn.
func (r *running) put(ctx context.Context, limit time.Duration, recs []record.Record, done func([]record.Result)) error {
	if limit == 0 {
		return r.in.Put(ctx, recs, done)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return r.in.Put(ctx, recs, done)
}

// serve is the life of one connection.
func (r *running) serve(hard context.Context, c *conn) {
	b := r.b
	err := b.core.attach(c)
	c.shut()
	c.readNoMore()
	c.wg.Wait()
	select {
	case <-c.drained:
	case <-hard.Done():
	}
	c.releaseBig()
	c.buf, c.topics, c.aliases, c.before = nil, nil, nil, nil // a session that stays keeps c
	c.out.wait()
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	if !c.established {
		b.log.Debug("connection ended before it was let in", "remote", c.raw.RemoteAddr().String(), "error", err)
		return
	}
	b.clients.Add(-1)
	b.log.Debug("client is gone", "client", c.sess.id, "error", err)
	if c.will != nil && !c.halted.Load() {
		r.lastWords(hard, c)
	}
	if c.expires {
		b.endSession(c)
	}
}

// bind lets a client in; called once, by the goroutine that reads.
func (b *Broker) bind(c *conn, id string, v5 bool, keepalive uint16, w *will) {
	c.v5, c.will = v5, w
	c.keepalive = time.Duration(keepalive) * time.Second * 3 / 2
	c.lastSet = time.Time{}
	c.topics, c.aliases = map[string]*topic{}, map[uint16]*topic{}
	b.mu.Lock()
	s := b.sessions[id]
	if s != nil {
		c.before = undrained(s.busy)
		if s.late != nil {
			s.late.send = !c.present.Load() // [MQTT-3.1.3-9]
			close(s.late.cancel)
			s.late = nil
		}
	}
	if s == nil || !c.present.Load() {
		s = &session{id: id, qos2: map[uint16]byte{}}
		b.sessions[id] = s
	}
	s.conn = c
	s.busy = append(append([]*conn(nil), c.before...), c)
	b.mu.Unlock()
	c.sess = s
	c.established = true
	b.clients.Add(1)
}

// endSession forgets the session of a connection, unless it has another one.
func (b *Broker) endSession(c *conn) {
	if c.sess == nil {
		return
	}
	b.mu.Lock()
	if c.sess.conn == c && b.sessions[c.sess.id] == c.sess {
		delete(b.sessions, c.sess.id)
	}
	b.mu.Unlock()
}

// shutdown ends all connections: reading first, then, when what was read is
// acknowledged or drainTimeout is over, the rest.
func (r *running) shutdown(ln net.Listener, cancel context.CancelFunc) {
	b := r.b
	b.mu.Lock()
	b.stopping = true
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	if err := ln.Close(); err != nil {
		b.log.Warn("MQTT listener does not close", "error", err)
	}
	close(r.stop)
	for _, c := range conns {
		c.halt()
	}
	end := time.Now().Add(drainTimeout)
	for _, c := range conns {
		c.drain(end)
	}
	for _, c := range conns {
		c.end(codeShuttingDown)
	}
	last := time.AfterFunc(lastTimeout, cancel)
	defer last.Stop()
	r.wg.Wait()
}

// lastWords stores the will of a client that went without a word.
func (r *running) lastWords(hard context.Context, c *conn) {
	b, w, s := r.b, c.will, c.sess
	if delay := w.delay; delay > 0 && !c.expires {
		lw := &lateWill{cancel: make(chan struct{})}
		b.mu.Lock()
		switch {
		case s.conn != c: // the session goes on, elsewhere
			b.mu.Unlock()
			return
		case b.sessions[s.id] != s || b.late >= b.cfg.maxConnections():
			delay = 0
		default:
			s.late = lw
			b.late++
		}
		b.mu.Unlock()
		if delay > 0 {
			t := time.NewTimer(delay)
			defer t.Stop()
			select {
			case <-t.C:
			case <-r.stop:
			case <-lw.cancel:
			}
			b.mu.Lock()
			b.late--
			called := s.late != lw
			if !called {
				s.late = nil
			}
			b.mu.Unlock()
			if called && !lw.send {
				return
			}
		}
	}
	r.say(hard, c, w)
}

// say stores a will and hands it to subscribers.
func (r *running) say(hard context.Context, c *conn, w *will) {
	b := r.b
	t := newTopic(w.topic, c.acl)
	rec := record.Record{Key: t.key, Data: w.payload}
	if w.props != nil {
		rec.Type, rec.Attrs = w.props.contentType, attrs(w.props.user)
	}
	if t.long != "" {
		rec.Attrs = withTopic(rec.Attrs, t.long)
	}
	if t.code != codeSuccess {
		c.refusedPublish("will is not allowed", t.name, t.code)
		return
	}
	if err := rec.Check(); err != nil {
		c.refusedPublish("will cannot be stored", t.name, reasonFor(err))
		return
	}
	ctx, cancel := context.WithTimeout(hard, willPatience)
	defer cancel()
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		result := make(chan error, 1)
		err := r.in.Put(ctx, []record.Record{rec}, func(res []record.Result) { result <- res[0].Err })
		if err == nil {
			select {
			case err = <-result:
			case <-hard.Done():
				return // it is with the log; what becomes of it nobody will hear
			}
		}
		if err == nil {
			break
		}
		if _, bad := errors.AsType[*record.InvalidError](err); bad {
			c.refusedPublish("will cannot be stored", t.name, reasonFor(err))
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			b.shedRecords(1)
			b.log.Warn("will cannot be stored", "client", c.sess.id, "error", err)
			return
		}
	}
	if w.retain || b.fan.wanted(t) {
		e := entry{topic: t, data: w.payload, retain: w.retain, props: w.props}
		switch w.qos {
		case 1:
			e.kind = typePuback
		case 2:
			e.kind = typePubrec
		}
		b.fan.queue(c.sess.id, c.v5, &e)
	}
}
