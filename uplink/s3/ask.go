package s3

import (
	"context"
	"net/url"
	"strconv"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// Probe lists one object: the cheapest request that proves name lookup,
// connection, TLS, clock, credentials, and that the bucket is there.
func (s *Sink) Probe(ctx context.Context) error {
	_, err := s.store.list(ctx, url.Values{"prefix": {s.names.prefix}, "max-keys": {"1"}})
	return err
}

// prove makes sure, once, that the target creates an object only where none of
// its name is: exactly once rests on it.
func (s *Sink) prove(ctx context.Context, w *work) error {
	s.mu.Lock()
	proven := s.proven || s.cfg.Conditional == "off"
	s.mu.Unlock()
	if proven {
		return nil
	}
	for range 2 {
		buf := s.store.client.Buffer()
		buf.B = append(buf.B, "Forebay creates this object again and again, to see that the second time is refused.\n"...)
		created, err := s.put(ctx, w, &upload{name: s.names.guard(), kind: "text/plain", once: true, body: buf})
		buf.Release()
		if err != nil {
			return err
		}
		if !created {
			s.mu.Lock()
			s.proven = true
			s.mu.Unlock()
			return nil
		}
	}
	return &lane.Error{
		Class: lane.Misconfigured,
		Text:  "the target ignores If-None-Match and overwrites objects, so duplicates cannot be kept out for certain; set conditional = \"off\" to do with asking what is there",
	}
}

// create creates an object of records; false if one of its name is there.
func (s *Sink) create(ctx context.Context, w *work, name string, body *aws.Buffer, recs []record.Record) (bool, error) {
	last := &recs[len(recs)-1]
	cover := w.Cover(&s.home, lane.Cover{}, 0, &recs[0], last)
	cover.Began = 0 // its name says where it begins
	meta := map[string]string{
		metaLast: strconv.FormatUint(last.Pos.Seq, 10), metaCount: strconv.Itoa(len(recs)), metaCover: cover.String(),
	}
	if s.cfg.Objects == "ndjson" {
		meta[metaFormat] = s.cfg.Format
	}
	return s.put(ctx, w, &upload{name: name, kind: s.kind, once: s.cfg.Conditional == "on", body: body, meta: meta})
}

// put creates an object and counts what it took.
func (s *Sink) put(ctx context.Context, w *work, o *upload) (bool, error) {
	created, err := s.store.put(ctx, o)
	w.out.Requests++
	w.out.Units++
	w.out.Bytes += int(o.size)
	return created, err
}

// list lists at most n objects of a place, those behind a name.
func (s *Sink) list(ctx context.Context, w *work, prefix, after string, n int) (found []object, more bool, err error) {
	q := url.Values{"prefix": {prefix}, "max-keys": {strconv.Itoa(n)}}
	if after != "" {
		q.Set("start-after", after)
	}
	w.out.Requests++
	w.out.Units++
	l, err := s.store.list(ctx, q)
	if err != nil {
		return nil, false, err
	}
	for _, c := range l.Contents {
		found = append(found, object{name: c.Key, size: c.Size})
	}
	return found, l.IsTruncated, nil
}

// remedy is what makes another far side of it.
const remedy = "give the uplink another prefix"

// last is the sequence number of the last record of an object of a place, and
// whether the object is there. An object that cannot be of this log as it is,
// though it says that it has what is to be sent, is an error.
func (s *Sink) last(ctx context.Context, w *work, p *place, name string) (uint64, bool, error) {
	w.out.Requests++
	h, err := s.store.head(ctx, name)
	if err != nil || h == nil {
		return 0, false, err
	}
	n, ok := metaNumber(h, metaLast)
	if !ok {
		return 0, false, &lane.Error{
			Class: lane.Misconfigured,
			Text:  "the object " + name + " has lost its metadata, so nobody can tell how far it goes; move it away, and what is in it is sent again",
		}
	}
	if seq := w.left()[0].Pos.Seq; n >= seq {
		if e := w.Doubt(&s.home, lane.ParseCover(h.Get(metaCover)), n, seq, p.origin == s.names.here, remedy); e != nil {
			e.Text = "object " + name + ": " + e.Text
			return 0, false, e
		}
	}
	return n, true, nil
}
