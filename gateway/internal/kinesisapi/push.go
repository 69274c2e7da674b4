package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

const (
	// frameEnough and frameMost bound the records of one event, data and keys
	// and recordCost each: no more are read behind frameEnough, and none is
	// added that would pass frameMost unless it is alone.
	frameEnough = 512 << 10
	frameMost   = 2 << 20
	recordCost  = 64
	// sendPatience is how long an event may take to be written, besides the
	// time that a slow link needs for its bytes.
	sendPatience = 30 * time.Second
	// slowestLink is the rate, in bytes a second, at which a consumer must take
	// its events.
	slowestLink = 32 << 10
	// frameKept is the largest buffer that a subscription keeps while it waits.
	frameKept = 4 << 10
	// maxBuilding is how many events are read and encoded at a time, those apart
	// that begin with no more than smallBatch of what was just put. None of them
	// waits for a client.
	maxBuilding = 2
	smallBatch  = 64 << 10
)

// A pusher sends one shard to one consumer. Between two events it holds
// neither records nor blocks of the log, only the frame that is being written.
type pusher struct {
	s      *Server
	codec  codec
	id     string // the request's
	stream *spool.Stream
	shard  record.ShardID
	at     place
	num    *numberedShard
	terms  terms
	rd     *spool.Reader

	w    io.Writer
	out  *http.ResponseController
	loan *loan
	next uint64 // sequence number of the first record that is not sent

	// The event that is being built.
	frame   []byte
	records int
	bytes   int       // data, keys and recordCost of each
	upTo    uint64    // sequence number behind the last record
	last    time.Time // arrival of the last record
	ended   *record.ShardEndError
}

var errWrite = errors.New("write to the consumer")

// errNoRoom ends a subscription for whose event there was no room all its life.
var errNoRoom = errors.New("no room for an event")

// open makes a reader and notes where it stands.
func (p *pusher) open(from spool.Start) error {
	rd, err := p.stream.Reader(p.shard, from)
	if err != nil {
		return fmt.Errorf("read shard %d of stream %s: %w", p.shard, p.stream.Name(), err)
	}
	p.rd, p.next = rd, max(rd.Pos(), 1)
	return nil
}

func (p *pusher) close() {
	if p.rd == nil {
		return
	}
	if err := p.rd.Close(); err != nil {
		p.s.log.Warn("shard reader did not close cleanly", "stream", p.stream.Name(), "shard", p.shard, "error", err)
	}
	p.rd = nil
}

// serve sends events until the lease or the shard ends, the client leaves or
// something goes wrong.
func (p *pusher) serve(ctx context.Context, w http.ResponseWriter) {
	p.w, p.out = w, http.NewResponseController(w)
	defer p.loan.giveBack()
	ctx, cancel := context.WithTimeoutCause(ctx, p.terms.lease, errLease)
	defer cancel()
	// The deadline of the request's body would cancel an HTTP/1.1 request's
	// context. Neither HTTP server of the standard library refuses.
	if err := p.out.SetReadDeadline(time.Time{}); err != nil {
		p.s.log.Debug("read deadline stays", "request_id", p.id, "error", err)
	}
	w.Header().Set("Content-Type", eventMedia)
	w.WriteHeader(http.StatusOK)
	p.frame = beginEvent(p.frame[:0], eventInitial, p.codec.mediaType())
	empty, err := p.codec.encode(struct{}{})
	if err == nil {
		p.frame = append(p.frame, empty...)
		err = p.send()
	}
	for err == nil && p.ended == nil {
		if err = p.build(ctx); err == nil {
			err = p.send()
		}
		if err == nil {
			err = p.pace(ctx)
		}
	}
	p.finish(err)
}

// finish tells the client why the stream ends where it is not for a regular
// reason.
func (p *pusher) finish(err error) {
	// The end of the stream is written behind us; who does not take it must not
	// keep the connection.
	if err := p.out.SetWriteDeadline(time.Now().Add(sendPatience)); err != nil {
		p.s.log.Debug("write deadline stays", "request_id", p.id, "error", err)
	}
	var e *apiError
	switch {
	case err == nil, errors.Is(err, errLease), errors.Is(err, errNoRoom), errors.Is(err, errStopping), errors.Is(err, record.ErrClosed), errors.Is(err, context.Canceled):
		return
	case errors.Is(err, errWrite):
		p.s.log.Debug("consumer did not take its events", "request_id", p.id, "stream", p.stream.Name(), "error", err)
		return
	case errors.Is(err, errTakenOver):
		e = refuse("ResourceInUseException", "Another call of SubscribeToShard took over this subscription.")
	case errors.Is(err, errDeregistered):
		e = refuse("ResourceNotFoundException", "The consumer was deregistered from stream %s under account %s.", p.stream.Name(), p.s.cfg.Account)
	case errors.Is(err, record.ErrNoStream), errors.Is(err, record.ErrNoShard):
		e = p.s.noStream(p.stream.Name())
	default:
		e = internalFailure(err)
		p.s.failures.Add(1)
		p.s.log.Error("subscription failed", "request_id", p.id, "stream", p.stream.Name(), "shard", p.shard, "error", err)
	}
	body, err := p.codec.encode(struct {
		Message string `json:"message"`
	}{e.message})
	if err != nil {
		p.s.log.Error("error of a subscription cannot be encoded", "request_id", p.id, "error", err)
		return
	}
	p.frame = append(beginException(p.frame[:0], e.code, p.codec.mediaType()), body...)
	if err := p.send(); err != nil {
		p.s.log.Debug("consumer did not take the end of its events", "request_id", p.id, "error", err)
	}
}

// build fills the frame with the next event: records as soon as there are any,
// or none after beatEvery. It returns the reason if the subscription must end.
func (p *pusher) build(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.begin()
		need, err := p.tryBuild(ctx)
		if err != nil || need == 0 {
			return err
		}
		// HTTP/2 minds the deadline of the last event also while nothing is written.
		if err := p.out.SetWriteDeadline(time.Time{}); err != nil {
			return fmt.Errorf("%w: %w", errWrite, err)
		}
		if !p.loan.await(need, ctx.Done(), p.terms.lease) {
			return errNoRoom
		}
	}
}

// begin begins an empty event.
func (p *pusher) begin() {
	p.frame = beginEvent(p.frame[:0], eventRecords, p.codec.mediaType())
	p.records, p.bytes, p.upTo = 0, 0, p.next
	p.frame = p.codec.getsHead(p.frame)
}

// tryBuild is build where room for the frame is at hand; else it says how much
// is needed, and holds nothing of it.
func (p *pusher) tryBuild(ctx context.Context) (need int64, err error) {
	var batch record.Batch
	if p.rd.Behind() == 0 {
		beat, cancel := context.WithTimeoutCause(ctx, p.terms.beat, errBeat)
		batch, err = p.rd.Next(beat, maxGetRecords)
		cancel()
		if errors.Is(err, errBeat) {
			if st, err := p.s.spool.Stream(p.stream.Name()); err != nil || st != p.stream {
				return 0, record.ErrNoStream
			}
			return 0, p.finishEvent(true)
		}
	}
	if err != nil || len(batch.Recs) == 0 || size(batch.Recs) > smallBatch {
		select {
		case p.s.building <- struct{}{}:
			defer func() { <-p.s.building }()
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	let, err := p.gather(ctx, batch, err)
	if err != nil {
		return 0, err
	}
	if err := p.finishEvent(let); err != nil {
		return 0, err
	}
	if more := int64(cap(p.frame)) - p.loan.n.Load(); more > 0 && !p.loan.takeWithin(more, p.loan.share(more)) {
		p.frame, p.ended = nil, nil
		return more, p.reopen()
	}
	p.next = p.upTo
	if !let {
		return 0, p.reopen()
	}
	return 0, nil
}

func size(recs []record.Record) (n int) {
	for i := range recs {
		n += recordSize(&recs[i])
	}
	return n
}

func recordSize(r *record.Record) int { return len(r.Data) + len(r.Key) + recordCost }

// gather adds what the reader has to the event, beginning with a batch or
// error that it gave before. It reports whether the reader has let go of the
// log's blocks, having found nothing more.
func (p *pusher) gather(ctx context.Context, batch record.Batch, err error) (let bool, _ error) {
	for polled := err != nil || len(batch.Recs) > 0; ; polled = true {
		if polled {
			var trimmed *record.TrimmedError
			var corrupt *record.CorruptError
			switch {
			case err == nil && len(batch.Recs) == 0:
				return true, nil
			case errors.As(err, &p.ended):
				return true, nil
			case errors.As(err, &trimmed):
				// The service goes on at the oldest record that is kept.
			case errors.As(err, &corrupt):
				p.s.log.Warn("damaged records were passed over", "stream", p.stream.Name(), "shard", shardName(p.at.index), "error", corrupt)
			case ctx.Err() != nil:
				return false, context.Cause(ctx)
			case err != nil:
				return false, fmt.Errorf("read stream %s: %w", p.stream.Name(), err)
			case !p.add(batch.Recs) || p.bytes >= frameEnough:
				return false, nil
			}
		}
		batch, err = p.rd.Poll(ctx, maxGetRecords)
	}
}

// add adds records as long as they fit; false if one did not.
func (p *pusher) add(recs []record.Record) bool {
	fit, room := 0, 0
	for ; fit < len(recs); fit++ {
		r := &recs[fit]
		n := recordSize(r)
		if p.records+fit > 0 && p.bytes+n > frameMost {
			break
		}
		p.bytes += n
		room += p.codec.getRoom(r)
	}
	p.frame = slices.Grow(p.frame, room+eventTail)
	for i := range recs[:fit] {
		if p.at.moveTo(&recs[i]) {
			p.num = p.at.numbered()
		}
		p.frame = p.codec.getRecord(p.frame, p.records, p.num, &recs[i])
		p.records++
		p.upTo, p.last = recs[i].Pos.Seq+1, recs[i].Arrived
	}
	return fit == len(recs)
}

// eventTail is more than what stands behind the records, children apart.
const eventTail = 256

// finishEvent writes what follows the records. At the shard's end there is no
// number to go on from, but children.
func (p *pusher) finishEvent(caughtUp bool) error {
	tail := new(getsTail)
	if p.ended != nil {
		tail.ChildShards = childShards(p.stream, p.ended)
	} else {
		var number [sequenceDigits]byte
		tail.ContinuationSequenceNumber = string(p.num.numbers.append(number[:0], p.upTo-1))
	}
	if !caughtUp && p.behind() {
		tail.MillisBehindLatest = max(p.s.now().Sub(p.last).Milliseconds(), 1)
	}
	b, err := p.codec.getsTail(p.frame, tail)
	p.frame = b
	return err
}

// behind reports whether the log holds more than the frame.
func (p *pusher) behind() bool {
	for _, sh := range p.stream.Shards() {
		if sh.ID == p.shard {
			return p.upTo < sh.Next
		}
	}
	return false
}

// reopen takes a new reader, which holds nothing yet, to where the sent ones
// end.
func (p *pusher) reopen() error {
	p.close()
	return p.open(spool.After(p.next - 1))
}

// send closes the frame and writes it. The frame's room is given back, and a
// large buffer with it.
func (p *pusher) send() error {
	p.frame = closeFrame(p.frame)
	err := p.out.SetWriteDeadline(time.Now().Add(sendPatience + time.Duration(len(p.frame))*(time.Second/slowestLink)))
	if err == nil {
		p.loan.stall(p.out.SetWriteDeadline)
		if _, err = p.w.Write(p.frame); err == nil {
			err = p.out.Flush()
		}
		p.loan.goOn()
	}
	p.loan.giveBack()
	if cap(p.frame) > frameKept {
		p.frame = nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}
