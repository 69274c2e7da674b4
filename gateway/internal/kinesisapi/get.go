package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

const (
	maxGetRecords = 10000
	maxGetBytes   = 10 << 20
	readerBytes   = 1 << 20
)

type getShardIteratorInput struct {
	streamRef
	ShardID                *string `json:"ShardId"`
	ShardIteratorType      *string
	StartingSequenceNumber *string
	Timestamp              *epoch
	DryRun                 bool
}

func (in *getShardIteratorInput) check() error {
	var f faults
	f.stream(in.streamRef)
	f.required("shardId", in.ShardID, 1, maxName, nameRE, patternName)
	if in.ShardIteratorType == nil {
		f.null("shardIteratorType")
	} else {
		f.enum("shardIteratorType", *in.ShardIteratorType, "AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON")
	}
	if q := in.StartingSequenceNumber; q != nil && !sequenceRE.MatchString(*q) {
		f.add(quoted(*q), "startingSequenceNumber", "satisfy regular expression pattern: "+patternSequence)
	}
	if err := f.err(); err != nil {
		return err
	}
	kind := *in.ShardIteratorType
	bySequence := kind == "AT_SEQUENCE_NUMBER" || kind == "AFTER_SEQUENCE_NUMBER"
	switch {
	case bySequence && in.StartingSequenceNumber == nil:
		return invalidArgument("Must specify parameter startingSequenceNumber for iterator of type %s. Current request has no startingSequenceNumber parameter.", kind)
	case !bySequence && in.StartingSequenceNumber != nil:
		return invalidArgument("Request has startingSequenceNumber, which is not allowed for iterator of type %s.", kind)
	case kind == "AT_TIMESTAMP" && in.Timestamp == nil:
		return invalidArgument("Must specify parameter timestamp for iterator of type %s. Current request has no timestamp parameter.", kind)
	case kind != "AT_TIMESTAMP" && in.Timestamp != nil:
		return invalidArgument("Request has timestamp, which is not allowed for iterator of type %s.", kind)
	}
	return nil
}

func (s *Server) getShardIterator(ctx context.Context, c *call, in *getShardIteratorInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	sh, ok := shardNamed(st, *in.ShardID)
	if !ok {
		return nil, s.noShard(*in.ShardID, st.Name())
	}
	it := iterator{stream: st.Name(), created: st.Created().UnixNano(), shard: sh.ID}
	now := s.now()
	switch *in.ShardIteratorType {
	case "TRIM_HORIZON":
		it.after = max(sh.First, 1) - 1
	case "LATEST":
		it.after = sh.Next - 1
	case "AT_TIMESTAMP":
		it.since = time.Time(*in.Timestamp)
		if it.since.After(now) {
			return nil, invalidArgument("The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. timestampInMillis: %d, currentTimestampInMillis: %d", it.since.UnixMilli(), now.UnixMilli())
		}
	default:
		q, err := parseSequence(*in.StartingSequenceNumber)
		after, ok := q.after(ctx, st, sh, *in.ShardIteratorType == "AT_SEQUENCE_NUMBER")
		if err != nil || !ok {
			return nil, invalidArgument("StartingSequenceNumber %s used in GetShardIterator on shard %s in stream %s under account %s is invalid.", *in.StartingSequenceNumber, *in.ShardID, st.Name(), s.cfg.Account)
		}
		it.after = after
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	return struct{ ShardIterator string }{s.sealer.seal(kindIterator, it.encode(), now)}, nil
}

func shardNamed(st *spool.Stream, name string) (spool.Shard, bool) {
	for _, sh := range st.Shards() {
		if shardName(sh.Index) == name {
			return sh, true
		}
	}
	return spool.Shard{}, false
}

type getRecordsInput struct {
	ShardIterator *string
	Limit         *int
	StreamARN     *string
	DryRun        bool
}

func (in *getRecordsInput) check() error {
	var f faults
	f.required("shardIterator", in.ShardIterator, 1, maxToken, nil, "")
	f.text("streamARN", in.StreamARN, 1, maxARN, arnRE, patternARN)
	if n := in.Limit; n != nil && *n < 1 {
		f.number("limit", n, 1, maxGetRecords)
	}
	if err := f.err(); err != nil {
		return err
	}
	if in.Limit != nil && *in.Limit > maxGetRecords {
		return invalidArgument("Limit must be at most %d. Specified value was %d.", maxGetRecords, *in.Limit)
	}
	return nil
}

func (s *Server) getRecords(ctx context.Context, c *call, in *getRecordsInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, it, err := c.resolve(in)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	limit := maxGetRecords
	if in.Limit != nil {
		limit = *in.Limit
	}
	return s.readShard(ctx, c, st, it, limit)
}

// resolve opens the request's iterator and finds the stream that it is of.
func (c *call) resolve(in *getRecordsInput) (*spool.Stream, iterator, error) {
	now := c.s.now()
	body, issued, err := c.s.sealer.open(kindIterator, *in.ShardIterator, now)
	var it iterator
	if err == nil {
		it, err = decodeIterator(body)
	}
	switch {
	case errors.Is(err, errExpired) && issued.IsZero():
		return nil, it, refuse("ExpiredIteratorException", "Iterator expired. The iterator was created before the gateway was started.")
	case errors.Is(err, errExpired):
		const layout = "Mon Jan 02 15:04:05 UTC 2006"
		return nil, it, refuse("ExpiredIteratorException", "Iterator expired. The iterator was created at time %s while right now it is %s which is further in the future than the tolerated delay of %d milliseconds.",
			issued.UTC().Format(layout), now.UTC().Format(layout), tokenLife.Milliseconds())
	case err != nil:
		return nil, it, invalidArgument("Invalid ShardIterator.")
	}
	ref := streamRef{StreamName: &it.stream, StreamARN: in.StreamARN}
	st, err := c.find(ref)
	if err != nil {
		return nil, it, err
	}
	if st.Created().UnixNano() != it.created {
		return nil, it, c.s.noStream(it.stream)
	}
	return st, it, nil
}

// readShard reads from an iterator's place until the limit, ten megabytes or
// the newest record.
func (s *Server) readShard(ctx context.Context, c *call, st *spool.Stream, it iterator, limit int) (any, error) {
	at, ok := s.shards.place(st, it.shard)
	if !ok {
		return nil, invalidArgument("Invalid ShardIterator.")
	}
	if s.emulated != nil && !s.emulated.mayRead(st, it.shard, s.now()) {
		return nil, s.throttledRead(st, at)
	}
	from := spool.After(it.after)
	if !it.since.IsZero() {
		from = spool.Since(it.since)
	}
	// A reader holds a block of the log, and it does while room is waited for.
	if !c.loan.take(readerBytes) {
		return nil, unavailable(textBusy)
	}
	defer c.loan.give(readerBytes)
	rd, err := st.Reader(it.shard, from)
	if err != nil {
		return nil, s.storeError(fmt.Errorf("read shard %d of stream %s: %w", it.shard, st.Name(), err), st.Name())
	}
	defer func() {
		if err := rd.Close(); err != nil {
			s.log.Warn("shard reader did not close cleanly", "stream", st.Name(), "shard", it.shard, "error", err)
		}
	}()
	w := &shardWriter{s: s, c: c, st: st, at: at, out: pieces{from: &s.buffers, loan: c.loan, read: true}}
	w.next = rd.Pos()
	if err := w.fill(ctx, rd, limit); err != nil {
		w.out.release()
		return nil, err
	}
	now := s.now()
	if s.emulated != nil {
		s.emulated.hasRead(st, it.shard, w.bytes, now)
	}
	tail := &getsTail{MillisBehindLatest: w.millisBehind(rd, now)}
	if w.end != nil {
		tail.ChildShards = childShards(st, w.end)
	} else {
		nx := iterator{stream: it.stream, created: it.created, shard: it.shard, after: w.next - 1}
		tail.NextShardIterator = s.sealer.seal(kindIterator, nx.encode(), now)
	}
	if err := w.finish(tail); err != nil {
		w.out.release()
		return nil, err
	}
	return &w.out, nil
}

// A shardWriter builds the answer of GetRecords while a shard is read.
type shardWriter struct {
	s   *Server
	c   *call
	st  *spool.Stream
	at  place
	num *numberedShard // at, once there is a record to number
	out pieces

	records int
	bytes   int                   // of data and keys
	next    uint64                // sequence number to go on at
	lastAt  time.Time             // arrival of the last record written
	more    bool                  // records that were read had no place
	tip     bool                  // there was nothing more to read
	end     *record.ShardEndError // the shard is closed and read to its end
}

// fill moves records from a reader into the answer.
func (w *shardWriter) fill(ctx context.Context, rd *spool.Reader, limit int) error {
	for w.records < limit && w.bytes < maxGetBytes {
		batch, err := rd.Poll(ctx, limit-w.records)
		var trimmed *record.TrimmedError
		var corrupt *record.CorruptError
		switch {
		case errors.As(err, &w.end):
			w.next = rd.Pos()
			return nil
		case errors.As(err, &trimmed):
			w.next = rd.Pos()
			continue // Kinesis goes on at the oldest record that is kept
		case errors.As(err, &corrupt):
			// Counted by the spool and shown in its health; here it is told
			// because this client will not see these records.
			w.s.log.Warn("damaged records were passed over", "stream", w.st.Name(), "shard", shardName(w.at.index), "error", corrupt)
			w.next = rd.Pos()
			continue
		case err != nil:
			return w.s.storeError(fmt.Errorf("read stream %s: %w", w.st.Name(), err), w.st.Name())
		case len(batch.Recs) == 0:
			w.next, w.tip = rd.Pos(), true
			return nil
		}
		if !w.add(batch.Recs) {
			w.more = true
			if w.records == 0 {
				return unavailable(textBusy)
			}
			return nil // what there is, rather than nothing
		}
	}
	return nil
}

// add writes records as far as they may stand in the answer, and reports
// whether that was all of them. The first record of an answer always may.
func (w *shardWriter) add(recs []record.Record) bool {
	codec, want := w.c.codec, 0
	for i := range recs {
		want += codec.getRoom(&recs[i])
	}
	for i := range recs {
		r := &recs[i]
		if w.at.moveTo(r) || w.num == nil {
			w.num = w.at.numbered()
		}
		size := len(r.Data) + len(r.Key)
		if w.records > 0 && w.bytes+size > maxGetBytes {
			return false
		}
		room := codec.getRoom(r)
		if !w.out.room(room+getsHeadRoom, want) {
			return false
		}
		want -= room
		b := w.out.last
		if w.records == 0 {
			b = codec.getsHead(b)
		}
		w.out.last = codec.getRecord(b, w.records, w.num, r)
		w.records++
		w.bytes += size
		w.next, w.lastAt = r.Pos.Seq+1, r.Arrived
	}
	return true
}

// getsHeadRoom is more than stands before the first record.
const getsHeadRoom = 64

// finish writes what stands behind the records.
func (w *shardWriter) finish(tail *getsTail) error {
	const child = 512 // bytes, a parent more included
	w.out.rest = true // what was read must not be lost for want of its end
	if !w.out.room(2*getsHeadRoom+maxToken+child*len(tail.ChildShards), 0) {
		return unavailable(textBusy)
	}
	b := w.out.last
	if w.records == 0 {
		b = w.c.codec.getsHead(b)
	}
	b, err := w.c.codec.getsTail(b, tail)
	if err != nil {
		return err
	}
	w.out.last = b
	return nil
}

// millisBehind is how far the answer is behind the tip of the shard: 0 if it
// holds the newest record, else the age of the last record that it holds.
func (w *shardWriter) millisBehind(rd *spool.Reader, now time.Time) int64 {
	if w.end != nil || w.tip || !w.more && rd.Behind() == 0 {
		return 0
	}
	return max(now.Sub(w.lastAt).Milliseconds(), 1)
}

// childShards lists the shards that a closed one was split or merged into.
func childShards(st *spool.Stream, end *record.ShardEndError) []childShard {
	shards := st.Shards()
	names := make(map[record.ShardID]string, len(shards))
	for _, sh := range shards {
		names[sh.ID] = shardName(sh.Index)
	}
	var out []childShard
	for _, sh := range shards {
		if !slices.Contains(end.Children, sh.ID) {
			continue
		}
		c := childShard{
			ShardID: names[sh.ID], ParentShards: []string{},
			HashKeyRange: hashKeyRange{decimal(sh.From), decimal(sh.To)},
		}
		for _, id := range sh.Parents {
			c.ParentShards = append(c.ParentShards, names[id])
		}
		out = append(out, c)
	}
	return out
}
