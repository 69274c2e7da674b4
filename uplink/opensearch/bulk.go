package opensearch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"forebay/uplink/lane"
)

// An item is what the service says of one document.
type item struct {
	Status int
	Error  *cause
}

// UnmarshalJSON reads an item: an object with one member, named by its
// operation. The error may be a text, as it was long ago.
func (i *item) UnmarshalJSON(b []byte) error {
	var in map[string]struct {
		Status int
		Error  json.RawMessage
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if len(in) != 1 {
		return errors.New("an item of a bulk answer has not one operation")
	}
	for op, v := range in {
		if op != "create" && op != "index" {
			return fmt.Errorf("an item of a bulk answer is of the operation %.20q", op)
		}
		i.Status = v.Status
		if len(v.Error) > 0 && string(v.Error) != "null" {
			i.Error = &cause{}
			if json.Unmarshal(v.Error, i.Error) != nil && json.Unmarshal(v.Error, &i.Error.Reason) != nil {
				return errors.New("an error of a bulk answer is neither an object nor a text")
			}
		}
	}
	return nil
}

// parseBulk reads the answer to a bulk request of n documents. What is not
// exactly such an answer is no acknowledgement.
func parseBulk(body []byte, n int) ([]item, error) {
	var in struct{ Items []item }
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("not the answer to a bulk request: %w", err)
	}
	if len(in.Items) != n {
		return nil, fmt.Errorf("%d answers to %d documents", len(in.Items), n)
	}
	for _, it := range in.Items {
		ok := it.Status == http.StatusOK || it.Status == http.StatusCreated
		if it.Status < 200 || it.Status > 599 || ok != (it.Error == nil) {
			return nil, fmt.Errorf("a document has the status %d, and error %t", it.Status, it.Error != nil)
		}
	}
	return in.Items, nil
}

// outcome is what an item says about its record: nil, it is there; or why it
// is not. document says that the document itself is not liked.
func (i *item) outcome(op string) (e *lane.Error, document bool) {
	switch {
	case i.Error == nil:
		return nil, false
	case i.Status == http.StatusConflict && op == "create":
		return nil, false // it came before
	}
	e = &lane.Error{Code: short(i), Text: i.Error.text()}
	kind := i.Error.Type
	low := strings.ToLower(e.Text)
	switch s := i.Status; {
	case s == http.StatusTooManyRequests:
		e.Class = lane.Throttled
		if kind == "cluster_block_exception" {
			e.Text = "the target's disk is full: " + e.Text
		}
	case s == http.StatusServiceUnavailable, s == http.StatusConflict:
		e.Class = lane.Transient
	case s >= 500:
		e.Class = lane.Ambiguous
	case s == http.StatusNotFound:
		e.Class, e.Text = lane.Misconfigured, "the index is not there, and the target may not create it (action.auto_create_index): "+e.Text
	case kind == "cluster_block_exception", kind == "index_closed_exception", kind == "invalid_index_name_exception":
		e.Class = lane.Misconfigured
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		e.Class, e.Text = lane.Auth, "the credentials may not write: "+e.Text
	case s == http.StatusRequestEntityTooLarge:
		e.Class = lane.Poison
	case s != http.StatusBadRequest:
		e.Class = lane.Misconfigured
	case strings.Contains(low, "document id is not supported"):
		e.Class, e.Text = lane.Misconfigured, "the target does not let us choose ids, as Serverless collections for search do: "+e.Text
	case strings.Contains(low, "op_type of create"):
		e.Class, e.Text = lane.Misconfigured, "the target is a data stream; set data_stream: "+e.Text
	case strings.Contains(low, "limit of total fields"):
		e.Class, e.Text = lane.Misconfigured, "the index has as many fields as it may; raise index.mapping.total_fields.limit there, or send fewer: "+e.Text
	case strings.Contains(low, "pipeline"), strings.Contains(low, "no write index"):
		e.Class = lane.Misconfigured
	default:
		e.Class = lane.Poison
		return e, true
	}
	return e, false
}

func short(i *item) string {
	if i.Error.Type != "" {
		return (&cause{Reason: i.Error.Type}).text()
	}
	return fmt.Sprintf("HTTP %d", i.Status)
}
