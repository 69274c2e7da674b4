package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// CBOR (RFC 8949) as the AWS SDK for Java sends it, as far as a measurement
// needs it.

const (
	cborText  = 0x60
	cborBytes = 0x40
	cborArray = 0x80
	cborMap   = 0xa0
)

func appendCBOR(b []byte, major byte, n int) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
}

func appendCBORText(b []byte, s string) []byte {
	return append(appendCBOR(b, cborText, len(s)), s...)
}

// cborHead reads the head of a text or byte string: its length, and where it
// begins.
func cborHead(b []byte, major byte) (n, at int, ok bool) {
	if len(b) < 5 || b[0]&0xe0 != major {
		return 0, 0, false
	}
	switch info := b[0] & 0x1f; {
	case info < 24:
		n, at = int(info), 1
	case info == 24:
		n, at = int(b[1]), 2
	case info == 25:
		n, at = int(binary.BigEndian.Uint16(b[1:])), 3
	case info == 26:
		n, at = int(binary.BigEndian.Uint32(b[1:])), 5
	default:
		return 0, 0, false
	}
	return n, at, at+n <= len(b)
}

var (
	cborData     = appendCBORText(nil, "Data")
	cborNext     = appendCBORText(nil, "NextShardIterator")
	cborAllTaken = append(appendCBORText(nil, "FailedRecordCount"), 0)
)

// scanCBOR is scanRecords for an answer in CBOR.
func scanCBOR(b []byte) (records, size int, err error) {
	for {
		at := bytes.Index(b, cborData)
		if at < 0 {
			return records, size, nil
		}
		b = b[at+len(cborData):]
		n, at, ok := cborHead(b, cborBytes)
		if !ok {
			return 0, 0, fmt.Errorf("GetRecords: record %d has no byte string: % x", records, b[:min(len(b), 8)])
		}
		size += n
		records++
		b = b[at+n:]
	}
}

// nextCBOR reads the next iterator; "" if there is none.
func nextCBOR(b []byte) (string, error) {
	at := bytes.LastIndex(b, cborNext)
	if at < 0 {
		return "", nil
	}
	b = b[at+len(cborNext):]
	if len(b) > 0 && b[0] == 0xf6 { // null
		return "", nil
	}
	n, at, ok := cborHead(append(slices.Clip(b), 0, 0, 0, 0), cborText)
	if !ok || at+n > len(b) {
		return "", errors.New("the answer ends within NextShardIterator")
	}
	return string(b[at : at+n]), nil
}
