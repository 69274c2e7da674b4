package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kgo"
)

// producers is how many transactions of a sink can be under way at a time, one
// for each Send that the pump has under way on a slow link, where a transaction
// takes several ways there and back; one more is for urgent lanes alone, so
// that alarms wait for nobody. A lane belongs to one of them, by its shard's
// number; which one may have been another under an earlier sink.
const producers, urgent = 4, 4

// A Sink sends batches to Kafka topics. It is safe for concurrent use.
type Sink struct {
	cfg     Config
	id      record.Identity
	home    lane.Home
	timeout time.Duration
	log     *slog.Logger

	admin     *kgo.Client
	adminWire *wire
	cursors   *cursors
	cursorID  string // of the topic that cursors was read from; under its reading
	producers []*producer

	over struct { // the ids of all producers were taken over
		sync.Mutex
		done bool
	}

	mu      sync.Mutex
	targets map[string]target
	taken   map[string]bool // topics that have taken a record
}

// New makes a sink. Nothing is sent before the first Send or Probe.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	s := &Sink{
		cfg:       cfg,
		id:        home.ID,
		home:      home,
		timeout:   cfg.RequestTimeout.Or(defaultLimit),
		log:       home.Log,
		adminWire: new(wire),
		targets:   make(map[string]target),
		taken:     make(map[string]bool),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	scope := cfg.TransactionalID
	if scope == "" {
		scope = "forebay." + home.ID.Gateway + "." + home.Uplink
	}
	if _, what, ok := strings.Cut(home.Uplink, "~"); ok && home.Apart && cfg.TransactionalID != "" {
		scope += "." + what // whoever takes the name over shuts the uplink out
	}
	s.cursors = newCursors(scope)
	var err error
	if s.admin, err = kgo.NewClient(s.options(s.adminWire)...); err != nil {
		return nil, fmt.Errorf("brokers: %w", err)
	}
	for n := range producers + 1 {
		s.producers = append(s.producers, newProducer(s, n))
	}
	return s, nil
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// Probe asks for the cluster's brokers, one after the other until one answers:
// the cheapest request that proves name lookup, connection, TLS and login.
func (s *Sink) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.admin.Ping(ctx); err != nil {
		return classify(err, s.adminWire, lane.Offline)
	}
	return nil
}

// Close gives up all connections. It must not be called during Send. What a
// Send left open at the brokers ends with the transaction's time limit, or
// when the next sink of the uplink begins.
func (s *Sink) Close() error {
	for _, p := range s.producers {
		p.drop()
	}
	s.admin.Close()
	return nil
}

// work is one batch on its way through Send.
type work struct {
	*lane.Batch
	topic  string
	target target
	out    *lane.Outcome

	n       int // records that are in the attempt under way
	first   int // of the Kafka records they are
	bytes   int // that they take
	most    int // records an attempt may hold; 0: as many as fit
	alone   bool
	stopped bool
	// doubted says that the front record is too large by a limit that may have
	// been raised since it was asked for, asked that it was asked for now.
	doubted, asked bool
}

func (w *work) left() []record.Record { return w.Recs[w.out.Done:] }
func (w *work) open() bool            { return !w.stopped && w.out.Done < len(w.Recs) }

func (w *work) stop(e *lane.Error) {
	w.stopped = true
	w.out.Class, w.out.Err, w.out.RetryAfter = e.Class, e, e.RetryAfter
}

func stopAll(works []*work, e *lane.Error) {
	for _, w := range works {
		if w.open() {
			w.stop(e)
		}
	}
}

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. With transactions, records that the topic holds
// already are done without being sent, and the others are done when a
// transaction that holds them and the lane's place is committed. Without
// them, a record is done when the brokers have it and all before it. Only
// where a broker refuses a batch for what is in it are parts of it sent again,
// to find out what. The records are not used after Send has returned.
//
// ctx ends the wait for an answer; what was under way is then Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	groups := make([][]*work, len(s.producers))
	for i := range lanes {
		b := &lanes[i]
		n := int(uint32(b.Lane.Shard) % producers) // an int may have 32 bits
		if b.Urgent {
			n = urgent
		}
		groups[n] = append(groups[n], &work{Batch: b, topic: s.cfg.topic(b.Lane.Stream), out: &out[i]})
	}
	var wg sync.WaitGroup
	for n, works := range groups {
		if len(works) > 0 {
			wg.Go(func() { s.producers[n].send(ctx, works) })
		}
	}
	wg.Wait()
	return out
}

// takes reports whether a topic has taken a record, and notes those that have
// taken one of the works now.
func (s *Sink) takes(topic string, works []*work) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range works {
		s.taken[w.topic] = true
	}
	return s.taken[topic]
}

// find finds the topics of the works.
func (s *Sink) find(ctx context.Context, works []*work) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	type found struct {
		target
		err *lane.Error
	}
	seen := make(map[string]found)
	for _, w := range works {
		if !w.open() {
			continue
		}
		f, ok := seen[w.topic]
		if !ok {
			t, err := s.prepare(ctx, w.topic)
			f.target = t
			if err != nil {
				f.err = classify(err, s.adminWire, lane.Offline)
			}
			seen[w.topic] = f
		}
		if w.target = f.target; f.err == nil {
			continue
		}
		w.stop(f.err)
		if f.err.Class == lane.Offline {
			stopAll(works, f.err) // there is no use in asking for the others
			return
		}
	}
}
