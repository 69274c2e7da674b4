package firehose

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// call makes one request. err is a *lane.Error unless the answer is a success
// that looks like the service's: status 200.
func (s *Sink) call(ctx context.Context, op string, buf *aws.Buffer) (*aws.Answer, error) {
	h := make(http.Header, 8)
	h.Set("Content-Type", "application/x-amz-json-1.1")
	h.Set("X-Amz-Target", "Firehose_20150804."+op)
	a, err := s.aws.Send(ctx, &aws.Request{Header: h, Body: buf, Timeout: s.pace.Timeout(len(buf.B), s.timeout), Bare: op != "PutRecordBatch"})
	if err == nil && a.Status != http.StatusOK {
		err = s.aws.Judge(a.Status, a.Header, a.Body)
	}
	return a, err
}

// An entry is the answer to one record of a PutRecordBatch request.
type entry struct{ RecordID, ErrorCode, ErrorMessage string }

// parsePut reads the answer to a PutRecordBatch request of n records. What is
// not exactly such an answer is no acknowledgement, whatever its status.
func parsePut(body []byte, n int) ([]entry, error) {
	var out struct{ RequestResponses []entry }
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("not the JSON that Firehose answers: %w", err)
	}
	if len(out.RequestResponses) != n {
		return nil, fmt.Errorf("%d answers to %d records", len(out.RequestResponses), n)
	}
	return out.RequestResponses, nil
}

// put sends a PutRecordBatch request of n entries and gives the answer's.
func (s *Sink) put(ctx context.Context, buf *aws.Buffer, n int) ([]entry, error) {
	start := time.Now()
	a, err := s.call(ctx, "PutRecordBatch", buf)
	s.pace.Took(len(buf.B), time.Since(start), s.timeout, err)
	if err != nil {
		return nil, err
	}
	entries, err := parsePut(a.Body, n)
	if err != nil {
		return nil, &lane.Error{Class: lane.Offline, Text: s.aws.Portal(a.Status, a.Header), Err: err}
	}
	s.aws.Learn(a)
	return entries, nil
}

// outcome is what an entry says about its record: nil, or why it is not safe.
func (s *Sink) outcome(e *entry) *lane.Error {
	if e.ErrorCode != "" {
		return s.aws.Classify(e.ErrorCode, e.ErrorMessage, http.StatusOK)
	}
	if e.RecordID == "" {
		return &lane.Error{Class: lane.Ambiguous, Text: "the answer has neither an id nor an error for the record"}
	}
	return nil
}

// classify knows the codes of Firehose (API reference, PutRecordBatch).
func classify(code, message string, _ int) (lane.Class, bool) {
	switch code {
	case "ServiceUnavailableException": // the stream's throughput is exceeded: "Slow down."
		return lane.Throttled, true
	case "InvalidKMSResourceException", "InvalidSourceException":
		return lane.Misconfigured, true
	case "ValidationException", "InvalidArgumentException":
		// Only what is about the record is the record's.
		switch {
		case strings.Contains(message, "deliverystreamname"), strings.Contains(message, "stream name"):
			return lane.Misconfigured, true
		case strings.Contains(message, "record"), strings.Contains(message, "data"), strings.Contains(message, "size"), strings.Contains(message, "length"):
			return lane.Poison, true
		}
		return lane.Misconfigured, true
	}
	return lane.OK, false
}

// recheck is how long a delivery stream is taken to be as it was.
const recheck = 15 * time.Minute

// Probe asks for the description of the delivery stream: the cheapest request
// that proves name lookup, connection, TLS, clock and credentials. nil means
// that a Firehose answers and knows us; whether the stream is there is for
// Send to find out.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	stream := s.last
	s.mu.Unlock()
	if stream == "" {
		stream = s.cfg.stream("forebay")
	}
	_, err := s.describe(ctx, stream)
	if err == nil {
		return nil
	}
	e := asError(err)
	switch {
	case e.Code == "ResourceNotFoundException", e.Code == "UnknownOperationException", e.Class == lane.Throttled,
		e.Code == "AccessDeniedException": // it knows us, and a policy allows PutRecordBatch alone
		return nil
	}
	return e
}

// prepare makes sure that the delivery stream is there and takes records from
// us, before the first record and every 15 minutes.
func (s *Sink) prepare(ctx context.Context, stream string) error {
	s.mu.Lock()
	s.last = stream
	at, known := s.checked[stream]
	s.mu.Unlock()
	if known && time.Since(at) < recheck {
		return nil
	}
	d, err := s.describe(ctx, stream)
	if err != nil {
		e := asError(err)
		switch {
		case e.Code == "UnknownOperationException", e.Code == "AccessDeniedException":
			// It does not let us look: PutRecordBatch will tell.
			s.remember(stream)
			return nil
		case e.Class == lane.Throttled, known:
			return nil
		}
		return e
	}
	if d.DeliveryStreamType != "" && d.DeliveryStreamType != "DirectPut" {
		s.forget(stream)
		return &lane.Error{Class: lane.Misconfigured, Text: "the delivery stream " + stream + " takes no records directly, it reads from its own source (" +
			aws.Short(d.DeliveryStreamType) + "); send to that source, or make a delivery stream with Direct PUT"}
	}
	switch d.DeliveryStreamStatus {
	case "CREATING":
		return &lane.Error{Class: lane.Transient, Text: "the delivery stream " + stream + " is being created"}
	case "CREATING_FAILED", "DELETING", "DELETING_FAILED", "SUSPENDED":
		s.forget(stream)
		return &lane.Error{Class: lane.Misconfigured, Text: "the delivery stream " + stream + " takes no records: its status is " + d.DeliveryStreamStatus}
	}
	s.remember(stream)
	return nil
}

func (s *Sink) remember(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked[stream] = time.Now()
}

func (s *Sink) forget(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.checked, stream)
}

// description is what we need of DescribeDeliveryStream's answer.
type description struct{ DeliveryStreamStatus, DeliveryStreamType string }

// describe makes a request that holds no record: whatever the target finds
// invalid in it is the config's.
func (s *Sink) describe(ctx context.Context, stream string) (description, error) {
	in, err := json.Marshal(map[string]string{"DeliveryStreamName": stream})
	if err != nil {
		return description{}, err
	}
	buf := s.aws.Buffer()
	buf.B = append(buf.B, in...)
	defer buf.Release()
	a, err := s.call(ctx, "DescribeDeliveryStream", buf)
	if err != nil {
		e := asError(err)
		if e.Class == lane.Poison {
			e.Class = lane.Misconfigured
		}
		return description{}, e
	}
	var out struct{ DeliveryStreamDescription *description }
	if err := json.Unmarshal(a.Body, &out); err != nil || out.DeliveryStreamDescription == nil {
		return description{}, &lane.Error{Class: lane.Offline, Text: s.aws.Portal(a.Status, a.Header), Err: err}
	}
	s.aws.Learn(a)
	return *out.DeliveryStreamDescription, nil
}
