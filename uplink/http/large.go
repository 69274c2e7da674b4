package http

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// tooLarge says whose fault it is that the one record of a request was called
// too large: something in between may say so of everything. It is the record's,
// class Poison, where the target takes others: one since it began to refuse,
// or its control, or else, after some tries, a request of white space.
func (r *run) tooLarge(ctx context.Context, q *request, v verdict) *lane.Error {
	s := r.s
	if r.refusing && s.accepted(r.url) > r.before {
		return v.err
	}
	r.note()
	all, wait := *v.err, true
	all.Class = lane.Misconfigured
	most, control := s.largest(r.url), s.control(r.url)
	switch {
	case control != nil:
		c := s.deliver(ctx, r.url, control, r.out)
		if c.err == nil {
			return v.err
		}
		if !c.refused && !c.large {
			return c.err // later, then
		}
		all.Text = "the target refuses everything, even what it took before: " + all.Text
		if c.refused {
			return &all
		}
	case v.sent <= most:
		all.Text = fmt.Sprintf("the target has taken a request of %d bytes, and calls one of %d too large; something in between may answer so: %s", most, v.sent, all.Text)
	default:
		all.Text = fmt.Sprintf("the target takes nothing now, and calls a record of %d bytes too large; look at the limits for a request of it, and of what stands in between: %s", len(q.text), all.Text)
		wait = len(q.text) < web.PlausiblyLarge
	}
	if r.mem.alone++; wait && r.mem.alone < tries {
		return &all
	}
	blank := s.blank(q)
	if blank == nil {
		if control != nil {
			return &all
		}
		return v.err // nothing can prove it
	}
	switch c := s.deliver(ctx, r.url, blank, r.out); {
	case c.large:
		return &all
	case c.err == nil || c.refused || c.other: // it was read, then
		return v.err
	default:
		return c.err
	}
}

// blankSize is how large a blank request is: what calls it too large, too,
// calls everything so.
const blankSize = 1 << 10

// blank is a request with white space instead of records; nil where white space
// would be a record.
func (s *Sink) blank(q *request) *parcel {
	text := bytes.Repeat([]byte(" "), blankSize)
	switch {
	case s.cfg.Body == "json":
		text[0], text[len(text)-1] = '[', ']'
	case s.cfg.Body == "ndjson":
		text[len(text)-1] = '\n'
	case s.cfg.Format == "raw":
		return nil
	}
	body, err := s.coder.Encode(text)
	if err != nil {
		return nil
	}
	key := fmt.Sprintf("%s/%016x/blank-%08x", s.id.Gateway, s.id.Epoch, crc32.ChecksumIEEE(text))
	return &parcel{key: ascii(key), contentType: q.contentType, body: body, size: len(text)}
}

// largest is how many bytes a request had at most that a target took, as it
// travelled.
func (s *Sink) largest(url string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(url).largest
}

// refuses notes that a request of n bytes is too large, for sure.
func (s *Sink) refuses(url string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.at(url)
	t.largest = min(t.largest, n-1)
}
