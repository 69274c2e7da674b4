package kvs

import (
	"fmt"
	"math"
	"time"
)

// Limits of the service on fragments (Developer Guide, service quotas).
const (
	minSpan  = time.Second
	maxSpan  = 20 * time.Second
	maxBytes = 50_000_000

	// A chunk that is longer than a fragment may be is cut into pieces of at
	// most cutSpan and cutBytes, so that a rest of less than minSpan can go
	// with the last.
	cutSpan  = maxSpan - minSpan
	cutBytes = 40_000_000

	// maxJoined is how many records may share a fragment: their ids travel as
	// its metadata, of which the service takes ten.
	maxJoined = 8
	// joinGap is how far apart chunks may lie that share one.
	joinGap = 500 * time.Millisecond
)

// A frame is a picture with its time, in milliseconds since 1970.
type frame struct {
	at   int64 // bytes from the start of the chunk
	ms   int64
	size uint32
	key  bool
}

// A part is the pictures of one record, or of a piece of it, that go into one
// fragment.
type part struct {
	job     *job
	frames  []frame
	index   int // of the piece, from 0
	pieces  int // of the record
	end     int64
	highest int64 // the latest time of a picture
}

// A fragment is what travels as one cluster and is acknowledged as a whole.
type fragment struct {
	track *track
	parts []part
	bytes uint64 // of the cluster
	start int64  // milliseconds since 1970, as all times here
	last  int64  // of the latest picture
	end   int64
}

func (f *fragment) span() time.Duration { return time.Duration(f.end-f.start) * time.Millisecond }

// frames are the pictures of all parts, in the order in which they are
// decoded.
func (f *fragment) frames() []frame {
	if len(f.parts) == 1 {
		return f.parts[0].frames
	}
	var all []frame
	for i := range f.parts {
		all = append(all, f.parts[i].frames...)
	}
	return all
}

// A clip is a record's chunk as it can be sent.
type clip struct {
	track  *track
	pieces []part
}

// timed gives the pictures of a movie the times that they have if the first
// one is shown at start.
func timed(m movie, start time.Time) ([]frame, int64) {
	first, begin := m.samples[0].pts, start.UnixMilli()
	frames, end := make([]frame, len(m.samples)), begin
	for i, s := range m.samples {
		// Offsets are rounded from the start, so that they do not add up.
		frames[i] = frame{at: s.at, size: s.size, key: s.sync, ms: begin + m.track.span(s.pts-first).Milliseconds()}
		end = max(end, begin+m.track.span(s.pts-first+int64(s.dur)).Milliseconds())
	}
	return frames, end
}

// cut makes a clip of a movie: one piece where the limits allow that, else
// several, each of which begins with a key frame.
func cut(j *job, m movie, start time.Time) (*clip, error) {
	frames, end := timed(m, start)
	c := &clip{track: m.track}
	whole := part{job: j, frames: frames, end: end}
	if fits(&whole, maxSpan, maxBytes) {
		c.pieces = []part{whole}
	} else {
		for from := 0; from < len(frames); {
			p, next := piece(frames, end, from)
			if !fits(&p, maxSpan, maxBytes) {
				return nil, unfit(fmt.Sprintf("it holds %s of video and %d bytes without a key frame, and a fragment has at most %s and %d bytes; have the camera make key frames more often",
					time.Duration(p.end-p.frames[0].ms)*time.Millisecond, clusterSize(start.UnixMilli(), p.frames), maxSpan, maxBytes))
			}
			if n := len(c.pieces); n > 0 && next == len(frames) && time.Duration(p.end-p.frames[0].ms)*time.Millisecond < minSpan {
				if both := (part{frames: frames[from-len(c.pieces[n-1].frames):], end: end}); fits(&both, maxSpan, maxBytes) {
					c.pieces, p = c.pieces[:n-1], both
				}
			}
			c.pieces = append(c.pieces, p)
			from = next
		}
	}
	for i := range c.pieces {
		p := &c.pieces[i]
		p.job, p.index, p.pieces, p.highest = j, i, len(c.pieces), math.MinInt64
		for _, f := range p.frames {
			if off := f.ms - p.frames[0].ms; off < math.MinInt16 || off > math.MaxInt16 {
				return nil, unfit("its pictures' times jump by more than 32 s")
			}
			p.highest = max(p.highest, f.ms)
		}
	}
	return c, nil
}

// piece is as much from the given picture on as one fragment may hold, and at
// least up to the next key frame. It gives where the next piece begins.
func piece(frames []frame, end int64, from int) (part, int) {
	best, size := part{}, uint64(0)
	for to := from; ; {
		size += blockSize(&frames[to])
		for to++; to < len(frames) && !frames[to].key; to++ {
			size += blockSize(&frames[to])
		}
		p := part{frames: frames[from:to], end: end}
		if to < len(frames) {
			p.end = frames[to].ms
		}
		long := time.Duration(p.end-frames[from].ms)*time.Millisecond > cutSpan
		if best.frames != nil && (long || size > cutBytes) {
			return best, from + len(best.frames)
		}
		best = p
		if to == len(frames) {
			return best, to
		}
	}
}

func fits(p *part, span time.Duration, bytes uint64) bool {
	start := p.frames[0].ms
	return time.Duration(p.end-start)*time.Millisecond <= span && clusterSize(start, p.frames) <= bytes
}

// plan makes the fragments of clips, in their order. A chunk of less than a
// second shares a fragment with the one before or behind it where they follow
// on each other; where there is none it goes alone, and the service decides.
// Pieces that the far side holds already are left out.
func plan(clips []*clip) []*fragment {
	var out []*fragment
	for _, c := range clips {
		for i := range c.pieces {
			p := &c.pieces[i]
			if p.index < p.job.held {
				continue
			}
			f := &fragment{track: c.track, parts: []part{*p}, start: p.frames[0].ms, last: p.highest, end: p.end}
			f.bytes = clusterSize(f.start, p.frames)
			if n := len(out); n > 0 && (f.span() < minSpan || out[n-1].span() < minSpan) && out[n-1].join(f) {
				continue
			}
			out = append(out, f)
		}
	}
	return out
}

// join takes what follows into the fragment, if the two may travel as one.
func (f *fragment) join(next *fragment) bool {
	a, b := &f.parts[0], &next.parts[0]
	if a.job.alone || b.job.alone || a.pieces > 1 || b.pieces > 1 || len(f.parts) >= maxJoined ||
		!f.follows(next) || next.start-f.end > joinGap.Milliseconds() ||
		time.Duration(next.end-f.start)*time.Millisecond > maxSpan || f.bytes+next.bytes > maxBytes {
		return false
	}
	f.parts = append(f.parts, *b)
	f.last, f.end = next.last, next.end
	f.bytes = clusterSize(f.start, f.frames())
	return true
}

// follows reports whether next may come behind f on the same connection: the
// service compares a fragment's time with that of the last picture before it,
// and a connection has one set of codec parameters.
func (f *fragment) follows(next *fragment) bool {
	return next.start > f.last && f.track.same(next.track)
}

// run is how many of the fragments, from the front, can go over one
// connection.
func run(frags []*fragment) int {
	n := 1
	for n < len(frags) && frags[n-1].follows(frags[n]) {
		n++
	}
	return n
}
