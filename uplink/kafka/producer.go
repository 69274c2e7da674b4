package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// A transaction holds at most as many bytes of payload as went through in
	// about two seconds, so that it ends well within its time limit on a slow
	// link, and those who read committed records do not wait for long.
	minPace, firstPace, maxPace = 64 << 10, 1 << 20, 4 << 20
	quick, slow                 = 2 * time.Second, 8 * time.Second
	// overhead is what a record takes in a batch besides its bytes, at most.
	overhead = 128
)

// A producer sends what belongs to one transactional id, one transaction at a
// time. Without transactions it sends in rounds that hold one batch of a
// partition at most, so that nothing of a partition can be stored behind a
// batch that was refused.
type producer struct {
	s    *Sink
	n    int
	turn chan struct{} // holds one token: who has it may use the rest

	cl     *kgo.Client // nil: it is not known what the brokers hold of ours
	wire   *wire
	id     int64
	epoch  int16
	places int32 // partition of the topic of places

	limits map[string]int // of topics, as the client knows them

	maker *maker
	recs  []kgo.Record
	ends  []int // for each record of ours in recs, where its Kafka records end
	said  []said
	pace  int
}

func newProducer(s *Sink, n int) *producer {
	p := &producer{s: s, n: n, turn: make(chan struct{}, 1), pace: firstPace}
	p.turn <- struct{}{}
	return p
}

// drop gives the client up, whatever it is doing. What it may still be writing
// lies in memory that is not used again.
func (p *producer) drop() {
	if p.cl != nil {
		p.cl.Close()
	}
	p.cl, p.limits, p.maker, p.recs = nil, nil, nil, nil
}

// begin makes a client, ends what was pending of ours and learns what the
// topics hold.
func (p *producer) begin(ctx context.Context) error {
	if p.cl != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.s.timeout)
	defer cancel()
	if err := p.s.takeOver(ctx); err != nil {
		return err
	}
	p.wire, p.limits = new(wire), make(map[string]int)
	cl, err := kgo.NewClient(p.options()...)
	if err != nil {
		return &lane.Error{Class: lane.Misconfigured, Text: "the client cannot be made", Err: err}
	}
	p.cl = cl
	p.maker = newMaker(p.s.id, p.s.cfg.Format == "raw")
	if !p.s.cfg.transactional() {
		return nil
	}
	if p.id, p.epoch, err = cl.ProducerID(ctx); err == nil && p.id < 0 {
		err = errNoTransactions()
	}
	if err != nil {
		e := classify(err, p.wire, lane.Offline)
		p.drop()
		return e
	}
	if p.places, err = p.s.readCursors(ctx); err != nil {
		p.drop()
		return err
	}
	return nil
}

func (p *producer) options() []kgo.Opt {
	s := p.s
	opts := append(
		s.options(p.wire),
		kgo.RecordPartitioner(partitioner{places: s.cfg.cursorTopic()}),
		kgo.ProducerBatchCompression(codecs(s.cfg.Compression)...),
		kgo.ProducerBatchMaxBytesFn(s.limit),
		kgo.ManualFlushing(),
		kgo.MaxBufferedRecords(1<<20),
		kgo.ProduceRequestTimeout(s.timeout),
		// No RecordDeliveryTimeout: the client counts it from the record's own
		// time, which for a backlog is long ago. The context bounds an attempt.
		kgo.RecordRetries(5),
		kgo.UnknownTopicRetries(2),
	)
	if s.cfg.transactional() {
		opts = append(
			opts,
			kgo.TransactionalID(fmt.Sprintf("%s-%d", s.cursors.scope, p.n)),
			kgo.TransactionTimeout(2*s.timeout),
		)
	}
	return opts
}

// limit is the largest batch of a topic.
func (s *Sink) limit(topic string) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.targets[topic]; ok {
		return int32(t.limit)
	}
	return defaultMessage
}

// codecs are the ways to compress, the first that the brokers know.
func codecs(name string) []kgo.CompressionCodec {
	switch name {
	case "none":
		return []kgo.CompressionCodec{kgo.NoCompression()}
	case "gzip":
		return []kgo.CompressionCodec{kgo.GzipCompression(), kgo.NoCompression()}
	case "snappy":
		return []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()}
	case "lz4":
		return []kgo.CompressionCodec{kgo.Lz4Compression(), kgo.NoCompression()}
	}
	return []kgo.CompressionCodec{kgo.ZstdCompression(), kgo.Lz4Compression(), kgo.NoCompression()}
}

// A partitioner gives a record the partition that Kafka's own clients give
// its key (murmur2), and a place the one that it says.
type partitioner struct{ places string }

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if topic == p.places {
		return kgo.ManualPartitioner().ForTopic(topic)
	}
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic)
}

// send sends the works, which are all the producer's.
func (p *producer) send(ctx context.Context, works []*work) {
	select {
	case <-p.turn:
		defer func() { p.turn <- struct{}{} }()
	case <-ctx.Done():
		stopAll(works, classify(ctx.Err(), new(wire), lane.Transient))
		return
	}
	if err := ctx.Err(); err != nil {
		stopAll(works, classify(err, new(wire), lane.Transient))
		return
	}
	p.s.find(ctx, works)
	for {
		if !anyOpen(works) {
			return
		}
		p.askAgain(ctx, works)
		p.renew(works)
		if err := p.begin(ctx); err != nil {
			stopAll(works, classify(err, p.wire, lane.Offline))
			return
		}
		if p.s.cfg.transactional() {
			p.skip(works)
		}
		if in := p.fill(works); len(in) > 0 {
			p.attempt(ctx, works, in)
		}
	}
}

// askAgain looks anew at the topics whose limits are in doubt.
func (p *producer) askAgain(ctx context.Context, works []*work) {
	var doubted []*work
	for _, w := range works {
		if w.open() && w.doubted {
			w.doubted, w.asked = false, true
			p.s.forget(w.topic)
			doubted = append(doubted, w)
		}
	}
	if len(doubted) > 0 {
		p.s.find(ctx, doubted)
	}
}

// renew gives up a client that knows another limit of a topic than we do: it
// asks once only.
func (p *producer) renew(works []*work) {
	for _, w := range works {
		if n, ok := p.limits[w.topic]; ok && w.open() && n != w.target.limit {
			p.drop()
			return
		}
	}
}

func anyOpen(works []*work) bool {
	for _, w := range works {
		if w.open() {
			return true
		}
	}
	return false
}

// placeOf is what a record's sequence number counts in.
func (p *producer) placeOf(w *work, r *record.Record) place {
	of := record.Origin{Gateway: p.s.id.Gateway, Epoch: p.s.id.Epoch}
	if r.Origin != nil {
		of = *r.Origin
	}
	return place{topic: w.topic, of: of, shard: r.Pos.Shard}
}

// remedy is what makes another far side of it.
const remedy = "give the uplink another transactional_id, or id"

// skip passes the records that the topics hold.
func (p *producer) skip(works []*work) {
	for _, w := range works {
		var sure place
		for w.open() {
			r := &w.left()[0]
			at := p.placeOf(w, r)
			m := p.s.cursors.held(at, topicID(w.target.id))
			if r.Pos.Seq == 0 || r.Pos.Seq > m.Seq {
				break
			}
			if at != sure {
				own := at.of == record.Origin{Gateway: p.s.id.Gateway, Epoch: p.s.id.Epoch}
				if e := w.Doubt(&p.s.home, m.Cover, m.Seq, r.Pos.Seq, own, remedy); e != nil {
					w.stop(e)
					break
				}
				sure = at
			}
			w.out.Left += w.Unwanted(&p.s.home, m.Cover, w.left()[:1])
			w.out.Done++
		}
	}
}

// fill makes the Kafka records of the next attempt: some of each lane that
// still has any. It gives the lanes that are in it.
func (p *producer) fill(works []*work) []*work {
	p.maker.reset()
	clear(p.recs)
	p.recs, p.ends, p.said = p.recs[:0], p.ends[:0], p.said[:0]
	room := make(map[string]int)
	var in []*work
	for _, w := range works {
		if !w.open() || (w.alone && len(in) > 0) {
			continue
		}
		where, most := "", p.pace
		if !p.s.cfg.transactional() {
			where, most = w.topic, w.target.limit-overhead
		}
		if _, ok := room[where]; !ok {
			room[where] = most
		}
		w.n, w.first, w.bytes = 0, len(p.ends), 0
		for i := range w.left() {
			if (w.most > 0 && w.n == w.most) || !p.put(w, &w.left()[i], room, where, most) {
				break
			}
		}
		if w.n > 0 {
			in = append(in, w)
			p.limits[w.topic] = w.target.limit
			p.mark(w)
			if w.alone {
				break
			}
		}
	}
	return in
}

// put adds a record to the attempt; false if it is not in it. The front of a
// lane that can never be taken stops it.
func (p *producer) put(w *work, r *record.Record, room map[string]int, where string, most int) bool {
	full := room[where] < most // something is in it
	if full && len(r.Data)+len(r.Key) > room[where] {
		return false
	}
	before := len(p.recs)
	p.recs = p.s.add(p, w, r)
	bytes := 0
	for i := before; i < len(p.recs); i++ {
		n := size(&p.recs[i])
		bytes += n + overhead
		if n > w.target.limit {
			p.recs = p.recs[:before]
			switch {
			case w.n > 0:
			case !w.asked:
				w.doubted = true
			default:
				w.stop(&lane.Error{
					Class: lane.Poison,
					Text:  fmt.Sprintf("the record has %d bytes as it would travel; the topic %s takes %d (max.message.bytes, max_message)", n, w.topic, w.target.limit),
				})
			}
			return false
		}
	}
	if full && bytes > room[where] {
		p.recs = p.recs[:before]
		return false
	}
	room[where] -= bytes
	w.bytes += bytes
	w.n++
	p.ends = append(p.ends, len(p.recs))
	return true
}

func (s *Sink) add(p *producer, w *work, r *record.Record) []kgo.Record {
	return p.maker.add(p.recs, w.topic, w.Lane.Stream, r)
}

// mark notes the places that a lane gets to with the attempt.
func (p *producer) mark(w *work) {
	if !p.s.cfg.transactional() {
		return
	}
	recs, id := w.left()[:w.n], topicID(w.target.id)
	for i := 0; i < len(recs); {
		at, first := p.placeOf(w, &recs[i]), &recs[i]
		for i++; i < len(recs) && p.placeOf(w, &recs[i]) == at; i++ {
		}
		last, was := &recs[i-1], p.s.cursors.held(at, id)
		cover := w.Cover(&p.s.home, was.Cover, was.Seq, first, last)
		if cover.Began > 0 && p.s.cursors.renewed(at, id) {
			cover.Began = max(cover.Began, first.Pos.Seq)
		}
		p.said = append(p.said, said{place: at, mark: mark{Seq: last.Pos.Seq, TopicID: id, Cover: cover}})
	}
}

// failures collects what became of records that were not stored.
type failures struct {
	mu  sync.Mutex
	of  map[*kgo.Record]error
	any error
}

func (f *failures) promise(r *kgo.Record, err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = make(map[*kgo.Record]error)
	}
	f.of[r] = err
	// What failed because something else did says nothing.
	if f.any == nil || errors.Is(f.any, kgo.ErrAborting) {
		f.any = err
	}
}

// attempt sends what fill made. works are all, in those that are part of it.
func (p *producer) attempt(ctx context.Context, works, in []*work) {
	ctx, cancel := context.WithTimeout(ctx, p.s.timeout)
	defer cancel()
	began := time.Now()
	p.wire.bytes.Store(0)
	p.wire.requests.Store(0)
	var f failures
	err := p.produce(ctx, &f)
	switch {
	case err != nil:
		p.lost(err, works, !p.s.cfg.transactional() && p.wire.bytes.Load() > 0)
	case !p.s.cfg.transactional():
		p.settleRound(&f, works, in)
	case f.any != nil:
		p.settleAborted(ctx, &f, works, in)
	default:
		if err := p.commit(ctx); err != nil {
			p.lost(err, works, true)
			break
		}
		p.s.cursors.set(p.said)
		for _, w := range in {
			w.out.Done += w.n
		}
		p.s.takes("", in)
	}
	p.account(in)
	switch took := time.Since(began); {
	case p.cl == nil, took > slow:
		p.pace = max(p.pace/2, minPace)
	case took < quick:
		p.pace = min(2*p.pace, maxPace)
	}
}

// produce hands the records to the client and waits for what becomes of each.
// An error means that this is not known.
func (p *producer) produce(ctx context.Context, f *failures) error {
	if p.s.cfg.transactional() {
		if err := p.cl.BeginTransaction(); err != nil {
			return fmt.Errorf("begin a transaction: %w", err)
		}
	}
	for i := range p.recs {
		p.cl.Produce(ctx, &p.recs[i], f.promise)
	}
	for i := range p.said {
		r, err := p.placeRecord(&p.said[i])
		if err != nil {
			return err
		}
		p.cl.Produce(ctx, r, f.promise)
	}
	return p.cl.Flush(ctx)
}

// placeRecord is a place as it stands in the topic of places.
func (p *producer) placeRecord(s *said) (*kgo.Record, error) {
	v, err := json.Marshal(s.mark)
	if err != nil {
		return nil, err
	}
	return &kgo.Record{
		Topic: p.s.cfg.cursorTopic(), Partition: p.places,
		Key: appendKey(nil, p.s.cursors.scope, s.place), Value: v,
	}, nil
}

var errOtherEpoch = errors.New("the client began anew in the middle of a transaction")

// commit ends the transaction. An error leaves open whether it was committed.
func (p *producer) commit(ctx context.Context) error {
	// A client that gives itself a new epoch in the middle has lost what it
	// sent under the old one; the rest must not be committed alone.
	id, epoch, err := p.cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	if id != p.id || epoch != p.epoch {
		return errOtherEpoch
	}
	if err := p.cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("end a transaction: %w", err)
	}
	p.id, p.epoch, err = p.cl.ProducerID(ctx) // newer brokers give a new epoch
	if err != nil {
		p.drop() // it is committed all the same
	}
	return nil
}
