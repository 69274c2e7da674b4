package load

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"time"
)

// KinesisPut is a run of PutRecords.
type KinesisPut struct {
	KinesisConfig
	Connections int           // requests in flight at most
	Batch       int           // records of a request
	Size        int           // bytes of a record
	Count       int           // records in all
	Keys        int           // partition keys; 0 is 1,000
	Rate        float64       // records a second; 0 is as fast as they are taken
	Stall       time.Duration // a request that takes so long fails; 0 is 60 s
}

// Check says what is impossible.
func (c KinesisPut) Check() error {
	switch {
	case c.Connections < 1 || c.Connections > 1000:
		return fmt.Errorf("connections: %d is not between 1 and 1000", c.Connections)
	case c.Batch < 1 || c.Batch > 500:
		return fmt.Errorf("batch: %d is not between 1 and 500", c.Batch)
	case c.Size < 1 || c.Size > 1<<20 || c.Size*c.Batch > 9<<20:
		return fmt.Errorf("size: %d records of %d bytes are more than a request may hold", c.Batch, c.Size)
	case c.Count < c.Batch:
		return fmt.Errorf("count: %d is less than one request of %d", c.Count, c.Batch)
	case c.Keys < 0:
		return fmt.Errorf("keys: %d is negative", c.Keys)
	case c.Rate < 0:
		return fmt.Errorf("rate: %g is negative", c.Rate)
	}
	return c.KinesisConfig.Check()
}

// PutResult of a run. A latency is from the moment that a request was due to
// the end of its answer: with a rate, a request that had to wait for the one
// before it is late by that wait.
type PutResult struct {
	Records     int     `json:"records"`
	Seconds     float64 `json:"seconds"`
	PerSecond   float64 `json:"records_per_second"`
	P50         float64 `json:"p50_ms"`
	P90         float64 `json:"p90_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
	Connections int     `json:"connections"`
	Batch       int     `json:"batch"`
	Size        int     `json:"size_bytes"`
}

// bodiesEach is how many different requests a connection has. Their records
// are filled by chance, so that a log that compresses gains nothing.
const bodiesEach = 16

// keyCount is how many partition keys there are, unless they are named.
const keyCount = 1000

// RunKinesisPut makes the stream and puts Count records into it, whole
// requests only; every one must be taken.
func RunKinesisPut(ctx context.Context, c KinesisPut) (PutResult, error) {
	if err := c.Check(); err != nil {
		return PutResult{}, err
	}
	if c.Stall == 0 {
		c.Stall = time.Minute
	}
	k := newKinesisClient(c.KinesisConfig, c.Connections)
	defer k.close()
	if err := k.make(ctx); err != nil {
		return PutResult{}, err
	}
	putters := make([]*putter, c.Connections)
	requests := c.Count / c.Batch
	for i := range putters {
		n := requests / c.Connections
		if i < requests%c.Connections {
			n++
		}
		putters[i] = newPutter(c, i, n)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, p := range putters {
		wg.Go(func() {
			if err := p.run(ctx, k, start); err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	if first != nil {
		return PutResult{}, first
	}
	var all histogram
	for _, p := range putters {
		all.add(&p.latency)
	}
	n := requests * c.Batch
	return PutResult{
		Records: n, Seconds: took, PerSecond: float64(n) / took,
		P50: all.quantile(0.5), P90: all.quantile(0.9), P99: all.quantile(0.99), Max: float64(all.max) / 1e6,
		Connections: c.Connections, Batch: c.Batch, Size: c.Size,
	}, nil
}

// A putter sends one request at a time.
type putter struct {
	cfg     KinesisPut
	number  int
	count   int // requests
	bodies  []kinesisBody
	latency histogram
}

func newPutter(c KinesisPut, number, count int) *putter {
	p := &putter{cfg: c, number: number, count: count}
	data := make([]byte, c.Size)
	chance := publisher{chance: uint64(number)<<32 + 1}
	keys := c.Keys
	if keys == 0 {
		keys = keyCount
	}
	for body := range min(bodiesEach, count) {
		records := make([]benchRecord, c.Batch)
		for i := range records {
			chance.fill(data)
			records[i] = benchRecord{fmt.Sprintf("machine-%d", (((number*bodiesEach+body)*c.Batch+i)*7)%keys), bytes.Clone(data)}
		}
		if c.CBOR {
			p.bodies = append(p.bodies, newKinesisBody(putCBOR(c.Stream, records), true))
		} else {
			p.bodies = append(p.bodies, newKinesisBody(putJSON(c.Stream, records), false))
		}
	}
	return p
}

type benchRecord struct {
	key  string
	data []byte
}

func putJSON(stream string, records []benchRecord) []byte {
	b := fmt.Appendf(nil, `{"StreamName":%q,"Records":[`, stream)
	for i, r := range records {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"Data":"`...)
		b = base64.StdEncoding.AppendEncode(b, r.data)
		b = fmt.Appendf(b, `","PartitionKey":%q}`, r.key)
	}
	return append(b, "]}"...)
}

func putCBOR(stream string, records []benchRecord) []byte {
	b := appendCBOR(nil, cborMap, 2)
	b = appendCBORText(appendCBORText(b, "StreamName"), stream)
	b = appendCBOR(appendCBORText(b, "Records"), cborArray, len(records))
	for _, r := range records {
		b = appendCBORText(appendCBOR(b, cborMap, 2), "Data")
		b = append(appendCBOR(b, cborBytes, len(r.data)), r.data...)
		b = appendCBORText(appendCBORText(b, "PartitionKey"), r.key)
	}
	return b
}

var allTaken = []byte(`"FailedRecordCount":0`)

func (p *putter) run(ctx context.Context, k *kinesisClient, start time.Time) error {
	var pause time.Duration // between the requests of one connection
	if p.cfg.Rate > 0 {
		pause = time.Duration(float64(p.cfg.Batch*p.cfg.Connections) / p.cfg.Rate * float64(time.Second))
	}
	due := start.Add(pause * time.Duration(p.number) / time.Duration(p.cfg.Connections)) // not all at once
	timer := time.NewTimer(0)
	defer timer.Stop()
	var buf []byte
	taken := allTaken
	if p.cfg.CBOR {
		taken = cborAllTaken
	}
	for i := range p.count {
		if pause == 0 {
			due = time.Now()
		} else if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		once, cancel := context.WithTimeout(ctx, p.cfg.Stall)
		var err error
		buf, err = k.call(once, "PutRecords", p.bodies[i%len(p.bodies)], buf)
		cancel()
		if err != nil {
			return fmt.Errorf("after %d requests of connection %d: %w", i, p.number, err)
		}
		if !bytes.Contains(buf, taken) {
			return fmt.Errorf("after %d requests of connection %d: records were refused: %.300q", i, p.number, buf)
		}
		p.latency.count(int64(time.Since(due)))
		due = due.Add(pause)
	}
	return nil
}
