package kinesisapi

import (
	"encoding/binary"
	"errors"
	"math/big"
	"math/bits"
	"strconv"

	"forebay/spool/record"
)

// A sequence number is the decimal form of a 186-bit number which AWS writes,
// in hexadecimal digits, as
//
//	2 | seconds of creation 9 | shard 1 | counter 16 | 00 | seconds 9 | shard 8 | 2
//
// It always has 56 decimal digits, so that it also sorts as text. The counter
// is the record's number in its shard, as the log gives it: with the shard's
// time of creation and index the two are the same thing said twice, no table
// stands between them, and a number of another shard or of a deleted stream's
// namesake is told apart.
//
// Where AWS has the time of the put a second time, stand bits of the epoch in
// which the log stored the record: a spool that was set back to a backup gives
// the same counters again, to other records, and a number of those that were
// lost must not pass for one of theirs. 0 is a place in the shard rather than a
// record.
type sequence struct {
	created uint64 // seconds since 1970, 36 bits; of the shard
	shard   uint32 // index of the shard in its stream
	seq     uint64 // 63 bits; 0 is the place before the first record
	epoch   uint64 // its lower 36 bits
}

// place is q without its epoch.
func (q sequence) place() sequence {
	q.epoch = 0
	return q
}

const (
	sequenceHex    = 47 // 186 bits
	sequenceDigits = 56
	maxCounter     = 1<<63 - 1
)

var errSequence = errors.New("not a sequence number of this endpoint")

func newSequence(p place, seq uint64) sequence {
	const bits36 = 1<<36 - 1
	return sequence{created: uint64(p.created.Unix()) & bits36, shard: uint32(p.index), seq: seq & maxCounter, epoch: uint64(p.epoch) & bits36}
}

// appendTo writes the 56 digits.
func (q sequence) appendTo(b []byte) []byte {
	var n [24]byte
	w := bitWriter{dst: n[:], at: 8*len(n) - 4*sequenceHex}
	w.put(2, 4)
	w.put(q.created, 36)
	w.put(uint64(q.shard&0xf), 4)
	w.put(q.seq, 64)
	w.put(0, 8)
	w.put(q.epoch, 36)
	w.put(uint64(q.shard), 32)
	w.put(2, 4)
	return appendDecimal(b, n)
}

func (q sequence) String() string { return string(q.appendTo(make([]byte, 0, sequenceDigits))) }

// A bitWriter fills dst from its most significant bit.
type bitWriter struct {
	dst []byte
	at  int // bits written
}

func (w *bitWriter) put(v uint64, bits int) {
	for bits > 0 {
		room := 8 - w.at%8
		n := min(room, bits)
		chunk := byte(v>>(bits-n)) & byte(1<<n-1)
		w.dst[w.at/8] |= chunk << (room - n)
		w.at += n
		bits -= n
	}
}

// appendDecimal writes a big-endian number in decimal, 18 digits at a time.
func appendDecimal(b []byte, n [24]byte) []byte {
	const base = 1_000_000_000_000_000_000
	limbs := [3]uint64{binary.BigEndian.Uint64(n[:]), binary.BigEndian.Uint64(n[8:]), binary.BigEndian.Uint64(n[16:])}
	var parts [4]uint64 // least significant first; 2^192 < 10^72
	for p := range parts {
		var rem uint64
		for i := range limbs {
			limbs[i], rem = bits.Div64(rem, limbs[i], base)
		}
		parts[p] = rem
	}
	top := len(parts) - 1
	for top > 0 && parts[top] == 0 {
		top--
	}
	b = strconv.AppendUint(b, parts[top], 10)
	for p := top - 1; p >= 0; p-- {
		for pow := uint64(base / 10); pow > parts[p] && pow > 1; pow /= 10 {
			b = append(b, '0')
		}
		b = strconv.AppendUint(b, parts[p], 10)
	}
	return b
}

// parseSequence is the inverse of String. Any other text, also a number that
// merely looks like one, is an error: what it returns prints as s.
func parseSequence(s string) (sequence, error) {
	if len(s) != sequenceDigits {
		return sequence{}, errSequence
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return sequence{}, errSequence
		}
	}
	n, _ := new(big.Int).SetString(s, 10)
	hex := n.Text(16)
	if len(hex) != sequenceHex {
		return sequence{}, errSequence
	}
	// Every field is hexadecimal by construction and at most 64 bits wide.
	field := func(from, to int) uint64 {
		v, _ := strconv.ParseUint(hex[from:to], 16, 64)
		return v
	}
	q := sequence{created: field(1, 10), seq: field(11, 27), epoch: field(29, 38), shard: uint32(field(38, 46))}
	if q.seq > maxCounter || q.String() != s {
		return sequence{}, errSequence
	}
	return q, nil
}

// decimal is a hash key as the API writes it.
func decimal(h record.HashKey) string { return new(big.Int).SetBytes(h[:]).String() }

// parseHashKey reads an ExplicitHashKey: decimal, no sign, no leading zeros,
// at most 2^128-1.
func parseHashKey(s string) (h record.HashKey, ok bool) {
	if !validHashKey(s) {
		return h, false
	}
	return hashKeyOf([]byte(s))
}
