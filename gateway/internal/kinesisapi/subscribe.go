package kinesisapi

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

const (
	// maxSubscriptions is how many shards may be pushed at a time, over all
	// consumers.
	maxSubscriptions = 1000
	// leaseLife is how long a subscription lives (API reference,
	// SubscribeToShard: up to 5 minutes).
	leaseLife = 5 * time.Minute
	// subscribeAgain is how long after a successful call another for the same
	// consumer and shard is refused; later it takes the subscription over.
	subscribeAgain = 5 * time.Second
	// beatEvery is how long a subscription is silent where nothing comes; then
	// an event without records says that it is still there and how far.
	beatEvery = 5 * time.Second
)

// Why a subscription ends, besides the client's leaving.
var (
	errLease        = errors.New("the lease is over")
	errBeat         = errors.New("nothing came for a while")
	errTakenOver    = errors.New("another call took the subscription over")
	errDeregistered = errors.New("the consumer was deregistered")
	errStopping     = errors.New("the endpoint stops")
)

type startingPosition struct {
	Type           *string
	SequenceNumber *string
	Timestamp      *epoch
}

type subscribeToShardInput struct {
	ConsumerARN      *string
	ShardID          *string `json:"ShardId"`
	StartingPosition *startingPosition
	DryRun           bool
}

func (in *subscribeToShardInput) check() error {
	var f faults
	f.required("consumerARN", in.ConsumerARN, 1, maxARN, consumerARNRE, patternConsumerARN)
	f.required("shardId", in.ShardID, 1, maxName, nameRE, patternName)
	p := in.StartingPosition
	switch {
	case p == nil:
		f.null("startingPosition")
	case p.Type == nil:
		f.null("startingPosition.type")
	default:
		f.enum("startingPosition.type", *p.Type, "AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON")
	}
	if p != nil && p.SequenceNumber != nil && !sequenceRE.MatchString(*p.SequenceNumber) {
		f.add(quoted(*p.SequenceNumber), "startingPosition.sequenceNumber", "satisfy regular expression pattern: "+patternSequence)
	}
	if err := f.err(); err != nil {
		return err
	}
	bySequence := *p.Type == "AT_SEQUENCE_NUMBER" || *p.Type == "AFTER_SEQUENCE_NUMBER"
	switch {
	case bySequence && p.SequenceNumber == nil:
		return invalidArgument("Must specify parameter SequenceNumber for StartingPosition of type %s. Current request has no SequenceNumber parameter.", *p.Type)
	case !bySequence && p.SequenceNumber != nil:
		return invalidArgument("Request has SequenceNumber, which is not allowed for StartingPosition of type %s.", *p.Type)
	case *p.Type == "AT_TIMESTAMP" && p.Timestamp == nil:
		return invalidArgument("Must specify parameter Timestamp for StartingPosition of type %s. Current request has no Timestamp parameter.", *p.Type)
	case *p.Type != "AT_TIMESTAMP" && p.Timestamp != nil:
		return invalidArgument("Request has Timestamp, which is not allowed for StartingPosition of type %s.", *p.Type)
	}
	return nil
}

// startOf is where a subscription to a shard begins.
func (s *Server) startOf(ctx context.Context, st *spool.Stream, sh spool.Shard, p *startingPosition) (spool.Start, error) {
	switch *p.Type {
	case "TRIM_HORIZON":
		return spool.Oldest(), nil
	case "LATEST":
		return spool.Newest(), nil
	case "AT_TIMESTAMP":
		since, now := time.Time(*p.Timestamp), s.now()
		if since.After(now) {
			return spool.Start{}, invalidArgument("The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. timestampInMillis: %d, currentTimestampInMillis: %d", since.UnixMilli(), now.UnixMilli())
		}
		return spool.Since(since), nil
	}
	q, err := parseSequence(*p.SequenceNumber)
	after, ok := q.after(ctx, st, sh, *p.Type == "AT_SEQUENCE_NUMBER")
	if err != nil || !ok {
		return spool.Start{}, invalidArgument("StartingSequenceNumber %s used in SubscribeToShard on shard %s in stream %s under account %s is invalid.", *p.SequenceNumber, shardName(sh.Index), st.Name(), s.cfg.Account)
	}
	return spool.After(after), nil
}

// subscribeToShard claims the shard for the consumer and answers with a stream
// of events. The reader stands before the answer begins: what is put after the
// client has it comes, also with LATEST.
func (s *Server) subscribeToShard(ctx context.Context, c *call, in *subscribeToShardInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, who, err := c.consumer(consumerRef{ConsumerARN: in.ConsumerARN})
	if err != nil {
		return nil, err
	}
	sh, ok := shardNamed(st, *in.ShardID)
	if !ok {
		return nil, s.noShard(*in.ShardID, st.Name())
	}
	from, err := s.startOf(ctx, st, sh, in.StartingPosition)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	p := &pusher{
		s: s, codec: c.codec, id: c.id, stream: st, shard: sh.ID, at: placeOf(st, sh), num: placeOf(st, sh).numbered(), terms: s.terms,
		loan: &loan{held: &s.pushed},
	}
	if err := p.open(from); err != nil {
		return nil, s.storeError(err, st.Name())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	sub, err := s.subs.claim(subscriptionKey{st, who.Name, who.Created.Unix(), sh.ID}, s.now(), cancel)
	if err != nil {
		cancel(err)
		p.close()
		return nil, err
	}
	return streamed(func(w http.ResponseWriter, _ *http.Request) {
		c.body = nil
		c.loan.giveBack() // minutes may pass until the call ends
		defer s.subs.release(sub)
		defer p.close()
		defer cancel(nil)
		p.serve(ctx, w)
	}), nil
}

// A subscriptionKey is what may be subscribed to once at a time.
type subscriptionKey struct {
	stream   *spool.Stream
	consumer string
	created  int64 // seconds; tells a consumer from its namesake before
	shard    record.ShardID
}

// A subscription is under way, or has been until a moment ago.
type subscription struct {
	key   subscriptionKey
	began time.Time
	end   context.CancelCauseFunc
	over  bool
}

// subscriptions are all that are under way.
type subscriptions struct {
	// strict keeps to AWS's letter: a call is refused for five seconds also
	// where the subscription before has ended already.
	strict  bool
	account string

	mu      sync.Mutex
	of      map[subscriptionKey]*subscription
	live    int
	stopped bool
}

// claim enters a subscription, in place of an older one. end is called, with
// the reason, when it must end.
func (l *subscriptions) claim(key subscriptionKey, now time.Time, end context.CancelCauseFunc) (*subscription, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return nil, unavailable("The gateway is stopping.")
	}
	old := l.of[key]
	if old != nil {
		if age := now.Sub(old.began); age >= 0 && age < subscribeAgain {
			return nil, refuse("ResourceInUseException", "Another active subscription exists for this consumer: %s:%s:%s:%s", l.account, key.stream.Name(), key.consumer, shardNameOf(key.stream, key.shard))
		}
	}
	if old == nil || old.over {
		if l.live >= maxSubscriptions {
			return nil, refuse("LimitExceededException", "This gateway pushes at most %d shards at a time.", maxSubscriptions)
		}
		l.live++
	} else {
		old.over = true
		old.end(errTakenOver)
	}
	for k, sub := range l.of { // those that only bar others for five seconds
		if age := now.Sub(sub.began); sub.over && (age < 0 || age >= subscribeAgain) {
			delete(l.of, k)
		}
	}
	if l.of == nil {
		l.of = make(map[subscriptionKey]*subscription)
	}
	sub := &subscription{key: key, began: now, end: end}
	l.of[key] = sub
	return sub, nil
}

func shardNameOf(st *spool.Stream, id record.ShardID) string {
	for _, sh := range st.Shards() {
		if sh.ID == id {
			return shardName(sh.Index)
		}
	}
	return ""
}

// release takes a subscription out that has ended.
func (l *subscriptions) release(sub *subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sub.over { // taken over: its successor counts in its stead
		return
	}
	sub.over = true
	l.live--
	if !l.strict {
		delete(l.of, sub.key)
	}
}

// endConsumer ends the subscriptions of a consumer that is no more.
func (l *subscriptions) endConsumer(st *spool.Stream, c consumer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, sub := range l.of {
		if k.stream == st && k.consumer == c.Name && k.created == c.Created.Unix() {
			sub.end(errDeregistered)
		}
	}
}

// stop ends all, and refuses those to come.
func (l *subscriptions) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	for _, sub := range l.of {
		sub.end(errStopping)
	}
}

// Subscriptions is how many shards are being pushed to consumers.
func (s *Server) Subscriptions() int {
	s.subs.mu.Lock()
	defer s.subs.mu.Unlock()
	return s.subs.live
}
