package kinesisapi

import (
	"math/bits"
	"sync"
)

// The memory of request bodies and of answers is used again: a request of 500
// records brings 100 KB, and hundreds of them come in a second. Buffers are
// kept by size, so that what a request holds follows what it needs; those
// above the largest size go to the garbage collector.
const (
	leastBuffer = 4 << 10
	mostBuffer  = 4 << 20
	bufferSizes = 11 // 4 KiB to 4 MiB by powers of 2

	// pieceSize is what an answer takes at a time, if no record asks for more.
	pieceSize = 1 << 20
)

// buffers is a stock of buffers. What it gives holds whatever stood there last
// within its capacity; its length is 0.
type buffers struct {
	sizes [bufferSizes]sync.Pool // of *[]byte
	heads sync.Pool              // of *[]byte that are empty: Put of a slice would allocate one
}

// sizeClass is the smallest size that holds n bytes.
func sizeClass(n int) int {
	if n <= leastBuffer {
		return 0
	}
	return bits.Len(uint(n-1)) - bits.Len(uint(leastBuffer-1))
}

// bufferSize is the capacity of what get gives for n.
func bufferSize(n int) int {
	if c := sizeClass(n); c < bufferSizes {
		return leastBuffer << c
	}
	return n
}

// get gives a buffer of at least n bytes of capacity: of bufferSize(n).
func (p *buffers) get(n int) []byte {
	c := sizeClass(n)
	if c >= bufferSizes {
		return make([]byte, 0, n)
	}
	if h, ok := p.sizes[c].Get().(*[]byte); ok {
		b := *h
		*h = nil
		p.heads.Put(h)
		return b[:0]
	}
	return make([]byte, 0, leastBuffer<<c)
}

// put takes a buffer back that nobody uses any more.
func (p *buffers) put(b []byte) {
	n := cap(b)
	if n < leastBuffer || n > mostBuffer || n&(n-1) != 0 {
		return
	}
	h, ok := p.heads.Get().(*[]byte)
	if !ok {
		h = new([]byte)
	}
	*h = b
	p.sizes[sizeClass(n)].Put(h)
}

// pieces are an answer in several buffers, so that a long one is neither copied
// while it grows nor asked for in one block of memory. Its buffers come from the
// stock, its bytes from the call's loan, and both go back once it is sent.
//
// An answer to a read is as large as its reader lets it be, and stays until it
// has taken it. So reads grow only while less than half of all memory is held,
// and are small behind that.
type pieces struct {
	from *buffers
	loan *loan
	read bool
	rest bool // what comes now must not be lost for want of room
	full [][]byte
	last []byte
}

// scarcePiece is what an answer to a read gets at a time where it should not
// grow.
const scarcePiece = 64 << 10

// room makes sure of n bytes behind the last; want is how many may still
// come, to choose a size by. It is false if the loan does not go that far.
func (p *pieces) room(n, want int) bool {
	if cap(p.last)-len(p.last) >= n {
		return true
	}
	half := p.loan.held.most / 2
	if p.read && p.loan.held.Load() > half {
		want = min(want, scarcePiece)
	}
	size := bufferSize(max(n, min(want, pieceSize)))
	ok := false
	switch {
	case p.rest:
		ok = p.loan.takeWithin(int64(size), p.loan.held.most)
	case p.read && len(p.last) > 0:
		ok = p.loan.takeWithin(int64(size), half)
	default:
		ok = p.loan.take(int64(size))
	}
	if !ok {
		return false
	}
	b := p.from.get(size)
	if len(p.last) > 0 {
		p.full = append(p.full, p.last)
	} else if p.last != nil {
		p.drop(p.last)
	}
	p.last = b
	return true
}

// drop gives back a piece that nobody uses any more.
func (p *pieces) drop(b []byte) {
	p.loan.give(int64(cap(b)))
	p.from.put(b)
}

// release gives everything back. The answer is not used any more.
func (p *pieces) release() {
	for _, b := range p.full {
		p.drop(b)
	}
	if p.last != nil {
		p.drop(p.last)
	}
	p.full, p.last = nil, nil
}
