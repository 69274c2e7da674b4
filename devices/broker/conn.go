package broker

import (
	"bytes"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

const (
	firstChunk = 2 << 10
	fullChunk  = 64 << 10
	// leastRead is how much free space a read wants at least.
	leastRead = 512
	// bigPacket is the size from which a packet's memory is taken from the
	// broker's budget before it is read.
	bigPacket = 64 << 10
	// maxConnect bounds a packet before the client is let in, in bytes: a
	// CONNECT with the largest client id, will, name and password.
	maxConnect = 5 * 65600
	// connectTimeout is how long a client may take for its CONNECT, and for
	// the body of a big packet.
	connectTimeout = 10 * time.Second
	bigTimeout     = 60 * time.Second
	// maxAliases is the Topic Alias Maximum told to clients (MQTT 5, 3.2.2.3.8).
	maxAliases = 64
	// maxTopics bounds the topics remembered for a connection.
	maxTopics = 512
)

// A conn is what the MQTT server behind us takes for a client's socket. It
// reads whole packets and keeps PUBLISH, PUBREL and what belongs to them to
// itself: they go to the inlet and are answered after the commit. All other
// packets pass through, byte for byte.
//
// Read is called by one goroutine, the connection's own; so is everything in
// this file but Write, Close and halt. What is shared is guarded by mu (see
// intake.go) and by the writer.
type conn struct {
	raw    net.Conn
	b      *Broker
	out    *writer
	begin  func() *turn
	cancel func() // ends all turns, and a wait for the inlet with them

	// Where packets are read into. Records point into it, so it is only
	// written behind w; a new one is made when it is full.
	buf      []byte
	r, w     int
	pinned   bool
	chunk    int
	big      int // bytes taken from the budget for the packet that is being read
	bigSince time.Time
	pass     []byte // rest of a packet that the server behind us reads now
	lastSet  time.Time
	cur      *batch

	// Set by the server's hook when the client is let in.
	established bool
	v5          bool
	keepalive   time.Duration // one and a half times the client's; 0 for none
	acl         *account
	sess        *session
	will        *will
	topics      map[string]*topic
	aliases     map[uint16]*topic
	topicBytes  int
	before      []*conn // the client's connections whose commits are not through
	expires     bool    // the session ends with the connection
	level       byte    // of the protocol, as CONNECT says; 0 before it
	nameless    bool    // CONNECT gives no client id, and wants a session kept

	told   sync.Mutex // guards what was logged of refused messages
	tellAt time.Time
	untold uint64

	present atomic.Bool // CONNACK said that a session is there
	halted  atomic.Bool // the broker stops: read no more
	gone    chan struct{}

	intake
}

func newConn(b *Broker, raw net.Conn, begin func() *turn) *conn {
	c := &conn{raw: raw, b: b, out: newWriter(raw, b.flush), begin: begin, chunk: firstChunk, gone: make(chan struct{})}
	c.init()
	return c
}

// Read gives the server behind us at most one packet at a time, so that it
// has dealt with one before we look at the next.
func (c *conn) Read(p []byte) (int, error) {
	for len(c.pass) == 0 {
		if err := c.step(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pass)
	c.pass = c.pass[n:]
	return n, nil
}

// step deals with one packet, or reads more bytes.
func (c *conn) step() error {
	have := c.buf[c.r:c.w]
	n, total, fault := header(have)
	if fault != nil {
		return c.fault(fault)
	}
	if n == 0 {
		return c.fill(leastRead, len(have))
	}
	limit := c.b.cfg.maxPacket()
	if !c.established {
		limit = min(limit, maxConnect)
	}
	if total > limit {
		return c.fault(&faultError{codePacketTooLarge, "packet is larger than max_packet"})
	}
	if len(have) < total {
		return c.fill(total, len(have))
	}
	packet := have[:total:total]
	c.r += total
	c.releaseBig()
	if !c.established {
		if f := c.hello(packet[0], packet[n:]); f != nil {
			return c.fault(f)
		}
		c.pass = packet
		return nil
	}
	if f := checkFrame(packet[0], packet[n:]); f != nil {
		return c.fault(f)
	}
	switch packet[0] >> 4 {
	case typePublish:
		return c.publish(packet[0], packet[n:])
	case typePubrel:
		return c.pubrel(packet[0], packet[n:])
	case typeSubscribe, typeUnsub:
		if f := checkFilters(packet[n:], c.v5, packet[0]>>4 == typeSubscribe); f != nil {
			return c.fault(f)
		}
	case typeDisconnect:
		if len(packet) == n || packet[n] != codeWithWill {
			c.will = nil // [MQTT-3.14.4-3]
		}
	}
	// What came before this packet is handed over before it has an effect.
	if err := c.submit(); err != nil {
		return err
	}
	c.pass = packet
	return nil
}

// fault ends the connection because of what the client sent.
func (c *conn) fault(f *faultError) error {
	c.b.errs.Add(1)
	c.b.log.Debug("client broke the protocol", "remote", c.raw.RemoteAddr().String(), "code", f.code, "error", f.text)
	if err := c.submit(); err != nil {
		return err
	}
	c.end(f.code)
	return f
}

// end closes the connection; an MQTT 5 client is told why.
func (c *conn) end(code byte) {
	if c.established && c.v5 {
		c.out.queue([]byte{typeDisconnect << 4, 1, code})
	}
	_ = c.Close() // it always returns nil
}

// fill reads once from the socket, after what was read so far was handed
// over. need is the size of the packet at hand, have how much of it is there.
func (c *conn) fill(need, have int) error {
	if err := c.submit(); err != nil {
		return err
	}
	c.out.settle()
	if err := c.space(need, have); err != nil {
		return err
	}
	for {
		if err := c.deadline(have > 0); err != nil {
			return err
		}
		if c.halted.Load() {
			c.park()
			<-c.gone
			return net.ErrClosed
		}
		n, err := c.raw.Read(c.buf[c.w:])
		c.w += n
		if n > 0 {
			if c.w == len(c.buf) && c.chunk < fullChunk {
				c.chunk *= 2
			}
			return nil
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && c.halted.Load():
		default:
			return err
		}
	}
}

// deadline keeps [MQTT-3.1.2-22]: no packet for one and a half times the keep
// alive. Time in which we did not read does not count.
func (c *conn) deadline(partial bool) error {
	now := time.Now()
	var limit time.Time
	switch {
	case !c.established:
		if !c.lastSet.IsZero() {
			return nil // set once, at the start
		}
		limit = now.Add(connectTimeout)
	case c.big > 0 && partial:
		limit = c.bigSince.Add(bigTimeout)
	case c.keepalive > 0:
		if now.Sub(c.lastSet) < time.Second {
			return nil
		}
		limit = now.Add(c.keepalive)
	}
	c.lastSet = now
	return c.raw.SetReadDeadline(limit)
}

// space makes room in buf to read at least one byte of the packet at hand.
func (c *conn) space(need, have int) error {
	if need > bigPacket && c.big == 0 {
		if !c.b.reading.take(need, false, c.gone) {
			return errClosed
		}
		c.big, c.bigSince = need, time.Now()
	}
	if have == 0 && !c.pinned {
		c.r, c.w = 0, 0
	}
	missing := min(max(need-have, leastRead), fullChunk)
	if len(c.buf)-c.w >= missing {
		return nil
	}
	if !c.pinned && have+missing <= len(c.buf) {
		copy(c.buf, c.buf[c.r:c.w])
		c.r, c.w = 0, have
		return nil
	}
	// Grown by what has arrived, not by what was announced.
	size := max(c.chunk, min(need, 2*have), have+leastRead)
	if need <= fullChunk {
		size = max(size, need)
	}
	buf := make([]byte, size)
	copy(buf, c.buf[c.r:c.w])
	c.buf, c.r, c.w, c.pinned = buf, 0, have, false
	return nil
}

func (c *conn) releaseBig() {
	if c.big > 0 {
		c.b.reading.give(c.big)
		c.big = 0
		c.lastSet = time.Time{}
	}
}

// publish takes a PUBLISH: into the batch, or refused.
func (c *conn) publish(first byte, body []byte) error {
	var p publish
	if f := parsePublish(first, body, c.v5, &p); f != nil {
		return c.fault(f)
	}
	if err := c.predecessor(); err != nil {
		return err
	}
	t, f := c.topicOf(&p)
	if f != nil {
		return c.fault(f)
	}
	if p.qos == 2 {
		if known, f := c.duplicate(p.id); f != nil {
			return c.fault(f)
		} else if known {
			return nil
		}
	}
	if t.code != codeSuccess {
		return c.refuse(&p, t, t.code)
	}
	rec := record.Record{Key: t.key, Data: p.payload}
	if p.props != nil {
		rec.Type = p.props.contentType
		rec.Attrs = attrs(p.props.user)
	}
	if t.long != "" {
		rec.Attrs = withTopic(rec.Attrs, t.long)
	}
	if err := rec.Check(); err != nil {
		return c.refuse(&p, t, reasonFor(err))
	}
	if len(p.payload) > 0 {
		c.pinned = true
	}
	return c.add(&p, t, rec)
}

// pubrel answers a PUBREL (3.6): the packet identifier is free again. One that
// came before its PUBREC was sent waits for that, so that PUBREC goes first.
func (c *conn) pubrel(first byte, body []byte) error {
	if first&0x0f != 2 || len(body) < 2 { // [MQTT-3.6.1-1]
		return c.fault(malformed("PUBREL"))
	}
	if err := c.predecessor(); err != nil { // the identifiers are its until then
		return err
	}
	id := uint16(body[0])<<8 | uint16(body[1])
	known, err := c.release(id)
	if err != nil {
		return err
	}
	code := byte(codeSuccess)
	if !known {
		code = codeUnknownPacketID
	}
	c.out.queue(appendAck(nil, typePubcomp, id, code, c.v5))
	return nil
}

// Write takes what the server behind us sends.
func (c *conn) Write(p []byte) (int, error) {
	if len(p) >= 4 && p[0] == typeConnack<<4 {
		if n, _, err := header(p); err == nil && n > 0 && n+1 < len(p) {
			c.present.Store(p[n]&1 == 1) // [MQTT-3.2.2-2]
			if code, ok := c.returnCode(p[n+1]); !ok {
				return len(p), nil // the connection ends without one (3.1.1, [MQTT-3.2.2-6])
			} else if code != p[n+1] {
				p = bytes.Clone(p)
				p[n+1] = code
			}
		}
	}
	if err := c.out.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends reading at once; what is queued to be sent is still sent, within
// flushTimeout. What waits for its commit is not acknowledged any more.
func (c *conn) Close() error {
	c.shut()
	return nil
}

// halt ends reading but keeps the connection: acknowledgements still go out.
func (c *conn) halt() {
	c.halted.Store(true)
	_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // fails on a dead socket only
}

func (c *conn) LocalAddr() net.Addr  { return c.raw.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// Deadlines are ours: see deadline and the writer.

func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*conn)(nil)

// A budget is memory shared by all connections, in bytes.
type budget struct {
	mu   sync.Mutex
	cond sync.Cond
	max  int
	used int
}

func newBudget(max int) *budget {
	m := &budget{max: max}
	m.cond.L = &m.mu
	return m
}

// take waits for n bytes; false if gone was closed first (and wake called).
// One taker larger than the budget passes when nobody else holds any. With
// force it does not wait.
func (m *budget) take(n int, force bool, gone <-chan struct{}) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for !force && m.used > 0 && m.used+n > m.max {
		select {
		case <-gone:
			return false
		default:
		}
		m.cond.Wait()
	}
	m.used += n
	return true
}

func (m *budget) give(n int) {
	m.mu.Lock()
	m.used -= n
	m.cond.Broadcast()
	m.mu.Unlock()
}

func (m *budget) wake() {
	m.mu.Lock()
	m.cond.Broadcast()
	m.mu.Unlock()
}
