package kinesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// An Error says why the target did not do what was asked. Poison is about one
// record of the request: which one, smaller requests find out.
type Error = lane.Error

// call makes one request. err is an *Error unless the answer is a success that
// looks like the service's: status 200. There is an answer as far as there was
// one. claim says of the lanes in it that they rise; "" says nothing.
func (s *Sink) call(ctx context.Context, op string, buf *aws.Buffer, claim string) (*aws.Answer, error) {
	h := make(http.Header, 8)
	h.Set("Content-Type", "application/x-amz-json-1.1")
	h.Set("X-Amz-Target", "Kinesis_20131202."+op)
	if claim != "" {
		h.Set("X-Forebay-Lanes", claim)
	}
	a, err := s.aws.Send(ctx, &aws.Request{Header: h, Body: buf, Timeout: s.pace.Timeout(len(buf.B), s.timeout)})
	if err == nil && a.Status != http.StatusOK {
		err = s.aws.Judge(a.Status, a.Header, a.Body)
	}
	return a, err
}

// asError is err as an *Error; one that is none is Transient.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: lane.Transient, Text: "the request failed", Err: err}
}

// An entry is the answer to one record of a PutRecords request.
type entry struct {
	SequenceNumber string
	ShardID        string `json:"ShardId"`
	ErrorCode      string
	ErrorMessage   string
}

// parsePutRecords reads the answer to a PutRecords request of n records. What
// is not exactly such an answer is no acknowledgement, whatever its status.
func parsePutRecords(body []byte, n int) ([]entry, error) {
	if entries, ok := scanAnswer(string(body), n); ok {
		return entries, nil
	}
	var out struct{ Records []entry }
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("not the JSON that Kinesis answers: %w", err)
	}
	if len(out.Records) != n {
		return nil, fmt.Errorf("%d answers to %d records", len(out.Records), n)
	}
	return out.Records, nil
}

// outcome is what an entry says about its record: nil, or why it is not safe.
func (s *Sink) outcome(e *entry) *Error {
	if e.ErrorCode != "" {
		return s.aws.Classify(e.ErrorCode, e.ErrorMessage, http.StatusOK)
	}
	if e.SequenceNumber == "" {
		return &Error{Class: lane.Ambiguous, Text: "the answer has neither a sequence number nor an error for the record"}
	}
	return nil
}

// classify knows the codes of Kinesis (API reference, PutRecords).
func classify(code, message string, _ int) (lane.Class, bool) {
	switch code {
	case "ValidationException", "InvalidArgumentException":
		// A wrong stream name is nobody's record.
		if strings.Contains(message, "streamname") || strings.Contains(message, "streamarn") || strings.Contains(message, "stream name") {
			return lane.Misconfigured, true
		}
		return lane.Poison, true
	}
	return lane.OK, false
}
