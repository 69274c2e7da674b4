package kinesis

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"forebay/uplink/cbor"
)

// maxMembers is how many members a map of an answer may have, known or not.
const maxMembers = 100

var errAnswer = errors.New("not the CBOR that Kinesis answers")

// isCBOR reports whether an answer is a map in CBOR. JSON never is: what it may
// begin with are numbers and short strings there.
func isCBOR(body []byte) bool {
	r := cbor.NewReader(body)
	r.Untag() // one may say that what follows is CBOR
	return r.Peek()&cbor.Major == cbor.Map
}

// readAnswer reads an answer to PutRecords of n records and appends its entries
// to dst. What is in it besides is passed over; lists and strings whose length
// is not said in advance, tags and nulls are understood. The entries' strings
// are copies, of which there are none where all is well.
func readAnswer(dst []entry, body []byte, n int) ([]entry, error) {
	r := cbor.NewReader(body)
	r.Untag()
	seen, had, failed := false, len(dst), uint64(0)
	for k := r.Items(cbor.Map, maxMembers); r.Another(&k); {
		name := r.Whole(cbor.Text)
		r.Untag()
		if string(name) == "FailedRecordCount" && r.Peek()&cbor.Major == cbor.Uint {
			_, count := r.Head()
			failed = max(failed, count)
			continue
		}
		if string(name) != "Records" {
			r.Skip()
			continue
		}
		if seen { // it cannot be told which of them counts
			r.Fail()
		}
		seen = true
		for m := r.Items(cbor.Array, len(body)); r.Another(&m); {
			if len(dst)-had == n {
				return nil, fmt.Errorf("more answers than the %d records", n)
			}
			dst = append(dst, readEntry(&r))
		}
	}
	switch {
	case !r.AtEnd():
		return nil, errAnswer
	case len(dst)-had != n:
		return nil, fmt.Errorf("%d answers to %d records", len(dst)-had, n)
	case failed > named(dst[had:]):
		return nil, errFailed
	}
	return dst, nil
}

// readEntry reads an entry. One that says a thing twice is refused, as it
// cannot be told which of them counts.
func readEntry(r *cbor.Reader) (e entry) {
	const number, code, message = 1, 2, 4
	seen := 0
	once := func(member int) {
		if seen&member != 0 {
			r.Fail()
		}
		seen |= member
	}
	r.Untag()
	for k := r.Items(cbor.Map, maxMembers); r.Another(&k); {
		switch string(r.Whole(cbor.Text)) {
		case "SequenceNumber":
			once(number)
			s := text(r)
			if !utf8.Valid(s) {
				r.Fail()
			}
			e.numbered = len(s) > 0
		case "ErrorCode":
			once(code)
			e.code = string(text(r))
		case "ErrorMessage":
			once(message)
			e.message = string(text(r))
		default:
			r.Skip()
		}
	}
	return e
}

// text is a string, or nothing in its place.
func text(r *cbor.Reader) []byte {
	r.Untag()
	if c := r.Peek(); c == cbor.Null || c == cbor.Undefined {
		r.Head()
		return nil
	}
	return r.Whole(cbor.Text)
}
