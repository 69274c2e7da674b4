package kinesis

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"forebay/uplink/lane"
)

// recheck is how long a target stream is taken to be as it was.
const recheck = 15 * time.Minute

// Probe asks for the description of the target stream: the cheapest request
// that proves name lookup, connection, TLS, clock and credentials. nil means
// that a Kinesis answers and knows us; whether the stream is there is for Send
// to find out.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	stream := s.last
	s.mu.Unlock()
	if stream == "" {
		stream = strings.ReplaceAll(s.cfg.Stream, streamMark, "forebay")
	}
	_, err := s.describe(ctx, stream)
	if err == nil {
		return nil
	}
	e := asError(err)
	switch {
	case e.Code == "ResourceNotFoundException", e.Code == "UnknownOperationException", e.Class == lane.Throttled,
		e.Code == "AccessDeniedException": // it knows us, and a policy allows PutRecords alone
		return nil
	}
	return e
}

// prepare makes sure that the target stream exists and keeps records of one
// key together, before the first record and every 15 minutes.
func (s *Sink) prepare(ctx context.Context, stream string) error {
	s.mu.Lock()
	s.last = stream
	at, known := s.checked[stream]
	s.mu.Unlock()
	if known && time.Since(at) < recheck {
		return nil
	}
	sum, err := s.describe(ctx, stream)
	if err != nil {
		e := asError(err)
		switch {
		case e.Code == "ResourceNotFoundException" && s.cfg.CreateShards > 0:
			if err := s.create(ctx, stream); err != nil {
				return err
			}
			if sum, err = s.describe(ctx, stream); err != nil {
				return &Error{Class: lane.Transient, Text: "the target stream " + stream + " is being created", Err: err}
			}
		case e.Code == "UnknownOperationException", e.Code == "AccessDeniedException":
			// It does not let us look: PutRecords will tell.
			s.remember(stream)
			return nil
		case e.Class == lane.Throttled, known:
			return nil
		default:
			return e
		}
	}
	if sum.RecordDistributionStrategy == "AUTO" {
		s.forget(stream)
		return &Error{
			Class: lane.Misconfigured,
			Text: "the target stream " + stream + " spreads records by itself (record distribution AUTO) and ignores keys, so order cannot be kept; " +
				"set it to USER_PARTITION_KEY (aws kinesis update-stream-record-distribution-strategy) or use another stream",
		}
	}
	switch sum.StreamStatus {
	case "CREATING":
		return &Error{Class: lane.Transient, Text: "the target stream " + stream + " is being created"}
	case "DELETING":
		return &Error{Class: lane.Misconfigured, Text: "the target stream " + stream + " is being deleted"}
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

// summary is what we need of DescribeStreamSummary's answer.
type summary struct {
	StreamStatus               string
	RecordDistributionStrategy string
}

func (s *Sink) describe(ctx context.Context, stream string) (summary, error) {
	body, err := s.ask(ctx, "DescribeStreamSummary", map[string]any{"StreamName": stream})
	if err != nil {
		return summary{}, err
	}
	var out struct{ StreamDescriptionSummary *summary }
	if err := json.Unmarshal(body, &out); err != nil || out.StreamDescriptionSummary == nil {
		return summary{}, &Error{Class: lane.Offline, Text: s.aws.Portal(http.StatusOK, nil), Err: err}
	}
	return *out.StreamDescriptionSummary, nil
}

// create creates the target stream; that it is there already is no error.
func (s *Sink) create(ctx context.Context, stream string) error {
	_, err := s.ask(ctx, "CreateStream", map[string]any{"StreamName": stream, "ShardCount": s.cfg.CreateShards})
	if err == nil {
		s.log.Info("target stream created", "target_stream", stream, "shards", s.cfg.CreateShards)
		return nil
	}
	e := asError(err)
	if e.Code == "ResourceInUseException" {
		return nil
	}
	e.Text = "the target stream " + stream + " cannot be created: " + e.Text
	return e
}

// ask makes a small request, one that holds no record: whatever the target
// finds invalid in it is the config's.
func (s *Sink) ask(ctx context.Context, op string, in map[string]any) ([]byte, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	buf := s.aws.Buffer()
	buf.B = append(buf.B, b...)
	defer buf.Release()
	a, err := s.call(ctx, op, buf, jsonMedia, "")
	if err != nil {
		e := asError(err)
		if e.Class == lane.Poison {
			e.Class = lane.Misconfigured
		}
		return nil, e
	}
	if len(a.Body) > 0 && !json.Valid(a.Body) {
		return nil, &Error{Class: lane.Offline, Text: s.aws.Portal(a.Status, a.Header)}
	}
	s.aws.Learn(a)
	return a.Body, nil
}
