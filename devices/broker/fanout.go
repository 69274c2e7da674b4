package broker

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
)

const (
	// fanMessages and fanBytes bound what waits to be fanned out; more is
	// dropped and counted. What is stored is not touched by that.
	fanMessages = 8192
	fanBytes    = 16 << 20
	// maxRetained and maxRetainedBytes bound the retained messages, in memory.
	maxRetained      = 10_000
	maxRetainedBytes = 32 << 20
	// pruneEvery is how often filters that nobody has any more are looked for.
	pruneEvery = time.Second
)

// A message is handed to local subscribers after its commit.
type message struct {
	from    string // client id
	topic   string
	payload []byte
	qos     byte
	retain  bool
	v5      bool
	props   *props
}

// The fanout hands stored messages to local subscribers, from one goroutine,
// behind the acknowledgements: it never holds them back.
type fanout struct {
	// filters are those of all subscriptions, and maybe of some that ended: a
	// message that matches none of them is never queued. version rises with
	// each change.
	filters atomic.Pointer[[]conf.Filter]
	version atomic.Uint64
	stale   atomic.Bool
	dropped atomic.Uint64

	mu       sync.Mutex
	some     sync.Cond
	items    []message
	spare    []message
	bytes    int
	closed   bool
	retained map[string]int // size by topic; the goroutine's own
	held     int            // bytes in retained
	counted  time.Time
	pruned   time.Time
}

func newFanout() *fanout {
	f := &fanout{retained: map[string]int{}}
	f.some.L = &f.mu
	f.filters.Store(&[]conf.Filter{})
	f.version.Store(1)
	return f
}

// wanted says whether anybody may have subscribed to the topic. Only the
// connection that owns t asks.
func (f *fanout) wanted(t *topic) bool {
	v := f.version.Load()
	if t.asked != v {
		t.wanted = !t.deep && anyMatch(*f.filters.Load(), t.name)
		t.asked = v
	}
	return t.wanted
}

// subscribed adds filters.
func (f *fanout) subscribed(filters []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := *f.filters.Load()
	if all := with(old, filters); len(all) > len(old) {
		f.filters.Store(&all)
		f.version.Add(1)
	}
}

// with returns the filters and, unshared, those of more that are not among
// them. What is not valid was refused; it matches nothing and is left out.
func with(filters []conf.Filter, more []string) []conf.Filter {
	have := make(map[string]bool, len(filters)+len(more))
	for _, f := range filters {
		have[f.String()] = true
	}
	all := slices.Clone(filters)
	for _, s := range more {
		if s = unshare(s); have[s] {
			continue
		}
		have[s] = true
		if f, err := conf.ParseFilter(s); err == nil {
			all = append(all, f)
		}
	}
	return all
}

// queue takes a message whose record is on disk; it never blocks.
func (f *fanout) queue(from string, v5 bool, e *entry) {
	if e.topic.deep {
		return
	}
	m := message{from: from, topic: e.topic.name, payload: e.data, qos: e.qos(), retain: e.retain, v5: v5, props: e.props}
	f.mu.Lock()
	if f.closed || len(f.items) >= fanMessages || f.bytes+len(m.payload) > fanBytes {
		f.mu.Unlock()
		f.dropped.Add(1)
		return
	}
	m.payload = bytes.Clone(m.payload) // it stands in a buffer many times its size
	f.items = append(f.items, m)
	f.bytes += len(m.payload)
	f.some.Signal()
	f.mu.Unlock()
}

func (e *entry) qos() byte {
	switch e.kind {
	case typePuback:
		return 1
	case typePubrec:
		return 2
	}
	return 0
}

// run delivers until close was called and the queue is empty.
func (f *fanout) run(core *core) {
	for {
		f.mu.Lock()
		for len(f.items) == 0 && !f.closed {
			f.some.Wait()
		}
		items := f.items
		f.items, f.spare, f.bytes = f.spare[:0], nil, 0
		end := f.closed
		f.mu.Unlock()
		for i := range items {
			f.keep(core, &items[i])
			core.deliver(&items[i])
		}
		f.prune(core)
		clear(items)
		f.mu.Lock()
		f.spare = items[:0]
		f.mu.Unlock()
		if end && len(items) == 0 {
			return
		}
	}
}

// keep counts a retained message, or takes the flag away where there is no room.
func (f *fanout) keep(core *core, m *message) {
	if !m.retain {
		return
	}
	old, known := f.retained[m.topic]
	if len(m.payload) == 0 { // [MQTT-3.3.1-6]
		delete(f.retained, m.topic)
		f.held -= old
		return
	}
	size := retainedSize(m.topic, m.payload)
	full := func() bool {
		return f.held-old+size > maxRetainedBytes || (!known && len(f.retained) >= maxRetained)
	}
	if full() && time.Since(f.counted) >= pruneEvery { // some may have expired
		f.counted = time.Now()
		f.retained, f.held = core.retained(), 0
		for _, n := range f.retained {
			f.held += n
		}
		old, known = f.retained[m.topic]
	}
	if full() {
		m.retain = false
		f.dropped.Add(1)
		return
	}
	f.retained[m.topic] = size
	f.held += size - old
}

func retainedSize(topic string, payload []byte) int { return len(topic) + len(payload) + 256 }

// prune forgets filters that ended.
func (f *fanout) prune(core *core) {
	if !f.stale.Load() || time.Since(f.pruned) < pruneEvery {
		return
	}
	f.pruned = time.Now()
	f.stale.Store(false)
	f.mu.Lock()
	v := f.version.Load()
	f.mu.Unlock()
	live := with(nil, core.filters())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.version.Load() != v { // somebody subscribed meanwhile
		f.stale.Store(true)
		return
	}
	f.filters.Store(&live)
	f.version.Add(1)
}

func (f *fanout) close() {
	f.mu.Lock()
	f.closed = true
	f.some.Signal()
	f.mu.Unlock()
}
