package spool

import (
	"slices"
	"sync"
)

const (
	// openSegments is how many segments are kept open for readers, over all
	// logs.
	openSegments = 16
	// knownSegments is how many segments keep their index and head in memory.
	knownSegments = 64
)

// A handleCache bounds how many segments are open for reading and how many
// keep their index in memory. The least recently used ones are closed; they
// open again by themselves.
type handleCache struct {
	mu   sync.Mutex
	open []*segment // least recently used first
}

// used notes that a segment was used just now. No lock of a segment or a log
// may be held.
func (h *handleCache) used(s *segment) {
	h.mu.Lock()
	if n := len(h.open); n > 0 && h.open[n-1] == s {
		h.mu.Unlock()
		return
	}
	if i := slices.Index(h.open, s); i >= 0 {
		h.open = slices.Delete(h.open, i, i+1)
	}
	h.open = append(h.open, s)
	var closing, forgetting *segment
	if n := len(h.open); n > openSegments {
		closing = h.open[n-openSegments-1]
	}
	if len(h.open) > knownSegments {
		forgetting = h.open[0]
		h.open = slices.Delete(h.open, 0, 1)
	}
	h.mu.Unlock()
	if closing != nil {
		closing.release()
	}
	if forgetting != nil {
		forgetting.forget()
	}
}

// forget drops what was remembered of a segment that is no longer written.
func (s *segment) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked()
	if s.sealed.Load() {
		s.index, s.meta = nil, nil
	}
}
