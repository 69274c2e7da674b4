package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

const (
	// shardLimit is how many shards a box may have in all.
	shardLimit = 1024
	// onDemandShards is what a stream gets whose creator did not say (the
	// developer guide's number for a new on-demand stream).
	onDemandShards = 4
	// newRetention is what AWS gives a new stream.
	newRetention = 24 * time.Hour
	// longestRetention, in hours, stands for "until the quota".
	longestRetention = 8760
)

// streamOperations are about streams and their shards, not their records.
func (s *Server) streamOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.CreateStream":          {toAdminister, decoded(s.createStream)},
		"Kinesis_20131202.DeleteStream":          {toAdminister, decoded(s.deleteStream)},
		"Kinesis_20131202.DescribeLimits":        {toDescribe, decoded(s.describeLimits)},
		"Kinesis_20131202.DescribeStream":        {toDescribe, decoded(s.describeStream)},
		"Kinesis_20131202.DescribeStreamSummary": {toDescribe, decoded(s.describeStreamSummary)},
		"Kinesis_20131202.ListShards":            {toDescribe, decoded(s.listShards)},
		"Kinesis_20131202.ListStreams":           {toDescribe, decoded(s.listStreams)},
	}
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

type streamMode struct {
	StreamMode string
}

// provisioned is every stream's mode: its shards are what its creator asked
// for, and no service adds to them.
var provisioned = streamMode{"PROVISIONED"}

type createStreamInput struct {
	StreamName                 *string
	ShardCount                 *int
	StreamModeDetails          *struct{ StreamMode *string }
	MaxRecordSizeInKiB         *int
	WarmThroughputMiBps        *int
	RecordDistributionStrategy *string
	Tags                       map[string]string
}

func (s *Server) createStream(ctx context.Context, c *call, in *createStreamInput) (any, error) {
	var f faults
	f.required("streamName", in.StreamName, 1, maxName, nameRE, patternName)
	f.number("shardCount", in.ShardCount, 1, 1000000)
	f.number("maxRecordSizeInKiB", in.MaxRecordSizeInKiB, 1024, 10240)
	mode := ""
	if in.StreamModeDetails != nil {
		if in.StreamModeDetails.StreamMode == nil {
			f.null("streamModeDetails.streamMode")
		} else {
			mode = *in.StreamModeDetails.StreamMode
			f.enum("streamModeDetails.streamMode", mode, "PROVISIONED", "ON_DEMAND")
		}
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := c.allow(*in.StreamName); err != nil {
		return nil, err
	}
	switch {
	case mode == "PROVISIONED" && in.ShardCount == nil:
		return nil, invalidArgument("ShardCount must be specified for a stream in PROVISIONED mode.")
	case mode == "ON_DEMAND" && in.ShardCount != nil:
		return nil, invalidArgument("ShardCount must not be specified for a stream in ON_DEMAND mode.")
	case in.MaxRecordSizeInKiB != nil && *in.MaxRecordSizeInKiB != 1024:
		return nil, invalidArgument("MaxRecordSizeInKiB other than 1024 is not supported by this endpoint.")
	case in.WarmThroughputMiBps != nil:
		return nil, invalidArgument("WarmThroughputMiBps is not supported by this endpoint.")
	case in.RecordDistributionStrategy != nil && *in.RecordDistributionStrategy != "USER_PARTITION_KEY":
		return nil, invalidArgument("RecordDistributionStrategy other than USER_PARTITION_KEY is not supported by this endpoint.")
	case len(in.Tags) > 0:
		return nil, invalidArgument("Tags are not supported by this endpoint.")
	}
	shards := onDemandShards
	if in.ShardCount != nil {
		shards = *in.ShardCount
	}
	if have := s.openShards(); have+shards > shardLimit {
		return nil, refuse("LimitExceededException", "This request would exceed the shard limit for the account %s in %s. Current shard count for the account: %d. Limit: %d. Number of additional shards that would have resulted from this request: %d.",
			s.cfg.Account, s.cfg.Region, have, shardLimit, shards)
	}
	_, err := s.spool.CreateStream(ctx, spool.StreamConfig{
		Name: conf.Stream(*in.StreamName), Shards: shards,
		Class: record.ClassTelemetry, MaxAge: conf.Duration(newRetention),
	})
	if err != nil {
		return nil, s.storeError(err, *in.StreamName)
	}
	s.log.Info("stream created", "stream", *in.StreamName, "shards", shards)
	return nil, nil
}

type deleteStreamInput struct{ streamRef }

// deleteStream refuses: nothing removes a stream from a running box.
func (s *Server) deleteStream(_ context.Context, c *call, in *deleteStreamInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	return nil, refuse("AccessDeniedException", "Stream %s cannot be deleted through this endpoint: its records stay until their retention ends.", st.Name())
}

func (s *Server) openShards() int {
	n := 0
	for _, st := range s.spool.Streams() {
		n += len(st.Shards())
	}
	return n
}

func (s *Server) describeLimits(context.Context, *call, *struct{}) (any, error) {
	return struct {
		OpenShardCount, ShardLimit, OnDemandStreamCount, OnDemandStreamCountLimit int
	}{s.openShards(), shardLimit, 0, 0}, nil
}

type streamSummary struct {
	StreamName              string
	StreamARN               string
	StreamStatus            string
	StreamModeDetails       streamMode
	StreamCreationTimestamp epoch
}

func (s *Server) summary(st *spool.Stream) streamSummary {
	return streamSummary{st.Name(), s.arn(st.Name()), "ACTIVE", provisioned, epoch(st.Created())}
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
		out.StreamSummaries = append(out.StreamSummaries, s.summary(st))
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

type shardDescription struct {
	ShardID             string `json:"ShardId"`
	HashKeyRange        struct{ StartingHashKey, EndingHashKey string }
	SequenceNumberRange struct{ StartingSequenceNumber string }
}

func describeShard(st *spool.Stream, sh spool.Shard) shardDescription {
	d := shardDescription{ShardID: shardName(sh.Index)}
	d.HashKeyRange.StartingHashKey, d.HashKeyRange.EndingHashKey = decimal(sh.From), decimal(sh.To)
	d.SequenceNumberRange.StartingSequenceNumber = placeOf(st, sh).sequence(0).String()
	return d
}

// shardsAfter gives at most limit shards whose id sorts behind after.
func shardsAfter(st *spool.Stream, after string, limit int) (page []shardDescription, more bool) {
	page = []shardDescription{}
	for _, sh := range st.Shards() { // by index
		if shardName(sh.Index) <= after {
			continue
		}
		if len(page) == limit {
			return page, true
		}
		page = append(page, describeShard(st, sh))
	}
	return page, false
}

// retentionHours is a stream's retention as the API can say it.
func retentionHours(st *spool.Stream) int {
	age := st.Config().MaxAge.D()
	if age <= 0 {
		return longestRetention
	}
	return min(max(int(math.Ceil(age.Hours())), 1), longestRetention)
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
	st, err := c.find(in.streamRef)
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
	shards, more := shardsAfter(st, after, limit)
	type description struct {
		streamSummary
		Shards               []shardDescription
		HasMoreShards        bool
		RetentionPeriodHours int
		EnhancedMonitoring   []monitoring
		EncryptionType       string
	}
	return struct{ StreamDescription description }{description{
		s.summary(st), shards, more, retentionHours(st), noMonitoring(), "NONE",
	}}, nil
}

type describeStreamSummaryInput struct{ streamRef }

func (s *Server) describeStreamSummary(_ context.Context, c *call, in *describeStreamSummaryInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	type description struct {
		streamSummary
		OpenShardCount       int
		ConsumerCount        int
		RetentionPeriodHours int
		EnhancedMonitoring   []monitoring
		EncryptionType       string
		MaxRecordSizeInKiB   int
	}
	return struct{ StreamDescriptionSummary description }{description{
		s.summary(st), len(st.Shards()), 0, retentionHours(st), noMonitoring(), "NONE", maxRecordBytes >> 10,
	}}, nil
}

type shardFilter struct {
	Type      *string
	ShardID   *string `json:"ShardId"`
	Timestamp *epoch
}

type listShardsInput struct {
	streamRef
	NextToken               *string
	ExclusiveStartShardID   *string `json:"ExclusiveStartShardId"`
	MaxResults              *int
	StreamCreationTimestamp *epoch
	ShardFilter             *shardFilter
}

func (in *listShardsInput) check() error {
	var f faults
	f.stream(in.streamRef)
	f.number("maxResults", in.MaxResults, 1, maxListed)
	f.text("exclusiveStartShardId", in.ExclusiveStartShardID, 1, maxName, nameRE, patternName)
	f.text("nextToken", in.NextToken, 1, maxPageToken, nil, "")
	if fl := in.ShardFilter; fl != nil {
		if fl.Type == nil {
			f.null("shardFilter.type")
		} else {
			f.enum("shardFilter.type", *fl.Type, "AFTER_SHARD_ID", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON", "AT_LATEST", "AT_TIMESTAMP", "FROM_TIMESTAMP")
		}
		f.text("shardFilter.shardId", fl.ShardID, 1, maxName, nameRE, patternName)
	}
	if err := f.err(); err != nil {
		return err
	}
	if in.NextToken != nil {
		switch {
		case in.StreamName != nil:
			return invalidArgument("NextToken and StreamName cannot be provided together.")
		case in.StreamCreationTimestamp != nil:
			return invalidArgument("NextToken and StreamCreationTimestamp cannot be provided together.")
		case in.ExclusiveStartShardID != nil:
			return invalidArgument("NextToken and ExclusiveStartShardId cannot be provided together.")
		case in.ShardFilter != nil:
			return invalidArgument("NextToken and ShardFilter cannot be provided together.")
		}
	}
	return in.ShardFilter.check()
}

// check holds the rules between a filter's members.
func (fl *shardFilter) check() error {
	if fl == nil {
		return nil
	}
	byID := *fl.Type == "AFTER_SHARD_ID"
	byTime := *fl.Type == "AT_TIMESTAMP" || *fl.Type == "FROM_TIMESTAMP"
	switch {
	case byID && fl.ShardID == nil:
		return invalidArgument("ShardId must be specified for the ShardFilter type %s.", *fl.Type)
	case !byID && fl.ShardID != nil:
		return invalidArgument("ShardId must not be specified for the ShardFilter type %s.", *fl.Type)
	case byTime && fl.Timestamp == nil:
		return invalidArgument("Timestamp must be specified for the ShardFilter type %s.", *fl.Type)
	case !byTime && fl.Timestamp != nil:
		return invalidArgument("Timestamp must not be specified for the ShardFilter type %s.", *fl.Type)
	}
	return nil
}

// listShards lists by index. Every shard of a stream is open from the stream's
// creation on, so that of the filters only AFTER_SHARD_ID leaves any out.
func (s *Server) listShards(_ context.Context, c *call, in *listShardsInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	ref, after := in.streamRef, ""
	switch {
	case in.NextToken != nil:
		body, err := s.openPage(kindShards, *in.NextToken)
		if err != nil {
			return nil, err
		}
		stream, last, _ := strings.Cut(string(body), "/")
		ref.StreamName, after = &stream, last
	case in.ExclusiveStartShardID != nil:
		after = *in.ExclusiveStartShardID
	case in.ShardFilter != nil && in.ShardFilter.ShardID != nil:
		after = *in.ShardFilter.ShardID
	}
	st, err := c.find(ref)
	if err != nil {
		return nil, err
	}
	if t := in.StreamCreationTimestamp; t != nil && time.Time(*t).Unix() != st.Created().Unix() {
		return nil, s.noStream(st.Name())
	}
	limit := 1000
	if in.MaxResults != nil {
		limit = min(limit, *in.MaxResults)
	}
	var out struct {
		NextToken string `json:",omitempty"`
		Shards    []shardDescription
	}
	var more bool
	if out.Shards, more = shardsAfter(st, after, limit); more {
		out.NextToken = s.sealer.seal(kindShards, []byte(st.Name()+"/"+out.Shards[len(out.Shards)-1].ShardID), s.now())
	}
	return out, nil
}
