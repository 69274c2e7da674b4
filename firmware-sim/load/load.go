// Package load measures how fast a broker acknowledges QoS 1 messages, and how
// fast a Kinesis endpoint takes, gives and pushes records. The generator is as
// cheap as it can be, because it shares the machine with what it measures: one
// goroutine per connection, packets made once and patched, one write and one
// read for as many messages as there are; requests made before the clock runs.
package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"forebay/firmware-sim/mqtt"
)

// Config of a run.
type Config struct {
	Addr       string
	Publishers int    // connections
	Window     int    // messages in flight on each
	Count      int    // messages in all
	Size       int    // bytes of a payload, at least MinSize
	Topic      string // prefix; publisher N publishes to TOPIC/N
	Random     bool   // payloads are filled up with letters by chance, 6 bits each, and not with x
	Username   string
	Password   string
	Stall      time.Duration // a connection that acknowledges nothing for so long fails; 0 is 30 s
}

// MinSize of a payload: it is JSON with the device and a running number.
const MinSize = 48

// Check says what is impossible.
func (c Config) Check() error {
	switch {
	case c.Publishers < 1 || c.Publishers > 10_000:
		return fmt.Errorf("publishers: %d is not between 1 and 10000", c.Publishers)
	case c.Window < 1 || c.Window > 65535:
		return fmt.Errorf("window: %d is not between 1 and 65535", c.Window)
	case c.Count < c.Publishers:
		return fmt.Errorf("count: %d messages are fewer than the publishers", c.Count)
	case c.Size < MinSize || c.Size > 1<<20:
		return fmt.Errorf("size: %d is not between %d bytes and 1 MiB", c.Size, MinSize)
	case c.Topic == "":
		return errors.New("topic: it is empty")
	}
	return nil
}

// Result of a run. Latency is from the write of a PUBLISH to the read that
// brought its PUBACK.
type Result struct {
	Messages   int     `json:"messages"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"messages_per_second"`
	P50        float64 `json:"p50_ms"`
	P90        float64 `json:"p90_ms"`
	P99        float64 `json:"p99_ms"`
	Max        float64 `json:"max_ms"`
	Publishers int     `json:"publishers"`
	Window     int     `json:"window"`
	Size       int     `json:"size_bytes"`
}

// Run publishes Count messages and waits for every acknowledgement. The clock
// runs from the moment when every connection is accepted.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.Check(); err != nil {
		return Result{}, err
	}
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pubs := make([]*publisher, c.Publishers)
	for i := range pubs {
		n := c.Count / c.Publishers
		if i < c.Count%c.Publishers {
			n++
		}
		pubs[i] = newPublisher(c, i, n)
	}
	if err := each(pubs, cancel, func(p *publisher) error { return p.connect(ctx) }); err != nil {
		return Result{}, errors.Join(err, closeAll(pubs))
	}
	start := time.Now()
	err := each(pubs, cancel, func(p *publisher) error { return p.run(ctx, start) })
	took := time.Since(start)
	if err = errors.Join(err, closeAll(pubs)); err != nil {
		return Result{}, err
	}
	var all histogram
	for _, p := range pubs {
		all.add(&p.latency)
	}
	return Result{
		Messages: c.Count, Seconds: took.Seconds(), PerSecond: float64(c.Count) / took.Seconds(),
		P50: all.quantile(0.5), P90: all.quantile(0.9), P99: all.quantile(0.99), Max: float64(all.max) / 1e6,
		Publishers: c.Publishers, Window: c.Window, Size: c.Size,
	}, nil
}

// each runs f for every publisher at once; the first failure ends all.
func each(pubs []*publisher, cancel context.CancelFunc, f func(*publisher) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, p := range pubs {
		wg.Go(func() {
			if err := f(p); err != nil {
				mu.Lock()
				if first == nil {
					first = fmt.Errorf("publisher %d: %w", p.number, err)
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	return first
}

func closeAll(pubs []*publisher) error {
	var err error
	for _, p := range pubs {
		if p.conn != nil {
			err = errors.Join(err, ignoreClosed(p.conn.Close()))
		}
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// publisher is one connection. Packet ids are slots of the window: 1..Window.
type publisher struct {
	cfg     Config
	number  int
	count   int
	conn    net.Conn
	packet  []byte // the PUBLISH, to be patched
	idAt    int    // where its packet id is
	seqAt   int    // where its running number ends
	padAt   int    // where what fills it up begins, padEnd where it ends
	padEnd  int
	chance  uint64
	sentAt  []int64 // by slot, nanoseconds from the start; 0 is free
	free    []uint16
	latency histogram
}

// seqDigits is the room for the running number: 10^12 messages.
const seqDigits = 12

func newPublisher(c Config, number, count int) *publisher {
	p := &publisher{cfg: c, number: number, count: count, sentAt: make([]int64, c.Window+1)}
	for id := c.Window; id > 0; id-- {
		p.free = append(p.free, uint16(id))
	}
	return p
}

func (p *publisher) connect(ctx context.Context) error {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", p.cfg.Addr)
	if err != nil {
		return err
	}
	p.conn = conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // run and connect see it
	defer stop()
	hello, err := mqtt.AppendConnect(nil, mqtt.ConnectOptions{
		ClientID: "forebay-bench-" + strconv.Itoa(p.number), Clean: true, Username: p.cfg.Username, Password: p.cfg.Password,
	})
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(p.cfg.Stall)); err != nil {
		return err
	}
	if _, err := conn.Write(hello); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	var answer [4]byte
	if _, err := readFull(conn, answer[:]); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	ack, n, err := mqtt.Decode(answer[:], 64)
	if err != nil || n == 0 || ack.Type != mqtt.Connack || ack.Code != 0 {
		return fmt.Errorf("connect: refused (% x)", answer)
	}
	return p.template()
}

// template makes the packet that every message is a patched copy of.
func (p *publisher) template() error {
	payload := fmt.Appendf(nil, `{"device":"bench-%d","seq":%*d`, p.number, seqDigits, 0)
	seqEnd := len(payload)
	payload = append(payload, `,"pad":"`...)
	padAt := len(payload)
	for len(payload) < p.cfg.Size-2 {
		payload = append(payload, 'x')
	}
	payload = append(payload, `"}`...)
	topic := p.cfg.Topic + "/" + strconv.Itoa(p.number)
	packet, err := mqtt.AppendPublish(nil, topic, payload, 1, false, 1)
	if err != nil {
		return err
	}
	p.packet = packet
	p.idAt = len(packet) - len(payload) - 2
	p.seqAt = len(packet) - len(payload) + seqEnd
	p.padAt, p.padEnd = len(packet)-len(payload)+padAt, len(packet)-2
	p.chance = uint64(p.number)
	return nil
}

// run keeps the window full until every message is acknowledged.
func (p *publisher) run(ctx context.Context, start time.Time) error {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() }) // the read or write ends with it
	defer stop()
	in := make([]byte, 64<<10)
	out := make([]byte, 0, min(len(p.packet)*p.cfg.Window, 1<<20))
	have, sent, acked := 0, 0, 0
	armed := int64(-1 << 62)
	for acked < p.count {
		now := max(int64(time.Since(start)), 1)
		if now-armed > int64(p.cfg.Stall/8) { // a deadline costs as much as a small message does
			if err := p.conn.SetDeadline(start.Add(time.Duration(now) + p.cfg.Stall)); err != nil {
				return err
			}
			armed = now
		}
		out = out[:0]
		for sent < p.count && len(p.free) > 0 && len(out)+len(p.packet) <= cap(out) {
			out = p.append(out, sent, now)
			sent++
		}
		if len(out) > 0 {
			if _, err := p.conn.Write(out); err != nil {
				return fmt.Errorf("after %d of %d messages: %w", acked, p.count, err)
			}
			if len(p.free) > 0 && sent < p.count {
				continue // the batch was full and the window is not
			}
		}
		n, err := p.conn.Read(in[have:])
		if err != nil {
			return fmt.Errorf("after %d of %d acknowledgements: %w", acked, p.count, err)
		}
		have += n
		done, rest, err := p.acks(in[:have], int64(time.Since(start)))
		if err != nil {
			return err
		}
		acked += done
		have = copy(in, in[have-rest:have])
	}
	_, err := p.conn.Write(mqtt.AppendEmpty(nil, mqtt.Disconnect))
	return err
}

// append adds the next message.
func (p *publisher) append(out []byte, seq int, now int64) []byte {
	id := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	p.sentAt[id] = now
	at := len(out)
	out = append(out, p.packet...)
	binary.BigEndian.PutUint16(out[at+p.idAt:], id)
	end := at + p.seqAt
	for i, v := 1, seq; v > 0 && i <= seqDigits; i, v = i+1, v/10 {
		out[end-i] = byte('0' + v%10)
	}
	if p.cfg.Random {
		p.fill(out[at+p.padAt : at+p.padEnd])
	}
	return out
}

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"

// fill writes letters by chance (splitmix64), ten from each number.
func (p *publisher) fill(b []byte) {
	for len(b) > 0 {
		p.chance += 0x9e3779b97f4a7c15
		z := p.chance
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		z ^= z >> 31
		n := min(len(b), 10)
		for i := range b[:n] {
			b[i] = letters[z&63]
			z >>= 6
		}
		b = b[n:]
	}
}

// acks takes the PUBACKs of b; rest is how many bytes of a packet that is not
// whole are left.
func (p *publisher) acks(b []byte, now int64) (done, rest int, err error) {
	for len(b) >= 4 {
		if b[0] != byte(mqtt.Puback)<<4 || b[1] != 2 {
			return done, 0, fmt.Errorf("the broker sent % x and not a PUBACK", b[:4])
		}
		id := binary.BigEndian.Uint16(b[2:])
		if int(id) >= len(p.sentAt) || p.sentAt[id] == 0 {
			return done, 0, fmt.Errorf("the broker acknowledged %d, which is not in flight", id)
		}
		p.latency.count(now - p.sentAt[id])
		p.sentAt[id] = 0
		p.free = append(p.free, id)
		done++
		b = b[4:]
	}
	return done, len(b), nil
}

func readFull(c net.Conn, b []byte) (int, error) {
	for n := 0; ; {
		k, err := c.Read(b[n:])
		if n += k; n == len(b) || err != nil {
			return n, err
		}
	}
}
