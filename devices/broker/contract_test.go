package broker_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/devices/broker"
	"forebay/spool/record"
)

func TestPubackComesAfterTheCommit(t *testing.T) {
	t.Parallel()
	for _, v5 := range []bool{false, true} {
		log := newLog(t)
		log.pause(true)
		_, addr := start(t, broker.Config{}, log)
		c := connect(t, addr, hello{id: "a", v5: v5})
		c.publish(1, 7, "plant/t1", `{"value":1}`)
		c.ping() // nothing but PINGRESP is there
		log.pause(false)
		if p := c.ack(4); p.id() != 7 || p.code() != 0 {
			t.Errorf("v5=%v: PUBACK % x", v5, p.body)
		}
		r := log.waitStored(t, 1)[0]
		if r.Key != "plant/t1" || string(r.Data) != `{"value":1}` || !r.At.IsZero() {
			t.Errorf("stored %+v", r)
		}
	}
}

// Commits of two connections' batches finish in any order; each connection's
// acknowledgements keep the order of receipt.
func TestAcksKeepTheOrderOfReceipt(t *testing.T) {
	t.Parallel()
	in := &manualInlet{}
	_, addr := start(t, broker.Config{}, in)
	c := connect(t, addr, hello{id: "a"})
	for i := range 5 {
		c.publish(1, uint16(i+1), "t", fmt.Sprint(i))
		eventually(t, "batch handed over", func() bool { return in.len() == i+1 })
	}
	for _, i := range []int{4, 2, 1, 3} {
		in.finish(i, nil)
	}
	c.ping() // nothing is acknowledged: the first is not on disk
	in.finish(0, nil)
	for i := range 5 {
		if p := c.ack(4); int(p.id()) != i+1 {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
}

func TestFullLogIsNeverAcknowledgedAndResumes(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	var full atomic.Bool
	var refusals atomic.Int64
	full.Store(true)
	log.failWith(func(*record.Record) error {
		if full.Load() {
			refusals.Add(1)
			return record.ErrFull
		}
		return nil
	})
	b, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "a"})
	for i := range 20 {
		c.publish(1+byte(i%2), uint16(i+1), "t", fmt.Sprint(i))
	}
	eventually(t, "tried more than once", func() bool { return refusals.Load() > 25 })
	c.ping() // still alive, still nothing acknowledged
	if state, why := b.Health(); state != "degraded" || !strings.Contains(why, "full") {
		t.Errorf("health is %s, %q", state, why)
	}
	full.Store(false)
	for i := range 20 {
		if p := c.ack(4 + byte(i%2)); int(p.id()) != i+1 {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
	for i, s := range log.payloads() {
		if s != fmt.Sprint(i) {
			t.Fatalf("record %d is %s: order is lost", i, s)
		}
	}
	if n := len(log.payloads()); n != 20 {
		t.Errorf("%d records for 20 messages", n)
	}
	eventually(t, "healthy again", func() bool { s, _ := b.Health(); return s == "up" })
}

// What failed together is stored together as soon as the log takes records
// again: the pause is one, not one for each read from the socket.
func TestManyFailedBatchesResumeAtOnce(t *testing.T) {
	t.Parallel()
	in := &manualInlet{}
	_, addr := start(t, broker.Config{}, in)
	c := connect(t, addr, hello{id: "a"})
	const n = 50
	for i := range n {
		c.publish(1, uint16(i+1), "t", fmt.Sprint(i))
		c.ping() // a batch each
	}
	for i := range n {
		in.finish(i, record.ErrCannotStore)
	}
	began := time.Now()
	for i := range n { // the log takes them again from now on
		eventually(t, "the next is tried", func() bool { return in.len() > n+i })
		in.finish(n+i, nil)
		if p := c.ack(4); int(p.id()) != i+1 {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d failed batches took %v", n, took)
	}
}

// Only the failed records of a batch are tried again.
func TestPartOfABatchFails(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	var failed atomic.Bool
	log.failWith(func(r *record.Record) error {
		if string(r.Data) == "1" && failed.CompareAndSwap(false, true) {
			return record.ErrCannotStore
		}
		return nil
	})
	_, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "a"})
	var all []byte
	for i := range 3 {
		all = append(all, publishPacket(false, 1, uint16(i+1), "t", fmt.Sprint(i))...)
	}
	c.send(all)
	for i := range 3 {
		if p := c.ack(4); int(p.id()) != i+1 {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
	if n := len(log.payloads()); n != 3 {
		t.Errorf("%d records for 3 messages", n)
	}
}

func TestRecordThatCanNeverBeStored(t *testing.T) {
	t.Parallel()
	cases := []struct {
		err  *record.InvalidError
		code byte
	}{
		{&record.InvalidError{Field: "data", TooLarge: true}, 0x97},
		{&record.InvalidError{Field: "data"}, 0x99},
		{&record.InvalidError{Field: "partition key"}, 0x90},
		{&record.InvalidError{Field: "attributes"}, 0x83},
	}
	for _, k := range cases {
		log := newLog(t)
		log.failWith(func(r *record.Record) error {
			if string(r.Data) == "bad" {
				return k.err
			}
			return nil
		})
		b, addr := start(t, broker.Config{}, log)
		five := connect(t, addr, hello{id: "five", v5: true})
		five.publish(1, 1, "t", "bad")
		five.publish(2, 2, "t", "bad")
		five.publish(1, 3, "t", "good")
		if p := five.ack(4); p.id() != 1 || p.code() != k.code {
			t.Errorf("%v: PUBACK % x", k.err, p.body)
		}
		if p := five.ack(5); p.id() != 2 || p.code() != k.code {
			t.Errorf("%v: PUBREC % x", k.err, p.body)
		}
		if p := five.ack(4); p.id() != 3 || p.code() != 0 {
			t.Errorf("%v: PUBACK % x", k.err, p.body)
		}
		three := connect(t, addr, hello{id: "three"})
		three.publish(1, 1, "t", "good")
		three.ack(4)
		three.publish(1, 2, "t", "bad")
		three.ends()
		if n := b.Refused(); n != 3 {
			t.Errorf("%d refused, want 3", n)
		}
	}
}

// An inlet that refuses a whole batch because of one record.
func TestInletRefusesABatch(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	picky := inletFunc(func(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
		for _, r := range recs {
			if string(r.Data) == "bad" {
				return fmt.Errorf("check: %w", &record.InvalidError{Field: "data"})
			}
		}
		return log.Put(ctx, recs, done)
	})
	_, addr := start(t, broker.Config{}, picky)
	c := connect(t, addr, hello{id: "five", v5: true})
	var all []byte
	for i, s := range []string{"a", "bad", "b", "c", "bad", "d"} {
		all = append(all, publishPacket(true, 1, uint16(i+1), "t", s)...)
	}
	c.send(all)
	for i := range 6 {
		want := byte(0)
		if i == 1 || i == 4 {
			want = 0x99
		}
		if p := c.ack(4); int(p.id()) != i+1 || p.code() != want {
			t.Fatalf("acknowledgement %d is % x", i, p.body)
		}
	}
	if s := strings.Join(log.payloads(), ""); s != "abcd" {
		t.Errorf("stored %q", s)
	}
}

func TestClientThatDoesNotReadStallsNobody(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.keep = false
	_, addr := start(t, broker.Config{}, log)
	deaf := connect(t, addr, hello{id: "deaf"})
	if tcp, ok := deaf.Conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(4096)
	}
	stuck := make(chan struct{})
	go func() { // sends until its acknowledgements fill every buffer
		defer close(stuck)
		var b []byte
		for i := range 1000 {
			b = append(b, publishPacket(false, 1, uint16(i+1), "deaf", "")...)
		}
		for {
			_ = deaf.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := deaf.Write(b); err != nil {
				return
			}
		}
	}()
	select {
	case <-stuck:
	case <-time.After(6 * patience):
		t.Fatal("the broker takes acknowledgements without end")
	}
	c := connect(t, addr, hello{id: "reader"})
	for i := range 100 {
		c.publish(1, uint16(i+1), "t", "x")
		c.ack(4)
	}
}

func TestConnectionDiesWhileItsCommitRuns(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.pause(true)
	b, addr := start(t, broker.Config{}, log)
	for i := range 20 {
		c := connect(t, addr, hello{id: fmt.Sprint(i)})
		c.publish(1, 1, "t", fmt.Sprint(i))
		c.publish(2, 2, "t", fmt.Sprint(i))
		c.ping()
		if tcp, ok := c.Conn.(*net.TCPConn); ok && i%2 == 0 {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	log.pause(false)
	log.waitStored(t, 40)
	eventually(t, "all are gone", func() bool { return b.Clients() == 0 })
	c := connect(t, addr, hello{id: "next"})
	c.publish(1, 1, "t", "x")
	c.ack(4)
}

func TestBackPressure(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.pause(true)
	_, addr := start(t, broker.Config{MaxPending: 10}, log)
	c := connect(t, addr, hello{id: "a"})
	for i := range 50 {
		c.publish(1, uint16(i+1), "t", fmt.Sprint(i))
	}
	c.send([]byte{0xC0, 0}) // behind what is not read
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if p, err := c.read(); err == nil {
		t.Fatalf("the broker read on: %02x", p.first)
	}
	log.mu.Lock()
	n := 0
	for _, w := range log.queue {
		n += len(w.recs)
	}
	log.mu.Unlock()
	if n == 0 || n > 10 {
		t.Errorf("%d records wait for their commit, want 1 to 10", n)
	}
	log.pause(false)
	pong := false
	for i := 0; i < 50; {
		p := c.next()
		if p.kind() == 13 {
			pong = true
			continue
		}
		if i++; int(p.id()) != i {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
	if !pong {
		c.ack(13)
	}
}

func TestQoS0IsShedAndCounted(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.most = 1
	log.pause(true)
	var told atomic.Uint64
	b, addr := start(t, broker.Config{MaxPending: 5}, log, broker.OnShed(func(n uint64) { told.Add(n) }))
	c := connect(t, addr, hello{id: "a"})
	for i := range 40 {
		c.publish(0, 0, "t", fmt.Sprint(i))
	}
	eventually(t, "records are shed", func() bool { return b.Shed() > 0 })
	log.pause(false)
	eventually(t, "every record is stored or counted", func() bool {
		return len(log.records())+int(b.Shed()) == 40
	})
	if told.Load() != b.Shed() {
		t.Errorf("%d told, %d counted", told.Load(), b.Shed())
	}
}

func TestQoS2(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "a", persistent: true})
	dup := publishPacket(false, 2, 9, "t", "once")
	c.send(dup)
	c.ack(5)
	dup[0] |= 8
	c.send(dup)
	c.ack(5)
	_ = c.Close()
	// The same session, another connection.
	c = dial(t, addr)
	c.send(connectPacket(hello{id: "a", persistent: true}))
	if p := c.next(); p.body[0] != 1 {
		t.Fatalf("CONNACK says no session: % x", p.body)
	}
	c.send(dup)
	c.ack(5)
	c.send([]byte{0x62, 2, 0, 9})
	c.ack(7)
	c.send(publishPacket(false, 2, 9, "t", "twice")) // the identifier is free again
	c.ack(5)
	c.send([]byte{0x62, 2, 0, 9})
	c.ack(7)
	if s := strings.Join(log.payloads(), " "); s != "once twice" {
		t.Errorf("stored %q", s)
	}
	// A new session knows nothing of the old one's identifiers.
	c.send(publishPacket(false, 2, 3, "t", "old"))
	c.ack(5)
	c = connect(t, addr, hello{id: "a"})
	c.send(publishPacket(false, 2, 3, "t", "new"))
	c.ack(5)
	if s := strings.Join(log.payloads(), " "); s != "once twice old new" {
		t.Errorf("stored %q", s)
	}
}

func TestQoS2DuplicateWhileTheCommitRuns(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	log.pause(true)
	_, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "a", persistent: true})
	c.publish(2, 1, "t", "x")
	c.publish(2, 1, "t", "x")
	c.ping()
	_ = c.Close()
	c = connect(t, addr, hello{id: "a", persistent: true})
	c.publish(2, 1, "t", "x")
	log.pause(false)
	c.ack(5)
	c.ping() // one PUBREC, not two
	if n := len(log.records()); n != 1 {
		t.Errorf("%d records for one message", n)
	}
	c.send([]byte{0x62, 2, 0, 8})
	if p := c.ack(7); p.id() != 8 {
		t.Errorf("PUBCOMP % x", p.body)
	}
}

func TestQoS2UnknownRelease(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "a", v5: true})
	c.send([]byte{0x62, 2, 0, 8})
	if p := c.ack(7); p.id() != 8 || p.code() != 0x92 {
		t.Errorf("PUBCOMP % x", p.body)
	}
	log.pause(true)
	c.publish(2, 1, "t", "x")
	c.send([]byte{0x62, 2, 0, 1}) // before PUBREC: it waits for that
	log.pause(false)
	c.ack(5)
	if p := c.ack(7); p.id() != 1 || p.code() != 0 {
		t.Errorf("PUBCOMP % x", p.body)
	}
}

func TestTopicIsTheKey(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "a", v5: true})
	long := strings.Repeat("é/", 150)
	edge := strings.Repeat("é", 256)
	c.publish(1, 1, long, "1")
	c.publish(1, 2, edge, "2")
	user := append(append([]byte{0x26}, str("unit")...), str("K")...)
	c.publish(1, 3, "t", "3", append(append([]byte{0x03}, str("application/json")...), user...)...)
	c.publish(1, 4, "aliased", "4", 0x23, 0, 5)
	c.publish(1, 5, "", "5", 0x23, 0, 5)
	for range 5 {
		c.ack(4)
	}
	r := log.records()
	sum := md5.Sum([]byte(long))
	if r[0].Key != hex.EncodeToString(sum[:]) || r[0].Attrs["topic"] != long {
		t.Errorf("long topic: key %q, attrs %v", r[0].Key, r[0].Attrs)
	}
	if r[1].Key != edge || r[1].Attrs != nil {
		t.Errorf("256 characters: key %q, attrs %v", r[1].Key, r[1].Attrs)
	}
	if r[2].Type != "application/json" || r[2].Attrs["unit"] != "K" {
		t.Errorf("properties: %q, %v", r[2].Type, r[2].Attrs)
	}
	if r[3].Key != "aliased" || r[4].Key != "aliased" {
		t.Errorf("alias: %q, %q", r[3].Key, r[4].Key)
	}
}

func TestStopDrains(t *testing.T) {
	before := runtime.NumGoroutine()
	log := newLog(t)
	log.pause(true)
	_, addr, stop := startStop(t, broker.Config{}, log)
	five := connect(t, addr, hello{id: "five", v5: true})
	five.publish(1, 1, "t", "x")
	five.ping()
	idle := connect(t, addr, hello{id: "idle", will: append(str("w"), str("gone")...), willFlags: 4})
	half := dial(t, addr) // never says CONNECT
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	eventually(t, "the door is closed", func() bool {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	log.pause(false)
	five.ack(4) // what was taken is acknowledged
	if code := five.ends(); code != 0x8B {
		t.Errorf("DISCONNECT %#x", code)
	}
	idle.ends()
	half.ends()
	<-stopped
	if s := strings.Join(log.payloads(), " "); s != "x" {
		t.Errorf("stored %q: a stop of ours is not a client's death", s)
	}
	log.mu.Lock()
	log.closed = true
	log.cond.Broadcast()
	log.mu.Unlock()
	<-log.done
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

type inletFunc func(ctx context.Context, recs []record.Record, done func([]record.Result)) error

func (f inletFunc) Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	return f(ctx, recs, done)
}

// Identifiers of QoS 2 belong to the last connection until its commits are
// through: a PUBREL of the next one waits for them, as a PUBLISH does.
func TestQoS2ReleaseAcrossReconnect(t *testing.T) {
	t.Parallel()
	in := &manualInlet{}
	_, addr := start(t, broker.Config{}, in)
	c := connect(t, addr, hello{id: "a", persistent: true})
	for id := range 20 {
		c.publish(2, uint16(id+1), "t", "x")
		c.ping() // a batch each
	}
	_ = c.Close()
	c = connect(t, addr, hello{id: "a", persistent: true})
	for id := range 20 {
		c.send([]byte{0x62, 2, 1, byte(id)}) // identifiers that nobody knows
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for id := range 20 {
			if p := c.ack(7); p.id() != 0x100+uint16(id) {
				t.Errorf("PUBCOMP %d: % x", id, p.body)
			}
		}
	}()
	select {
	case <-answered:
		t.Error("PUBREL was dealt with while the last connection's commits ran")
	case <-time.After(50 * time.Millisecond):
	}
	for i := range 20 {
		in.finish(i, nil)
	}
	<-answered
}

// A batch that still waits for admission when an earlier one fails must not be
// stored before that one is: it is called back, and follows behind it.
func TestNothingOvertakesAFailedBatch(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	puts, room := make(chan func([]record.Result), 1), make(chan struct{})
	var n atomic.Int64
	in := inletFunc(func(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
		switch n.Add(1) {
		case 1:
			puts <- done
			return nil
		case 2: // the log's queue is full for a while
			<-room
		}
		return log.Put(ctx, recs, done)
	})
	_, addr := start(t, broker.Config{}, in)
	c := connect(t, addr, hello{id: "a"})
	c.publish(1, 1, "t", "first")
	fail := <-puts
	c.publish(1, 2, "t", "second")
	eventually(t, "the second waits", func() bool { return n.Load() == 2 })
	fail([]record.Result{{Err: record.ErrCannotStore}})
	close(room)
	c.ack(4)
	c.ack(4)
	if s := strings.Join(log.payloads(), " "); s != "first second" {
		t.Errorf("stored %q", s)
	}
}
