package http

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// maxAnswer is how much of an answer is read.
const maxAnswer = 256 << 10

// A verdict is what an answer says about a batch: err nil means that it is
// acknowledged.
type verdict struct {
	err *lane.Error
	// maybe: it may have been taken all the same.
	maybe bool
	// refused: the target does not like what is in it; large: how much it is.
	refused, large bool
	// other: it was answered as what is taken is, but for what expect names.
	other bool
	sent  int // bytes of the body as it travelled
}

// judge says what an answer means for the batch.
func (c *Config) judge(a *web.Answer) verdict {
	accepted := a.Status >= 200 && a.Status < 300 && a.Status != http.StatusMultiStatus
	if len(c.Accept) > 0 {
		accepted = slices.Contains(c.Accept, a.Status)
	}
	said := func(class lane.Class, text string) *lane.Error {
		if s := a.Said(); s != "" {
			text += ": " + s
		}
		return &lane.Error{Class: class, Code: fmt.Sprintf("HTTP %d", a.Status), Text: text}
	}
	switch {
	case accepted && a.Page():
		return verdict{err: a.Portal(), maybe: true}
	case accepted:
		if miss := c.Expect.missing(a); miss != "" {
			return verdict{err: said(lane.Ambiguous, "the answer is not the acknowledgement that is expected, "+miss), maybe: true, other: true}
		}
		return verdict{}
	}
	if e := a.Failure(); e != nil {
		return verdict{err: e, maybe: e.Class == lane.Ambiguous || e.Class == lane.Offline || e.Class == lane.Transient}
	}
	switch a.Status {
	case http.StatusRequestEntityTooLarge:
		return verdict{err: said(lane.Poison, "the record is larger than the target takes"), large: true}
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return verdict{err: said(lane.Poison, "the target refuses the record"), refused: true}
	case http.StatusConflict:
		return verdict{err: said(lane.Transient, "the target is still busy with this batch, or has it; if it answers so for what it has, add 409 to accept"), maybe: true}
	}
	return verdict{err: said(lane.Misconfigured, "the target answers with a status that acknowledges nothing here (accept)"), maybe: true}
}

// missing says what an answer lacks to be an acknowledgement, "" for nothing.
func (e *Expect) missing(a *web.Answer) string {
	if e.Header != "" {
		values := a.Header.Values(e.Header)
		if len(values) == 0 || e.Value != "" && !slices.Contains(values, e.Value) {
			return "which has the header " + e.Header + " (expect)"
		}
	}
	if e.Field == "" {
		return ""
	}
	if a.Cut {
		return fmt.Sprintf("whose field %q stands in the first %d bytes (expect)", e.Field, maxAnswer)
	}
	text, ok := lookUp(a.Body, e.Field)
	if !ok || e.Equals != "" && text != e.Equals || e.Equals == "" && slices.Contains([]string{"", "null", "false", "0"}, text) {
		return fmt.Sprintf("whose field %q says so (expect)", e.Field)
	}
	return ""
}

// lookUp gives the value at a dotted path of JSON as text: a string's own
// text, anything else as it is written.
func lookUp(body []byte, path string) (string, bool) {
	v := json.RawMessage(body)
	for name := range strings.SplitSeq(path, ".") {
		var object map[string]json.RawMessage
		var array []json.RawMessage
		switch {
		case json.Unmarshal(v, &object) == nil && object != nil:
			next, ok := object[name]
			if !ok {
				return "", false
			}
			v = next
		case json.Unmarshal(v, &array) == nil:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(array) {
				return "", false
			}
			v = array[i]
		default:
			return "", false
		}
	}
	if !json.Valid(v) {
		return "", false
	}
	var s string
	if json.Unmarshal(v, &s) == nil && len(v) > 0 && v[0] == '"' {
		return s, true
	}
	return strings.TrimSpace(string(v)), true
}
