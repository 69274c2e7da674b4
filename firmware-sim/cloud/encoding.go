package cloud

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// The two encodings of the service. Members have the same names in both.
const (
	jsonMedia = "application/x-amz-json-1.1"
	cborMedia = "application/x-amz-cbor-1.1"
)

func isCBOR(media string) bool { return strings.HasPrefix(media, cborMedia) }

// An encoding is that of one request and its answer.
type encoding struct{ cbor bool }

func encodingOf(r *http.Request) encoding { return encoding{isCBOR(r.Header.Get("Content-Type"))} }

func (e encoding) media() string {
	if e.cbor {
		return cborMedia
	}
	return jsonMedia
}

func (e encoding) unmarshal(b []byte, into any) error {
	if e.cbor {
		return cbor.Unmarshal(b, into)
	}
	return json.Unmarshal(b, into)
}

func (e encoding) marshal(v any) ([]byte, error) {
	if e.cbor {
		return cbor.Marshal(v)
	}
	return json.Marshal(v)
}

// A raw is a value that stays as it was encoded.
type raw []byte

func (r raw) MarshalJSON() ([]byte, error)  { return r, nil }
func (r raw) MarshalCBOR() ([]byte, error)  { return r, nil }
func (r *raw) UnmarshalJSON(b []byte) error { *r = append(raw(nil), b...); return nil }
func (r *raw) UnmarshalCBOR(b []byte) error { *r = append(raw(nil), b...); return nil }

// stored is how many records an answer says are stored.
func (e encoding) stored(answer []byte) uint64 {
	name := `"SequenceNumber"`
	if e.cbor {
		name = "\x6eSequenceNumber"
	}
	return uint64(strings.Count(string(answer), name))
}

// size is how many bytes of data a raw string has, about.
func (e encoding) size(data raw) int {
	if e.cbor {
		return len(data)
	}
	return len(data) * 3 / 4 // base64
}
