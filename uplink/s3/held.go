package s3

import (
	"context"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// maxAhead bounds how many objects a view remembers that lie ahead of it.
const maxAhead = 4096

// A view is what is known of what the target holds of a lane, in one place.
type view struct {
	place
	// Of the records with sequence numbers from lo up to next, the target
	// holds all that it is to hold.
	lo, next uint64
	// ahead are further objects, the nearest last; more says that there may be
	// others behind them.
	ahead []ahead
	more  bool
	// sure is false until something was created since the target was asked:
	// parts of what comes next may be there, from before a failure.
	sure bool
}

// ahead is an object of which only the beginning is known.
type ahead struct {
	first uint64
	name  string
}

// reach moves the view behind the record with sequence number last.
func (v *view) reach(last uint64) {
	v.next = max(v.next, last+1)
	for len(v.ahead) > 0 && v.ahead[len(v.ahead)-1].first < v.next {
		v.ahead = v.ahead[:len(v.ahead)-1]
	}
}

// covers reports whether the view tells about the record.
func (v *view) covers(p *place, seq uint64) bool {
	if v == nil || v.place != *p || seq < v.lo {
		return false
	}
	if seq <= v.next {
		return len(v.ahead) > 0 || !v.more
	}
	// Records in between were left out. What lies ahead may hold this one.
	return !v.more && (len(v.ahead) == 0 || v.ahead[len(v.ahead)-1].first >= seq)
}

// laneID tells lanes apart.
type laneID struct {
	stream string
	shard  record.ShardID
}

func (s *Sink) recall(l *lane.Lane) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := laneID{l.Stream, l.Shard}
	v := s.views[id]
	delete(s.views, id) // it is this Send's until keep
	return v
}

func (s *Sink) keep(l *lane.Lane, v *view) {
	if v == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views[laneID{l.Stream, l.Shard}] = v
}

// look asks the target what it holds of a lane in a place, at and behind the
// record with sequence number seq. Names turn their numbers around, so the
// list begins with the newest object and ends with the one that may hold the
// record: no object has records of two hours, so that one is in this place.
// As a rule it is the first, and there is nothing to ask further.
func (s *Sink) look(ctx context.Context, w *work, p place, seq uint64) (*view, error) {
	v := &view{place: p, lo: seq, next: seq}
	prefix := s.names.list(&p)
	var newest []ahead
	after, page := "", 1
	for {
		found, more, err := s.list(ctx, w, prefix, after, page)
		if err != nil {
			return nil, err
		}
		for _, o := range found {
			after = o.name
			f, ours := first(o.name, prefix)
			if !ours {
				continue
			}
			if f > seq {
				if len(newest) == maxAhead { // the farthest of them
					newest, v.more = append(newest[:0], newest[1:]...), true
				}
				newest = append(newest, ahead{f, o.name})
				continue
			}
			if f == seq {
				newest, more = append(newest, ahead{f, o.name}), false
				break
			}
			last, there, err := s.last(ctx, w, &p, o.name)
			if err != nil {
				return nil, err
			}
			if there && last >= seq {
				v.lo, v.next = f, last+1
			}
			more = false
			break
		}
		if !more || len(found) == 0 {
			break
		}
		page = min(10*page, 1000)
	}
	v.ahead = newest
	v.reach(v.next - 1)
	return v, nil
}
