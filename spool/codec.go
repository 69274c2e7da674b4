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

// packFrom is the least body that is worth packing: below it the page that
// holds it is written anyway, bytes.
const packFrom = 2 << 10

// maxSkip is how many bodies are left as they are, at most, after one that did
// not become smaller.
const maxSkip = 31

// A packer makes bodies smaller where that pays. It belongs to one writer. Where
// payloads do not pack it tries ever more rarely.
type packer struct {
	off     bool
	scratch []byte
	skip    int // bodies that are not tried now
	pause   int // skip after the next that does not pay
}

// pack returns the body as it is stored, in new memory unless it is the body
// itself.
func (p *packer) pack(body []byte) (stored []byte, codec uint8) {
	if p.off || len(body) < packFrom {
		return body, codecPlain
	}
	if p.skip > 0 {
		p.skip--
		return body, codecPlain
	}
	if need := s2.MaxEncodedLen(len(body)); cap(p.scratch) < need {
		p.scratch = make([]byte, need)
	}
	packed := s2.EncodeSnappy(p.scratch[:cap(p.scratch)], body)
	if len(packed) > len(body)-len(body)/8 {
		p.pause = min(2*p.pause+1, maxSkip)
		p.skip = p.pause
		return body, codecPlain // not worth unpacking it again
	}
	p.pause = 0
	return append(make([]byte, 0, len(packed)), packed...), codecSnappy
}

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
