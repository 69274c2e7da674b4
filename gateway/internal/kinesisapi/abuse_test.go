package kinesisapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

// A crowd is clients that do what they can to be in the way.
type crowd struct {
	b     *box
	conns []net.Conn
	wg    sync.WaitGroup
	stop  chan struct{}
	once  sync.Once
}

func (c *crowd) dial() net.Conn {
	c.b.t.Helper()
	conn, err := new(net.Dialer).DialContext(c.b.t.Context(), "tcp", c.b.srv.Addr())
	if err != nil {
		c.b.t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		c.b.t.Fatal(err)
	}
	c.conns = append(c.conns, conn)
	return conn
}

// ask writes the head of a request that announces a body, and some of it.
func (c *crowd) ask(op string, length int, body []byte) net.Conn {
	c.b.t.Helper()
	r := c.b.request(op, "{}", c.b.clock.Now(), nil)
	head := new(bytes.Buffer)
	fmt.Fprintf(head, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", r.URL.Host, length)
	if err := r.Header.Write(head); err != nil {
		c.b.t.Fatal(err)
	}
	head.WriteString("\r\n")
	conn := c.dial()
	if _, err := conn.Write(append(head.Bytes(), body...)); err != nil && !gone(err) {
		c.b.t.Fatal(err)
	}
	return conn
}

// gone reports whether the server has closed the connection, which is its right.
func gone(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// drip sends bodies byte by byte, all of them in turn.
func (c *crowd) drip(n int) {
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = c.ask("PutRecords", 10<<20, []byte(`{"StreamName":"s","Records":[{"Data":"`))
	}
	c.wg.Go(func() {
		for {
			for _, conn := range conns {
				select {
				case <-c.stop:
					return
				case <-time.After(50 * time.Microsecond):
				}
				// A connection that was cut off takes no more; the others do.
				_, _ = conn.Write([]byte("A"))
			}
		}
	})
}

// stall sends most of a large body at once, and then nothing.
func (c *crowd) stall(n int) {
	most := bytes.Repeat([]byte("A"), 7<<20)
	for range n {
		conn := c.ask("PutRecords", 10<<20, nil)
		c.wg.Go(func() { _, _ = conn.Write(most) }) // ends when the server has it, or has had enough
	}
}

// read asks for large answers and does not read them.
func (c *crowd) read(cl *kinesis.Client, n int) {
	it, err := cl.GetShardIterator(c.b.t.Context(), &kinesis.GetShardIteratorInput{
		StreamName: aws.String("s"), ShardId: aws.String(shard0), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	if err != nil {
		c.b.t.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"ShardIterator":%q}`, *it.ShardIterator)
	for range n {
		c.ask("GetRecords", len(body), body)
	}
}

// subscribe subscribes as many consumers and does not read what they are sent.
func (c *crowd) subscribe(cl *kinesis.Client, consumers int) {
	for i := range consumers {
		arn := c.b.register(cl, "s", fmt.Sprint("deaf-", i))
		for _, st := range c.b.sp.Streams() {
			if st.Name() != "s" {
				continue
			}
			for j := range st.Shards() {
				body := fmt.Appendf(nil, `{"ConsumerARN":%q,"ShardId":"shardId-%012d","StartingPosition":{"Type":"TRIM_HORIZON"}}`, arn, j)
				c.ask("SubscribeToShard", len(body), body)
			}
		}
	}
}

func (c *crowd) leave() {
	c.once.Do(func() { close(c.stop) })
	for _, conn := range c.conns {
		conn.Close()
	}
	c.wg.Wait()
}

// fill puts size bytes into each shard of a stream, past the endpoint.
func (b *box) fill(st *spool.Stream, size int) {
	b.t.Helper()
	for _, sh := range st.Shards() {
		for left := size; left > 0; left -= 1 << 20 {
			recs := make([]record.Record, 32)
			for i := range recs {
				from := sh.From
				recs[i] = record.Record{Key: "k", HashKey: &from, Data: make([]byte, 32<<10), Source: "test"}
			}
			done := make(chan error, 1)
			if err := st.Append(b.t.Context(), recs, func(rs []record.Result) { done <- errors.Join(errOf(rs)...) }); err != nil {
				b.t.Fatal(err)
			}
			if err := <-done; err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// gather has the abusers come: a share of them sends bodies byte by byte or
// stops within them, does not read answers or events, or does nothing at all.
func gather(b *box, cl *kinesis.Client, drips, stalls, reads, consumers, idle int) *crowd {
	c := &crowd{b: b, stop: make(chan struct{})}
	c.drip(drips)
	c.read(cl, reads)
	c.subscribe(cl, consumers)
	c.stall(stalls)
	for range idle {
		c.dial()
	}
	return c
}

// liveHeap is what the process holds, buffers that wait to be used again apart.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestAbusers: 1,000 connections that are in the way take no more memory than
// they may, and a client that behaves has all of its requests answered.
func TestAbusers(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	const shards, consumers, requests, events = 5, 20, 64 << 20, 16 << 20
	kinesisapi.SetRoom(b.srv, requests, events)
	b.fill(b.create("s", shards), 6<<20)
	b.create("good", 1)
	cl := b.client()
	before := liveHeap()
	drips, idle := 550, 308
	if testing.Short() {
		drips, idle = 200, 100
	}
	crowd := gather(b, cl, drips, 12, 30, consumers, idle)
	defer crowd.leave()
	// Some of the 1,000 have been cut off by now, and on a slow machine more.
	eventually(t, "the coming of the abusers", func() bool { return b.srv.Clients() >= drips })
	t.Logf("%d connections", b.srv.Clients())

	put := &kinesis.PutRecordsInput{StreamName: aws.String("good")}
	for range 100 {
		put.Records = append(put.Records, entry("k", bytes.Repeat([]byte("x"), 100)))
	}
	deadline := time.Now().Add(4 * time.Second) // longer than anyone may stall
	puts, most, mostEvents, heap := 0, int64(0), int64(0), int64(0)
	for ; time.Now().Before(deadline) || puts < 100; puts++ {
		out, err := cl.PutRecords(t.Context(), put)
		if err != nil || *out.FailedRecordCount != 0 {
			t.Fatalf("put %d amid abusers: %v", puts, err)
		}
		r, e := kinesisapi.Held(b.srv)
		most, mostEvents = max(most, r), max(mostEvents, e)
		if puts%100 == 0 {
			heap = max(heap, liveHeap()-before)
		}
	}
	it, err := cl.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
		StreamName: aws.String("s"), ShardId: aws.String(shard0), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := cl.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it.ShardIterator})
	if err != nil || len(got.Records) == 0 {
		t.Errorf("a read amid abusers gives %v", err)
	}
	if most > requests || mostEvents > events {
		t.Errorf("%d and %d bytes were held, %d and %d are allowed", most, mostEvents, requests, events)
	}
	// What was held a moment ago may not have been collected yet, and comes to as
	// much again; a connection has its own buffers, and the log its blocks.
	if bound := int64(2*(requests+events) + 1000*(64<<10) + 32<<20); heap > bound {
		t.Errorf("the heap grew by %d MiB, %d are allowed", heap>>20, bound>>20)
	}
	t.Logf("%d puts; held %d and %d MiB at most, heap %d MiB more than before", puts, most>>20, mostEvents>>20, heap>>20)
	crowd.leave()
	eventually(t, "the end of all abusers", func() bool {
		r, e := kinesisapi.Held(b.srv)
		return r == 0 && e == 0 && b.srv.Subscriptions() == 0 && b.srv.Clients() < 10
	})
}

// TestConnectionsGiveWay: where there are as many connections as there may be,
// one on which nothing is asked makes room for a new one, and one in use never.
func TestConnectionsGiveWay(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	const most = 6
	kinesisapi.SetMaxConns(b.srv, most)
	var subs []*feed
	cl := b.client()
	arns := []string{b.register(cl, "s", "one"), b.register(cl, "s", "two"), b.register(cl, "s", "three")}
	for _, arn := range arns {
		subs = append(subs, b.subscribed((*box).subscribeRaw, arn, shard0, latest))
	}
	for range most {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", b.srv.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	// Every one of these is a connection of its own.
	for i := range most {
		eventually(t, "a place for a new connection", func() bool {
			tr := &http.Transport{DisableKeepAlives: i%2 == 0}
			defer tr.CloseIdleConnections()
			resp, err := tr.RoundTrip(b.request("PutRecord", `{"StreamName":"s","PartitionKey":"k","Data":"aGk="}`, b.clock.Now(), nil))
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && resp.StatusCode == 200 && strings.Contains(string(body), "SequenceNumber")
		})
	}
	if n := b.srv.Clients(); n > most {
		t.Errorf("%d connections, %d are allowed", n, most)
	}
	for _, f := range subs {
		f.data(most)
		f.close()
	}
}
