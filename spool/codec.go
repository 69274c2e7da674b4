package spool

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// Codecs of a block's body.
const (
	codecPlain = 0
	// codecSnappy is Snappy's block format, which every reader of Snappy or S2
	// unpacks.
	codecSnappy = 1
)

const (
	// packFrom is the least body that is worth packing: below it the page that
	// holds it is written anyway, bytes.
	packFrom = 2 << 10
	// packSample is how much of a body is packed to see whether it pays, bytes.
	packSample = 16 << 10
)

// A packer makes bodies smaller where that pays. It belongs to one writer.
type packer struct {
	off     bool
	scratch []byte
}

// pack returns the body as it is stored, in new memory unless it is the body
// itself.
func (p *packer) pack(body []byte) (stored []byte, codec uint8) {
	if p.off || len(body) < packFrom {
		return body, codecPlain
	}
	if len(body) > 2*packSample { // from the middle: a beginning may not be like the rest
		sample := body[len(body)/2:][:packSample]
		if !pays(len(p.packed(sample)), packSample) {
			return body, codecPlain
		}
	}
	packed := p.packed(body)
	if !pays(len(packed), len(body)) {
		return body, codecPlain
	}
	return append(make([]byte, 0, len(packed)), packed...), codecSnappy
}

// packed is valid until the next call.
func (p *packer) packed(b []byte) []byte {
	if need := s2.MaxEncodedLen(len(b)); cap(p.scratch) < need {
		p.scratch = make([]byte, need)
	}
	return s2.EncodeSnappy(p.scratch[:cap(p.scratch)], b)
}

// pays reports whether packing n bytes of raw is worth unpacking them again.
func pays(n, raw int) bool { return n <= raw-raw/8 }

// unpack returns the body of which raw is the length; it is stored itself
// where nothing was packed.
func unpack(stored []byte, codec uint8, raw uint32) ([]byte, error) {
	if codec == codecPlain {
		if uint32(len(stored)) != raw {
			return nil, errShort
		}
		return stored, nil
	}
	n, err := s2.DecodedLen(stored)
	if err != nil {
		return nil, fmt.Errorf("unpack a block: %w", err)
	}
	if n != int(raw) {
		return nil, errShort
	}
	body, err := s2.Decode(make([]byte, n), stored)
	if err != nil {
		return nil, fmt.Errorf("unpack a block: %w", err)
	}
	return body, nil
}
