// Package cbor writes and reads the items of CBOR (RFC 8949) one by one, for
// those who write and read a known shape and want no memory of their own for
// it. What has no known shape is for a library.
package cbor

import (
	"encoding/binary"
	"math"
)

// The major types (RFC 8949, section 3.1), where they stand in an item's first
// byte, and the first bytes that have a meaning of their own.
const (
	Uint   = 0 << 5
	NegInt = 1 << 5
	Bytes  = 2 << 5
	Text   = 3 << 5
	Array  = 4 << 5
	Map    = 5 << 5
	Tag    = 6 << 5
	Simple = 7 << 5

	Major      = 7 << 5 // the mask of the major type
	Indefinite = 31     // in place of a length: a break ends it
	Null       = Simple | 22
	Undefined  = Simple | 23
	Half       = Simple | 25
	Single     = Simple | 26
	Double     = Simple | 27
	Break      = Simple | 31
)

// AppendHead appends an item's first byte and its argument, in the shortest
// form.
func AppendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// AppendText appends a text string, which must be valid UTF-8.
func AppendText(b []byte, s string) []byte {
	return append(AppendHead(b, Text, uint64(len(s))), s...)
}

// AppendBytes appends a byte string.
func AppendBytes(b, data []byte) []byte {
	return append(AppendHead(b, Bytes, uint64(len(data))), data...)
}
