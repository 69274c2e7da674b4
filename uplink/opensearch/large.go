package opensearch

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// large sees to the one document of a request that was called too large.
func (s *Sink) large(ctx context.Context, p *packer, e *lane.Error) {
	e.Text = "the document is larger than the target takes: " + e.Text
	w := p.entries[0].w
	if e = s.tooLarge(ctx, w, p, e); e.Class != lane.Poison {
		w.stop(e)
		return
	}
	// What called it too large may have gone before the proof.
	w.out.Requests++
	items, again := s.bulk(ctx, p.text, 1, p)
	switch {
	case again == nil:
		s.passed(ctx, p, items)
	case again.Class == lane.Poison: // 413
		w.mem = memory{}
		s.mu.Lock()
		s.largest = min(s.largest, p.sent-1)
		s.mu.Unlock()
		w.stop(e)
	default:
		w.stop(again)
	}
}

// tooLarge says whose fault it is that a document was called too large alone:
// something in between may say so of everything. It is the document's, class
// Poison, where the target takes its control, or else, after some tries, a
// request of white space.
func (s *Sink) tooLarge(ctx context.Context, w *work, p *packer, why *lane.Error) *lane.Error {
	s.mu.Lock()
	most, control := s.largest, s.controls[w.Lane.Stream]
	s.mu.Unlock()
	all, wait := *why, true
	all.Class = lane.Misconfigured
	switch {
	case control != nil:
		w.out.Requests++
		w.out.Bytes += len(control)
		_, e := s.bulk(ctx, control, 1, nil)
		if e == nil {
			return why // whatever it says of the control: it has read it
		}
		if e.Class != lane.Poison {
			return e // later, then
		}
		all.Text = "the target refuses everything of this stream, even what it took before: " + all.Text
	case p.sent <= most:
		all.Text = fmt.Sprintf("the target has taken a request of %d bytes, and calls one of %d too large; something in between may answer so: %s", most, p.sent, all.Text)
	default:
		all.Text = fmt.Sprintf("the target takes nothing of this stream now, and calls a document of %d bytes too large; "+
			"look at http.max_content_length of it, and at the limits of what stands in between: %s", len(p.text), all.Text)
		wait = len(p.text) < web.PlausiblyLarge
	}
	if w.mem.alone++; wait && w.mem.alone < tries {
		return &all
	}
	w.out.Requests++
	a, sent, e := s.to.call(ctx, http.MethodPost, s.to.bulkPath(), bytes.Repeat([]byte(" "), blankSize))
	w.out.Bytes += sent
	switch {
	case e == nil && a.Page():
		return a.Portal()
	case e == nil || a != nil && a.Status == http.StatusBadRequest && causeOf(a.Body) != nil:
		return why // it was read, then
	case e.Class == lane.Poison: // 413
		return &all
	}
	return e
}

// blankSize is how many bytes of white space a request has that proves that
// the service reads any: it has no line end, for which it is refused. What
// calls it too large, too, calls everything so.
const blankSize = 1 << 10
