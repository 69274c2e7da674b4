package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

const (
	// onDemandShards is what a stream gets whose creator did not say (the
	// developer guide's number for a new on-demand stream).
	onDemandShards = 4
	// newRetention is what AWS gives a new stream.
	newRetention = 24 * time.Hour

	provisioned = "PROVISIONED"
	onDemand    = "ON_DEMAND"
)

// streamOperations are about streams and their shards, not their records.
func (s *Server) streamOperations() map[string]operation {
	all := map[string]operation{
		"Kinesis_20131202.CreateStream":          {toAdminister, decoded(s.createStream)},
		"Kinesis_20131202.DeleteStream":          {toAdminister, decoded(s.deleteStream)},
		"Kinesis_20131202.DescribeLimits":        {toDescribe, decoded(s.describeLimits)},
		"Kinesis_20131202.DescribeStream":        {toDescribe, decoded(s.describeStream)},
		"Kinesis_20131202.DescribeStreamSummary": {toDescribe, decoded(s.describeStreamSummary)},
		"Kinesis_20131202.ListShards":            {toDescribe, decoded(s.listShards)},
		"Kinesis_20131202.ListStreams":           {toDescribe, decoded(s.listStreams)},
		"Kinesis_20131202.UpdateMaxRecordSize":   {toAdminister, decoded(s.updateMaxRecordSize)},
		"Kinesis_20131202.UpdateStreamMode":      {toAdminister, decoded(s.updateStreamMode)},
	}
	for _, some := range []map[string]operation{s.reshardOperations(), s.retentionOperations(), s.tagOperations(), s.absentOperations()} {
		maps.Copy(all, some)
	}
	return all
}

func shardName(index int) string { return fmt.Sprintf("shardId-%012d", index) }

func (s *Server) arn(stream string) string {
	return "arn:aws:kinesis:" + s.cfg.Region + ":" + s.cfg.Account + ":stream/" + stream
}

// storeError says what an error of the spool means to a client.
func (s *Server) storeError(err error, stream string) error {
	var bad *record.InvalidError
	switch {
	case errors.Is(err, record.ErrNoStream):
		return s.noStream(stream)
	case errors.Is(err, record.ErrStreamExists):
		return refuse("ResourceInUseException", "Stream %s under account %s already exists.", stream, s.cfg.Account)
	case errors.Is(err, record.ErrFull):
		return refuse("LimitExceededException", "The spool of this gateway is full.")
	case errors.As(err, &bad):
		return invalidArgument("The %s.", bad.Error())
	case errors.Is(err, record.ErrClosed):
		return unavailable("The gateway is stopping.")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &apiError{code: "RequestTimeoutException", message: "The request was cut off.", status: http.StatusRequestTimeout}
	}
	return internalFailure(err)
}

type streamMode struct{ StreamMode string }

type streamModeInput struct{ StreamMode *string }

// check finds what is wrong with the mode and gives it, "" if there is none.
func (in *streamModeInput) check(f *faults) string {
	switch {
	case in == nil:
		return ""
	case in.StreamMode == nil:
		f.null("streamModeDetails.streamMode")
		return ""
	}
	f.enum("streamModeDetails.streamMode", *in.StreamMode, provisioned, onDemand)
	return *in.StreamMode
}

// mode is the stream's, as a client asked for it.
func (n note) mode() string {
	if n.Mode == "" {
		return provisioned
	}
	return n.Mode
}

type createStreamInput struct {
	StreamName                 *string
	ShardCount                 *int
	StreamModeDetails          *streamModeInput
	MaxRecordSizeInKiB         *int
	WarmThroughputMiBps        *int
	RecordDistributionStrategy *string
	Tags                       map[string]string
}

// check gives what the new stream's note says.
func (in *createStreamInput) check() (n note, err error) {
	var f faults
	f.required("streamName", in.StreamName, 1, maxName, nameRE, patternName)
	f.number("shardCount", in.ShardCount, 1, 1000000)
	f.number("maxRecordSizeInKiB", in.MaxRecordSizeInKiB, leastRecordKiB, mostRecordKiB)
	f.number("warmThroughputMiBps", in.WarmThroughputMiBps, 0, math.MaxInt32)
	if in.RecordDistributionStrategy != nil {
		f.enum("recordDistributionStrategy", *in.RecordDistributionStrategy, "AUTO", byPartitionKey)
	}
	mode := in.StreamModeDetails.check(&f)
	if len(in.Tags) > 0 {
		f.tags(in.Tags)
	}
	if err := f.err(); err != nil {
		return n, err
	}
	switch {
	case mode == provisioned && in.ShardCount == nil:
		return n, invalidArgument("ShardCount must be specified for a stream in PROVISIONED mode.")
	case mode == onDemand && in.ShardCount != nil:
		return n, invalidArgument("ShardCount must not be specified for a stream in ON_DEMAND mode.")
	case in.WarmThroughputMiBps != nil:
		return n, noWarmThroughput()
	case in.RecordDistributionStrategy != nil && *in.RecordDistributionStrategy != byPartitionKey:
		return n, noDistribution()
	}
	if mode == onDemand {
		n.Mode = onDemand
	}
	n.setRecordKiB(in.MaxRecordSizeInKiB)
	return n, n.addTags(&n.Tags, in.Tags)
}

func (s *Server) createStream(ctx context.Context, c *call, in *createStreamInput) (any, error) {
	n, err := in.check()
	if err != nil {
		return nil, err
	}
	if err := c.allow(*in.StreamName); err != nil {
		return nil, err
	}
	name, shards := *in.StreamName, onDemandShards
	if in.ShardCount != nil {
		shards = *in.ShardCount
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	if err := s.roomFor(shards, shards); err != nil {
		return nil, err
	}
	st, err := s.spool.CreateStream(ctx, spool.StreamConfig{
		Name: conf.Stream(name), Shards: shards,
		Class: record.ClassTelemetry, MaxAge: conf.Duration(newRetention),
	})
	if err != nil {
		return nil, s.storeError(err, name)
	}
	if err := s.setNote(ctx, st, func(of *note) error { *of = n; return nil }); err != nil {
		// Without what its creator asked for it is not the stream asked for.
		if e := s.spool.Delete(context.WithoutCancel(ctx), name, c.by()); e != nil {
			s.log.Error("stream stays that was not made in full", "stream", name, "error", e)
		}
		return nil, err
	}
	s.log.Info("stream created", "stream", name, "shards", shards, "by", c.by())
	return nil, nil
}

// by is who asked, for the log and the ledger.
func (c *call) by() string {
	if c.key == nil {
		return "kinesis"
	}
	return "kinesis key " + c.key.AccessKey
}

// Declared tells which streams the config file sets up at every start. Clients
// may not delete them or change their retention: the next start would undo it.
func Declared(is func(stream string) bool) Option {
	return func(s *Server) { s.declared = is }
}

// setByConfig refuses a change that the next start would undo; how says what
// to do instead.
func (s *Server) setByConfig(st *spool.Stream, what, how string) error {
	if s.declared == nil || !s.declared(st.Name()) {
		return nil
	}
	return refuse("AccessDeniedException", "Stream %s cannot be %s through this endpoint: it is one of the gateway's own or of its config file, and the next start would undo that; %s.", st.Name(), what, how)
}

type deleteStreamInput struct {
	streamRef
	EnforceConsumerDeletion bool
}

func (s *Server) deleteStream(ctx context.Context, c *call, in *deleteStreamInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if err := f.err(); err != nil {
		return nil, err
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	if err := s.setByConfig(st, "deleted", "take its [[stream]] out of the config file, restart the gateway, and delete it then"); err != nil {
		return nil, err
	}
	n, err := s.noteOf(st)
	if err != nil {
		return nil, err
	}
	if len(n.Consumers) > 0 && !in.EnforceConsumerDeletion {
		return nil, refuse("ResourceInUseException", "Stream %s under account %s has %d registered consumers. Deregister them, or set EnforceConsumerDeletion.", st.Name(), s.cfg.Account, len(n.Consumers))
	}
	if err := s.spool.Delete(ctx, st.Name(), c.by()); err != nil {
		return nil, s.storeError(fmt.Errorf("delete stream %s: %w", st.Name(), err), st.Name())
	}
	s.log.Info("stream deleted", "stream", st.Name(), "by", c.by())
	return nil, nil
}

func (s *Server) describeLimits(context.Context, *call, *struct{}) (any, error) {
	demand := 0
	for _, st := range s.spool.Streams() {
		if n := s.noteToShow(st); n.mode() == onDemand {
			demand++
		}
	}
	open, _ := s.openShards()
	return struct {
		OpenShardCount, ShardLimit, OnDemandStreamCount, OnDemandStreamCountLimit, ChannelCount, ChannelCountLimit int
	}{open, shardLimit, demand, shardLimit, 0, 0}, nil
}

type streamSummary struct {
	StreamName              string
	StreamARN               string
	StreamStatus            string
	StreamModeDetails       streamMode
	StreamCreationTimestamp epoch
}

// summary is what every answer about a stream begins with. A stream is always
// ACTIVE: a change has been made when its request is answered.
func (s *Server) summary(st *spool.Stream, n note) streamSummary {
	return streamSummary{st.Name(), s.arn(st.Name()), "ACTIVE", streamMode{n.mode()}, epoch(st.Created())}
}

type listStreamsInput struct {
	Limit                    *int
	ExclusiveStartStreamName *string
	NextToken                *string
}

func (s *Server) listStreams(_ context.Context, c *call, in *listStreamsInput) (any, error) {
	var f faults
	f.number("limit", in.Limit, 1, maxListed)
	f.text("exclusiveStartStreamName", in.ExclusiveStartStreamName, 1, maxName, nameRE, patternName)
	f.text("nextToken", in.NextToken, 1, maxPageToken, nil, "")
	if err := f.err(); err != nil {
		return nil, err
	}
	after := ""
	switch {
	case in.NextToken != nil && in.ExclusiveStartStreamName != nil:
		return nil, invalidArgument("NextToken and ExclusiveStartStreamName cannot be provided together.")
	case in.NextToken != nil:
		body, err := s.openPage(kindStreams, *in.NextToken)
		if err != nil {
			return nil, err
		}
		after = string(body)
	case in.ExclusiveStartStreamName != nil:
		after = *in.ExclusiveStartStreamName
	}
	limit := 100
	if in.Limit != nil {
		limit = min(limit, *in.Limit)
	}
	out := struct {
		HasMoreStreams  bool
		NextToken       string `json:",omitempty"`
		StreamNames     []string
		StreamSummaries []streamSummary
	}{StreamNames: []string{}, StreamSummaries: []streamSummary{}}
	for _, st := range s.spool.Streams() { // by name
		if strings.Compare(st.Name(), after) <= 0 || !c.key.may(toDescribe, st.Name()) {
			continue
		}
		if len(out.StreamNames) == limit {
			out.HasMoreStreams = true
			out.NextToken = s.sealer.seal(kindStreams, []byte(out.StreamNames[limit-1]), s.now())
			break
		}
		out.StreamNames = append(out.StreamNames, st.Name())
		out.StreamSummaries = append(out.StreamSummaries, s.summary(st, s.noteToShow(st)))
	}
	return out, nil
}

func (s *Server) openPage(kind tokenKind, token string) ([]byte, error) {
	body, _, err := s.sealer.open(kind, token, s.now())
	switch {
	case errors.Is(err, errExpired):
		return nil, refuse("ExpiredNextTokenException", "The NextToken has expired. Please list again from the start.")
	case err != nil:
		return nil, invalidArgument("Invalid NextToken.")
	}
	return body, nil
}

// monitoring is the answer to a question that a box has no answer to: no
// shard-level metrics are sent to CloudWatch.
type monitoring struct{ ShardLevelMetrics []string }

func noMonitoring() []monitoring { return []monitoring{{ShardLevelMetrics: []string{}}} }

type describeStreamInput struct {
	streamRef
	Limit                 *int
	ExclusiveStartShardID *string `json:"ExclusiveStartShardId"`
}

func (s *Server) describeStream(_ context.Context, c *call, in *describeStreamInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	f.number("limit", in.Limit, 1, maxListed)
	f.text("exclusiveStartShardId", in.ExclusiveStartShardID, 1, maxName, nameRE, patternName)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, n, err := c.findNote(in.streamRef)
	if err != nil {
		return nil, err
	}
	limit := 100
	if in.Limit != nil {
		limit = min(limit, *in.Limit)
	}
	after := ""
	if in.ExclusiveStartShardID != nil {
		after = *in.ExclusiveStartShardID
	}
	v := s.view(st)
	shards, more := v.page(after, limit, v.lets(listing{}))
	type description struct {
		streamSummary
		Shards               []shardDescription
		HasMoreShards        bool
		RetentionPeriodHours int
		EnhancedMonitoring   []monitoring
		EncryptionType       string
	}
	return struct{ StreamDescription description }{description{
		s.summary(st, n), shards, more, retentionHours(st), noMonitoring(), "NONE",
	}}, nil
}

// findNote is find, with the stream's note.
func (c *call) findNote(r streamRef) (*spool.Stream, note, error) {
	st, err := c.find(r)
	if err != nil {
		return nil, note{}, err
	}
	n, err := c.s.noteOf(st)
	return st, n, err
}

type describeStreamSummaryInput struct{ streamRef }

func (s *Server) describeStreamSummary(_ context.Context, c *call, in *describeStreamSummaryInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, n, err := c.findNote(in.streamRef)
	if err != nil {
		return nil, err
	}
	v := s.view(st)
	type description struct {
		streamSummary
		OpenShardCount       int
		ConsumerCount        int
		ChannelCount         int
		RetentionPeriodHours int
		EnhancedMonitoring   []monitoring
		EncryptionType       string
		MaxRecordSizeInKiB   int
	}
	return struct{ StreamDescriptionSummary description }{description{
		s.summary(st, n), v.open(), len(n.Consumers), 0, retentionHours(st), noMonitoring(), "NONE", n.recordKiB(),
	}}, nil
}

type updateMaxRecordSizeInput struct {
	streamRef
	MaxRecordSizeInKiB *int
}

func (s *Server) updateMaxRecordSize(ctx context.Context, c *call, in *updateMaxRecordSizeInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if in.MaxRecordSizeInKiB == nil {
		f.null("maxRecordSizeInKiB")
	}
	f.number("maxRecordSizeInKiB", in.MaxRecordSizeInKiB, leastRecordKiB, mostRecordKiB)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	return nil, s.changeNote(ctx, st, func(n *note) error { n.setRecordKiB(in.MaxRecordSizeInKiB); return nil })
}

type updateStreamModeInput struct {
	streamRef
	StreamModeDetails   *streamModeInput
	WarmThroughputMiBps *int
}

// updateStreamMode keeps what a client calls the stream's mode.
func (s *Server) updateStreamMode(ctx context.Context, c *call, in *updateStreamModeInput) (any, error) {
	var f faults
	f.required("streamARN", in.StreamARN, 1, maxARN, arnRE, patternARN)
	f.text("streamName", in.StreamName, 1, maxName, nameRE, patternName)
	if in.StreamModeDetails == nil {
		f.null("streamModeDetails")
	}
	mode := in.StreamModeDetails.check(&f)
	f.number("warmThroughputMiBps", in.WarmThroughputMiBps, 0, math.MaxInt32)
	if err := f.err(); err != nil {
		return nil, err
	}
	if in.WarmThroughputMiBps != nil {
		return nil, noWarmThroughput()
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	if mode == provisioned {
		mode = ""
	}
	return nil, s.changeNote(ctx, st, func(n *note) error { n.Mode = mode; return nil })
}
