package inlet

import (
	"sync"
	"time"
)

// A Rate is a flow over the last ten whole seconds, and its total.
type Rate struct {
	Records, Bytes float64 // per second
	Total          uint64  // records
}

const window = 10 // seconds

// A meter counts a flow in buckets of a second of the process's monotonic
// clock, so that a jump of the wall clock does not show.
type meter struct {
	mu      sync.Mutex
	start   time.Time
	at      int64 // the second that the newest bucket is for
	records [window + 1]int
	bytes   [window + 1]int
	total   uint64
}

func (m *meter) add(records, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	m.records[m.at%(window+1)] += records
	m.bytes[m.at%(window+1)] += bytes
	m.total += uint64(records)
}

func (m *meter) rate() Rate {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	r := Rate{Total: m.total}
	seconds := min(m.at, window)
	if seconds == 0 {
		return r
	}
	for i := int64(1); i <= seconds; i++ { // the running second is not whole yet
		r.Records += float64(m.records[(m.at-i)%(window+1)])
		r.Bytes += float64(m.bytes[(m.at-i)%(window+1)])
	}
	r.Records /= float64(seconds)
	r.Bytes /= float64(seconds)
	return r
}

func (m *meter) advance() {
	if m.start.IsZero() {
		m.start = time.Now()
	}
	now := int64(time.Since(m.start) / time.Second)
	for i := 0; m.at < now; i++ {
		if i > window {
			m.at = now
			break
		}
		m.at++
		m.records[m.at%(window+1)], m.bytes[m.at%(window+1)] = 0, 0
	}
}
