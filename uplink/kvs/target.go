package kvs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

const (
	// endpointLife is how long a data endpoint is used before it is asked for
	// again, as the service's guide says.
	endpointLife = 45 * time.Minute
	// recheck is how long a stream is taken to be as it was.
	recheck = 15 * time.Minute
)

// call makes one request of the control plane and reads the answer into out.
func (s *Sink) call(ctx context.Context, op string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	buf := s.aws.Buffer()
	defer buf.Release()
	buf.B = append(buf.B, body...)
	h := make(http.Header, 8)
	h.Set("Content-Type", "application/json")
	a, err := s.aws.Send(ctx, &aws.Request{URL: s.aws.Endpoint() + "/" + op, Header: h, Body: buf, Timeout: s.timeout, Bare: true})
	if err == nil && a.Status != http.StatusOK {
		err = s.aws.Judge(a.Status, a.Header, a.Body)
	}
	if err != nil {
		e := asError(err)
		if e.Class == lane.Poison { // it holds no record
			e.Class = lane.Misconfigured
		}
		return e
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		return s.portal(a.Status, a.Header, err)
	}
	s.aws.Learn(a)
	return nil
}

func (s *Sink) portal(status int, h http.Header, err error) *lane.Error {
	return &lane.Error{Class: lane.Offline, Text: s.aws.Portal(status, h), Err: err}
}

// asError is err as a *lane.Error; one that is none is Transient.
func asError(err error) *lane.Error {
	if e, ok := errors.AsType[*lane.Error](err); ok {
		return e
	}
	return &lane.Error{Class: lane.Transient, Text: "the request failed", Err: err}
}

// classify knows the codes of Kinesis Video (API reference; PutMedia, CreateStream).
func classify(code, _ string, _ int) (lane.Class, bool) {
	switch code {
	case "ClientLimitExceededException", "ConnectionLimitExceededException":
		return lane.Throttled, true
	case "InvalidEndpointException":
		return lane.Transient, true // the endpoint is asked for again
	case "InvalidArgumentException", "InvalidDeviceException", "InvalidResourceFormatException",
		"AccountStreamLimitExceededException", "DeviceStreamLimitExceededException", "TagsPerResourceExceededLimitException":
		return lane.Misconfigured, true
	}
	return lane.OK, false
}

// streamInfo is what we need of DescribeStream's answer.
type streamInfo struct {
	Status               string
	DataRetentionInHours int
}

func (s *Sink) describe(ctx context.Context, name string) (streamInfo, error) {
	var out struct{ StreamInfo *streamInfo }
	err := s.call(ctx, "describeStream", map[string]any{"StreamName": name}, &out)
	if err == nil && out.StreamInfo == nil {
		err = &lane.Error{Class: lane.Offline, Text: "the answer to DescribeStream has no stream in it: captive portal?"}
	}
	if err != nil {
		return streamInfo{}, err
	}
	return *out.StreamInfo, nil
}

// Probe asks for the description of a stream: the cheapest request that proves
// name lookup, connection, TLS, clock and credentials. nil means that Kinesis
// Video answers and knows us; whether the streams are there is for Send to
// find out.
func (s *Sink) Probe(ctx context.Context) error {
	s.mu.Lock()
	name := s.last
	s.mu.Unlock()
	if name == "" {
		name = s.cfg.name(s.gateway, "forebay", "forebay")
	}
	_, err := s.describe(ctx, name)
	if err == nil {
		return nil
	}
	e := asError(err)
	switch {
	case e.Code == "ResourceNotFoundException", e.Class == lane.Throttled, denied(e):
		return nil
	}
	return e
}

// denied reports whether the service knows us, and a policy does not allow
// what we asked for.
func denied(e *lane.Error) bool {
	return e.Code == "AccessDeniedException" || e.Code == "NotAuthorizedException"
}

// prepare makes sure that the stream is there and keeps what it is given, and
// that we know where to put it. The caller holds the stream's turn.
func (s *Sink) prepare(ctx context.Context, f *far) error {
	if f.checked.IsZero() || time.Since(f.checked) >= recheck {
		if err := s.check(ctx, f); err != nil {
			return err
		}
	}
	if f.endpoint != "" && time.Since(f.asked) < endpointLife {
		return nil
	}
	var out struct{ DataEndpoint string }
	err := s.call(ctx, "getDataEndpoint", map[string]any{"StreamName": f.name, "APIName": "PUT_MEDIA"}, &out)
	if err == nil {
		err = s.safe(out.DataEndpoint)
	}
	switch e := (*lane.Error)(nil); {
	case err == nil:
		f.endpoint, f.asked = strings.TrimSuffix(out.DataEndpoint, "/"), time.Now()
		return nil
	case f.endpoint != "" && errors.As(err, &e) && e.Class == lane.Throttled:
		return nil // the old one is good until it is refused
	case errors.As(err, &e) && e.Code == "ResourceNotFoundException":
		f.forget()
	}
	return err
}

// safe reports whether video may go to an endpoint: it is no less safe than
// the way by which we learned of it.
func (s *Sink) safe(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || strings.HasPrefix(s.aws.Endpoint(), "https:")) {
		return &lane.Error{Class: lane.Offline, Text: fmt.Sprintf("the answer to GetDataEndpoint is not where video could go: %q", aws.Short(endpoint)), Err: err}
	}
	return nil
}

// check looks at the stream, and makes it where it is missing and that is
// wanted.
func (s *Sink) check(ctx context.Context, f *far) error {
	info, err := s.describe(ctx, f.name)
	if err != nil {
		e := asError(err)
		switch {
		case denied(e): // it does not let us look: PutMedia will tell
			f.checked = time.Now()
			return nil
		case e.Class == lane.Throttled && !f.checked.IsZero():
			return nil
		case e.Code == "ResourceNotFoundException" && s.cfg.Create:
			return s.create(ctx, f)
		case e.Code == "ResourceNotFoundException":
			f.forget()
			e.Text = fmt.Sprintf("there is no Kinesis video stream %s; make it, or set create = true", f.name)
		}
		return e
	}
	switch {
	case info.Status == "CREATING" || info.Status == "UPDATING":
		return &lane.Error{Class: lane.Transient, Text: fmt.Sprintf("the Kinesis video stream %s is being made or changed", f.name)}
	case info.Status != "ACTIVE":
		return &lane.Error{Class: lane.Misconfigured, Text: fmt.Sprintf("the Kinesis video stream %s takes nothing: its status is %s", f.name, aws.Short(info.Status))}
	case info.DataRetentionInHours == 0:
		return &lane.Error{Class: lane.Misconfigured, Text: fmt.Sprintf("the Kinesis video stream %s keeps nothing, so nothing in it would be safe; set its data retention to an hour or more", f.name)}
	}
	f.checked = time.Now()
	return nil
}

func (s *Sink) create(ctx context.Context, f *far) error {
	var out struct{ StreamARN string }
	err := s.call(ctx, "createStream", map[string]any{
		"StreamName": f.name, "DataRetentionInHours": s.cfg.RetentionHours, "MediaType": f.media,
	}, &out)
	if err != nil {
		if e := asError(err); e.Code != "ResourceInUseException" { // another was faster
			return e
		}
	} else {
		s.log.Info("made a Kinesis video stream", "stream", f.name, "retention_hours", s.cfg.RetentionHours)
	}
	info, err := s.describe(ctx, f.name)
	if err != nil && asError(err).Code != "ResourceNotFoundException" { // it may take a moment to be seen
		return err
	}
	if info.Status != "ACTIVE" {
		return &lane.Error{Class: lane.Transient, Text: fmt.Sprintf("the Kinesis video stream %s is being made", f.name)}
	}
	f.checked = time.Now()
	return nil
}
