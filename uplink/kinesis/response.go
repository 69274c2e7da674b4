package kinesis

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"forebay/uplink/lane"
)

// An Error says why the target did not do what was asked, in words for an
// operator. It never holds a secret.
type Error struct {
	Class lane.Class
	// Code is the service's own word for it, "" where the service did not
	// answer.
	Code string
	Text string
	// RetryAfter is the service's wish, 0 if it has none.
	RetryAfter time.Duration
	Err        error

	split bool // one record of the request is to blame: find it
}

func (e *Error) Error() string {
	s := e.Text
	switch {
	case e.Code != "" && s != "":
		s = e.Code + ": " + s
	case e.Code != "":
		s = e.Code
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// LaneClass is Class, for a pump that knows no Kinesis.
func (e *Error) LaneClass() lane.Class { return e.Class }

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
func (e *entry) outcome() *Error {
	if e.ErrorCode != "" {
		err := classify(e.ErrorCode, e.ErrorMessage, http.StatusOK)
		if err.Class == lane.Poison {
			err.split = true
		}
		return err
	}
	if e.SequenceNumber == "" {
		return &Error{Class: lane.Ambiguous, Text: "the answer has neither a sequence number nor an error for the record"}
	}
	return nil
}

// failure reads an answer that is not a success.
func failure(status int, h http.Header, body []byte) *Error {
	var msg struct {
		Type    string `json:"__type"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	code := h.Get("X-Amzn-ErrorType")
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) && json.Unmarshal(body, &msg) == nil {
		if code == "" {
			code = msg.Type
		}
		if code == "" {
			code = msg.Code
		}
	}
	// "prefix#Code:http://..." is how awsJson1.1 may write a code.
	code, _, _ = strings.Cut(code, ":")
	if i := strings.LastIndexByte(code, '#'); i >= 0 {
		code = code[i+1:]
	}
	var e *Error
	if code != "" {
		e = classify(code, msg.Message, status)
	} else {
		e = foreign(status, h)
	}
	e.RetryAfter = retryAfter(h)
	return e
}

// classify turns the service's code into what the pump does about it. The
// codes are those of the API reference (PutRecords, Common Errors).
func classify(code, message string, status int) *Error {
	e := &Error{Code: short(code), Text: short(message), Class: classOf(code, strings.ToLower(message), status)}
	switch e.Class {
	case lane.Poison:
		e.split = true
	case lane.Auth:
		e.Text = strings.TrimSuffix("the target refuses the credentials: "+e.Text, ": ")
	case lane.ClockSkew:
		e.Text = strings.TrimSuffix("the target says that this machine's clock is wrong: "+e.Text, ": ")
	}
	return e
}

func classOf(code, message string, status int) lane.Class {
	switch code {
	case "ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException",
		"ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown":
		return lane.Throttled
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return lane.ClockSkew
	case "InvalidSignatureException", "SignatureDoesNotMatch", "InvalidSignature":
		if strings.Contains(message, "signature expired") || strings.Contains(message, "signature not yet current") {
			return lane.ClockSkew
		}
		return lane.Auth
	case "UnrecognizedClientException", "InvalidClientTokenId", "IncompleteSignature", "IncompleteSignatureException",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "AccessDenied", "AccessDeniedException",
		"ExpiredToken", "ExpiredTokenException", "NotAuthorized", "OptInRequired", "KMSAccessDeniedException":
		return lane.Auth
	case "ResourceNotFoundException", "UnknownOperationException", "SerializationException",
		"KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired":
		return lane.Misconfigured
	case "ResourceInUseException": // the stream is being created or changed
		return lane.Transient
	case "ValidationException", "InvalidArgumentException":
		// A wrong stream name is nobody's record.
		if strings.Contains(message, "streamname") || strings.Contains(message, "streamarn") || strings.Contains(message, "stream name") {
			return lane.Misconfigured
		}
		return lane.Poison
	case "RequestEntityTooLarge", "RequestEntityTooLargeException", "RecordTooLargeException":
		return lane.Poison
	case "ServiceUnavailable", "ServiceUnavailableException", "ServiceUnavailableError":
		return lane.Transient
	case "InternalFailure", "InternalFailureException", "InternalServerError", "InternalServiceException":
		if status == http.StatusOK { // of one entry: the rest of the answer is sound
			return lane.Transient
		}
		return lane.Ambiguous
	}
	switch {
	case status == http.StatusTooManyRequests:
		return lane.Throttled
	case status >= 500:
		return lane.Ambiguous
	case status == http.StatusOK:
		return lane.Transient
	}
	return lane.Misconfigured
}

// foreign judges an answer that does not look like the service's at all: a
// proxy, a load balancer, a captive portal.
func foreign(status int, h http.Header) *Error {
	e := &Error{Class: lane.Offline, Text: portal(status, h)}
	switch {
	case status == http.StatusTooManyRequests:
		e.Class, e.Text = lane.Throttled, "HTTP 429 too many requests"
	case status == http.StatusRequestEntityTooLarge:
		e.Class, e.Text, e.split = lane.Poison, "HTTP 413: the request is larger than the target takes", true
	case status == http.StatusServiceUnavailable:
		e.Class, e.Text = lane.Transient, "HTTP 503 service unavailable"
	case status >= 500:
		// A gateway in between may have passed the request on.
		e.Class, e.Text = lane.Ambiguous, fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))
	case status == http.StatusProxyAuthRequired:
		e.Class, e.Text = lane.Misconfigured, "HTTP 407: the proxy wants a user and password"
	}
	return e
}

// portal is what an operator reads when something answers that is not Kinesis.
func portal(status int, h http.Header) string {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		kind = "no media type"
	}
	s := fmt.Sprintf("something that is not Kinesis answered (HTTP %d, %s)", status, short(kind))
	if status >= 300 && status < 400 {
		s += " with a redirect"
	}
	return s + ": captive portal?"
}

// retryAfter reads the header of RFC 9110, section 10.2.3, seconds only.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 || n > 3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// short keeps what a stranger wrote printable, and within a line of a log.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
