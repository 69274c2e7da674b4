package kinesis

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"strconv"
	"time"

	"forebay/uplink/cbor"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
)

// A wire is one of the forms that PutRecords and its answer are written in.
// The members are the same in both. Requests that are rare are JSON always.
type wire interface {
	media() string
	// open begins a request into an empty dst. Then come its units, of which
	// there are maxEntries at most, and seal, which is told where open ended and
	// how many there were.
	open(dst []byte, stream string) []byte
	appendUnit(dst []byte, i int, u unit, hash []byte) []byte
	seal(dst []byte, at, n int) []byte
}

const (
	jsonMedia = "application/x-amz-json-1.1"
	cborMedia = "application/x-amz-cbor-1.1"
)

type jsonWire struct{}

func (jsonWire) media() string { return jsonMedia }

func (jsonWire) open(dst []byte, stream string) []byte {
	return append(append(append(dst, `{"StreamName":`...), strconv.Quote(stream)...), `,"Records":[`...)
}

func (jsonWire) appendUnit(dst []byte, i int, u unit, hash []byte) []byte {
	if i > 0 {
		dst = append(dst, ',')
	}
	dst = append(dst, `{"Data":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, u.data)
	dst = append(append(dst, `","ExplicitHashKey":"`...), hash...)
	dst = envelope.AppendEscaped(append(dst, `","PartitionKey":"`...), u.key)
	return append(dst, `"}`...)
}

func (jsonWire) seal(dst []byte, _, _ int) []byte { return append(dst, `]}`...) }

// cborWire is what AWS calls CBOR 1.1 and its SDK for Java speaks: data as it
// is, and nothing to escape. All lengths are definite.
type cborWire struct{}

// The members' names, with the heads that stand before them.
const (
	cborStream = "\xa2\x6aStreamName" // in a map of two pairs
	cborList   = "\x67Records\x99"    // the list's length follows, in two bytes
	cborData   = "\xa3\x64Data"       // in a map of three pairs
	cborHash   = "\x6fExplicitHashKey"
	cborKey    = "\x6cPartitionKey"
)

func (cborWire) media() string { return cborMedia }

func (cborWire) open(dst []byte, stream string) []byte {
	dst = cbor.AppendText(append(dst, cborStream...), stream)
	return append(append(dst, cborList...), 0, 0)
}

func (cborWire) appendUnit(dst []byte, _ int, u unit, hash []byte) []byte {
	dst = cbor.AppendBytes(append(dst, cborData...), u.data)
	dst = append(cbor.AppendHead(append(dst, cborHash...), cbor.Text, uint64(len(hash))), hash...)
	return cbor.AppendText(append(dst, cborKey...), u.key)
}

func (cborWire) seal(dst []byte, at, n int) []byte {
	binary.BigEndian.PutUint16(dst[at-2:], uint16(n))
	return dst
}

// retryCBOR is how long a target that has taken CBOR before gets JSON.
const retryCBOR = 10 * time.Minute

// wire is the form of the next PutRecords request.
func (s *Sink) wire() wire {
	if time.Since(s.born) < time.Duration(s.json.Load()) {
		return jsonWire{}
	}
	return cborWire{}
}

// speaksJSON is called when the target has taken records as JSON and has not
// understood CBOR, or has answered it in JSON: it gets JSON from now on. One
// that did understand CBOR before may have had something in front of it for a
// moment: it gets CBOR again after some minutes.
func (s *Sink) speaksJSON() {
	until := time.Duration(math.MaxInt64)
	text := "the target does not speak CBOR; it gets JSON from now on"
	if s.cbor.Load() {
		until = time.Since(s.born) + retryCBOR
		text = "the target does not take CBOR any more; it gets JSON for some minutes"
	}
	if was := time.Duration(s.json.Swap(int64(until))); was <= time.Since(s.born) {
		s.log.Info(text, "target", s.Target())
	}
}

// unread reports whether a request in CBOR may have been refused for being
// CBOR, so that the same is worth another try as JSON. Once the target has
// taken CBOR it has to say so; until then everything counts that may mean it.
// None of these answers stands for a request that was done. A 403 of the service
// has a code, and another class; without one it may be a firewall's, that does
// not list the media type.
func (s *Sink) unread(form wire, status int, e *Error) bool {
	switch {
	case form.media() != cborMedia:
		return false
	case status == http.StatusUnsupportedMediaType || e.Code == "UnknownOperationException" || e.Code == "SerializationException":
		return true
	case s.cbor.Load() || e.Code == "ResourceNotFoundException":
		return false
	case status == http.StatusNotImplemented: // unlike other answers from 500 on
		return true
	case e.Class != lane.Poison && e.Class != lane.Misconfigured && e.Class != lane.Offline:
		return false
	}
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusUnprocessableEntity:
		return true
	}
	return false
}
