package broker_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"forebay/devices/broker"
	"forebay/gateway/conf"
	"forebay/spool/record"
)

const patience = 10 * time.Second

// A logInlet commits in groups on its own goroutine, as the spool does.
type logInlet struct {
	mu     sync.Mutex
	cond   sync.Cond
	queue  []waiting
	spare  []waiting
	most   int // batches that may wait; 0 is no bound
	paused bool
	closed bool
	fail   func(r *record.Record) error // nil: all is stored
	keep   bool
	stored []record.Record // copies, if keep
	count  int
	puts   int
	done   chan struct{}
}

type waiting struct {
	recs []record.Record
	done func([]record.Result)
}

func newLog(tb testing.TB) *logInlet {
	l := &logInlet{keep: true, done: make(chan struct{})}
	l.cond.L = &l.mu
	go l.run()
	tb.Cleanup(func() {
		l.mu.Lock()
		l.closed = true
		l.cond.Broadcast()
		l.mu.Unlock()
		<-l.done
	})
	return l
}

func (l *logInlet) Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most > 0 {
		stop := context.AfterFunc(ctx, func() { l.mu.Lock(); l.cond.Broadcast(); l.mu.Unlock() })
		defer stop()
		for len(l.queue) >= l.most && ctx.Err() == nil {
			l.cond.Wait()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.puts++
	l.queue = append(l.queue, waiting{recs, done})
	l.cond.Broadcast()
	return nil
}

func (l *logInlet) run() {
	defer close(l.done)
	results := make([]record.Result, 0, 4096)
	for {
		l.mu.Lock()
		for (len(l.queue) == 0 || l.paused) && !l.closed {
			l.cond.Wait()
		}
		group := l.queue
		l.queue = l.spare[:0]
		fail := l.fail
		if l.closed && len(group) == 0 {
			l.mu.Unlock()
			return
		}
		l.cond.Broadcast()
		l.mu.Unlock()
		for _, w := range group {
			results = results[:0]
			for i := range w.recs {
				var err error
				if fail != nil {
					err = fail(&w.recs[i])
				}
				results = append(results, record.Result{Err: err})
				if err == nil {
					l.store(&w.recs[i])
				}
			}
			w.done(results)
		}
		l.mu.Lock()
		l.spare = group[:0]
		l.mu.Unlock()
	}
}

func (l *logInlet) store(r *record.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	if !l.keep {
		return
	}
	c := *r
	c.Data = append([]byte(nil), r.Data...)
	l.stored = append(l.stored, c)
}

func (l *logInlet) pause(p bool) {
	l.mu.Lock()
	l.paused = p
	l.cond.Broadcast()
	l.mu.Unlock()
}

func (l *logInlet) failWith(f func(r *record.Record) error) {
	l.mu.Lock()
	l.fail = f
	l.mu.Unlock()
}

func (l *logInlet) records() []record.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]record.Record(nil), l.stored...)
}

func (l *logInlet) payloads() []string {
	var out []string
	for _, r := range l.records() {
		out = append(out, string(r.Data))
	}
	return out
}

func (l *logInlet) waitStored(tb testing.TB, n int) []record.Record {
	tb.Helper()
	eventually(tb, "records stored", func() bool { return len(l.records()) >= n })
	return l.records()
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("did not happen: %s", what)
		}
	}
}

// start runs a broker on a free port until the test ends.
func start(tb testing.TB, cfg broker.Config, in broker.Inlet, opts ...broker.Option) (*broker.Broker, string) {
	tb.Helper()
	b, addr, stop := startStop(tb, cfg, in, opts...)
	tb.Cleanup(stop)
	return b, addr
}

func startStop(tb testing.TB, cfg broker.Config, in broker.Inlet, opts ...broker.Option) (b *broker.Broker, addr string, stop func()) {
	tb.Helper()
	if cfg.Listen == "" {
		cfg.Listen = conf.Listen("127.0.0.1:0")
	}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler), opts...)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, in) }()
	eventually(tb, "broker listens", func() bool { return b.Addr() != nil })
	return b, b.Addr().String(), sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tb.Errorf("Run: %v", err)
			}
		case <-time.After(2 * patience):
			tb.Error("Run does not end")
		}
	})
}

// A raw client speaks MQTT byte by byte.
type raw struct {
	tb testing.TB
	net.Conn
	br *bufio.Reader
	v5 bool
}

type packet struct {
	first byte
	body  []byte
}

func (p packet) kind() byte { return p.first >> 4 }
func (p packet) id() uint16 { return binary.BigEndian.Uint16(p.body) }

// code is the reason code of PUBACK and the like.
func (p packet) code() byte {
	if len(p.body) > 2 {
		return p.body[2]
	}
	return 0
}

func dial(tb testing.TB, addr string) *raw {
	tb.Helper()
	c, err := new(net.Dialer).DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return &raw{tb: tb, Conn: c, br: bufio.NewReader(c)}
}

type hello struct {
	id         string
	v5         bool
	persistent bool
	keepalive  uint16
	user, pass string
	will       []byte // encoded fields
	willFlags  byte
	props      []byte // v5
}

func connectPacket(h hello) []byte {
	version, flags := byte(4), byte(0)
	if h.v5 {
		version = 5
	}
	if !h.persistent {
		flags |= 2
	}
	flags |= h.willFlags
	if h.user != "" {
		flags |= 0xC0
	}
	if h.keepalive == 0 {
		h.keepalive = 60
	}
	b := []byte{0, 4, 'M', 'Q', 'T', 'T', version, flags, byte(h.keepalive >> 8), byte(h.keepalive)}
	if h.v5 {
		b = append(b, byte(len(h.props)))
		b = append(b, h.props...)
	}
	b = append(b, str(h.id)...)
	b = append(b, h.will...)
	if h.user != "" {
		b = append(b, str(h.user)...)
		b = append(b, str(h.pass)...)
	}
	return frame(0x10, b)
}

func connect(tb testing.TB, addr string, h hello) *raw {
	tb.Helper()
	c := dial(tb, addr)
	c.v5 = h.v5
	c.send(connectPacket(h))
	p := c.next()
	if p.kind() != 2 || p.body[1] != 0 {
		tb.Fatalf("CONNACK is % x % x", p.first, p.body)
	}
	return c
}

func str(s string) []byte {
	return append([]byte{byte(len(s) >> 8), byte(len(s))}, s...)
}

func frame(first byte, body []byte) []byte {
	b := []byte{first}
	n := len(body)
	for {
		d := byte(n % 128)
		if n /= 128; n > 0 {
			b = append(b, d|0x80)
			continue
		}
		b = append(b, d)
		break
	}
	return append(b, body...)
}

func publishPacket(v5 bool, qos byte, id uint16, topic, payload string, props ...byte) []byte {
	b := str(topic)
	if qos > 0 {
		b = append(b, byte(id>>8), byte(id))
	}
	if v5 {
		b = append(b, byte(len(props)))
		b = append(b, props...)
	}
	b = append(b, payload...)
	return frame(0x30|qos<<1, b)
}

func (c *raw) send(b []byte) {
	c.tb.Helper()
	if _, err := c.Write(b); err != nil {
		c.tb.Fatalf("send: %v", err)
	}
}

func (c *raw) publish(qos byte, id uint16, topic, payload string, props ...byte) {
	c.tb.Helper()
	c.send(publishPacket(c.v5, qos, id, topic, payload, props...))
}

func (c *raw) read() (packet, error) {
	first, err := c.br.ReadByte()
	if err != nil {
		return packet{}, err
	}
	n, shift := 0, 0
	for {
		d, err := c.br.ReadByte()
		if err != nil {
			return packet{}, err
		}
		n |= int(d&0x7f) << shift
		if d&0x80 == 0 {
			break
		}
		shift += 7
	}
	p := packet{first, make([]byte, n)}
	_, err = io.ReadFull(c.br, p.body)
	return p, err
}

// next is the next packet from the broker.
func (c *raw) next() packet {
	c.tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	p, err := c.read()
	if err != nil {
		c.tb.Fatalf("read: %v", err)
	}
	return p
}

// ack expects a packet of the kind, and gives its packet identifier.
func (c *raw) ack(kind byte) packet {
	c.tb.Helper()
	p := c.next()
	if p.kind() != kind {
		c.tb.Fatalf("packet is %02x % x, want type %d", p.first, p.body, kind)
	}
	return p
}

// ends expects the connection to end; it returns the DISCONNECT code before, or -1.
func (c *raw) ends() int {
	c.tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	code := -1
	for {
		p, err := c.read()
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				c.tb.Fatal("connection is still open")
			}
			return code
		}
		if p.kind() != 14 {
			c.tb.Fatalf("packet is %02x % x, want the end", p.first, p.body)
		}
		code = int(p.body[0])
	}
}

// ping is answered after all that was sent before was read.
func (c *raw) ping() {
	c.tb.Helper()
	c.send([]byte{0xC0, 0})
	c.ack(13)
}

// A manualInlet finishes batches when and how the test says.
type manualInlet struct {
	mu   sync.Mutex
	puts []waiting
}

func (m *manualInlet) Put(_ context.Context, recs []record.Record, done func([]record.Result)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts = append(m.puts, waiting{recs, done})
	return nil
}

func (m *manualInlet) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.puts)
}

func (m *manualInlet) finish(i int, err error) {
	m.mu.Lock()
	w := m.puts[i]
	m.mu.Unlock()
	res := make([]record.Result, len(w.recs))
	for k := range res {
		res[k].Err = err
	}
	w.done(res)
}

// selfSigned writes a certificate for 127.0.0.1 and gives the client's side of it.
func selfSigned(tb testing.TB) (cert, key string, client *tls.Config) {
	tb.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		tb.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(cert, certPEM, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk}), 0o600); err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return cert, key, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}
