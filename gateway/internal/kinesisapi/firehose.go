package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"forebay/spool"
	"forebay/spool/record"
)

// Firehose, version 2015-08-04: what its producers call, over the same
// streams. A delivery stream is the stream of its name; where its records go
// is the business of the gateway's uplinks.
//
// Firehose records have no partition key. All of a stream get the stream's
// name for one and so stand in one shard, in the order of their requests and
// within a request: to a reader order is worth more than spreading, which
// costs nothing here as all shards share a log.

// The constraints of the members, as the service's model states them
// (firehose-2015-08-04).
const (
	maxDeliveryStream   = 64
	maxDestination      = 100
	maxFirehoseData     = 1000 << 10 // of a record, before base64
	maxFirehoseBatch    = 500        // records
	maxFirehoseBytes    = 4 << 20    // of a batch
	defaultFirehoseList = 10

	patternDestination = "[a-zA-Z0-9-]+"
	// theDestination is every delivery stream's one: the stream.
	theDestination = "destinationId-000000000001"

	codeUnavailable = "ServiceUnavailableException"
	// textSlowDown is what a producer is told that is to come back.
	textSlowDown = "Slow down."
)

var destinationRE = regexp.MustCompile(`^` + patternDestination + `$`)

// firehoseOperations are those of Firehose. What makes and changes delivery
// streams is refused by name.
func (s *Server) firehoseOperations() map[string]operation {
	ops := map[string]operation{
		targetFirehose + "DescribeDeliveryStream": {toDescribe, decoded(s.describeDeliveryStream)},
		targetFirehose + "ListDeliveryStreams":    {toDescribe, decoded(s.listDeliveryStreams)},
		targetFirehose + "PutRecord":              {toWrite, decoded(s.putFirehoseRecord)},
		targetFirehose + "PutRecordBatch":         {toWrite, decoded(s.putFirehoseBatch)},
	}
	for _, name := range []string{
		"CreateDeliveryStream", "DeleteDeliveryStream", "UpdateDestination",
		"TagDeliveryStream", "UntagDeliveryStream", "ListTagsForDeliveryStream",
		"StartDeliveryStreamEncryption", "StopDeliveryStreamEncryption",
	} {
		ops[targetFirehose+name] = operation{toAdminister, decoded(func(_ context.Context, c *call, in *deliveryStreamInput) (any, error) {
			return nil, in.refuse(c, name)
		})}
	}
	return ops
}

type deliveryStreamInput struct{ DeliveryStreamName *string }

// refuse says that an operation is not offered, by an error that its SDKs know.
func (in *deliveryStreamInput) refuse(c *call, name string) error {
	var f faults
	f.required("deliveryStreamName", in.DeliveryStreamName, 1, maxDeliveryStream, nameRE, patternName)
	if err := f.err(); err != nil {
		return err
	}
	if err := c.allow(*in.DeliveryStreamName); err != nil {
		return err
	}
	if name != "CreateDeliveryStream" {
		if _, err := c.deliveryStream(*in.DeliveryStreamName); err != nil {
			return err
		}
	}
	code := "InvalidArgumentException"
	if name == "DeleteDeliveryStream" { // it has no other that would do
		code = "ResourceInUseException"
	}
	return refuse(code, "%s is not supported by this endpoint. A delivery stream is the stream of the same name; the Kinesis API makes, changes and deletes it.", name)
}

// deliveryStream gives the stream behind a checked name.
func (c *call) deliveryStream(name string) (*spool.Stream, error) {
	st, err := c.find(streamRef{StreamName: &name})
	return st, c.s.inFirehoseWords(err, name)
}

// inFirehoseWords gives an error the text that Firehose has for it.
func (s *Server) inFirehoseWords(err error, name string) error {
	if e, ok := errors.AsType[*apiError](err); ok && e.code == "ResourceNotFoundException" {
		return refuse(e.code, "Firehose %s under account %s not found.", name, s.cfg.Account)
	}
	return err
}

func (s *Server) firehoseARN(name string) string {
	return "arn:aws:firehose:" + s.cfg.Region + ":" + s.cfg.Account + ":deliverystream/" + name
}

// slowDown is Firehose's answer where a record has no room: its API reference
// gives it the status 500.
func slowDown() *apiError {
	return &apiError{code: codeUnavailable, message: textSlowDown, status: http.StatusInternalServerError}
}

// A firehoseRecord's Data is nil if the member was left out and empty if it
// was given empty.
type firehoseRecord struct{ Data []byte }

func (r *firehoseRecord) check(f *faults, prefix string) {
	switch {
	case r.Data == nil:
		f.null(prefix + "data")
	case len(r.Data) > maxFirehoseData:
		f.add("", prefix+"data", fmt.Sprintf("have length less than or equal to %d", maxFirehoseData))
	}
}

type putFirehoseRecordInput struct {
	DeliveryStreamName *string
	Record             *firehoseRecord
}

func (s *Server) putFirehoseRecord(ctx context.Context, c *call, in *putFirehoseRecordInput) (any, error) {
	var f faults
	f.required("deliveryStreamName", in.DeliveryStreamName, 1, maxDeliveryStream, nameRE, patternName)
	if in.Record == nil {
		f.null("record")
	} else {
		in.Record.check(&f, "record.")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.deliveryStream(*in.DeliveryStreamName)
	if err != nil {
		return nil, err
	}
	p := s.put(ctx, st, []record.Record{{Key: st.Name(), Data: in.Record.Data}})
	switch p.code(0) {
	case "":
	case codeThroughput:
		return nil, slowDown()
	default:
		return nil, s.inFirehoseWords(s.putFailure(p.err(0), st.Name()), st.Name())
	}
	return struct {
		Encrypted bool
		RecordID  string `json:"RecordId"`
	}{false, s.recordID(p, 0)}, nil
}

// recordID names a stored record: by the id that it has in the whole product.
func (s *Server) recordID(p *putResult, i int) string {
	return s.spool.Identity().ID(p.results[i].Pos)
}

type putFirehoseBatchInput struct {
	DeliveryStreamName *string
	Records            *[]firehoseRecord
}

func (in *putFirehoseBatchInput) check() error {
	var f faults
	f.required("deliveryStreamName", in.DeliveryStreamName, 1, maxDeliveryStream, nameRE, patternName)
	total := 0
	switch {
	case in.Records == nil:
		f.null("records")
	case len(*in.Records) < 1:
		f.add("", "records", "have length greater than or equal to 1")
	case len(*in.Records) > maxFirehoseBatch:
		f.add("", "records", fmt.Sprintf("have length less than or equal to %d", maxFirehoseBatch))
	default:
		for i := range *in.Records {
			r := &(*in.Records)[i]
			total += len(r.Data)
			if r.Data == nil || len(r.Data) > maxFirehoseData { // the path is text for an error only
				r.check(&f, fmt.Sprintf("records.%d.member.", i+1))
			}
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	if total > maxFirehoseBytes {
		return invalidArgument("Records size exceeds 4 MB limit")
	}
	return nil
}

// A firehoseResult has a RecordID, or an ErrorCode and an ErrorMessage.
type firehoseResult struct {
	RecordID     string `json:"RecordId,omitempty"`
	ErrorCode    string `json:",omitempty"`
	ErrorMessage string `json:",omitempty"`
}

func (s *Server) putFirehoseBatch(ctx context.Context, c *call, in *putFirehoseBatchInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, err := c.deliveryStream(*in.DeliveryStreamName)
	if err != nil {
		return nil, err
	}
	recs := make([]record.Record, len(*in.Records))
	for i, r := range *in.Records {
		recs[i] = record.Record{Key: st.Name(), Data: r.Data}
	}
	p := s.put(ctx, st, recs)
	if errors.Is(p.refused, record.ErrNoStream) || errors.Is(p.refused, record.ErrClosed) {
		return nil, s.inFirehoseWords(s.storeError(p.refused, st.Name()), st.Name())
	}
	out := struct {
		Encrypted        bool
		FailedPutCount   int
		RequestResponses []firehoseResult
	}{RequestResponses: make([]firehoseResult, len(recs))}
	for i := range recs {
		r := &out.RequestResponses[i]
		switch p.code(i) {
		case "":
			r.RecordID = s.recordID(p, i)
			continue
		case codeThroughput:
			r.ErrorCode, r.ErrorMessage = codeUnavailable, textSlowDown
		default:
			r.ErrorCode, r.ErrorMessage = codeInternal, internalServiceFailure
		}
		out.FailedPutCount++
	}
	return out, nil
}

type describeDeliveryStreamInput struct {
	DeliveryStreamName          *string
	Limit                       *int
	ExclusiveStartDestinationID *string `json:"ExclusiveStartDestinationId"`
}

// A firehoseDestination is described as an HTTP endpoint, whose description
// says least that is not so of a stream: a name, and nothing that is required.
type firehoseDestination struct {
	DestinationID                      string `json:"DestinationId"`
	HTTPEndpointDestinationDescription struct {
		EndpointConfiguration struct{ Name string }
	} `json:"HttpEndpointDestinationDescription"`
}

type firehoseDescription struct {
	DeliveryStreamName                    string
	DeliveryStreamARN                     string
	DeliveryStreamStatus                  string
	DeliveryStreamEncryptionConfiguration struct{ Status string }
	DeliveryStreamType                    string
	VersionID                             string `json:"VersionId"`
	CreateTimestamp                       epoch
	Destinations                          []firehoseDestination
	HasMoreDestinations                   bool
}

func (s *Server) describeDeliveryStream(_ context.Context, c *call, in *describeDeliveryStreamInput) (any, error) {
	var f faults
	f.required("deliveryStreamName", in.DeliveryStreamName, 1, maxDeliveryStream, nameRE, patternName)
	f.number("limit", in.Limit, 1, maxListed)
	f.text("exclusiveStartDestinationId", in.ExclusiveStartDestinationID, 1, maxDestination, destinationRE, patternDestination)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.deliveryStream(*in.DeliveryStreamName)
	if err != nil {
		return nil, err
	}
	d := firehoseDescription{
		DeliveryStreamName: st.Name(), DeliveryStreamARN: s.firehoseARN(st.Name()), DeliveryStreamStatus: "ACTIVE",
		DeliveryStreamType: directPut, VersionID: "1", CreateTimestamp: epoch(st.Created()), Destinations: []firehoseDestination{},
	}
	d.DeliveryStreamEncryptionConfiguration.Status = "DISABLED"
	if after := in.ExclusiveStartDestinationID; after == nil || *after < theDestination {
		to := firehoseDestination{DestinationID: theDestination}
		to.HTTPEndpointDestinationDescription.EndpointConfiguration.Name = "stream " + st.Name()
		d.Destinations = append(d.Destinations, to)
	}
	return struct{ DeliveryStreamDescription firehoseDescription }{d}, nil
}

// directPut is the type of every delivery stream: its producers call it.
const directPut = "DirectPut"

type listDeliveryStreamsInput struct {
	Limit                            *int
	DeliveryStreamType               *string
	ExclusiveStartDeliveryStreamName *string
}

// listDeliveryStreams lists by name, without the streams whose names are too
// long for Firehose.
func (s *Server) listDeliveryStreams(_ context.Context, c *call, in *listDeliveryStreamsInput) (any, error) {
	var f faults
	f.number("limit", in.Limit, 1, maxListed)
	if t := in.DeliveryStreamType; t != nil {
		f.enum("deliveryStreamType", *t, directPut, "KinesisStreamAsSource", "MSKAsSource", "DatabaseAsSource")
	}
	f.text("exclusiveStartDeliveryStreamName", in.ExclusiveStartDeliveryStreamName, 1, maxDeliveryStream, nameRE, patternName)
	if err := f.err(); err != nil {
		return nil, err
	}
	limit, after := defaultFirehoseList, ""
	if in.Limit != nil {
		limit = *in.Limit
	}
	if in.ExclusiveStartDeliveryStreamName != nil {
		after = *in.ExclusiveStartDeliveryStreamName
	}
	out := struct {
		DeliveryStreamNames    []string
		HasMoreDeliveryStreams bool
	}{DeliveryStreamNames: []string{}}
	if in.DeliveryStreamType != nil && *in.DeliveryStreamType != directPut {
		return out, nil
	}
	for _, st := range s.spool.Streams() { // by name
		if st.Name() <= after || len(st.Name()) > maxDeliveryStream || !c.key.may(toDescribe, st.Name()) {
			continue
		}
		if len(out.DeliveryStreamNames) == limit {
			out.HasMoreDeliveryStreams = true
			break
		}
		out.DeliveryStreamNames = append(out.DeliveryStreamNames, st.Name())
	}
	return out, nil
}
