package kinesisapi

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// newPatience is how long a connection on which nothing was asked yet is left
// alone where others find no place.
const newPatience = time.Second

// A countingListener knows how many connections are open. Where there are as
// many as there may be, a new one takes the place of that on which nothing has
// been asked for the longest time; if all are in use it is closed at once.
type countingListener struct {
	net.Listener
	most atomic.Int64
	open atomic.Int64

	mu   sync.Mutex
	idle map[*countedConn]time.Time // since when nothing is asked
}

func (l *countingListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) > l.most.Load() && !l.makeRoom(time.Now()) {
			l.open.Add(-1)
			// The client sees the close; there is nobody to tell about its error.
			_ = c.Close()
			continue
		}
		return &countedConn{Conn: c, open: &l.open}, nil
	}
}

// makeRoom closes the connection that has been idle for the longest time.
func (l *countingListener) makeRoom(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var oldest *countedConn
	for c, since := range l.idle {
		if oldest == nil || since.Before(l.idle[oldest]) {
			oldest = c
		}
	}
	if oldest == nil || now.Sub(l.idle[oldest]) < newPatience {
		return false
	}
	delete(l.idle, oldest)
	_ = oldest.Close() // as above
	return true
}

// state keeps book of who is idle.
func (l *countingListener) state(c net.Conn, now http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	conn, ok := c.(*countedConn)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch now {
	case http.StateNew, http.StateIdle:
		if l.idle == nil {
			l.idle = make(map[*countedConn]time.Time)
		}
		l.idle[conn] = time.Now()
	default:
		delete(l.idle, conn)
	}
}

type countedConn struct {
	net.Conn
	open *atomic.Int64
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}
