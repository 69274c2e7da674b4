package kinesisapi

import (
	"math/big"
	"math/bits"

	"forebay/spool/record"
)

// A numbering writes the sequence numbers of one shard. The decimal form of a
// 186-bit number costs several divisions of 192 bits by 64; but in a shard only
// the counter changes, and the number is that of the counter 0 plus the counter
// times 2^80. Both are kept in limbs of 18 decimal digits, least significant
// first.
type numbering struct {
	zero [sequenceLimbs]uint64
}

const (
	sequenceLimbs = 4
	limb          = 1_000_000_000_000_000_000 // 10^18
	limbDigits    = 18

	// The counter is followed by 80 bits: 2^80 = counterHigh*10^18 + counterLow.
	counterHigh = 1_208_925
	counterLow  = 819_614_629_174_706_176
)

func (p place) numbering() numbering {
	var n numbering
	v, ok := new(big.Int).SetString(p.sequence(0).String(), 10)
	if !ok { // a sequence prints as digits
		return n
	}
	base, rem := big.NewInt(limb), new(big.Int)
	for i := range n.zero {
		v.QuoRem(v, base, rem)
		n.zero[i] = rem.Uint64()
	}
	return n
}

// append writes the 56 digits of the record with the counter seq.
func (n *numbering) append(b []byte, seq uint64) []byte {
	s1, s0 := (seq&maxCounter)/limb, (seq&maxCounter)%limb // s1 is at most 9
	hi, lo := bits.Mul64(s0, counterLow)
	carry, l0 := bits.Div64(hi, lo, limb) // s0*counterLow < 10^36
	hi, lo = bits.Mul64(s0, counterHigh)
	var c uint64
	lo, c = bits.Add64(lo, carry, 0)
	hi += c
	lo, c = bits.Add64(lo, s1*counterLow, 0) // < 10^19
	hi += c
	l2, l1 := bits.Div64(hi, lo, limb)
	l2 += s1 * counterHigh

	sum := [sequenceLimbs]uint64{n.zero[0] + l0, n.zero[1] + l1, n.zero[2] + l2, n.zero[3]}
	for i := range sequenceLimbs - 1 {
		if sum[i] >= limb {
			sum[i] -= limb
			sum[i+1]++
		}
	}
	var text [sequenceDigits]byte
	const top = sequenceDigits - 3*limbDigits // 2 digits
	text[0], text[1] = byte('0'+sum[3]/10), byte('0'+sum[3]%10)
	digits18(text[top:], sum[2])
	digits18(text[top+limbDigits:], sum[1])
	digits18(text[top+2*limbDigits:], sum[0])
	return append(b, text[:]...)
}

// pairs are the numbers 00 to 99.
const pairs = "00010203040506070809" +
	"10111213141516171819" +
	"20212223242526272829" +
	"30313233343536373839" +
	"40414243444546474849" +
	"50515253545556575859" +
	"60616263646566676869" +
	"70717273747576777879" +
	"80818283848586878889" +
	"90919293949596979899"

// digits18 writes v < 10^18 in 18 digits.
func digits18(b []byte, v uint64) {
	_ = b[limbDigits-1]
	high, low := uint32(v/1_000_000_000), uint32(v%1_000_000_000)
	digits9(b, high)
	digits9(b[9:], low)
}

func digits9(b []byte, v uint32) {
	_ = b[8]
	for i := 7; i > 0; i -= 2 {
		p := v % 100 * 2
		v /= 100
		b[i], b[i+1] = pairs[p], pairs[p+1]
	}
	b[0] = byte('0' + v)
}

// hashKeyOf reads a checked ExplicitHashKey; false beyond 2^128-1.
func hashKeyOf(s []byte) (h record.HashKey, ok bool) {
	var hi, lo uint64
	for len(s) > 0 {
		n := min(len(s), limbDigits)
		var v, pow uint64 = 0, 1
		for _, c := range s[:n] {
			v, pow = v*10+uint64(c-'0'), pow*10
		}
		s = s[n:]
		over, h1 := bits.Mul64(hi, pow)
		if over != 0 {
			return h, false
		}
		carry, l := bits.Mul64(lo, pow)
		var c uint64
		lo, c = bits.Add64(l, v, 0)
		hi, c = bits.Add64(h1, carry, c)
		if c != 0 {
			return h, false
		}
	}
	for i := range 8 {
		h[i], h[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
	}
	return h, true
}
