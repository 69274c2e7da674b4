package kvs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// An ack is one of the answers that come back while video goes out (API
// reference, PutMedia, response syntax).
type ack struct {
	EventType        string
	FragmentTimecode int64 // milliseconds; 0 where it is about none
	FragmentNumber   string
	ErrorCode        string
	ErrorID          int `json:"ErrorId"`
}

// maxAck bounds one answer, in bytes.
const maxAck = 64 << 10

// An ackReader reads answers, one JSON object behind the other with or without
// anything between them. It is not for what is longer than maxAck.
type ackReader struct {
	dec  *json.Decoder
	from *io.LimitedReader
}

func newAckReader(r io.Reader) *ackReader {
	from := &io.LimitedReader{R: r, N: maxAck}
	return &ackReader{dec: json.NewDecoder(from), from: from}
}

var errNotAck = errors.New("this is not an acknowledgement of Kinesis Video")

// next gives the next answer; io.EOF is the end of the connection's answers,
// an error that is errNotAck a stranger's.
func (r *ackReader) next() (ack, error) {
	var a ack
	r.from.N = maxAck
	err := r.dec.Decode(&a)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil && a.EventType == "":
		return a, errNotAck
	case errors.As(err, &syntax), errors.As(err, &kind), err != nil && r.from.N == 0:
		return a, fmt.Errorf("%w: %w", errNotAck, err)
	}
	return a, err
}

// A verdict is what an ERROR answer means for us.
type verdict struct {
	class lane.Class
	// fragment says that the fragment is to blame, if it is one that went over
	// a connection alone.
	fragment bool
	// again says that the rest can go over a new connection at once.
	again bool
}

// judge knows the error ids (producer guide, error code reference). Those from
// 4000 on are about the fragment or the connection, those from 4500 on about
// the stream and its key, those from 5000 on the service's own.
func (a *ack) judge() verdict {
	switch a.ErrorID {
	case 4000: // STREAM_READ_ERROR: it could not read on
		return verdict{class: lane.Transient}
	case 4003: // MAX_CONNECTION_DURATION_REACHED
		return verdict{class: lane.Transient, again: true}
	case 4008: // STREAM_NOT_ACTIVE
		return verdict{class: lane.Transient}
	case 4503: // KMS_KEY_UNAVAILABLE
		return verdict{class: lane.Throttled}
	}
	switch {
	case a.ErrorID >= 4500 && a.ErrorID < 5000: // the key is disabled, gone or not ours to use; the stream is gone
		return verdict{class: lane.Misconfigured}
	case a.ErrorID >= 5000: // INTERNAL_ERROR, ARCHIVAL_ERROR
		return verdict{class: lane.Ambiguous}
	}
	if a.ErrorID > 4000 || a.ErrorCode == "MIN_FRAGMENT_DURATION_REACHED" { // the guide gives that one no id
		// Too large, too long, too short, out of order, not valid.
		return verdict{class: lane.Poison, fragment: true}
	}
	return verdict{class: lane.Ambiguous}
}

// refusal is the error for an operator.
func (a *ack) refusal(stream string) *lane.Error {
	e := &lane.Error{Class: a.judge().class, Code: aws.Short(a.ErrorCode)}
	if e.Code == "" {
		e.Code = fmt.Sprintf("error %d", a.ErrorID)
	}
	switch e.Class {
	case lane.Poison:
		e.Text = fmt.Sprintf("Kinesis Video refuses the fragment (%d)", a.ErrorID)
	case lane.Misconfigured:
		e.Text = fmt.Sprintf("the Kinesis video stream %s or its key cannot be used (%d)", stream, a.ErrorID)
	default:
		e.Text = fmt.Sprintf("Kinesis Video could not take the fragment (%d)", a.ErrorID)
	}
	return e
}
