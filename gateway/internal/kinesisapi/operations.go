package kinesisapi

import (
	"context"
	"maps"
	"net/http"

	"forebay/gateway/internal/sigv4"
)

// A call is one request on its way through an operation.
type call struct {
	s     *Server
	id    string // the request's, random
	op    operation
	body  []byte
	kept  bool // the body is not to be used again: the log may still read it
	codec codec
	loan  *loan
	key   *Key // that signed it; nil where no keys are configured

	lanes  claim            // what it says of other gateways' lanes
	target string           // what it asks for, as X-Amz-Target has it
	sig    *sigv4.Signature // nil where something else says who sent it
}

// An operation is something that a client may ask for.
type operation struct {
	needs access
	// run gives the answer's members, which are encoded as the request was. An
	// answer that run has encoded itself is of the type encoded or *pieces, one
	// that goes on for minutes is streamed; nil is no members. What run builds
	// beyond a few kilobytes it takes from the call's loan. The body is used
	// again behind run: nothing of an answer may point into it.
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
	for _, some := range []map[string]operation{s.dataOperations(), s.streamOperations(), s.consumerOperations(), s.firehoseOperations()} {
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
		"Kinesis_20131202.PutRecords":       {toWrite, s.putRecords},
	}
}

// decoded makes an operation of a function over a request's members.
func decoded[In any](f func(context.Context, *call, *In) (any, error)) func(context.Context, *call) (any, error) {
	return func(ctx context.Context, c *call) (any, error) {
		in := new(In)
		if err := c.decode(in); err != nil {
			return nil, err
		}
		return f(ctx, c, in)
	}
}

// decode reads the request's members. What they hold is not larger than the
// body, which the loan counts twice where it counts.
func (c *call) decode(into any) error {
	if n := int64(len(c.body)); n > firstRead && !c.loan.take(n) {
		return unavailable(textBusy)
	}
	return c.codec.decode(c.body, into)
}
