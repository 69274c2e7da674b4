package kinesis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

const (
	// maxGot bounds an answer to GetRecords: 10 MiB of data in base64, and keys.
	maxGot = 32 << 20
	// readTries is how often one request is tried, and readPause the pause
	// before the second try; it doubles up to readPauseMax.
	readTries    = 12
	readPause    = 200 * time.Millisecond
	readPauseMax = 10 * time.Second
)

// ReadBack calls held with the target stream and the id of every record with an
// envelope that the target streams hold, of whatever gateway: stream by stream
// and shard by shard, parents before their children, so that each lane comes in
// its order. from and to are times of arrival at the target, zero for no bound.
// Each shard is read until the target says that nothing is behind, or to the
// first record behind to: what clock we have does not end it. Records without an
// envelope are passed over. An error of held ends it and is returned; raw
// records hold no ids.
//
// It needs the permissions kinesis:ListShards, GetShardIterator and GetRecords,
// and ListStreams where the target's name has {stream} in it.
func (s *Sink) ReadBack(ctx context.Context, from, to time.Time, held func(under, id string) error) error {
	if s.cfg.Format == "raw" {
		return &Error{Class: lane.Misconfigured, Text: "with format = \"raw\" records carry no ids, so that they cannot be read back"}
	}
	streams, err := s.targets(ctx)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	began := s.aws.Now()
	for _, name := range streams {
		shards, err := s.shards(ctx, name)
		if err != nil {
			return fmt.Errorf("read stream %s back: %w", name, err)
		}
		for _, sh := range shards {
			r := reading{s: s, stream: name, shard: sh, from: from, to: to, began: began, held: held}
			if err := r.run(ctx); err != nil {
				return fmt.Errorf("read %s of stream %s back: %w", sh, name, err)
			}
		}
	}
	return nil
}

// Under is the target stream of a stream's records.
func (s *Sink) Under(stream string) string { return s.cfg.stream(stream) }

// Keeps is since when the target streams keep what arrived: the shortest of
// their retention periods.
func (s *Sink) Keeps(ctx context.Context) (time.Time, error) {
	streams, err := s.targets(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask how long records are kept: %w", err)
	}
	var since time.Time
	for _, name := range streams {
		body, err := s.again(ctx, "DescribeStreamSummary", map[string]any{"StreamName": name})
		if err != nil {
			return since, fmt.Errorf("ask how long stream %s keeps records: %w", name, err)
		}
		var out struct {
			StreamDescriptionSummary struct{ RetentionPeriodHours float64 }
		}
		if err := json.Unmarshal(body, &out); err != nil {
			return since, fmt.Errorf("read how long stream %s keeps records: %w", name, err)
		}
		hours := out.StreamDescriptionSummary.RetentionPeriodHours
		if hours <= 0 {
			continue
		}
		if t := s.aws.Now().Add(-time.Duration(hours * float64(time.Hour))); t.After(since) {
			since = t
		}
	}
	return since, nil
}

// targets are the names of the target streams.
func (s *Sink) targets(ctx context.Context) ([]string, error) {
	before, behind, many := strings.Cut(s.cfg.Stream, streamMark)
	if !many {
		return []string{s.cfg.Stream}, nil
	}
	var out []string
	in := map[string]any{}
	for {
		body, err := s.again(ctx, "ListStreams", in)
		if err != nil {
			return nil, err
		}
		var page struct {
			StreamNames    []string
			HasMoreStreams bool
			NextToken      string
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, fmt.Errorf("read the list of streams: %w", err)
		}
		for _, name := range page.StreamNames {
			if len(name) > len(before)+len(behind) && strings.HasPrefix(name, before) && strings.HasSuffix(name, strings.ReplaceAll(behind, streamMark, "")) {
				out = append(out, name)
			}
		}
		if !page.HasMoreStreams || len(page.StreamNames) == 0 {
			return out, nil
		}
		in = map[string]any{"ExclusiveStartStreamName": page.StreamNames[len(page.StreamNames)-1]}
	}
}

// shards lists a stream's shards, parents before their children.
func (s *Sink) shards(ctx context.Context, stream string) ([]string, error) {
	type shard struct{ ShardId, ParentShardId, AdjacentParentShardId string } //nolint:revive // names of the API
	var all []shard
	for in := map[string]any{"StreamName": stream}; in != nil; {
		body, err := s.again(ctx, "ListShards", in)
		if err != nil {
			return nil, err
		}
		var page struct {
			Shards    []shard
			NextToken string
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, fmt.Errorf("read the list of shards: %w", err)
		}
		all = append(all, page.Shards...)
		if in = nil; page.NextToken != "" {
			in = map[string]any{"NextToken": page.NextToken}
		}
	}
	slices.SortFunc(all, func(a, b shard) int { return cmp.Compare(a.ShardId, b.ShardId) })
	depth := map[string]int{}
	for range all { // at most so many generations
		changed := false
		for _, sh := range all {
			d := 0
			for _, parent := range []string{sh.ParentShardId, sh.AdjacentParentShardId} {
				if at, there := depth[parent]; there {
					d = max(d, at+1)
				}
			}
			if was, there := depth[sh.ShardId]; !there || was < d {
				depth[sh.ShardId], changed = d, true
			}
		}
		if !changed {
			break
		}
	}
	slices.SortStableFunc(all, func(a, b shard) int { return cmp.Compare(depth[a.ShardId], depth[b.ShardId]) })
	out := make([]string, 0, len(all))
	for _, sh := range all {
		out = append(out, sh.ShardId)
	}
	return out, nil
}

// again is ask, tried again where that may help.
func (s *Sink) again(ctx context.Context, op string, in map[string]any) ([]byte, error) {
	var out []byte
	err := patiently(ctx, func() error {
		var err error
		out, err = s.ask(ctx, op, in)
		return err
	})
	return out, err
}

// patiently tries what changes nothing at the target, until it is done or no
// time mends it.
func patiently(ctx context.Context, try func() error) error {
	pause := readPause
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		e := asError(err)
		switch e.Class {
		case lane.Throttled, lane.Transient, lane.Ambiguous, lane.Offline, lane.ClockSkew:
		default:
			return err
		}
		if n == readTries || ctx.Err() != nil || e.Code == "ExpiredIteratorException" {
			return err
		}
		timer := time.NewTimer(max(pause, min(e.RetryAfter, readPauseMax)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		pause = min(2*pause, readPauseMax)
	}
}

// A reading reads one shard from its oldest record on.
type reading struct {
	s             *Sink
	stream, shard string
	from, to      time.Time
	began         time.Time // the whole reading, by the target's clock as far as it is known
	held          func(under, id string) error
	last          string // sequence number of the record that was read last
}

// got is what we need of an answer to GetRecords.
type got struct {
	Records []struct {
		Data                        []byte
		SequenceNumber              string
		ApproximateArrivalTimestamp float64
	}
	NextShardIterator  string
	MillisBehindLatest int64
}

func (r *reading) run(ctx context.Context) error {
	it, err := r.iterator(ctx)
	for err == nil && it != "" {
		var page got
		if page, err = r.page(ctx, it); err != nil {
			if asError(err).Code == "ExpiredIteratorException" {
				it, err = r.iterator(ctx)
				continue
			}
			break
		}
		late, young := false, false
		for i := range page.Records {
			rec := &page.Records[i]
			at := time.UnixMilli(int64(rec.ApproximateArrivalTimestamp * 1e3))
			r.last = rec.SequenceNumber
			young = at.After(r.began.Add(time.Minute))
			late = !r.to.IsZero() && at.After(r.to.Add(time.Minute))
			if late || !r.from.IsZero() && at.Before(r.from) {
				continue
			}
			if err := r.open(rec.Data); err != nil {
				return err
			}
		}
		// At the tip nothing is behind and nothing comes. A stream that is written
		// to all the time never gives such an answer; there records that came after
		// the reading began show that it is past what was there then.
		if late || page.MillisBehindLatest == 0 && (young || len(page.Records) == 0) {
			return nil
		}
		it = page.NextShardIterator
	}
	return err
}

// open gives the ids in one Kinesis record.
func (r *reading) open(data []byte) error {
	a := kpl.Open(data)
	if a == nil {
		return r.give(data)
	}
	for _, u := range a.All() {
		if err := r.give(u.Data); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) give(data []byte) error {
	l, at, ok := envelope.LaneOf(data)
	if !ok {
		return nil
	}
	id := fmt.Sprintf("%s/%d", l, at.Seq)
	if at.Part > 0 {
		id = fmt.Sprintf("%s/%d", id, at.Part)
	}
	return r.held(r.stream, id)
}

// iterator begins behind what was read.
func (r *reading) iterator(ctx context.Context) (string, error) {
	in := map[string]any{"StreamName": r.stream, "ShardId": r.shard, "ShardIteratorType": "TRIM_HORIZON"}
	switch {
	case r.last != "":
		in["ShardIteratorType"], in["StartingSequenceNumber"] = "AFTER_SEQUENCE_NUMBER", r.last
	case !r.from.IsZero():
		in["ShardIteratorType"], in["Timestamp"] = "AT_TIMESTAMP", float64(r.from.UnixMilli())/1e3
	}
	body, err := r.s.again(ctx, "GetShardIterator", in)
	if err != nil {
		return "", err
	}
	var out struct{ ShardIterator string }
	if err := json.Unmarshal(body, &out); err != nil {
		return "", fmt.Errorf("read the iterator: %w", err)
	}
	return out.ShardIterator, nil
}

// page reads what an iterator points at. The same iterator gives the same
// again.
func (r *reading) page(ctx context.Context, it string) (out got, err error) {
	err = patiently(ctx, func() error {
		out = got{}
		return r.s.get(ctx, it, &out)
	})
	return out, err
}

// get is one GetRecords, whose answer is larger than other answers.
func (s *Sink) get(ctx context.Context, it string, out *got) error {
	buf := s.aws.Buffer()
	defer buf.Release()
	b, err := json.Marshal(map[string]any{"ShardIterator": it})
	if err != nil {
		return err
	}
	buf.B = append(buf.B, b...)
	h := make(http.Header, 8)
	h.Set("Content-Type", "application/x-amz-json-1.1")
	h.Set("X-Amz-Target", "Kinesis_20131202.GetRecords")
	resp, err := s.aws.Open(ctx, &aws.Request{Header: h, Body: buf, Timeout: s.timeout + time.Minute})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxGot))
	if err != nil {
		return &Error{Class: lane.Ambiguous, Text: "the connection was cut before the whole answer was there", Err: err}
	}
	if resp.StatusCode != http.StatusOK {
		return s.aws.Judge(resp.StatusCode, resp.Header, body)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Error{Class: lane.Offline, Text: s.aws.Portal(resp.StatusCode, resp.Header), Err: err}
	}
	return nil
}
