package kinesisapi

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"
)

// An operation takes a request's body and gives the answer's. What it builds
// beyond a few kilobytes it takes from the request's loan.
type operation func(ctx context.Context, l *loan, body []byte) ([]byte, error)

// operations is the table of what the endpoint offers.
func (s *Server) operations() map[string]operation {
	return map[string]operation{
		"CreateStream":          decoded(s.createStream),
		"DeleteStream":          decoded(s.deleteStream),
		"DescribeLimits":        decoded(s.describeLimits),
		"DescribeStream":        decoded(s.describeStream),
		"DescribeStreamSummary": decoded(s.describeStreamSummary),
		"GetRecords":            s.getRecordsOp,
		"GetShardIterator":      decoded(s.getShardIterator),
		"ListShards":            decoded(s.listShards),
		"ListStreams":           decoded(s.listStreams),
		"PutRecord":             decoded(s.putRecord),
		"PutRecords":            decoded(s.putRecords),
	}
}

// decoded makes an operation of a function over a request's members.
func decoded[In any](f func(context.Context, *In) ([]byte, error)) operation {
	return func(ctx context.Context, _ *loan, body []byte) ([]byte, error) {
		in := new(In)
		if err := decodeJSON(body, in); err != nil {
			return nil, err
		}
		return f(ctx, in)
	}
}

// decodeJSON reads one JSON object; an empty body is an empty object. Members
// that the request does not have are passed over, as AWS does.
func decodeJSON(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return serialization("%s can not be converted to the type of%s.", kind.Value, quoted(kind.Field))
		}
		return serialization("The request is not one JSON object: %s.", err)
	}
	return nil
}

// encode writes an answer's members.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, internalFailure(err)
	}
	return b, nil
}

// An epoch is a time as JSON 1.1 writes it: seconds since 1970, with a
// fraction of milliseconds.
type epoch time.Time

func (e epoch) MarshalJSON() ([]byte, error) { return appendEpoch(nil, time.Time(e)), nil }

func appendEpoch(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	if ms < 0 {
		return strconv.AppendFloat(b, float64(ms)/1000, 'f', 3, 64)
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	frac := ms % 1000
	return append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
}

func (e *epoch) UnmarshalJSON(b []byte) error {
	sec, err := strconv.ParseFloat(string(b), 64)
	// The year 9999 is where RFC 3339, and with it every other door, ends.
	if err != nil || !(math.Abs(sec) <= 253402300799) { // NaN too
		return &json.UnmarshalTypeError{Value: "value", Field: "Timestamp"}
	}
	*e = epoch(time.UnixMilli(int64(math.Round(sec * 1000))))
	return nil
}
