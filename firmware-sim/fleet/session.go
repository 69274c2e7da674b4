package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/mqtt"
)

const (
	packetLimit  = 64 << 10 // nothing that a broker sends a publisher is longer
	answerWithin = 10 * time.Second
	maxBatch     = 64 << 10
)

// talk keeps the device connected until ctx ends, or until the device has
// ended and nothing waits.
func (d *device) talk(ctx context.Context, stop func()) {
	const least, most = 250 * time.Millisecond, 5 * time.Second
	pause := least
	for ctx.Err() == nil && !d.idle() {
		accepted, err := d.session(ctx, stop)
		if ctx.Err() != nil || d.idle() {
			return
		}
		if accepted {
			pause = least
		}
		d.fleet.cfg.Log.Debug("connection ended", "device", d.id, "error", err)
		// Half to one and a half of the pause: a fleet does not come back as one.
		wait := time.NewTimer(pause/2 + time.Duration(d.jitter.Int64N(int64(pause))))
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		pause = min(2*pause, most)
	}
}

// session is one connection, from dialling to its end.
func (d *device) session(ctx context.Context, stop func()) (accepted bool, err error) {
	conn, err := d.fleet.cfg.Dial(ctx)
	if err != nil {
		return false, err
	}
	hangUp := context.AfterFunc(ctx, func() { _ = conn.Close() }) // session sees it as the connection's end
	defer hangUp()
	in := &incoming{conn: conn, silence: d.fleet.cfg.KeepAlive * 3 / 2}
	if err := d.hello(conn, in); err != nil {
		return false, errors.Join(err, conn.Close())
	}
	d.fleet.connects.Add(1)
	d.fleet.connected.Add(1)
	defer d.fleet.connected.Add(-1)
	d.reset(true)
	defer d.reset(false)

	readerEnd := make(chan error, 1)
	go func() { readerEnd <- d.read(in, stop) }()
	werr, rerr, rdone := d.write(ctx, conn, readerEnd, stop)
	cerr := conn.Close()
	if !rdone {
		rerr = <-readerEnd
	}
	return true, errors.Join(werr, rerr, cerr)
}

// hello connects as the device, with a session that outlives the connection.
func (d *device) hello(conn net.Conn, in *incoming) error {
	cfg := d.fleet.cfg
	b, err := mqtt.AppendConnect(nil, mqtt.ConnectOptions{
		ClientID: d.id, KeepAlive: uint16(cfg.KeepAlive / time.Second), Username: cfg.Username, Password: cfg.Password,
	})
	if err != nil {
		return err
	}
	if err := send(conn, b); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	p, err := in.packet()
	switch {
	case err != nil:
		return fmt.Errorf("connect: %w", err)
	case p.Type != mqtt.Connack:
		return fmt.Errorf("connect: answered by %s", p.Type)
	case p.Code != 0:
		return fmt.Errorf("connect: refused with code %d", p.Code)
	}
	return nil
}

// reset prepares the queue for a new connection, or marks the end of one.
func (d *device) reset(up bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up, d.next, d.inflight, d.rels = up, 0, 0, d.rels[:0]
	for _, m := range d.queue {
		if m.state == sent {
			m.state = fresh
		}
	}
}

// write sends what is due until the connection or the device ends.
func (d *device) write(ctx context.Context, conn net.Conn, readerEnd <-chan error, stop func()) (werr, rerr error, rdone bool) {
	ping := time.NewTicker(d.fleet.cfg.KeepAlive)
	defer ping.Stop()
	var buf []byte
	var events []ledger.Event
	for {
		buf, events = d.fill(buf[:0], events[:0])
		if len(buf) == 0 && d.idle() {
			buf = mqtt.AppendEmpty(buf, mqtt.Disconnect)
			return send(conn, buf), nil, false
		}
		if len(buf) > 0 {
			err := send(conn, buf)
			d.fleet.sent.Add(uint64(len(events)))
			d.fleet.record(stop, events...)
			if err != nil {
				return err, nil, false
			}
			if len(buf) >= maxBatch {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err(), nil, false
		case err := <-readerEnd:
			return nil, err, true
		case <-d.wake:
		case <-ping.C:
			if err := send(conn, mqtt.AppendEmpty(nil, mqtt.Pingreq)); err != nil {
				return err, nil, false
			}
		}
	}
}

func send(conn net.Conn, b []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	_, err := conn.Write(b)
	return err
}

// fill appends the packets that may go out now, in order, and the events of
// the QoS 0 messages among them, which leave the queue at once.
func (d *device) fill(buf []byte, events []ledger.Event) ([]byte, []ledger.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range d.rels {
		buf = mqtt.AppendAck(buf, mqtt.Pubrel, id)
	}
	d.rels = d.rels[:0]
	now := time.Now()
	for d.next < len(d.queue) && d.inflight < d.fleet.cfg.Window && len(buf) < maxBatch {
		m := d.queue[d.next]
		d.next++
		switch {
		case m.state == received:
			buf = mqtt.AppendAck(buf, mqtt.Pubrel, m.id)
			d.inflight++
		case m.state == fresh && m.qos > 0:
			if m.id == 0 {
				m.id = d.freeID()
				d.ids[m.id] = m
			}
			buf = d.publish(buf, m)
			m.state = sent
			d.inflight++
		case m.state == fresh:
			buf = d.publish(buf, m)
			m.state = done
			events = append(events, d.event(ledger.Sent, m, now))
		}
	}
	d.pop()
	return buf, events
}

func (d *device) publish(buf []byte, m *message) []byte {
	out, err := mqtt.AppendPublish(buf, m.topic, m.payload, m.qos, m.tries > 0, m.id)
	if err != nil { // a topic over 64 KiB: the plant's table cannot hold one
		d.fleet.cfg.Log.Error("message cannot be sent", "device", d.id, "error", err)
		return buf
	}
	m.tries++
	return out
}

// freeID is the next packet id that no message holds.
func (d *device) freeID() uint16 {
	for {
		d.lastID++
		if _, taken := d.ids[d.lastID]; d.lastID != 0 && !taken {
			return d.lastID
		}
	}
}

// pop removes what is done from the front.
func (d *device) pop() {
	n := 0
	for n < d.next && d.queue[n].state == done {
		d.queue[n] = nil
		n++
	}
	d.queue, d.next = d.queue[n:], d.next-n
}

// read takes acknowledgements until the connection ends.
func (d *device) read(in *incoming, stop func()) error {
	var events []ledger.Event
	for {
		p, err := in.packet()
		if err != nil {
			return err
		}
		events = events[:0]
		for {
			if e, ok := d.answer(p); ok {
				events = append(events, e)
			}
			var more bool
			if p, more, err = in.buffered(); !more {
				break
			}
		}
		d.fleet.acked.Add(uint64(len(events)))
		d.fleet.record(stop, events...)
		d.signal()
		if err != nil {
			return err
		}
	}
}

// answer handles one packet of the broker; the event is an acknowledgement.
// A QoS 2 message counts as acknowledged with PUBREC: from there on the
// sender must not send it again (4.3.3), so the broker alone has it.
func (d *device) answer(p mqtt.Packet) (ledger.Event, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.ids[p.ID]
	switch {
	case p.Type == mqtt.Pubrec && (m == nil || m.qos == 2):
		d.rels = append(d.rels, p.ID)
		if m == nil || m.state != sent {
			return ledger.Event{}, false
		}
		m.state = received
		return d.event(ledger.Ack, m, time.Now()), true
	case m == nil:
		return ledger.Event{}, false
	case p.Type == mqtt.Puback && m.qos == 1 && m.state == sent:
		d.release(m)
		return d.event(ledger.Ack, m, time.Now()), true
	case p.Type == mqtt.Pubcomp && m.state == received:
		d.release(m)
	}
	return ledger.Event{}, false
}

func (d *device) release(m *message) {
	m.state = done
	delete(d.ids, m.id)
	d.inflight--
	d.pop()
}

// incoming reads packets from a connection.
type incoming struct {
	conn    net.Conn
	silence time.Duration // a connection that says nothing for so long is dead
	buf     []byte        // [at:] was read and not decoded
	at      int
}

// packet waits for the next packet.
func (in *incoming) packet() (mqtt.Packet, error) {
	for {
		if p, ok, err := in.buffered(); ok || err != nil {
			return p, err
		}
		in.buf = append(in.buf[:0], in.buf[in.at:]...)
		in.at = 0
		if err := in.conn.SetReadDeadline(time.Now().Add(in.silence)); err != nil {
			return mqtt.Packet{}, err
		}
		n := len(in.buf)
		in.buf = append(in.buf, make([]byte, 4096)...)
		k, err := in.conn.Read(in.buf[n:])
		in.buf = in.buf[:n+k]
		if err != nil && k == 0 {
			return mqtt.Packet{}, err
		}
	}
}

// buffered returns the next packet if it was read already.
func (in *incoming) buffered() (mqtt.Packet, bool, error) {
	p, n, err := mqtt.Decode(in.buf[in.at:], packetLimit)
	in.at += n
	return p, n > 0, err
}
