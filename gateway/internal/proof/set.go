// Package proof holds a far side against what was sent to it: which ids are
// there, which are missing, and what that proves. It also writes the report of
// a site's acceptance test. It reads and writes nothing by itself.
package proof

import (
	"errors"
	"fmt"
	"math/bits"
	"sort"
)

// ErrTooScattered says that what is held cannot be kept in the memory that is
// set apart for it.
var ErrTooScattered = errors.New("the ids are scattered too widely to be compared in bounded memory; verify a shorter time with --from and --to")

const (
	pageBits = 12
	pageSize = 1 << pageBits
	// maxPages bounds the pages that are not full: 128 MiB of them, or a
	// thousand million records that came in no order at all.
	maxPages = 1 << 18
	// maxSpans bounds the spans of parts: 64 MiB.
	maxSpans = 4 << 20
	// partBits is the room for a part's number.
	partBits = 22
)

// A Budget bounds what many sets hold together. The zero value is ready.
type Budget struct{ pages, spans int }

// A Set is sequence numbers, a bit each while a page of them is not full, and
// nothing but a mark when it is.
type Set struct {
	b     *Budget
	pages map[uint64]*page
	n     uint64
}

type page struct {
	n    int
	bits *[pageSize / 64]uint64 // nil when all are there
}

// NewSet is an empty set.
func (b *Budget) NewSet() *Set { return &Set{b: b, pages: map[uint64]*page{}} }

// Len is how many numbers the set has.
func (s *Set) Len() uint64 { return s.n }

// Add adds a number; fresh is false where the set has it already.
func (s *Set) Add(v uint64) (fresh bool, err error) {
	p := s.pages[v>>pageBits]
	if p == nil {
		if s.b.pages++; s.b.pages > maxPages {
			return false, ErrTooScattered
		}
		p = &page{bits: new([pageSize / 64]uint64)}
		s.pages[v>>pageBits] = p
	}
	if p.bits == nil {
		return false, nil
	}
	at := v & (pageSize - 1)
	if p.bits[at/64]&(1<<(at%64)) != 0 {
		return false, nil
	}
	p.bits[at/64] |= 1 << (at % 64)
	s.n++
	if p.n++; p.n == pageSize {
		p.bits = nil
		s.b.pages--
	}
	return true, nil
}

// Has reports whether the set has a number.
func (s *Set) Has(v uint64) bool {
	if s == nil {
		return false
	}
	p := s.pages[v>>pageBits]
	return p != nil && (p.bits == nil || p.bits[(v&(pageSize-1))/64]&(1<<(v%64)) != 0)
}

// missing calls gap with the runs of numbers in [from, to], both included, that
// none of the sets has, in rising order.
func missing(from, to uint64, sets []*Set, gap func(first, last uint64)) {
	open, first := false, uint64(0)
	end := func(last uint64) {
		if open {
			gap(first, last)
		}
		open = false
	}
	for v := from; v <= to; {
		// The word that v lies in, all sets together.
		var word uint64
		for _, s := range sets {
			word |= s.word(v)
		}
		low, high := v%64, min(63, v%64+(to-v))
		mask := ^uint64(0) << low & (^uint64(0) >> (63 - high))
		switch word & mask {
		case mask:
			end(v - 1)
		case 0:
			if !open {
				open, first = true, v
			}
		default:
			for i := low; i <= high; i++ {
				has := word&(1<<i) != 0
				switch at := v - low + i; {
				case has:
					end(at - 1)
				case !open:
					open, first = true, at
				}
			}
		}
		if v-low+high == ^uint64(0) {
			break
		}
		v += high - low + 1
	}
	end(to)
}

// word is the 64 numbers around v.
func (s *Set) word(v uint64) uint64 {
	if s == nil {
		return 0
	}
	p := s.pages[v>>pageBits]
	switch {
	case p == nil:
		return 0
	case p.bits == nil:
		return ^uint64(0)
	}
	return p.bits[(v&(pageSize-1))/64]
}

// count is how many numbers of [from, to] the set has.
func (s *Set) count(from, to uint64) uint64 {
	var n uint64
	for v := from; v <= to; {
		low, high := v%64, min(63, v%64+(to-v))
		mask := ^uint64(0) << low & (^uint64(0) >> (63 - high))
		n += uint64(bits.OnesCount64(s.word(v) & mask))
		if v += high - low + 1; v == 0 {
			break
		}
	}
	return n
}

// Spans is numbers as the runs that they form.
type Spans struct {
	b   *Budget
	all [][2]uint64 // both ends included, rising, apart
}

// NewSpans is empty.
func (b *Budget) NewSpans() *Spans { return &Spans{b: b} }

// All are the runs, both ends included, rising. They are the Spans' own.
func (s *Spans) All() [][2]uint64 { return s.all }

// Has reports whether a number is there.
func (s *Spans) Has(v uint64) bool {
	i := sort.Search(len(s.all), func(i int) bool { return s.all[i][1] >= v })
	return i < len(s.all) && s.all[i][0] <= v
}

// Add adds a number; fresh is false where it is there already.
func (s *Spans) Add(v uint64) (fresh bool, err error) {
	i := len(s.all)
	if i > 0 && v <= s.all[i-1][1] {
		i = sort.Search(len(s.all), func(i int) bool { return s.all[i][1] >= v })
		if s.all[i][0] <= v {
			return false, nil
		}
	}
	left := i > 0 && s.all[i-1][1]+1 == v
	right := i < len(s.all) && s.all[i][0] == v+1
	switch {
	case left && right:
		s.all[i-1][1] = s.all[i][1]
		s.all = append(s.all[:i], s.all[i+1:]...)
		s.b.spans--
	case left:
		s.all[i-1][1] = v
	case right:
		s.all[i][0] = v
	default:
		if s.b.spans++; s.b.spans > maxSpans {
			return false, ErrTooScattered
		}
		s.all = append(s.all, [2]uint64{})
		copy(s.all[i+1:], s.all[i:])
		s.all[i] = [2]uint64{v, v}
	}
	return true, nil
}

// place is a part's number in a Spans; ok is false where it has no room there.
func place(seq, part uint64) (v uint64, ok bool) {
	return seq<<partBits | part, seq < 1<<(64-partBits) && part < 1<<partBits
}

// Parts is parts of records, as the runs that they form.
type Parts struct{ Spans }

// NewParts is empty.
func (b *Budget) NewParts() *Parts { return &Parts{Spans{b: b}} }

// Add adds a part of a record. Errors: ErrTooScattered, or the numbers are out
// of all bounds.
func (p *Parts) Add(seq, part uint64) error {
	v, ok := place(seq, part)
	if !ok {
		return fmt.Errorf("part %d of record %d is out of all bounds", part, seq)
	}
	_, err := p.Spans.Add(v)
	return err
}

// All are the runs: record, first part, last part.
func (p *Parts) All() [][3]uint64 {
	out := make([][3]uint64, 0, len(p.all))
	for _, r := range p.all {
		out = append(out, [3]uint64{r[0] >> partBits, r[0] & (1<<partBits - 1), r[1] & (1<<partBits - 1)})
	}
	return out
}
