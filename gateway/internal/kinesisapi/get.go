package kinesisapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

const (
	maxGetRecords = 10000
	maxGetBytes   = 10 << 20
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

func (s *Server) getShardIterator(_ context.Context, c *call, in *getShardIteratorInput) (any, error) {
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
		after, ok := q.after(st, sh, *in.ShardIteratorType == "AT_SEQUENCE_NUMBER")
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
	return s.readShard(ctx, c.loan, st, it, limit)
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

// An answerWriter builds the answer of GetRecords while a shard is read.
type answerWriter struct {
	b       []byte
	st      *spool.Stream
	at      place
	records int
	bytes   int       // of data and keys
	last    uint64    // sequence number of the last record written
	lastAt  time.Time // its arrival
}

// fits reports whether another record may be written; the first always may.
func (w *answerWriter) fits(r *record.Record) bool {
	return w.records == 0 || w.bytes+len(r.Data)+len(r.Key) <= maxGetBytes
}

func (w *answerWriter) add(r *record.Record) {
	if w.records > 0 {
		w.b = append(w.b, ',')
	}
	w.b = append(w.b, `{"SequenceNumber":"`...)
	w.b = w.at.sequence(r.Pos.Seq).appendTo(w.b)
	w.b = append(w.b, `","ApproximateArrivalTimestamp":`...)
	w.b = appendEpoch(w.b, r.Arrived)
	w.b = append(w.b, `,"PartitionKey":`...)
	w.b = appendString(w.b, r.Key)
	w.b = append(w.b, `,"EncryptionType":"NONE","Data":"`...)
	w.b = base64.StdEncoding.AppendEncode(w.b, r.Data)
	w.b = append(w.b, `"}`...)
	w.records++
	w.bytes += len(r.Data) + len(r.Key)
	w.last, w.lastAt = r.Pos.Seq, r.Arrived
}

// readShard reads from an iterator's place until the limit, ten megabytes or
// the newest record.
func (s *Server) readShard(ctx context.Context, l *loan, st *spool.Stream, it iterator, limit int) (any, error) {
	at, ok := s.shards.place(st, it.shard)
	if !ok {
		return nil, invalidArgument("Invalid ShardIterator.")
	}
	from := spool.After(it.after)
	if !it.since.IsZero() {
		from = spool.Since(it.since)
	}
	rd, err := st.Reader(it.shard, from)
	if err != nil {
		return nil, s.storeError(fmt.Errorf("read shard %d of stream %s: %w", it.shard, st.Name(), err), st.Name())
	}
	defer func() {
		if err := rd.Close(); err != nil {
			s.log.Warn("shard reader did not close cleanly", "stream", st.Name(), "shard", it.shard, "error", err)
		}
	}()
	w := &answerWriter{b: []byte(`{"Records":[`), st: st, at: at}
	next, err := s.fill(ctx, l, rd, w, limit)
	if err != nil {
		return nil, err
	}
	now := s.now()
	b := append(w.b, `],"MillisBehindLatest":`...)
	b = strconv.AppendInt(b, s.millisBehind(st, it.shard, next, w, now), 10)
	b = append(b, `,"NextShardIterator":"`...)
	nx := iterator{stream: it.stream, created: it.created, shard: it.shard, after: next - 1}
	b = append(b, s.sealer.seal(kindIterator, nx.encode(), now)...)
	return encoded(append(b, `"}`...)), nil
}

// fill moves records from a reader into the answer and gives the sequence
// number to go on at.
func (s *Server) fill(ctx context.Context, l *loan, rd *spool.Reader, w *answerWriter, limit int) (next uint64, err error) {
	lent := int64(0)
	for w.records < limit && w.bytes < maxGetBytes {
		batch, err := rd.Poll(ctx, limit-w.records)
		var trimmed *record.TrimmedError
		var corrupt *record.CorruptError
		switch {
		case errors.As(err, &trimmed):
			continue // Kinesis goes on at the oldest record that is kept
		case errors.As(err, &corrupt):
			// Counted by the spool and shown in its health; here it is told
			// because this client will not see these records.
			s.log.Warn("damaged records were passed over", "stream", w.st.Name(), "shard", shardName(w.at.index), "error", corrupt)
			continue
		case err != nil:
			return 0, s.storeError(fmt.Errorf("read stream %s: %w", w.st.Name(), err), w.st.Name())
		case len(batch.Recs) == 0:
			return rd.Pos(), nil
		}
		for i := range batch.Recs {
			if !w.fits(&batch.Recs[i]) {
				return w.last + 1, nil
			}
			w.add(&batch.Recs[i])
		}
		if more := int64(cap(w.b)) - lent; more > 0 {
			if !l.take(more) {
				return w.last + 1, nil // what there is, rather than nothing
			}
			lent += more
		}
	}
	return w.last + 1, nil
}

// millisBehind is how far the answer is behind the newest record: 0 if it
// holds it, else the age of the last record that it holds.
func (s *Server) millisBehind(st *spool.Stream, id record.ShardID, next uint64, w *answerWriter, now time.Time) int64 {
	for _, sh := range st.Shards() {
		if sh.ID != id {
			continue
		}
		if next >= sh.Next {
			return 0
		}
		at := w.lastAt
		if w.records == 0 {
			at = sh.Oldest
		}
		return max(now.Sub(at).Milliseconds(), 1)
	}
	return 0
}

// appendString writes a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			q, err := json.Marshal(s)
			if err != nil { // a string always has a JSON form
				return append(b, `""`...)
			}
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
