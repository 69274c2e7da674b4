package load

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// KinesisPush is a run of SubscribeToShard: single records are put, and the
// time is taken until they are pushed to a consumer of every shard.
type KinesisPush struct {
	KinesisConfig
	Count int           // records
	Pause time.Duration // between them
	Stall time.Duration // records that are not pushed so long after the last put are lost; 0 is 30 s
}

// PushResult of a run. A latency is from the end of a put's answer to the
// arrival of the event with its record; Early were pushed before their put was
// answered and count as 0.
type PushResult struct {
	Records int     `json:"records"`
	Early   int     `json:"early"`
	P50     float64 `json:"p50_ms"`
	P90     float64 `json:"p90_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
	PutP50  float64 `json:"put_p50_ms"`
	PutP99  float64 `json:"put_p99_ms"`
}

// benchConsumer is the name of the consumer that a run registers.
const benchConsumer = "forebay-bench"

// RunKinesisPush makes the stream, registers a consumer and takes it away at
// the end.
func RunKinesisPush(ctx context.Context, c KinesisPush) (res PushResult, err error) {
	if err := c.Check(); err != nil {
		return res, err
	}
	if c.Count < 1 || c.Pause < 0 {
		return res, errors.New("count: there is nothing to put")
	}
	if c.Stall == 0 {
		c.Stall = 30 * time.Second
	}
	k := newKinesisClient(c.KinesisConfig, 64)
	defer k.close()
	if err := k.make(ctx); err != nil {
		return res, err
	}
	consumer, err := k.consumer(ctx)
	if err != nil {
		return res, err
	}
	defer func() {
		err = errors.Join(err, k.ask(context.WithoutCancel(ctx), "DeregisterStreamConsumer", map[string]any{"ConsumerARN": consumer}, nil))
	}()
	p := &pushes{put: make([]time.Time, c.Count), got: make([]time.Time, c.Count), missing: c.Count, all: make(chan struct{})}
	listening, stop := context.WithCancel(ctx)
	wait, err := k.listen(listening, consumer, p)
	defer func() {
		stop()
		err = errors.Join(err, wait())
	}()
	if err != nil {
		return res, err
	}
	var puts histogram
	if err := k.putSingly(ctx, c, p, &puts); err != nil {
		return res, err
	}
	select {
	case <-p.all:
	case <-time.After(c.Stall):
		return res, fmt.Errorf("%d records of %d were not pushed", p.left(), c.Count)
	case <-ctx.Done():
		return res, ctx.Err()
	}
	return p.result(&puts), nil
}

// pushes is when each record was acknowledged and when it arrived.
type pushes struct {
	mu       sync.Mutex
	put, got []time.Time
	missing  int
	all      chan struct{} // closed when none is missing
}

func (p *pushes) arrived(n int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 0 || n >= len(p.got) || !p.got[n].IsZero() {
		return // of an earlier run
	}
	p.got[n] = at
	if p.missing--; p.missing == 0 {
		close(p.all)
	}
}

func (p *pushes) acknowledged(n int, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put[n] = at
}

func (p *pushes) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missing
}

func (p *pushes) result(puts *histogram) PushResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	var h histogram
	early := 0
	for i := range p.got {
		d := p.got[i].Sub(p.put[i])
		if d < 0 {
			early++
		}
		h.count(int64(d))
	}
	return PushResult{
		Records: len(p.got), Early: early, P50: h.quantile(0.5), P90: h.quantile(0.9), P99: h.quantile(0.99), Max: float64(h.max) / 1e6,
		PutP50: puts.quantile(0.5), PutP99: puts.quantile(0.99),
	}
}

// consumer registers one and waits until it may subscribe.
func (k *kinesisClient) consumer(ctx context.Context) (string, error) {
	var d struct {
		Summary struct {
			ARN string `json:"StreamARN"`
		} `json:"StreamDescriptionSummary"`
	}
	if err := k.ask(ctx, "DescribeStreamSummary", map[string]any{"StreamName": k.cfg.Stream}, &d); err != nil {
		return "", err
	}
	var r struct {
		Consumer struct {
			ARN string `json:"ConsumerARN"`
		} `json:"Consumer"`
	}
	if err := k.ask(ctx, "RegisterStreamConsumer", map[string]any{"StreamARN": d.Summary.ARN, "ConsumerName": benchConsumer}, &r); err != nil {
		return "", err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var s struct {
			Consumer struct {
				Status string `json:"ConsumerStatus"`
			} `json:"ConsumerDescription"`
		}
		if err := k.ask(ctx, "DescribeStreamConsumer", map[string]any{"ConsumerARN": r.Consumer.ARN}, &s); err != nil {
			return "", err
		}
		if s.Consumer.Status == "ACTIVE" {
			return r.Consumer.ARN, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// listen subscribes to every shard and returns once all subscriptions stand.
// wait waits for their end, which ctx brings about.
func (k *kinesisClient) listen(ctx context.Context, consumer string, p *pushes) (wait func() error, err error) {
	shards, err := k.shards(ctx)
	if err != nil {
		return func() error { return nil }, err
	}
	var wg sync.WaitGroup
	ready := make(chan error, len(shards))
	errs := make([]error, len(shards))
	for i, id := range shards {
		wg.Go(func() { errs[i] = k.subscribe(ctx, consumer, id, p, ready) })
	}
	for range shards {
		err = errors.Join(err, <-ready)
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}, err
}

// subscribe reads events until ctx ends. ready hears once whether the
// subscription stands.
func (k *kinesisClient) subscribe(ctx context.Context, consumer, shard string, p *pushes, ready chan<- error) error {
	in, err := json.Marshal(map[string]any{"ConsumerARN": consumer, "ShardId": shard, "StartingPosition": map[string]any{"Type": "LATEST"}})
	var resp *http.Response
	if err == nil {
		resp, err = k.send(ctx, "SubscribeToShard", newKinesisBody(in, false))
	}
	if err != nil {
		ready <- err
		return nil
	}
	defer resp.Body.Close()
	r := bufio.NewReaderSize(resp.Body, 64<<10)
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(r, 400))
		ready <- errors.Join(&kinesisError{op: "SubscribeToShard", status: resp.StatusCode, text: string(text)}, err)
		return nil
	}
	_, err = readFrame(r) // the initial response
	ready <- err
	for err == nil {
		var payload []byte
		if payload, err = readFrame(r); err == nil {
			err = p.event(payload, time.Now())
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("subscription to %s: %w", shard, err)
}

// event notes the records of an event.
func (p *pushes) event(payload []byte, at time.Time) error {
	var e struct {
		Records []struct{ Data []byte }
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return err
	}
	for _, r := range e.Records {
		if n, err := strconv.Atoi(string(r.Data)); err == nil {
			p.arrived(n, at)
		}
	}
	return nil
}

// readFrame reads a message of an event stream (vnd.amazon.eventstream): total
// and header length, CRC, headers, payload, CRC. TCP has checked it already;
// the CRCs are not.
func readFrame(r io.Reader) ([]byte, error) {
	var prelude [12]byte
	if _, err := io.ReadFull(r, prelude[:]); err != nil {
		return nil, err
	}
	total, headers := binary.BigEndian.Uint32(prelude[:]), binary.BigEndian.Uint32(prelude[4:])
	if total > 24<<20 || headers > total || total-headers < 16 {
		return nil, fmt.Errorf("a frame of %d bytes with %d of headers", total, headers)
	}
	rest := make([]byte, total-12)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, err
	}
	return rest[headers : len(rest)-4], nil
}

// putSingly puts the records one by one, each with its number.
func (k *kinesisClient) putSingly(ctx context.Context, c KinesisPush, p *pushes, puts *histogram) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var buf []byte
	for i := range c.Count {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		data := base64.StdEncoding.EncodeToString(strconv.AppendInt(nil, int64(i), 10))
		body := newKinesisBody(fmt.Appendf(nil, `{"StreamName":%q,"PartitionKey":"machine-%d","Data":%q}`, c.Stream, i%keyCount, data), false)
		began := time.Now()
		var err error
		if buf, err = k.call(ctx, "PutRecord", body, buf); err != nil {
			return err
		}
		now := time.Now()
		p.acknowledged(i, now)
		puts.count(int64(now.Sub(began)))
		timer.Reset(c.Pause)
	}
	return nil
}
