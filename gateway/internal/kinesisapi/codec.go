package kinesisapi

import (
	"mime"
	"net/http"
	"time"

	"forebay/spool/record"
)

// A codec is one of the encodings of requests and answers. Members have the
// same names in all of them.
type codec interface {
	mediaType() string
	// decode reads the members of a request; an empty body has none. Members
	// that the operation does not have are passed over, as AWS does. What it
	// reads does not point into the body.
	decode(body []byte, into any) error
	encode(answer any) ([]byte, error)

	// scanPuts is decode for PutRecords, without reflection and almost without
	// memory of its own. It is false for everything that it does not take
	// exactly as decode and the checks behind it do; then they say what is
	// wrong, or why nothing is.
	scanPuts(body []byte, b *batch) bool
	// putArena is how many bytes of arena scanPuts needs for a body of n.
	putArena(n int) int

	// The answer of PutRecords: head, then a result per record, i counting from
	// 0, then tail. None of them writes more than putResultRoom bytes, texts of
	// failures not counted.
	putsHead(b []byte, records int) []byte
	putStored(b []byte, i int, at *numberedShard, seq uint64) []byte
	putFailed(b []byte, i int, code, text string) []byte
	putsTail(b []byte, failed int) []byte

	// The answer of GetRecords: head, the records, i counting from 0, then
	// tail.
	getsHead(b []byte) []byte
	getRecord(b []byte, i int, at *numberedShard, r *record.Record) []byte
	// getRoom is how many bytes getRecord needs at most.
	getRoom(r *record.Record) int
	getsTail(b []byte, t *getsTail) ([]byte, error)
}

// A getsTail is what stands behind the records of GetRecords, and of an event of
// SubscribeToShard.
type getsTail struct {
	MillisBehindLatest         int64
	NextShardIterator          string       `json:",omitempty"`
	ContinuationSequenceNumber string       `json:",omitempty"` // of an event in place of an iterator
	ChildShards                []childShard `json:",omitempty"` // at the end of a closed shard
}

type childShard struct {
	ShardID      string `json:"ShardId"`
	ParentShards []string
	HashKeyRange hashKeyRange
}

type hashKeyRange struct {
	StartingHashKey, EndingHashKey string
}

// A numberedShard is a shard as it stands in answers.
type numberedShard struct {
	name    string
	numbers numbering
}

func (p place) numbered() *numberedShard { return &numberedShard{shardName(p.index), p.numbering()} }

// latestTime is where RFC 3339, and with it every other door, ends: the year
// 9999.
const latestTime = 253402300799 // seconds since 1970

// An epoch is a time as the API writes it, which each encoding does in its own
// unit, with milliseconds in both.
type epoch time.Time

// codecOf is the encoding that the request says it has.
func (s *Server) codecOf(r *http.Request) (codec, error) {
	media := r.Header.Get("Content-Type")
	if media != jsonType && media != cborType {
		m, _, err := mime.ParseMediaType(media)
		if err != nil {
			m = ""
		}
		media = m
	}
	switch media {
	case jsonType, "application/json":
		return jsonCodec{}, nil
	case cborType:
		return s.cbor, nil
	}
	return nil, &apiError{
		code: "UnknownOperationException", status: http.StatusNotFound,
		message: "Content-Type must be " + jsonType + " or " + cborType + ".",
	}
}
