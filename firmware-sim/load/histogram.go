package load

import "math/bits"

// histogram counts nanoseconds in buckets 1/16 of their power of two wide: a
// quantile is right within 6 %.
type histogram struct {
	n     [64 << 4]uint64
	total uint64
	max   int64
}

func (h *histogram) count(ns int64) {
	ns = max(ns, 0)
	h.n[bucket(uint64(ns))]++
	h.total++
	h.max = max(h.max, ns)
}

func bucket(v uint64) int {
	if v < 16 {
		return int(v)
	}
	exp := bits.Len64(v) - 5 // v>>exp lies in 16..31
	return exp<<4 + int(v>>exp)
}

// upper is the greatest value of a bucket.
func upper(b int) uint64 {
	if b < 16 {
		return uint64(b)
	}
	exp := b>>4 - 1
	return uint64(b&15+16+1)<<exp - 1
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.n {
		h.n[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// quantile in milliseconds.
func (h *histogram) quantile(q float64) float64 {
	want, seen := uint64(q*float64(h.total)), uint64(0)
	for b, n := range h.n {
		if seen += n; seen > want || (seen == h.total && n > 0) {
			return float64(min(upper(b), uint64(h.max))) / 1e6
		}
	}
	return 0
}
