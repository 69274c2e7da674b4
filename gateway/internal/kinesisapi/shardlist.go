package kinesisapi

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// A shardView is a stream's shards at one moment.
type shardView struct {
	st     *spool.Stream
	all    []spool.Shard                  // that the log knows, by index
	of     map[record.ShardID]spool.Shard // the same
	listed []spool.Shard                  // those that clients are shown, by index
	shown  map[record.ShardID]bool        // the same
}

// view looks at a stream's shards. A closed shard is shown until it has been
// closed for the retention and its last record has gone, and as long as one of
// its parents is shown, or the one that it was merged with: so the oldest that
// are shown have all hash keys. Where the quota alone ends a record's life, an empty
// closed shard is shown for as long as on a stream that nobody configured.
func (s *Server) view(st *spool.Stream) shardView {
	all := st.Shards() // by index, so that parents come before their children
	v := shardView{st: st, all: all, of: make(map[record.ShardID]spool.Shard, len(all)), shown: make(map[record.ShardID]bool, len(all))}
	age := st.Config().MaxAge.D()
	if age <= 0 {
		age = newRetention
	}
	horizon := s.now().Add(-age)
	for _, sh := range all {
		v.of[sh.ID] = sh
	}
	for i, sh := range all {
		if v.closing(sh) {
			sh.Closed = time.Time{}
			all[i], v.of[sh.ID] = sh, sh
		}
		expired := !sh.Open() && sh.First >= sh.Next && sh.Closed.Before(horizon)
		led := v.hasShownParent(sh)
		v.shown[sh.ID] = led || !expired
		for _, id := range sh.Parents {
			v.shown[id] = led
		}
	}
	for _, sh := range all {
		if v.shown[sh.ID] {
			v.listed = append(v.listed, sh)
		}
	}
	return v
}

// closing reports whether a shard is closed and its children are not there yet:
// that change is still on its way, and is shown when it is whole.
func (v *shardView) closing(sh spool.Shard) bool {
	return !sh.Open() && !slices.ContainsFunc(sh.Children, func(c record.ShardID) bool { _, ok := v.of[c]; return ok })
}

func (v *shardView) hasShownParent(sh spool.Shard) bool {
	return slices.ContainsFunc(sh.Parents, func(p record.ShardID) bool { return v.shown[p] })
}

// A life is the time from which on and until which a shard counts as open;
// to is zero while it is.
type life struct{ from, to time.Time }

// lives dates the changes of shards, each so that all its parents end and all
// its children begin at one time: at any time there is one shard for every hash
// key. A shard's own dates leave gaps and overlap where changes follow each
// other quickly, as those of UpdateShardCount do: it counts as created a second
// after its parents or later. No change is dated before it was made, so that
// what arrived at a time is in the shards of that time or behind them.
func (v *shardView) lives() map[record.ShardID]life {
	of := make(map[record.ShardID]life, len(v.all))
	for _, sh := range v.all {
		l := life{from: sh.Created}
		var changed time.Time
		for _, id := range sh.Parents {
			if p, ok := of[id]; ok {
				changed = latest(changed, p.from, v.of[id].Closed)
			}
		}
		for _, id := range sh.Parents {
			if p, ok := of[id]; ok {
				of[id] = life{p.from, changed}
				l.from = changed
			}
		}
		of[sh.ID] = l
	}
	return of
}

func latest(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// open counts the open shards.
func (v *shardView) open() int {
	n := 0
	for _, sh := range v.listed {
		if sh.Open() {
			n++
		}
	}
	return n
}

// The numbers between which those of a shard's records lie. The ending one is
// the greatest that a shard can have, as AWS writes it: it is behind every
// record, and before the numbers of the shard's children.
func (p place) starting() sequence { return p.sequence(0) }
func (p place) ending() sequence   { return p.sequence(maxCounter) }

// after gives the sequence number in the log behind which a reader begins that
// asked for q, or for what comes after q. q is the number of a record, or one
// of the two that a description of the shard gives; false if it is none of the
// shard's.
func (q sequence) after(ctx context.Context, st *spool.Stream, sh spool.Shard, inclusive bool) (uint64, bool) {
	at := placeOf(st, sh)
	switch {
	case q.place() != at.sequence(q.seq):
		return 0, false
	case !sh.Open() && q == at.ending():
		return sh.Next - 1, true
	case q.seq >= sh.Next || !q.stored(ctx, st, sh):
		return 0, false
	case inclusive:
		return max(q.seq, 1) - 1, true
	}
	return q.seq, true
}

// stored reports whether the record that q numbers is the one that the log has
// there, as far as that can be told.
func (q sequence) stored(ctx context.Context, st *spool.Stream, sh spool.Shard) bool {
	if q.epoch == 0 || q.seq < sh.First {
		return true
	}
	rd, err := st.Reader(sh.ID, spool.After(q.seq-1))
	if err != nil {
		return true
	}
	defer rd.Close()
	b, err := rd.Poll(ctx, 1)
	if err != nil || len(b.Recs) == 0 || b.Recs[0].Origin == nil {
		return true
	}
	at := place{epoch: b.Recs[0].Origin.Epoch}
	return q.epoch == at.sequence(0).epoch
}

type sequenceNumberRange struct {
	StartingSequenceNumber string
	EndingSequenceNumber   string `json:",omitempty"` // of a closed shard
}

type shardDescription struct {
	ShardID               string `json:"ShardId"`
	ParentShardID         string `json:"ParentShardId,omitempty"`
	AdjacentParentShardID string `json:"AdjacentParentShardId,omitempty"`
	HashKeyRange          hashKeyRange
	SequenceNumberRange   sequenceNumberRange
}

func (v *shardView) describe(sh spool.Shard) shardDescription {
	at := placeOf(v.st, sh)
	d := shardDescription{
		ShardID:             shardName(sh.Index),
		HashKeyRange:        hashKeyRange{decimal(sh.From), decimal(sh.To)},
		SequenceNumberRange: sequenceNumberRange{StartingSequenceNumber: at.starting().String()},
	}
	if !sh.Open() {
		d.SequenceNumberRange.EndingSequenceNumber = at.ending().String()
	}
	for i, to := range []*string{&d.ParentShardID, &d.AdjacentParentShardID} {
		if i < len(sh.Parents) {
			if p, ok := v.of[sh.Parents[i]]; ok {
				*to = shardName(p.Index)
			}
		}
	}
	return d
}

// page gives at most limit of the listed shards whose id sorts behind after and
// which the filter lets through.
func (v *shardView) page(after string, limit int, lets func(spool.Shard) bool) (page []shardDescription, more bool) {
	page = []shardDescription{}
	for _, sh := range v.listed {
		if shardName(sh.Index) <= after || !lets(sh) {
			continue
		}
		if len(page) == limit {
			return page, true
		}
		page = append(page, v.describe(sh))
	}
	return page, false
}

type shardFilter struct {
	Type      *string
	ShardID   *string `json:"ShardId"`
	Timestamp *epoch
}

type listShardsInput struct {
	streamRef
	NextToken               *string
	ExclusiveStartShardID   *string `json:"ExclusiveStartShardId"`
	MaxResults              *int
	StreamCreationTimestamp *epoch
	ShardFilter             *shardFilter
}

func (in *listShardsInput) check() error {
	var f faults
	f.stream(in.streamRef)
	f.number("maxResults", in.MaxResults, 1, maxListed)
	f.text("exclusiveStartShardId", in.ExclusiveStartShardID, 1, maxName, nameRE, patternName)
	f.text("nextToken", in.NextToken, 1, maxPageToken, nil, "")
	if fl := in.ShardFilter; fl != nil {
		if fl.Type == nil {
			f.null("shardFilter.type")
		} else {
			f.enum("shardFilter.type", *fl.Type, "AFTER_SHARD_ID", "AT_TRIM_HORIZON", "FROM_TRIM_HORIZON", "AT_LATEST", "AT_TIMESTAMP", "FROM_TIMESTAMP")
		}
		f.text("shardFilter.shardId", fl.ShardID, 1, maxName, nameRE, patternName)
	}
	if err := f.err(); err != nil {
		return err
	}
	if in.NextToken != nil {
		switch {
		case in.StreamName != nil:
			return invalidArgument("NextToken and StreamName cannot be provided together.")
		case in.StreamCreationTimestamp != nil:
			return invalidArgument("NextToken and StreamCreationTimestamp cannot be provided together.")
		case in.ExclusiveStartShardID != nil:
			return invalidArgument("NextToken and ExclusiveStartShardId cannot be provided together.")
		case in.ShardFilter != nil:
			return invalidArgument("NextToken and ShardFilter cannot be provided together.")
		}
	}
	return in.ShardFilter.check()
}

// check holds the rules between a filter's members.
func (fl *shardFilter) check() error {
	if fl == nil {
		return nil
	}
	byID := *fl.Type == "AFTER_SHARD_ID"
	byTime := *fl.Type == "AT_TIMESTAMP" || *fl.Type == "FROM_TIMESTAMP"
	switch {
	case byID && fl.ShardID == nil:
		return invalidArgument("ShardId must be specified for the ShardFilter type %s.", *fl.Type)
	case !byID && fl.ShardID != nil:
		return invalidArgument("ShardId must not be specified for the ShardFilter type %s.", *fl.Type)
	case byTime && fl.Timestamp == nil:
		return invalidArgument("Timestamp must be specified for the ShardFilter type %s.", *fl.Type)
	case !byTime && fl.Timestamp != nil:
		return invalidArgument("Timestamp must not be specified for the ShardFilter type %s.", *fl.Type)
	}
	return nil
}

// A listing is a request for shards as its pages go on with it; it is what a
// NextToken holds.
type listing struct {
	Stream  string `json:"s"`
	Created int64  `json:"c"`           // of the stream, Unix nanoseconds
	After   string `json:"a,omitempty"` // the id of the last shard that was given
	Filter  string `json:"f,omitempty"` // its type
	At      int64  `json:"t,omitempty"` // its timestamp, Unix milliseconds
}

// lets is the filter. The AT_ filters give shards from which, following the
// children of each, a reader comes by every record from that moment on: so the
// oldest shards that there are stand for a moment before them.
func (v *shardView) lets(l listing) func(spool.Shard) bool {
	oldest := func(sh spool.Shard) bool { return !v.hasShownParent(sh) }
	switch l.Filter {
	case "AT_LATEST":
		return spool.Shard.Open
	case "AT_TRIM_HORIZON":
		return oldest
	case "AT_TIMESTAMP", "FROM_TIMESTAMP":
		at, of := time.UnixMilli(l.At), v.lives()
		from := l.Filter == "FROM_TIMESTAMP"
		return func(sh spool.Shard) bool {
			lived := of[sh.ID]
			return (sh.Open() || !lived.to.Before(at)) && (from || oldest(sh) || !lived.from.After(at))
		}
	}
	return func(spool.Shard) bool { return true } // AFTER_SHARD_ID, FROM_TRIM_HORIZON, none
}

// listing begins a listing or goes on with one.
func (s *Server) listing(in *listShardsInput) (listing, error) {
	var l listing
	if in.NextToken != nil {
		body, err := s.openPage(kindShards, *in.NextToken)
		if err != nil {
			return l, err
		}
		if err := json.Unmarshal(body, &l); err != nil { // sealed: we wrote it
			return l, internalFailure(err)
		}
		return l, nil
	}
	if in.ExclusiveStartShardID != nil {
		l.After = *in.ExclusiveStartShardID
	}
	if fl := in.ShardFilter; fl != nil {
		l.Filter = *fl.Type
		if fl.ShardID != nil {
			l.After = max(l.After, *fl.ShardID)
		}
		if fl.Timestamp != nil {
			l.At = time.Time(*fl.Timestamp).UnixMilli()
		}
	}
	return l, nil
}

func (s *Server) listShards(_ context.Context, c *call, in *listShardsInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	l, err := s.listing(in)
	if err != nil {
		return nil, err
	}
	ref := in.streamRef
	if in.NextToken != nil {
		ref.StreamName = &l.Stream
	}
	st, err := c.find(ref)
	if err != nil {
		return nil, err
	}
	created := st.Created().UnixNano()
	if in.NextToken != nil && l.Created != created {
		return nil, s.noStream(st.Name())
	}
	if t := in.StreamCreationTimestamp; t != nil && time.Time(*t).Unix() != st.Created().Unix() {
		return nil, s.noStream(st.Name())
	}
	limit := 1000
	if in.MaxResults != nil {
		limit = min(limit, *in.MaxResults)
	}
	var out struct {
		NextToken string `json:",omitempty"`
		Shards    []shardDescription
	}
	v := s.view(st)
	var more bool
	if out.Shards, more = v.page(l.After, limit, v.lets(l)); more {
		l.Stream, l.Created, l.After = st.Name(), created, out.Shards[limit-1].ShardID
		body, err := json.Marshal(l)
		if err != nil {
			return nil, internalFailure(err)
		}
		out.NextToken = s.sealer.seal(kindShards, body, s.now())
	}
	return out, nil
}
