package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/kpl"
)

const (
	codeThroughput = "ProvisionedThroughputExceededException"
	codeInternal   = "InternalFailure"
)

// An entry is one record of a request. Data is nil if the member was left out
// and empty if it was given empty.
type entry struct {
	Data            []byte
	PartitionKey    *string
	ExplicitHashKey *string
}

// valid reports whether check would find nothing.
func (e *entry) valid() bool {
	return e.Data != nil && len(e.Data) <= maxData &&
		e.PartitionKey != nil && *e.PartitionKey != "" &&
		(len(*e.PartitionKey) <= maxPartitionKey || utf8.RuneCountInString(*e.PartitionKey) <= maxPartitionKey) &&
		(e.ExplicitHashKey == nil || validHashKey(*e.ExplicitHashKey))
}

func (e *entry) check(f *faults, prefix string) {
	switch {
	case e.Data == nil:
		f.null(prefix + "data")
	case len(e.Data) > maxData:
		f.add("", prefix+"data", fmt.Sprintf("have length less than or equal to %d", maxData))
	}
	f.required(prefix+"partitionKey", e.PartitionKey, 1, maxPartitionKey, nil, "")
	if k := e.ExplicitHashKey; k != nil && !validHashKey(*k) {
		f.add(quoted(*k), prefix+"explicitHashKey", "satisfy regular expression pattern: "+patternHashKey)
	}
}

// record makes the log's record of a checked entry.
func (e *entry) record() (record.Record, error) {
	r := record.Record{Key: *e.PartitionKey, Data: e.Data}
	if k := e.ExplicitHashKey; k != nil {
		h, ok := parseHashKey(*k)
		if !ok {
			return r, invalidArgument("Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was %s", *k)
		}
		r.HashKey = &h
	}
	return r, nil
}

// fits refuses records that are larger than their stream takes, or that
// together are larger than a request may be.
func (s *Server) fits(st *spool.Stream, recs []record.Record) error {
	limit, total := s.recordLimit(st), 0
	for i := range recs {
		n := len(recs[i].Data) + len(recs[i].Key)
		if n > limit {
			return invalidArgument("Record size of %d bytes, data and partition key, exceeds the maximum record size of %d bytes.", n, limit)
		}
		total += n
	}
	if len(recs) > 1 && total > maxPutBytes {
		return invalidArgument("Records size exceeds 10 MB limit")
	}
	return nil
}

type putRecordInput struct {
	streamRef
	entry
	SequenceNumberForOrdering *string
	DryRun                    bool
}

type putRecordOutput struct {
	ShardID        string `json:"ShardId"`
	SequenceNumber string
	EncryptionType string
}

func (s *Server) putRecord(ctx context.Context, c *call, in *putRecordInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	in.check(&f, "")
	if q := in.SequenceNumberForOrdering; q != nil && !sequenceRE.MatchString(*q) {
		f.add(quoted(*q), "sequenceNumberForOrdering", "satisfy regular expression pattern: "+patternSequence)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	// A shard's numbers only rise, whatever the number before was; 0 stands for
	// none, and one of a stream that was made anew is as good as any.
	if q := in.SequenceNumberForOrdering; q != nil && *q != "0" {
		if _, err := parseSequence(*q); err != nil {
			return nil, invalidArgument("SequenceNumberForOrdering %s used in PutRecord on stream %s under account %s is invalid.", *q, st.Name(), s.cfg.Account)
		}
	}
	rec, err := in.record()
	if err != nil {
		return nil, err
	}
	recs := []record.Record{rec}
	if err := s.fits(st, recs); err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	p := s.put(ctx, st, recs)
	switch p.code(0) {
	case "":
	case codeThroughput:
		return nil, refuse(codeThroughput, "%s", s.throughputText(st, &rec))
	default:
		return nil, s.putFailure(p.err(0), st.Name())
	}
	at := s.placeOf(st, &rec, p.results[0].Pos)
	return putRecordOutput{shardName(at.index), at.sequence(p.results[0].Pos.Seq).String(), "NONE"}, nil
}

type putRecordsInput struct {
	streamRef
	Records *[]entry
	DryRun  bool
}

func (in *putRecordsInput) check() error {
	var f faults
	f.stream(in.streamRef)
	switch {
	case in.Records == nil:
		f.null("records")
	case len(*in.Records) < 1:
		f.add("", "records", "have length greater than or equal to 1")
	case len(*in.Records) > maxPutRecords:
		f.add("", "records", fmt.Sprintf("have length less than or equal to %d", maxPutRecords))
	default:
		for i := range *in.Records {
			e := &(*in.Records)[i]
			if !e.valid() { // the path is text for an error only
				e.check(&f, fmt.Sprintf("records.%d.member.", i+1))
			}
		}
	}
	return f.err()
}

// records are those of a checked request.
func (in *putRecordsInput) records(recs []record.Record) ([]record.Record, error) {
	for i := range *in.Records {
		r, err := (*in.Records)[i].record()
		if err != nil {
			return nil, err
		}
		recs = append(recs, r)
	}
	return recs, nil
}

// putRecords is the operation that most requests ask for.
func (s *Server) putRecords(ctx context.Context, c *call) (any, error) {
	b := s.batches.get()
	if n := c.codec.putArena(len(c.body)); n > 0 {
		if !c.loan.take(int64(bufferSize(n))) {
			s.batches.reset(b)
			return nil, unavailable(textBusy)
		}
		b.arena = s.buffers.get(n)
	}
	arena := b.arena
	answer, err := s.putBatch(ctx, c, b)
	if b.put.abandoned {
		c.kept = true // the log may still read the body; it has the arena and the records as well
		return answer, err
	}
	s.buffers.put(arena)
	s.batches.reset(b)
	return answer, err
}

// putBatch stores the records of a request, by the short way or the long one.
func (s *Server) putBatch(ctx context.Context, c *call, b *batch) (any, error) {
	if !c.codec.scanPuts(c.body, b) {
		var in putRecordsInput
		if err := c.decode(&in); err != nil {
			return nil, err
		}
		if err := in.check(); err != nil {
			return nil, err
		}
		st, err := c.find(in.streamRef)
		if err != nil {
			return nil, err
		}
		if b.recs, err = in.records(b.recs[:0]); err != nil {
			return nil, err
		}
		return s.putInto(ctx, c, st, b, in.DryRun)
	}
	var f faults
	f.stream(b.ref)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(b.ref)
	if err != nil {
		return nil, err
	}
	return s.putInto(ctx, c, st, b, false)
}

// putInto stores a batch in its stream and writes the answer.
func (s *Server) putInto(ctx context.Context, c *call, st *spool.Stream, b *batch, dry bool) (any, error) {
	if err := s.fits(st, b.recs); err != nil {
		return nil, err
	}
	if err := dryRun(dry); err != nil {
		return nil, err
	}
	out := &pieces{from: &s.buffers, loan: c.loan}
	if !out.room(putResultRoom*(len(b.recs)+1), 0) { // asked for now: behind the commit there is no way back
		return nil, unavailable(textBusy)
	}
	p := &b.put
	if c.lanes.rising && s.emulated == nil {
		s.putRising(ctx, c, st, b.recs, p)
	} else {
		s.putWith(ctx, st, b.recs, p)
	}
	if errors.Is(p.refused, record.ErrNoStream) || errors.Is(p.refused, record.ErrClosed) {
		out.release()
		return nil, s.storeError(p.refused, st.Name())
	}
	failed := 0
	where := shardsOf{s: s, st: st}
	w := c.codec.putsHead(out.last, len(b.recs))
	for i := range b.recs {
		code := p.code(i)
		if code == "" {
			w = c.codec.putStored(w, i, where.stored(&b.recs[i], p.results[i].Pos), p.results[i].Pos.Seq)
			continue
		}
		failed++
		text := internalServiceFailure
		if code == codeThroughput {
			text = where.throughputText(&b.recs[i])
		}
		w = c.codec.putFailed(w, i, code, text)
	}
	out.last = c.codec.putsTail(w, failed)
	return out, nil
}

// putResultRoom is what one result takes in an answer of PutRecords, and more
// than its head and tail do.
const putResultRoom = 128

// shardsOf knows the shards of a stream while one answer is written.
type shardsOf struct {
	s     *Server
	st    *spool.Stream
	last  record.ShardID
	at    *numberedShard // of last
	known map[record.ShardID]*numberedShard
	all   []spool.Shard
}

// stored is the shard that stands in the answer for a record at p. A record
// that a route sent to another stream, as one that does not decode goes to
// quarantine, is on disk like any other: its client must not send it again,
// and reads the shard that its key belongs to and its number over there.
func (w *shardsOf) stored(r *record.Record, p record.Pos) *numberedShard {
	if w.at != nil && p.Shard == w.last {
		return w.at
	}
	if at := w.known[p.Shard]; at != nil {
		w.last, w.at = p.Shard, at
		return at
	}
	place, ok := w.s.shards.place(w.st, p.Shard)
	if !ok {
		return placeOf(w.st, w.of(r)).numbered()
	}
	if w.known == nil {
		w.known = make(map[record.ShardID]*numberedShard)
	}
	w.last, w.at = p.Shard, place.numbered()
	w.known[p.Shard] = w.at
	return w.at
}

// of is the shard that a record's key belongs to.
func (w *shardsOf) of(r *record.Record) spool.Shard {
	if w.all == nil {
		w.all = w.st.Shards()
	}
	return shardOfHash(w.all, r.Hash())
}

func (w *shardsOf) throughputText(r *record.Record) string {
	return w.s.rateExceeded(w.st, w.of(r))
}

// placeOf is the place of a stored record; see shardsOf.stored.
func (s *Server) placeOf(st *spool.Stream, r *record.Record, p record.Pos) place {
	if at, ok := s.shards.place(st, p.Shard); ok {
		return at
	}
	return placeOf(st, shardOf(st, r.Hash()))
}

// throughputText is the ErrorMessage of a record that there is no room for:
// with the account, the stream and the shard, as the API reference says.
func (s *Server) throughputText(st *spool.Stream, r *record.Record) string {
	return s.rateExceeded(st, shardOf(st, r.Hash()))
}

func (s *Server) rateExceeded(st *spool.Stream, sh spool.Shard) string {
	return fmt.Sprintf("Rate exceeded for shard %s in stream %s under account %s.", shardName(sh.Index), st.Name(), s.cfg.Account)
}

// A putResult is what became of a put: refused as a whole, or a result per
// record.
type putResult struct {
	refused error
	results []record.Result
	done    chan struct{} // a value for each commit that was waited for
	// abandoned says that the log may still hold the records.
	abandoned bool
}

func (p *putResult) err(i int) error {
	if p.refused != nil {
		return p.refused
	}
	return p.results[i].Err
}

// code is the ErrorCode of record i, "" if it is on disk. The API knows two.
func (p *putResult) code(i int) string {
	switch err := p.err(i); {
	case err == nil:
		return ""
	case errors.Is(err, record.ErrFull), errors.Is(err, errBusy):
		return codeThroughput
	}
	return codeInternal
}

var (
	errBusy    = errors.New("the log's queue stayed full")
	errUnknown = errors.New("the commit did not end in time")
	errResults = errors.New("the log gave another number of results than records")
)

// put hands records to the inlet and waits until they are on disk. Where it
// must stop waiting behind the admission, the records count as failed though
// they may yet be stored: the client sends them again.
func (s *Server) put(ctx context.Context, st *spool.Stream, recs []record.Record) *putResult {
	p := new(putResult)
	s.putWith(ctx, st, recs, p)
	return p
}

// putWith is put with a result that is used again.
func (s *Server) putWith(ctx context.Context, st *spool.Stream, recs []record.Record, p *putResult) {
	if s.emulated != nil {
		s.putEmulated(ctx, st, recs, p)
		return
	}
	s.putAll(ctx, st, recs, p)
}

// putAll is putWith regardless of what AWS's shards would take.
func (s *Server) putAll(ctx context.Context, st *spool.Stream, recs []record.Record, p *putResult) {
	if p.done == nil {
		p.done = make(chan struct{}, 1)
	}
	results, done := p.results[:0], p.done
	admit, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	err := s.inlet.PutTo(admit, st.Name(), recs, func(rs []record.Result) {
		results = append(results, rs...)
		done <- struct{}{}
	})
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = errBusy
		}
		p.refused = err
		s.count(p, len(recs), st)
		return
	}
	wait := time.NewTimer(commitTimeout)
	defer wait.Stop()
	select {
	case <-done:
		if p.results = results; len(results) != len(recs) {
			p.refused = errResults
		}
	case <-ctx.Done():
		p.refused, p.abandoned = ctx.Err(), true
	case <-wait.C:
		p.refused, p.abandoned = errUnknown, true
	}
	if p.refused == nil {
		for i := range recs {
			if p.results[i].Err == nil && kpl.IsAggregate(recs[i].Data) {
				s.aggregates.Add(1)
			}
		}
	}
	s.count(p, len(recs), st)
}

// count keeps the number of records that failed by our own fault, and logs
// the first of a request: the answer to the client does not say why.
func (s *Server) count(p *putResult, n int, st *spool.Stream) {
	var first error
	bad := uint64(0)
	for i := range n {
		if err := p.err(i); err != nil && p.code(i) == codeInternal && !nobodysFault(err) {
			bad++
			if first == nil {
				first = err
			}
		}
	}
	if bad > 0 {
		s.failures.Add(bad)
		s.log.Error("records could not be stored", "stream", st.Name(), "records", bad, "error", first)
	}
}

// nobodysFault reports whether a put that was right failed for what a client or
// the operator did meanwhile: it left, the stream was deleted, the gateway stops.
func nobodysFault(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, record.ErrNoStream) || errors.Is(err, record.ErrClosed)
}

// putFailure is the answer to a single record that failed by our own fault;
// count has logged it.
func (s *Server) putFailure(err error, stream string) error {
	var bad *record.InvalidError
	if errors.Is(err, record.ErrNoStream) || errors.Is(err, record.ErrClosed) || errors.As(err, &bad) {
		return s.storeError(err, stream)
	}
	return internalFailure(nil)
}
