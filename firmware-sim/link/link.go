// Package link is a TCP link that can be cut, slowed, made half-open and
// restored: what happens between a gateway and its cloud, on one machine.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// State of a link.
type State string

// The states.
const (
	Up       State = "up"
	Cut      State = "cut"       // connections are reset, new ones refused
	Slow     State = "slow"      // up, with a limited rate and a delay
	HalfOpen State = "half-open" // takes bytes and lets none through; nothing is closed
)

// Link forwards connections from one address to another.
type Link struct {
	to  string
	log *slog.Logger

	in, out  atomic.Uint64 // bytes forwarded towards and from the far side
	swallowd atomic.Uint64

	mu      sync.Mutex
	addr    string // of the listener, with its port
	state   State
	bps     int64
	delay   time.Duration
	lis     net.Listener // nil while cut or closed
	closed  bool
	changed chan struct{} // closed and replaced at every change
	pairs   map[*pair]struct{}
	busy    [2]time.Time // when a slow link's two directions are free again
	wg      sync.WaitGroup
}

// Stats is the link at a moment.
type Stats struct {
	State       State         `json:"state"`
	Connections int           `json:"connections"`
	BytesIn     uint64        `json:"bytes_in"`  // forwarded towards the far side
	BytesOut    uint64        `json:"bytes_out"` // forwarded back
	Swallowed   uint64        `json:"bytes_swallowed"`
	BPS         int64         `json:"bytes_per_second,omitempty"` // while slow; 0 is unlimited
	Delay       time.Duration `json:"delay,omitempty"`
}

// Listen opens the near end. log may be nil.
func Listen(listen, to string, log *slog.Logger) (*Link, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lis, err := open(listen)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	l := &Link{
		to: to, log: log, addr: lis.Addr().String(), state: Up,
		changed: make(chan struct{}), pairs: map[*pair]struct{}{},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start(lis)
	return l, nil
}

func open(addr string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr) // a local act: nothing to wait for
}

// Addr is the near end's address.
func (l *Link) Addr() string { return l.addr }

// Stats may be called at any time.
func (l *Link) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{
		State: l.state, Connections: len(l.pairs), BytesIn: l.in.Load(), BytesOut: l.out.Load(),
		Swallowed: l.swallowd.Load(), BPS: l.bps, Delay: l.delay,
	}
}

// Cut resets every connection (RST) and refuses new ones until Restore, Slow
// or HalfOpen.
func (l *Link) Cut() error { return l.set(Cut, 0, 0) }

// Slow limits each direction to bps bytes a second, over all connections
// together (0 is unlimited), and holds every piece of up to 16 KiB back for
// delay.
func (l *Link) Slow(bps int64, delay time.Duration) error {
	if bps < 0 || delay < 0 {
		return fmt.Errorf("link: slow: %d bytes/s, delay %v: neither can be negative", bps, delay)
	}
	return l.set(Slow, bps, delay)
}

// HalfOpen lets connections stand and new ones come, takes what is sent, and
// passes nothing on.
func (l *Link) HalfOpen() error { return l.set(HalfOpen, 0, 0) }

// Restore brings the link up. Connections that lost bytes while it was
// half-open are reset, as a router that has forgotten them does.
func (l *Link) Restore() error { return l.set(Up, 0, 0) }

// Close resets every connection, stops listening and waits for all of it.
func (l *Link) Close() error {
	err := l.set(Cut, 0, 0)
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

func (l *Link) set(s State, bps int64, delay time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("link: it is closed")
	}
	l.state, l.bps, l.delay, l.busy = s, bps, delay, [2]time.Time{}
	close(l.changed)
	l.changed = make(chan struct{})
	var err error
	if s == Cut && l.lis != nil {
		err = l.lis.Close()
		l.lis = nil
	}
	for p := range l.pairs {
		if s == Cut || (s != HalfOpen && p.lossy.Load()) {
			p.reset()
		}
	}
	if s != Cut && l.lis == nil {
		var lis net.Listener
		if lis, err = open(l.addr); err == nil {
			l.start(lis)
		} else {
			l.state = Cut
		}
	}
	if err != nil {
		return fmt.Errorf("link: %s: %w", s, err)
	}
	return nil
}

// start accepts on lis; l.mu is held.
func (l *Link) start(lis net.Listener) {
	l.lis = lis
	l.wg.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					l.log.Error("link stopped accepting", "error", err)
				}
				return
			}
			l.take(near)
		}
	})
}

// take starts a connection's two directions.
func (l *Link) take(near net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background()) // ends with the pair
	p := &pair{near: near, cancel: cancel}
	if l.state == Cut || l.closed {
		p.reset()
		return
	}
	l.pairs[p] = struct{}{}
	l.wg.Go(func() {
		l.carry(ctx, p)
		l.mu.Lock()
		delete(l.pairs, p)
		l.mu.Unlock()
	})
}

// carry dials the far side and forwards until both directions have ended.
func (l *Link) carry(ctx context.Context, p *pair) {
	if l.Stats().State == HalfOpen {
		p.lossy.Store(true) // the far side never hears of it
		l.swallow(p)
		return
	}
	far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", l.to)
	if err != nil {
		l.log.Debug("far side not reached", "error", err)
		p.reset()
		return
	}
	if !p.join(far) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { l.pump(p, far, p.near, 0, &l.in) })
	wg.Go(func() { l.pump(p, p.near, far, 1, &l.out) })
	wg.Wait()
	p.close()
}

// swallow reads and drops until the connection is reset or closed.
func (l *Link) swallow(p *pair) {
	buf := make([]byte, 16<<10)
	for {
		n, err := p.near.Read(buf)
		l.swallowd.Add(uint64(n))
		if err != nil {
			break
		}
	}
	p.close()
}

// pump forwards one direction.
func (l *Link) pump(p *pair, dst, src net.Conn, direction int, count *atomic.Uint64) {
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		state := l.wait(direction, n)
		switch {
		case state == HalfOpen:
			p.lossy.Store(true) // an end of stream is lost as well
			l.swallowd.Add(uint64(n))
		case n > 0:
			if _, werr := dst.Write(buf[:n]); werr != nil {
				p.reset()
				return
			}
			count.Add(uint64(n))
		}
		if err == nil {
			continue
		}
		if state != HalfOpen {
			p.half(dst, err)
		}
		return
	}
}

// wait holds n bytes of a slow link back until their time, and says in which
// state they are to be handled.
func (l *Link) wait(direction, n int) State {
	for {
		l.mu.Lock()
		state, changed := l.state, l.changed
		if state != Slow || n == 0 {
			l.mu.Unlock()
			return state
		}
		now := time.Now()
		from := l.busy[direction]
		if from.Before(now) {
			from = now
		}
		if l.bps > 0 {
			from = from.Add(time.Duration(float64(n) / float64(l.bps) * float64(time.Second)))
		}
		l.busy[direction] = from
		due := time.NewTimer(from.Add(l.delay).Sub(now))
		l.mu.Unlock()
		select {
		case <-due.C:
			return Slow
		case <-changed:
			due.Stop()
		}
	}
}

// pair is one connection: near is ours, far is nil until it was reached.
type pair struct {
	lossy atomic.Bool // bytes were swallowed: it can never be whole again

	cancel context.CancelFunc // of the dialling

	mu   sync.Mutex
	near net.Conn
	far  net.Conn
	gone bool
}

// join adds the far side; false where the pair was reset meanwhile.
func (p *pair) join(far net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		_ = far.Close() // nothing was sent on it
		return false
	}
	p.far = far
	return true
}

// half passes an end of stream on, and a reset as a reset.
func (p *pair) half(dst net.Conn, err error) {
	tcp, ok := dst.(*net.TCPConn)
	if ok && errors.Is(err, io.EOF) {
		if tcp.CloseWrite() == nil {
			return
		}
	}
	p.reset()
}

// reset closes both sides with RST.
func (p *pair) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []net.Conn{p.near, p.far} {
		if tcp, ok := c.(*net.TCPConn); ok && !p.gone {
			_ = tcp.SetLinger(0) // fails only where the socket is dead already
		}
	}
	p.shut()
}

func (p *pair) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut()
}

func (p *pair) shut() {
	if p.gone {
		return
	}
	p.gone = true
	p.cancel()
	_ = p.near.Close() // both ends learn of it by their own reads
	if p.far != nil {
		_ = p.far.Close()
	}
}

// Run serves until ctx ends, then closes the link.
func (l *Link) Run(ctx context.Context) error {
	<-ctx.Done()
	return l.Close()
}
