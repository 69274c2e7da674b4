package main

import (
	"context"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// unwrapped is a shard as rules and points see it: what another gateway, or a
// producer that aggregates, has sent comes as the records it was. Each part of
// a record has the record's Pos and Arrived; a stored record never stands in
// two batches, so that Next is a place between stored records.
type unwrapped struct {
	*spool.Reader

	recs  []record.Record
	ratio int // parts to a record in the last batch
}

// A follower is what unwrap gives: an interface, so that none is nil.
type follower interface {
	Next(ctx context.Context, limit int) (record.Batch, error)
	Pos() uint64
	Close() error
}

func unwrap(rd *spool.Reader, err error) (follower, error) {
	if err != nil {
		return nil, err
	}
	return &unwrapped{Reader: rd, ratio: 1}, nil
}

// Next waits for records. Where they have parts it may yield more than max.
func (u *unwrapped) Next(ctx context.Context, limit int) (record.Batch, error) {
	b, err := u.Reader.Next(ctx, max(limit/u.ratio, 1))
	if err != nil || len(b.Recs) == 0 {
		return b, err
	}
	stored := len(b.Recs)
	clear(u.recs)
	u.recs = u.recs[:0]
	for i := range b.Recs {
		r := &b.Recs[i]
		in := kpl.Open(r.Data)
		if in == nil {
			u.recs = append(u.recs, opened(*r))
			continue
		}
		for _, x := range in.All() {
			part := *r
			part.Key, part.Data = x.Key, x.Data
			u.recs = append(u.recs, opened(part))
		}
	}
	b.Recs = u.recs
	u.ratio = max(len(u.recs)/stored, 1)
	return b, nil
}

// opened is the record inside an envelope, r itself where there is none. The
// time of a record that has none of its sender's is when the gateway before us
// took it. A payload's bytes that lie at that gateway are not ours to point at.
func opened(r record.Record) record.Record {
	in, err := envelope.Open(r.Data)
	if err != nil {
		return r // a payload of somebody else
	}
	if in.Key != "" {
		r.Key = in.Key
	}
	r.At, r.Type, r.Attrs, r.Data = in.At, in.Type, in.Attrs, in.Data
	if r.At.IsZero() {
		r.At = in.Arrived
	}
	return r
}
