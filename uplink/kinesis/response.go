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
// one. media is the form that it is written in. claim says of the lanes in it
// that they rise; "" says nothing.
func (s *Sink) call(ctx context.Context, op string, buf *aws.Buffer, media, claim string) (*aws.Answer, error) {
	h := make(http.Header, 8)
	h.Set("Content-Type", media)
	if media == cborMedia {
		h.Set("Accept", cborMedia)
	}
	h.Set("X-Amz-Target", "Kinesis_20131202."+op)
	if claim != "" {
		h.Set("X-Forebay-Lanes", claim)
	}
	a, err := s.aws.Send(ctx, &aws.Request{Header: h, Body: buf, Timeout: s.pace.Timeout(len(buf.B), s.timeout), Bare: op != "PutRecords"})
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

// An entry is the answer to one record of a PutRecords request. Where it is
// stored is nothing to us: the gateway numbers its records itself.
type entry struct {
	numbered      bool // there is a sequence number
	code, message string
}

// errFailed: a record that is called stored may be the one that failed.
var errFailed = errors.New("FailedRecordCount is more than the records that are said to have failed")

// named is how many of the entries are no acknowledgement.
func named(entries []entry) (n uint64) {
	for i := range entries {
		if entries[i].code != "" || !entries[i].numbered {
			n++
		}
	}
	return n
}

// parsePutRecords reads the answer to a PutRecords request of n records and
// appends their entries to dst. What is not exactly such an answer is no
// acknowledgement, whatever its status. JSON is read as an answer to CBOR too;
// asJSON tells. errFailed means that some of the records may be stored, any other
// error that it was not the service. The entries do not point into the body.
func parsePutRecords(dst []entry, body []byte, n int) (entries []entry, asJSON bool, err error) {
	if isCBOR(body) {
		entries, err = readAnswer(dst, body, n)
		return entries, false, err
	}
	if entries, ok := scanAnswer(dst, string(body), n); ok {
		return entries, true, nil
	}
	var out struct {
		FailedRecordCount failures
		Records           []struct{ SequenceNumber, ErrorCode, ErrorMessage once }
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, false, fmt.Errorf("neither the CBOR nor the JSON that Kinesis answers: %w", err)
	}
	if len(out.Records) != n {
		return nil, false, fmt.Errorf("%d answers to %d records", len(out.Records), n)
	}
	had := len(dst)
	for _, r := range out.Records {
		dst = append(dst, entry{r.SequenceNumber.text != "", r.ErrorCode.text, r.ErrorMessage.text})
	}
	if out.FailedRecordCount > failures(named(dst[had:])) {
		return nil, true, errFailed
	}
	return dst, true, nil
}

// once is a string, or null, that is not said again: it could not be told which
// of them counts.
type once struct {
	text string
	said bool
}

func (o *once) UnmarshalJSON(b []byte) error {
	if o.said {
		return errors.New("a member of an entry is there twice")
	}
	o.said = true
	return json.Unmarshal(b, &o.text)
}

// failures is the largest number that was said; what is no number says none.
type failures float64

func (f *failures) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if n, ok := v.(float64); ok {
		*f = max(*f, failures(n))
	}
	return nil
}

// outcome is what an entry says about its record: nil, or why it is not safe.
func (s *Sink) outcome(e *entry) *Error {
	if e.code != "" {
		return s.aws.Classify(e.code, e.message, http.StatusOK)
	}
	if !e.numbered {
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
