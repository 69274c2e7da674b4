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
	if n := len(e.Data) + len(r.Key); n > maxRecordBytes {
		return r, invalidArgument("Record size of %d bytes, data and partition key, exceeds the maximum record size of %d bytes.", n, maxRecordBytes)
	}
	if k := e.ExplicitHashKey; k != nil {
		h, ok := parseHashKey(*k)
		if !ok {
			return r, invalidArgument("Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was %s", *k)
		}
		r.HashKey = &h
	}
	return r, nil
}

type putRecordInput struct {
	streamRef
	entry
	SequenceNumberForOrdering *string
	DryRun                    bool
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
	// A shard's numbers only rise, whatever the number before was.
	if q := in.SequenceNumberForOrdering; q != nil {
		if n, err := parseSequence(*q); err != nil || n.created != newSequence(st.Created(), 0, 0).created {
			return nil, invalidArgument("SequenceNumberForOrdering %s is not a sequence number of stream %s under account %s.", *q, st.Name(), s.cfg.Account)
		}
	}
	rec, err := in.record()
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	recs := []record.Record{rec}
	p := s.put(ctx, st, recs)
	switch p.code(0) {
	case "":
	case codeThroughput:
		return nil, refuse(codeThroughput, "%s", s.throughputText(st, &rec))
	default:
		return nil, s.putFailure(p.err(0), st.Name())
	}
	b := append(make([]byte, 0, 160), `{"ShardId":"`...)
	b = s.appendPlace(b, st, &rec, p.results[0].Pos)
	return encoded(append(b, `","EncryptionType":"NONE"}`...)), nil
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

func (s *Server) putRecords(ctx context.Context, c *call, in *putRecordsInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	recs := make([]record.Record, len(*in.Records))
	total := 0
	for i := range *in.Records {
		if recs[i], err = (*in.Records)[i].record(); err != nil {
			return nil, err
		}
		total += len(recs[i].Data) + len(recs[i].Key)
	}
	if total > maxPutBytes {
		return nil, invalidArgument("Records size exceeds 10 MB limit")
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	p := s.put(ctx, st, recs)
	if errors.Is(p.refused, record.ErrNoStream) || errors.Is(p.refused, record.ErrClosed) {
		return nil, s.storeError(p.refused, st.Name())
	}
	failed := 0
	b := append(make([]byte, 0, 128*len(recs)+64), `{"EncryptionType":"NONE","Records":[`...)
	for i := range recs {
		if i > 0 {
			b = append(b, ',')
		}
		code := p.code(i)
		if code == "" {
			b = s.appendPlace(append(b, `{"ShardId":"`...), st, &recs[i], p.results[i].Pos)
			b = append(b, `"}`...)
			continue
		}
		failed++
		text := internalServiceFailure
		if code == codeThroughput {
			text = s.throughputText(st, &recs[i])
		}
		b = fmt.Appendf(b, `{"ErrorCode":%q,"ErrorMessage":%q}`, code, text)
	}
	return encoded(fmt.Appendf(b, `],"FailedRecordCount":%d}`, failed)), nil
}

// appendPlace writes ID","SequenceNumber":"NUMBER. A record that a route sent
// to another stream, as one that does not decode goes to quarantine, is on disk
// like any other: its client must not send it again, and reads the shard that
// its key belongs to and its number over there.
func (s *Server) appendPlace(b []byte, st *spool.Stream, r *record.Record, p record.Pos) []byte {
	at, ok := s.shards.place(st, p.Shard)
	if !ok {
		at = placeOf(st, shardOf(st, r.Hash()))
	}
	b = append(b, shardName(at.index)...)
	b = append(b, `","SequenceNumber":"`...)
	return at.sequence(p.Seq).appendTo(b)
}

// throughputText is the ErrorMessage of a record that there is no room for:
// with the account, the stream and the shard, as the API reference says.
func (s *Server) throughputText(st *spool.Stream, r *record.Record) string {
	return fmt.Sprintf("Rate exceeded for shard %s in stream %s under account %s.", shardName(shardOf(st, r.Hash()).Index), st.Name(), s.cfg.Account)
}

// A putResult is what became of a put: refused as a whole, or a result per
// record.
type putResult struct {
	refused error
	results []record.Result
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
	var aggregated []int
	for i := range recs {
		if kpl.IsAggregate(recs[i].Data) {
			aggregated = append(aggregated, i)
		}
	}
	committed := make(chan []record.Result, 1)
	admit, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	err := s.inlet.PutTo(admit, st.Name(), recs, func(rs []record.Result) {
		committed <- append(make([]record.Result, 0, len(rs)), rs...)
	})
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = errBusy
		}
		return s.count(&putResult{refused: err}, len(recs), st)
	}
	wait := time.NewTimer(commitTimeout)
	defer wait.Stop()
	p := &putResult{}
	select {
	case p.results = <-committed:
		if len(p.results) != len(recs) {
			p.refused = errResults
		}
	case <-ctx.Done():
		p.refused = ctx.Err()
	case <-wait.C:
		p.refused = errUnknown
	}
	for _, i := range aggregated {
		if p.err(i) == nil {
			s.aggregates.Add(1)
		}
	}
	return s.count(p, len(recs), st)
}

// count keeps the number of records that failed by our own fault, and logs
// the first of a request: the answer to the client does not say why.
func (s *Server) count(p *putResult, n int, st *spool.Stream) *putResult {
	var first error
	bad := uint64(0)
	for i := range n {
		if err := p.err(i); p.code(i) == codeInternal && !errors.Is(err, context.Canceled) {
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
	return p
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
