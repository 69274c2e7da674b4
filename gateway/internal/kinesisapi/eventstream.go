package kinesisapi

import (
	"encoding/binary"
	"hash/crc32"
)

// A frame is one message of an event stream (application/vnd.amazon.eventstream),
// big-endian:
//
//	length of the whole 4 | length of the headers 4 | CRC32 of these eight bytes 4
//	headers: each length of the name 1 | name | type 1 (7: string) | length 2 | value
//	payload
//	CRC32 of all before 4
//
// It is built in one buffer: begun with its headers, the payload appended, and
// closed, which fills in the lengths and sums.

const (
	framePrelude  = 12
	headerString  = 7
	eventMedia    = "application/vnd.amazon.eventstream"
	eventInitial  = "initial-response"
	eventRecords  = "SubscribeToShardEvent"
	frameOverhead = 256 // more than prelude, headers and the sum together
)

// beginEvent begins the frame of an event in an empty buffer.
func beginEvent(b []byte, event, media string) []byte {
	b = append(b, make([]byte, framePrelude)...)
	b = appendHeader(b, ":message-type", "event")
	b = appendHeader(b, ":event-type", event)
	b = appendHeader(b, ":content-type", media)
	return markHeaders(b)
}

// beginException begins the frame of an error in an empty buffer.
func beginException(b []byte, code, media string) []byte {
	b = append(b, make([]byte, framePrelude)...)
	b = appendHeader(b, ":message-type", "exception")
	b = appendHeader(b, ":exception-type", code)
	b = appendHeader(b, ":content-type", media)
	return markHeaders(b)
}

// appendHeader writes a header whose value is a string; both are ours and short.
func appendHeader(b []byte, name, value string) []byte {
	b = append(b, byte(len(name)))
	b = append(b, name...)
	b = append(b, headerString)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func markHeaders(b []byte) []byte {
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-framePrelude))
	return b
}

// closeFrame ends the frame whose payload has been appended.
func closeFrame(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)+4))
	binary.BigEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[:8]))
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}
