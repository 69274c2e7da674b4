package cloud

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"strings"
)

// A form is what an endpoint that keeps nothing says in one of the encodings.
type form struct {
	head, stored, sep, tail []byte
	count                   func(body []byte) int // records of a request
}

const (
	aNumber = "49600000000000000000000000000000000000000000000000000001"
	aShard  = "shardId-000000000000"
)

var (
	inJSON = form{
		head: []byte(`{"FailedRecordCount":0,"Records":[`), sep: []byte(","), tail: []byte("]}"),
		stored: []byte(`{"SequenceNumber":"` + aNumber + `","ShardId":"` + aShard + `"}`),
		count:  func(body []byte) int { return bytes.Count(body, []byte(`"PartitionKey":`)) },
	}
	inCBOR = form{
		head: []byte("\xbf\x71FailedRecordCount\x00\x67Records\x9f"), tail: []byte("\xff\xff"), // both of indefinite length
		stored: []byte("\xa2\x6eSequenceNumber\x78\x38" + aNumber + "\x67ShardId\x74" + aShard),
		count:  countCBOR,
	}
)

// countCBOR is how long the list of records says that it is; one that does not
// say is counted by its keys.
func countCBOR(body []byte) int {
	const list = "\x67Records"
	at := bytes.Index(body, []byte(list)) + len(list)
	if at < len(list) || at+3 > len(body) {
		return 0
	}
	switch c := body[at]; {
	case c >= 0x80 && c < 0x98:
		return int(c - 0x80)
	case c == 0x98:
		return int(body[at+1])
	case c == 0x99:
		return int(binary.BigEndian.Uint16(body[at+1:]))
	}
	return bytes.Count(body, []byte("\x6cPartitionKey"))
}

// nothing answers as an endpoint would that has every stream and stores
// whatever it is given.
func nothing(target, media string, body []byte) (int, http.Header, []byte, error) {
	f, h := &inJSON, http.Header{"Content-Type": {jsonMedia}}
	if isCBOR(media) {
		f, h = &inCBOR, http.Header{"Content-Type": {cborMedia}}
	}
	switch {
	case strings.HasSuffix(target, ".PutRecords"):
		n := min(f.count(body), 500)
		out := make([]byte, 0, len(f.head)+n*(len(f.stored)+len(f.sep))+len(f.tail))
		out = append(out, f.head...)
		for i := range n {
			if i > 0 {
				out = append(out, f.sep...)
			}
			out = append(out, f.stored...)
		}
		return http.StatusOK, h, append(out, f.tail...), nil
	case strings.HasSuffix(target, ".PutRecord"):
		return http.StatusOK, h, f.stored, nil
	case isCBOR(media):
		return http.StatusOK, h, []byte("\xa1\x78\x18StreamDescriptionSummary\xa1\x6cStreamStatus\x66ACTIVE"), nil
	}
	return http.StatusOK, h, []byte(`{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`), nil
}
