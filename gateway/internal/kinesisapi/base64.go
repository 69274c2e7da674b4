package kinesisapi

import (
	"encoding/base64"
	"encoding/binary"
	"slices"
)

// base64Pairs are the two characters of every 12 bits, the first in the low
// byte.
var base64Pairs = func() (t [1 << 12]uint16) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range t {
		t[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	return t
}()

// appendBase64 is base64.StdEncoding's AppendEncode, six bytes at a time: at
// the rate at which a shard is read it is most of the work of an answer in
// JSON.
func appendBase64(b, src []byte) []byte {
	at, n := len(b), base64.StdEncoding.EncodedLen(len(src))
	b = slices.Grow(b, n)[:at+n]
	dst := b[at:]
	for len(src) >= 8 && len(dst) >= 8 {
		v := binary.BigEndian.Uint64(src) // its last two bytes are of the next step
		binary.LittleEndian.PutUint64(dst, uint64(base64Pairs[v>>52])|uint64(base64Pairs[v>>40&0xfff])<<16|
			uint64(base64Pairs[v>>28&0xfff])<<32|uint64(base64Pairs[v>>16&0xfff])<<48)
		src, dst = src[6:], dst[8:]
	}
	base64.StdEncoding.Encode(dst, src)
	return b
}
