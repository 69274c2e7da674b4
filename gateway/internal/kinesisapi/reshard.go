package kinesisapi

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"forebay/spool"
	"forebay/spool/record"
)

// reshardOperations change what shards a stream has. Each is done, and durable,
// when it is answered: parents take no record any more, and their children do.
func (s *Server) reshardOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.MergeShards":      {toAdminister, decoded(s.mergeShards)},
		"Kinesis_20131202.SplitShard":       {toAdminister, decoded(s.splitShard)},
		"Kinesis_20131202.UpdateShardCount": {toAdminister, decoded(s.updateShardCount)},
	}
}

// findToReshard finds a stream whose shards a client may change: a stream in
// on-demand mode has as many as the service thinks right, which on a box is as
// many as it was created with.
func (c *call) findToReshard(r streamRef) (*spool.Stream, error) {
	st, n, err := c.findNote(r)
	if err != nil {
		return nil, err
	}
	if n.mode() == onDemand {
		return nil, refuse("ValidationException", "Stream %s under account %s is in ON_DEMAND mode, in which its shards cannot be changed. Set it to PROVISIONED with UpdateStreamMode first.", st.Name(), c.s.cfg.Account)
	}
	return st, nil
}

// openShard finds a shard that can be split or merged.
func (s *Server) openShard(st *spool.Stream, id string) (spool.Shard, error) {
	sh, ok := shardNamed(st, id)
	switch {
	case !ok:
		return sh, s.noShard(id, st.Name())
	case !sh.Open():
		return sh, refuse("ResourceInUseException", "Shard %s in stream %s under account %s has already been merged or split, and thus is not eligible for merging or splitting.", id, st.Name(), s.cfg.Account)
	}
	return sh, nil
}

// reshardError is storeError for what may have changed since it was checked.
func (s *Server) reshardError(err error, doing string, st *spool.Stream) error {
	if errors.Is(err, record.ErrShardClosed) || errors.Is(err, record.ErrNoShard) {
		return refuse("ResourceInUseException", "The shards of stream %s under account %s were changed at the same time. Please look at them again.", st.Name(), s.cfg.Account)
	}
	if bad, ok := errors.AsType[*record.InvalidError](err); ok { // what else could be wrong was checked
		return refuse("LimitExceededException", "The %s.", bad.Error())
	}
	return s.storeError(fmt.Errorf("%s stream %s: %w", doing, st.Name(), err), st.Name())
}

type splitShardInput struct {
	streamRef
	ShardToSplit       *string
	NewStartingHashKey *string
}

func (s *Server) splitShard(ctx context.Context, c *call, in *splitShardInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	f.required("shardToSplit", in.ShardToSplit, 1, maxName, nameRE, patternName)
	switch k := in.NewStartingHashKey; {
	case k == nil:
		f.null("newStartingHashKey")
	case !validHashKey(*k):
		f.add(quoted(*k), "newStartingHashKey", "satisfy regular expression pattern: "+patternHashKey)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	st, err := c.findToReshard(in.streamRef)
	if err != nil {
		return nil, err
	}
	sh, err := s.openShard(st, *in.ShardToSplit)
	if err != nil {
		return nil, err
	}
	at, ok := parseHashKey(*in.NewStartingHashKey)
	if !ok || !divides(sh, at) {
		return nil, invalidArgument("NewStartingHashKey %s used in SplitShard() on shard %s in stream %s under account %s is not both greater than one plus the shard's StartingHashKey %s and less than the shard's EndingHashKey %s.",
			*in.NewStartingHashKey, *in.ShardToSplit, st.Name(), s.cfg.Account, decimal(sh.From), decimal(sh.To))
	}
	if err := s.roomFor(1, 2); err != nil {
		return nil, err
	}
	if err := s.spool.Split(ctx, st, sh.ID, at); err != nil {
		return nil, s.reshardError(err, "split a shard of", st)
	}
	s.log.Info("shard split", "stream", st.Name(), "shard", *in.ShardToSplit, "at", *in.NewStartingHashKey, "by", c.by())
	return nil, nil
}

// divides reports whether both halves of a shard split at the key have more
// than one hash key, as AWS asks for.
func divides(sh spool.Shard, at record.HashKey) bool {
	from := new(big.Int).SetBytes(sh.From[:])
	key := new(big.Int).SetBytes(at[:])
	return key.Cmp(from.Add(from, big.NewInt(1))) > 0 && at.Compare(sh.To) < 0
}

type mergeShardsInput struct {
	streamRef
	ShardToMerge         *string
	AdjacentShardToMerge *string
}

func (s *Server) mergeShards(ctx context.Context, c *call, in *mergeShardsInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	f.required("shardToMerge", in.ShardToMerge, 1, maxName, nameRE, patternName)
	f.required("adjacentShardToMerge", in.AdjacentShardToMerge, 1, maxName, nameRE, patternName)
	if err := f.err(); err != nil {
		return nil, err
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	st, err := c.findToReshard(in.streamRef)
	if err != nil {
		return nil, err
	}
	a, err := s.openShard(st, *in.ShardToMerge)
	if err != nil {
		return nil, err
	}
	b, err := s.openShard(st, *in.AdjacentShardToMerge)
	if err != nil {
		return nil, err
	}
	if !adjacent(a, b) {
		return nil, invalidArgument("Shards %s and %s in stream %s under account %s are not an adjacent pair of shards eligible for merging", *in.ShardToMerge, *in.AdjacentShardToMerge, st.Name(), s.cfg.Account)
	}
	if err := s.roomFor(0, 1); err != nil {
		return nil, err
	}
	if err := s.spool.Merge(ctx, st, a.ID, b.ID); err != nil {
		return nil, s.reshardError(err, "merge shards of", st)
	}
	s.log.Info("shards merged", "stream", st.Name(), "shard", *in.ShardToMerge, "adjacent", *in.AdjacentShardToMerge, "by", c.by())
	return nil, nil
}

// adjacent reports whether b's hash keys begin where a's end: the lower of a
// pair is named first.
func adjacent(a, b spool.Shard) bool {
	end := new(big.Int).SetBytes(a.To[:])
	return end.Add(end, big.NewInt(1)).Cmp(new(big.Int).SetBytes(b.From[:])) == 0
}

type updateShardCountInput struct {
	streamRef
	TargetShardCount *int
	ScalingType      *string
}

// updateShardCount takes any number within the box's limit: what AWS bounds to
// the double and the half, and to ten times a day, protects its fleet.
func (s *Server) updateShardCount(ctx context.Context, c *call, in *updateShardCountInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if in.TargetShardCount == nil {
		f.null("targetShardCount")
	}
	f.number("targetShardCount", in.TargetShardCount, 1, 1000000)
	if in.ScalingType == nil {
		f.null("scalingType")
	} else {
		f.enum("scalingType", *in.ScalingType, "UNIFORM_SCALING")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	st, err := c.findToReshard(in.streamRef)
	if err != nil {
		return nil, err
	}
	v := s.view(st)
	have, want := v.open(), *in.TargetShardCount
	// A shard is cut and its pieces are put together: no more than this many.
	if err := s.roomFor(want-have, 2*(have+want)); err != nil {
		return nil, err
	}
	if err := s.spool.Rescale(ctx, st, want); err != nil {
		return nil, s.reshardError(err, "scale", st)
	}
	s.log.Info("stream scaled", "stream", st.Name(), "from", have, "to", want, "by", c.by())
	return struct {
		StreamName, StreamARN               string
		CurrentShardCount, TargetShardCount int
	}{st.Name(), s.arn(st.Name()), have, want}, nil
}
