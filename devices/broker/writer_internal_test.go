package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// pair is a connection over TCP, both ends.
func pair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if there, err = new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if here, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Close() })
	return here, there
}

// What a socket does not take at once waits for the client, in order, while
// others are served; then the connection goes on as before.
func TestWhatASocketDoesNotTakeIsSentInOrder(t *testing.T) {
	f := newFlusher()
	slow, slowEnd := pair(t)
	quick, quickEnd := pair(t)
	w, other := newWriter(slow, f), newWriter(quick, f)
	const block, blocks = 4096, 8192 // 32 MiB: more than the kernel keeps for a socket
	next := uint32(0)
	queue := func(n int) {
		b := make([]byte, block)
		for range n {
			for i := 0; i < block; i += 4 {
				binary.BigEndian.PutUint32(b[i:], next)
				next++
			}
			w.queue(b)
		}
	}
	queue(blocks)
	for i := range byte(100) {
		other.queue([]byte{i})
		var got [1]byte
		_ = quickEnd.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(quickEnd, got[:]); err != nil || got[0] != i {
			t.Fatalf("the other client reads %d, %v; want %d", got[0], err, i)
		}
	}
	seen := uint32(0)
	read := func() {
		t.Helper()
		_ = slowEnd.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 1<<16)
		for seen < next {
			if _, err := io.ReadFull(slowEnd, b); err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(b); i += 4 {
				if v := binary.BigEndian.Uint32(b[i:]); v != seen {
					t.Fatalf("word %d is %d", seen, v)
				}
				seen++
			}
		}
	}
	read()
	queue(64)
	read()
	queue(64) // what is queued is still sent
	w.close()
	other.close()
	read()
	if _, err := slowEnd.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after close: %v", err)
	}
	w.wait()
	other.wait()
	f.wait()
}

// A client that never reads and is closed does not hold its connection for
// longer than flushTimeout, and takes nothing after it.
func TestCloseOfAConnectionThatIsStuck(t *testing.T) {
	t.Parallel()
	f := newFlusher()
	here, there := pair(t)
	w := newWriter(here, f)
	w.queue(bytes.Repeat([]byte("x"), 32<<20))
	w.close()
	w.queue([]byte("late"))
	if err := w.write([]byte("late")); !errors.Is(err, errClosed) {
		t.Errorf("write after close: %v", err)
	}
	w.wait()
	f.wait()
	if b, _ := io.ReadAll(there); bytes.Contains(b, []byte("late")) {
		t.Error("sent after close")
	}
}

// Many connections at once, over few goroutines: each gets all, once.
func TestFlusherServesAll(t *testing.T) {
	f := newFlusher()
	type end struct {
		w     *writer
		there net.Conn
	}
	ends := make([]end, 100)
	for i := range ends {
		here, there := pair(t)
		ends[i] = end{newWriter(here, f), there}
	}
	for round := range byte(50) {
		for _, e := range ends {
			e.w.queue([]byte{round})
		}
	}
	for _, e := range ends {
		e.w.close()
	}
	for i, e := range ends {
		_ = e.there.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, err := io.ReadAll(e.there)
		if err != nil || len(b) != 50 || b[0] != 0 || b[49] != 49 {
			t.Errorf("client %d reads % x, %v", i, b, err)
		}
		e.w.wait()
	}
	f.wait()
}
