package kinesisapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"forebay/gateway/internal/sigv4"
)

// A call is one request on its way through an operation.
type call struct {
	s     *Server
	id    string // the request's, random
	op    operation
	body  []byte
	codec codec
	loan  *loan
	key   *Key // that signed it; nil where no keys are configured

	target string           // what it asks for, as X-Amz-Target has it
	sig    *sigv4.Signature // nil where something else says who sent it
}

// An operation is something that a client may ask for.
type operation struct {
	needs access
	// run gives the answer's members, which are encoded as the request was. An
	// answer that run has encoded itself is of the type encoded, one that goes
	// on for minutes is streamed; nil is no members. What run builds beyond a few kilobytes it takes from the call's
	// loan.
	run func(ctx context.Context, c *call) (answer any, err error)
}

// An encoded answer is sent as it is.
type encoded []byte

// A streamed answer writes itself, from the header on. It ends when the client
// has gone or the server stops, which is when the request's context ends.
type streamed func(http.ResponseWriter, *http.Request)

// access is what an operation does to a stream; a key's policy allows it or
// not.
type access byte

const (
	toDescribe access = iota // what is known about a stream, without its records
	toRead
	toWrite
	toAdminister
)

// operations is the table of what the endpoint offers, by target.
func (s *Server) operations() map[string]operation {
	all := map[string]operation{}
	for _, some := range []map[string]operation{s.dataOperations(), s.streamOperations()} {
		maps.Copy(all, some)
	}
	return all
}

// dataOperations put and get records.
func (s *Server) dataOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.GetRecords":       {toRead, decoded(s.getRecords)},
		"Kinesis_20131202.GetShardIterator": {toRead, decoded(s.getShardIterator)},
		"Kinesis_20131202.PutRecord":        {toWrite, decoded(s.putRecord)},
		"Kinesis_20131202.PutRecords":       {toWrite, decoded(s.putRecords)},
	}
}

// decoded makes an operation of a function over a request's members.
func decoded[In any](f func(context.Context, *call, *In) (any, error)) func(context.Context, *call) (any, error) {
	return func(ctx context.Context, c *call) (any, error) {
		in := new(In)
		if err := c.codec.decode(c.body, in); err != nil {
			return nil, err
		}
		return f(ctx, c, in)
	}
}

// A codec is one of the encodings of requests and answers.
type codec interface {
	mediaType() string
	// decode reads the members of a request; an empty body has none. Members
	// that the request does not have are passed over, as AWS does.
	decode(body []byte, into any) error
	encode(answer any) ([]byte, error)
}

// jsonCodec is AWS JSON 1.1.
type jsonCodec struct{}

func (jsonCodec) mediaType() string { return contentType }

func (jsonCodec) decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if !utf8.Valid(body) {
		return serialization("The request is not valid UTF-8.")
	}
	if err := json.Unmarshal(body, into); err != nil {
		if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return serialization("%s can not be converted to the type of%s.", kind.Value, quoted(kind.Field))
		}
		return serialization("The request is not one JSON object: %s.", err)
	}
	return nil
}

func (jsonCodec) encode(answer any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(answer); err != nil {
		return nil, internalFailure(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
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
