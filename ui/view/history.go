package view

import (
	"math"
	"time"
)

// Columns and column of the history of a point: ten minutes in 600 columns.
const (
	Columns = 600
	column  = time.Second
	window  = Columns * column
)

// history keeps the least and greatest value of each second of the last ten
// minutes of one point.
type history struct {
	low, high [Columns]float64
	stamp     [Columns]int64 // which second the slot holds; 0 = none
	last      time.Time      // newest sample
	every     time.Duration  // usual distance of two samples, learnt
}

// add takes a sample. Samples older than the window fall away.
func (h *history) add(at time.Time, low, high float64) {
	if math.IsNaN(low) || math.IsNaN(high) || math.IsInf(low, 0) || math.IsInf(high, 0) {
		return
	}
	sec := at.Unix()
	if sec <= 0 {
		return
	}
	if !h.last.IsZero() {
		if d := at.Sub(h.last); d > 0 && d <= window {
			// One outage must not pass for a habit: a distance counts
			// for an eighth, and for at most twice what is usual.
			if h.every == 0 {
				h.every = d
			} else {
				h.every += (min(d, 2*h.every) - h.every) / 8
			}
		}
	}
	if at.After(h.last) {
		h.last = at
	}
	i := int(sec % Columns)
	switch {
	case h.stamp[i] == sec:
		h.low[i], h.high[i] = math.Min(h.low[i], low), math.Max(h.high[i], high)
	case h.stamp[i] < sec:
		h.stamp[i], h.low[i], h.high[i] = sec, low, high
	}
}

// pen copies the window that ends at now, scaled to 0..1 of low..high. Gaps
// that are not longer than what is usual for the point are bridged; longer
// ones stay gaps.
func (h *history) pen(now time.Time, low, high float64) (lo, hi []float32) {
	lo, hi = make([]float32, Columns), make([]float32, Columns)
	nan := float32(math.NaN())
	span := high - low
	if span == 0 {
		span = 1
	}
	bridge := h.bridge()
	end, prev := now.Unix(), -1
	for c := range Columns {
		sec := end - int64(Columns-1-c)
		i := int(((sec % Columns) + Columns) % Columns)
		if sec <= 0 || h.stamp[i] != sec {
			lo[c], hi[c] = nan, nan
			continue
		}
		lo[c], hi[c] = float32((h.low[i]-low)/span), float32((h.high[i]-low)/span)
		if prev >= 0 && c-prev > 1 && c-prev <= bridge {
			for k := prev + 1; k < c; k++ {
				f := float32(k-prev) / float32(c-prev)
				lo[k] = lo[prev] + f*(lo[c]-lo[prev])
				hi[k] = hi[prev] + f*(hi[c]-hi[prev])
			}
		}
		prev = c
	}
	return lo, hi
}

// bridge is the longest distance of two samples, in columns, that still
// counts as one line.
func (h *history) bridge() int {
	return max(4, min(Columns, int(5*h.every/(2*column))))
}
