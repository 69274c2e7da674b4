// Package mqttport is the door of an MQTT broker that stands in for a plant's.
package mqttport

import (
	"log/slog"
	"net"
	"sync"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// A Port is a listener of a mochi broker that has seen the end of every
// connection when it is closed. The library's own lets connections begin while
// the broker counts down to its end, which the race detector tells.
type Port struct {
	ln net.Listener

	mu     sync.Mutex
	wg     sync.WaitGroup
	conns  map[net.Conn]struct{}
	closed bool
}

// New takes connections from ln, which it closes.
func New(ln net.Listener) *Port { return &Port{ln: ln, conns: map[net.Conn]struct{}{}} }

// Init, ID, Address, Protocol, Serve and Close are mochi's Listener.
func (p *Port) Init(*slog.Logger) error { return nil }

// ID names the port.
func (p *Port) ID() string { return "port" }

// Address is where it listens.
func (p *Port) Address() string { return p.ln.Addr().String() }

// Protocol is what it speaks.
func (p *Port) Protocol() string { return "tcp" }

// Serve hands connections over until Close.
func (p *Port) Serve(establish listeners.EstablishFn) {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = c.Close() // its client sees the end
			return
		}
		p.conns[c] = struct{}{}
		p.wg.Go(func() {
			_ = establish(p.ID(), c) // how it ended its client has seen
			p.mu.Lock()
			delete(p.conns, c)
			p.mu.Unlock()
		})
		p.mu.Unlock()
	}
}

// Close ends the listener and its clients, and waits for them.
func (p *Port) Close(closeClients listeners.CloseFn) {
	_ = p.ln.Close() // it may be closed already
	closeClients(p.ID())
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close() // one that never said who it is
	}
	p.mu.Unlock()
	p.wg.Wait()
}
