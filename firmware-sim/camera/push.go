package camera

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An item waits to be pushed.
type item struct {
	seq       uint64
	name      string
	mediaType string
	body      []byte
	sum       string // SHA-256, hexadecimal
	start     time.Time
	length    time.Duration // 0 for a still
	tries     int
}

// A queue holds items in order, bounded in number and bytes.
type queue struct {
	mu       sync.Mutex
	items    []item
	bytes    int
	maxItems int
	maxBytes int
	closed   bool
	changed  chan struct{} // holds a token when something came or the queue was closed
}

func newQueue(items, size int) *queue {
	return &queue{maxItems: items, maxBytes: size, changed: make(chan struct{}, 1)}
}

// push adds an item and returns the oldest ones that had to go for it.
func (q *queue) push(it item) (dropped []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, it)
	q.bytes += len(it.body)
	for len(q.items) > 1 && (len(q.items) > q.maxItems || q.bytes > q.maxBytes) {
		q.bytes -= len(q.items[0].body)
		dropped = append(dropped, q.items[0])
		q.items[0] = item{}
		q.items = q.items[1:]
	}
	q.signal()
	return dropped
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// pop takes the oldest item; it waits for one until the queue is closed.
func (q *queue) pop() (item, bool) {
	for {
		q.mu.Lock()
		if len(q.items) > 0 {
			it := q.items[0]
			q.items[0] = item{}
			q.items = q.items[1:]
			q.bytes -= len(it.body)
			q.mu.Unlock()
			return it, true
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			return item{}, false
		}
		<-q.changed
	}
}

// A sender pushes the queue's items one after the other.
type sender struct {
	cfg   Config
	queue *queue
	seq   uint64 // of the last item offered

	ledger sync.Mutex
}

// requestTime bounds one request, in which the receiver may wait for its disk.
const requestTime = 30 * time.Second

// run pushes until the queue is closed and empty. When ctx ends, what is left
// is dropped.
func (c *sender) run(ctx context.Context) {
	transport := c.cfg.Transport
	if transport == nil {
		own := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1}
		defer own.CloseIdleConnections()
		transport = own
	}
	client := &http.Client{Transport: transport, Timeout: requestTime}
	rng := rand.New(rand.NewPCG(uint64(c.cfg.Seed), 0x9a05e))
	for {
		it, ok := c.queue.pop()
		if !ok {
			return
		}
		c.deliver(ctx, client, rng, it)
	}
}

// deliver tries until the receiver has the item or will never take it.
func (c *sender) deliver(ctx context.Context, client *http.Client, rng *rand.Rand, it item) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		it.tries++
		status, after, err := c.try(ctx, client, it)
		switch {
		case err == nil && status == http.StatusCreated:
			c.enter(it, Acked, "")
			return
		case err == nil && status/100 == 4 && status != http.StatusTooManyRequests &&
			status != http.StatusRequestTimeout && status != http.StatusTooEarly:
			c.enter(it, Dropped, fmt.Sprintf("refused %d", status))
			return
		}
		pause = min(max(2*pause, 250*time.Millisecond), 5*time.Second)
		wait := max(pause/2+time.Duration(rng.Int64N(int64(pause/2))), min(after, 10*time.Second))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	c.enter(it, Dropped, ReasonStopped)
}

// try makes one request; after is the receiver's Retry-After.
func (c *sender) try(ctx context.Context, client *http.Client, it item) (status int, after time.Duration, err error) {
	url := strings.TrimSuffix(c.cfg.Endpoint, "/") + "/video/" + c.cfg.ID + "/" + it.name
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(it.body))
	if err != nil {
		return 0, 0, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", it.mediaType)
	req.Header.Set("X-Forebay-Start", it.start.Format(time.RFC3339Nano))
	if it.length > 0 {
		req.Header.Set("X-Forebay-Duration", strconv.FormatFloat(float64(it.length)/float64(time.Millisecond), 'f', -1, 64))
	}
	if c.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, 0, fmt.Errorf("push %s: %w", it.name, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil && resp.StatusCode != http.StatusCreated {
		return 0, 0, fmt.Errorf("read the answer to %s: %w", it.name, err)
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		after = time.Duration(min(n, 3600)) * time.Second
	}
	return resp.StatusCode, after, nil
}

// enter writes the item's end into the ledger.
func (c *sender) enter(it item, kind, reason string) {
	c.ledger.Lock()
	defer c.ledger.Unlock()
	c.cfg.Ledger(Event{
		Kind: kind, Camera: c.cfg.ID, Name: it.name, Seq: it.seq, Bytes: len(it.body), SHA256: it.sum,
		Start: it.start, Tries: it.tries, Reason: reason, At: time.Now().UTC(),
	})
}
