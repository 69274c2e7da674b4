package kinesisapi

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"forebay/spool/record"
)

// Shard iterators and page tokens are sealed: opaque to the client, and only
// this process can make them. The key is new with every start; a token of an
// earlier start counts as expired, which makes a client fetch a new one, and
// not as forged, which makes it give up.

var (
	errForged  = errors.New("token is not one of this endpoint")
	errExpired = errors.New("token has expired")
)

type tokenKind byte

const (
	kindIterator tokenKind = 'I'
	kindShards   tokenKind = 'S'
	kindStreams  tokenKind = 'L'
)

const (
	// tokenLife is how long an iterator or a page token may be used (API
	// reference, GetShardIterator and ListShards: 5 minutes, 300 seconds).
	tokenLife = 5 * time.Minute

	tokenMAC  = 16
	tokenHead = 1 + 8 + 8 // kind, run, time of issue in ms
	// maxToken bounds what is decoded; the model allows an iterator 512.
	maxToken = 512
)

// A sealer makes tokens and opens them.
type sealer struct {
	key [32]byte
	run [8]byte // tells the tokens of this start from earlier ones; no secret
}

func newSealer() *sealer {
	var s sealer
	rand.Read(s.key[:]) // never fails: crypto/rand.Read
	rand.Read(s.run[:])
	return &s
}

func (s *sealer) seal(kind tokenKind, body []byte, now time.Time) string {
	b := make([]byte, 0, tokenHead+len(body)+tokenMAC)
	b = append(b, byte(kind))
	b = append(b, s.run[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMilli()))
	b = append(b, body...)
	b = append(b, s.mac(b)...)
	return base64.URLEncoding.EncodeToString(b)
}

func (s *sealer) mac(b []byte) []byte {
	h := hmac.New(sha256.New, s.key[:])
	h.Write(b)
	return h.Sum(nil)[:tokenMAC]
}

// open gives the body back and when the token was made; errForged or
// errExpired. The time is zero if another start made it.
func (s *sealer) open(kind tokenKind, token string, now time.Time) (body []byte, issued time.Time, err error) {
	if len(token) > maxToken {
		return nil, time.Time{}, errForged
	}
	b, err := base64.URLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < tokenHead+tokenMAC || tokenKind(b[0]) != kind {
		return nil, time.Time{}, errForged
	}
	if [8]byte(b[1:9]) != s.run {
		return nil, time.Time{}, errExpired
	}
	end := len(b) - tokenMAC
	if !hmac.Equal(b[end:], s.mac(b[:end])) {
		return nil, time.Time{}, errForged
	}
	issued = time.UnixMilli(int64(binary.BigEndian.Uint64(b[9:17])))
	if now.Sub(issued) > tokenLife {
		return nil, issued, errExpired
	}
	return b[tokenHead:end], issued, nil
}

// An iterator is a place in a shard from which GetRecords reads: behind the
// record after, or, if since is set, at the first record that arrived then or
// later.
type iterator struct {
	stream  string
	created int64 // the stream's time of creation, Unix nanoseconds
	shard   record.ShardID
	after   uint64
	since   time.Time // millisecond precision; zero if after counts
}

func (it iterator) encode() []byte {
	b := make([]byte, 0, 29+len(it.stream))
	b = binary.BigEndian.AppendUint64(b, uint64(it.created))
	b = binary.BigEndian.AppendUint32(b, uint32(it.shard))
	if it.since.IsZero() {
		b = append(b, 0)
		b = binary.BigEndian.AppendUint64(b, it.after)
	} else {
		b = append(b, 1)
		b = binary.BigEndian.AppendUint64(b, uint64(it.since.UnixMilli()))
	}
	return append(b, it.stream...)
}

func decodeIterator(b []byte) (iterator, error) {
	if len(b) < 22 || b[12] > 1 {
		return iterator{}, errForged
	}
	it := iterator{
		created: int64(binary.BigEndian.Uint64(b)),
		shard:   record.ShardID(binary.BigEndian.Uint32(b[8:])),
		stream:  string(b[21:]),
	}
	if n := binary.BigEndian.Uint64(b[13:]); b[12] == 0 {
		it.after = n
	} else {
		it.since = time.UnixMilli(int64(n))
	}
	return it, nil
}
