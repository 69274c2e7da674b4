package mqtt

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"forebay/uplink/lane"
	"forebay/uplink/stranger"
)

// handTime is how long paho may wait to hand a message to its writer, and so
// how long one waits that was handed over just as the connection ended.
const handTime = time.Second

// slowest is the link on which a message may take its time, in bytes a second.
const slowest = 16 << 10

// A Will is what the broker publishes for us when the connection breaks.
type Will struct {
	Topic   string
	Payload []byte
	QoS     byte
}

// A Session is what a connection is made with beside its Link.
type Session struct {
	ClientID string
	Will     *Will
	// OnMessage is called for each message of a subscription, in their order.
	// It must not block. nil where there are none.
	OnMessage func(topic string, payload []byte)
	Log       *slog.Logger
}

// A Conn is one connection to a broker, from CONNECT to its end. It never
// connects again by itself and keeps nothing on behalf of another: what was
// not acknowledged when it ended is the caller's to send again. It is safe for
// concurrent use; messages go out in the order in which Publish was called.
//
// What paho's tokens mean (v1.5.1; messageids.go, net.go, client.go): with a
// clean session and no reconnecting, the token of a QoS 1 message completes
// without an error only where its PUBACK was read; where the connection ends
// first, with "connection lost before Publish completed". (With CleanSession
// false it never completes at all; with reconnecting, a QoS 0 message that
// never left does, without an error.) The token of a message that is handed
// over just while the connection ends may never complete, and the call blocks
// for the whole of WriteTimeout: so the call has a goroutine of its own, and whoever
// waits watches the connection too.
type Conn struct {
	client  paho.Client
	timeout time.Duration
	out     chan *Pending
	publish sync.WaitGroup

	lost chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	wire    net.Conn
	closing bool
	err     error
	cut     bool
	mute    bool // whoever took the connection has said nothing in time

	heard atomic.Bool // something came over it
}

// Dial connects. The error is a *lane.Error, or ctx's.
func (l Link) Dial(ctx context.Context, s Session) (*Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Conn{timeout: l.RequestTimeout.Or(defaultTimeout), out: make(chan *Pending), lost: make(chan struct{})}
	o, err := c.options(ctx, l, s)
	if err != nil {
		return nil, err
	}
	c.client = paho.NewClient(o)
	token := c.client.Connect()
	stop := context.AfterFunc(ctx, c.HangUp)
	<-token.Done()
	stop()
	if err := token.Error(); err != nil {
		c.HangUp()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		t, ok := token.(*paho.ConnectToken)
		if ok && t.ReturnCode() != packets.Accepted && t.ReturnCode() != packets.ErrNetworkError {
			return nil, refused(t.ReturnCode())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			err = c.err // paho forgets it
		}
		if c.mute {
			err = errMute
		}
		return nil, unreachable(err, c.wire != nil)
	}
	c.publish.Go(c.hand)
	return c, nil
}

func (c *Conn) options(ctx context.Context, l Link, s Session) (*paho.ClientOptions, error) {
	o := paho.NewClientOptions().
		AddBroker("tcp://broker"). // the connection is made by Link.open
		SetClientID(s.ClientID).
		SetProtocolVersion(4).
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetOrderMatters(true).
		SetStore(nothing{}).
		SetConnectTimeout(c.timeout).
		SetWriteTimeout(handTime).
		SetPingTimeout(c.timeout).
		SetKeepAlive(l.KeepAlive.Or(defaultKeepAlive))
	if l.Username != "" {
		o.SetUsername(l.Username)
		if l.Password.IsSet() {
			pw, err := l.Password.Reveal()
			if err != nil {
				return nil, &lane.Error{Class: lane.Auth, Text: "the password cannot be read", Err: err}
			}
			o.SetPassword(pw)
		}
	}
	if s.Will != nil {
		o.SetBinaryWill(s.Will.Topic, s.Will.Payload, s.Will.QoS, false)
	}
	if s.OnMessage != nil {
		o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { s.OnMessage(m.Topic(), m.Payload()) })
	}
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		conn, err := l.open(ctx)
		if err != nil {
			return nil, c.say(err)
		}
		return c.took(c.watch(l, conn)), nil
	})
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { c.lose(err, false) })
	return o, nil
}

// say keeps an error for Dial.
func (c *Conn) say(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	return err
}

// watch finds out where no broker answers. Over WebSocket the opening has told
// that one does.
func (c *Conn) watch(l Link, conn net.Conn) net.Conn {
	if u, err := l.url(); err != nil || strings.HasPrefix(u.Scheme, "ws") {
		return conn
	}
	return stranger.Watch(conn, stranger.Options{
		Meant: "an MQTT broker",
		Known: func(first byte) bool { return first == packets.Connack<<4 }, // MQTT 3.1.1, 3.2.1
		Dial:  l.open,
		Tell:  func(err error) { _ = c.say(err) },
	})
}

// took keeps the connection under MQTT.
func (c *Conn) took(conn net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wire = conn
	if c.closing {
		_ = conn.Close() // whoever reads from it gets the error
	}
	return &wire{Conn: conn, c: c, timeout: c.timeout}
}

// hand gives messages to paho, one after another.
func (c *Conn) hand() {
	for {
		select {
		case p := <-c.out:
			t := c.client.Publish(p.topic, p.qos, p.retain, p.payload)
			for notHandedOver(t) && c.Alive() {
				t = c.client.Publish(p.topic, p.qos, p.retain, p.payload)
			}
			p.token <- t
			select {
			case <-t.Done():
				if t.Error() != nil {
					// It was not sent: nothing may go out behind it.
					c.HangUp()
					return
				}
			default:
			}
		case <-c.lost:
			return
		}
	}
}

// notHandedOver reports whether paho gave up because the message before is
// still being written, which takes its time on a slow link. Nothing of this
// one was sent then; it has an identifier, which is used no more.
func notHandedOver(t paho.Token) bool {
	select {
	case <-t.Done():
		return t.Error() != nil && t.Error().Error() == "publish was broken by timeout"
	default:
		return false
	}
}

// lose notes why the connection has ended; cut says that the far side ended it.
func (c *Conn) lose(err error, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.lost:
		return
	default:
	}
	switch {
	case c.closing:
		err, cut = net.ErrClosed, false
	case errors.Is(err, net.ErrClosed):
		// paho closes where it gives up waiting.
		err, cut = errors.New("the broker does not answer"), false
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.mute = !c.heard.Load()
		err, cut = errors.New("the link takes nothing any more"), false
	}
	c.err, c.cut = err, cut
	close(c.lost)
}

// Lost is closed when the connection has ended.
func (c *Conn) Lost() <-chan struct{} { return c.lost }

// Alive reports whether the connection stands, as far as is known.
func (c *Conn) Alive() bool {
	select {
	case <-c.lost:
		return false
	default:
		return true
	}
}

// Why says why the connection has ended, and whether the far side ended it
// (a timeout is no such end). nil while it stands.
func (c *Conn) Why() (err error, cut bool) {
	select {
	case <-c.lost:
	default:
		return nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err, c.cut
}

// HangUp ends the connection at once, without a word. Close is needed after it.
func (c *Conn) HangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if c.wire != nil {
		_ = c.wire.Close() // whoever reads from it gets the error
	}
}

// Close ends the connection, with a DISCONNECT where it still stands. What is
// not acknowledged yet will not be.
func (c *Conn) Close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	if c.Alive() {
		c.client.Disconnect(250)
	}
	c.HangUp()
	c.lose(net.ErrClosed, false)
	c.publish.Wait()
}

// A Pending is a message on its way.
type Pending struct {
	c       *Conn
	topic   string
	payload []byte
	qos     byte
	retain  bool
	token   chan paho.Token // the one, when paho has taken the message
}

// Publish hands a message over; it waits while others are being written. The
// payload is the Conn's from then on. An error means that it was not sent.
func (c *Conn) Publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) (*Pending, error) {
	p := &Pending{c: c, topic: topic, payload: payload, qos: qos, retain: retain, token: make(chan paho.Token, 1)}
	select {
	case c.out <- p:
		return p, nil
	case <-c.lost:
		return nil, errLost
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var (
	errLost = errors.New("the connection has ended")
	errSlow = errors.New("no acknowledgement in time")
)

// Wait waits for the PUBACK of a message of QoS 1, or until one of QoS 0 is
// written. nil means that it came; ctx's error, or another one, that it may
// come no more. more is how many bytes are on their way before it.
func (p *Pending) Wait(ctx context.Context, more int) error {
	limit := time.NewTimer(p.c.timeout + time.Duration(more+len(p.payload))*time.Second/slowest)
	defer limit.Stop()
	var token paho.Token
	select {
	case token = <-p.token:
	case <-p.c.lost:
		select {
		case token = <-p.token:
		default:
			return errLost // paho had no chance to send it, or none to tell
		}
	case <-limit.C:
		return errSlow
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-token.Done():
		return token.Error()
	case <-limit.C:
		return errSlow
	case <-ctx.Done():
		return ctx.Err()
	case <-p.c.lost:
	}
	// What was read before the end still counts; paho completes the tokens
	// when it has looked at all of it.
	last := time.NewTimer(time.Second)
	defer last.Stop()
	select {
	case <-token.Done():
		return token.Error()
	case <-last.C:
		return errLost
	}
}

// Subscribe asks for topics and waits for the answer. It fails where the
// broker refuses one of them.
func (c *Conn) Subscribe(ctx context.Context, filters map[string]byte) error {
	type answer struct{ token paho.Token }
	got := make(chan answer, 1)
	// paho may block here as it does in Publish.
	c.publish.Go(func() { got <- answer{c.client.SubscribeMultiple(filters, nil)} })
	limit := time.NewTimer(c.timeout)
	defer limit.Stop()
	var token paho.Token
	for {
		var done <-chan struct{}
		if token != nil {
			done = token.Done()
		}
		select {
		case a := <-got:
			token = a.token
			continue
		case <-done:
		case <-c.lost:
			err, _ := c.Why()
			return &lane.Error{Class: lane.Offline, Text: "the broker ended the connection while we subscribed; it may not allow it", Err: err}
		case <-limit.C:
			return &lane.Error{Class: lane.Offline, Text: "the broker does not answer a SUBSCRIBE"}
		case <-ctx.Done():
			return ctx.Err()
		}
		break
	}
	if t, ok := token.(*paho.SubscribeToken); ok {
		for filter, code := range t.Result() {
			if code > 2 {
				return &lane.Error{Class: lane.Misconfigured, Text: "the broker does not let us subscribe to " + filter}
			}
		}
	}
	if err := token.Error(); err != nil {
		return &lane.Error{Class: lane.Offline, Text: "cannot subscribe", Err: err}
	}
	return nil
}

// A wire is the connection under MQTT as paho sees it. It notes who ended it,
// and bounds a write by its progress instead of as a whole, so that a large
// message passes a slow link.
type wire struct {
	net.Conn
	c       *Conn
	timeout time.Duration
	writing sync.Mutex // a ping must not go into the middle of a message
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.c.heard.Store(true)
	}
	if err != nil {
		w.c.lose(err, true)
	}
	return n, err
}

const piece = 32 << 10

func (w *wire) Write(p []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	n := 0
	for {
		if err := w.Conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
			w.c.lose(err, true)
			return n, err
		}
		m, err := w.Conn.Write(p[n:min(len(p), n+piece)])
		n += m
		if err != nil {
			w.c.lose(err, true)
			_ = w.Close() // half a message was written: nothing may follow
			return n, err
		}
		if n >= len(p) {
			return n, w.Conn.SetWriteDeadline(time.Time{})
		}
		if m == 0 {
			return n, io.ErrShortWrite
		}
	}
}

// SetWriteDeadline does nothing: Write has its own.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline bounds reading: paho bounds the wait for CONNACK with it.
func (w *wire) SetDeadline(t time.Time) error { return w.SetReadDeadline(t) }

// nothing is a store for paho that keeps nothing: what is to be sent again is
// in the log.
type nothing struct{}

func (nothing) Open()                             {}
func (nothing) Put(string, packets.ControlPacket) {}
func (nothing) Get(string) packets.ControlPacket  { return nil }
func (nothing) All() []string                     { return nil }
func (nothing) Del(string)                        {}
func (nothing) Close()                            {}
func (nothing) Reset()                            {}
