package kinesisapi

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"forebay/spool/record"
)

// gets is an answer of GetRecords.
type gets struct {
	Records            []struct{ PartitionKey, SequenceNumber string }
	NextShardIterator  *string
	ChildShards        []childShard
	MillisBehindLatest *int64
}

// readOn is one GetRecords, in CBOR, which reads what JSON writes as well.
func (s *Server) readOn(t *testing.T, iterator string, limit int) gets {
	t.Helper()
	in, err := s.cbor.encode(struct {
		ShardIterator string
		Limit         int
	}{iterator, limit})
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.run(t, "GetRecords", s.cbor, in)
	if err != nil {
		t.Fatal(err)
	}
	var out gets
	if err := cbor.Unmarshal(whole(t, s.cbor, a), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// oldest is an iterator from the start of a shard.
func (s *Server) oldest(t *testing.T, stream string, shard int) string {
	t.Helper()
	st, err := s.spool.Stream(stream)
	if err != nil {
		t.Fatal(err)
	}
	it := iterator{stream: stream, created: st.Created().UnixNano(), shard: st.Shards()[shard].ID}
	return s.sealer.seal(kindIterator, it.encode(), s.now())
}

// TestChildShards: at the end of a closed shard there is no iterator any more,
// and the shards that it was split or merged into are named, from the answer on
// that holds its last record.
func TestChildShards(t *testing.T) {
	s := closedDoor(t)
	st, err := s.spool.Stream("s")
	if err != nil {
		t.Fatal(err)
	}
	key := func(i int) *record.HashKey { return &record.HashKey{byte(i * 0x80), 1} }
	for i := range 6 {
		if _, err := st.Put(t.Context(), []record.Record{{Key: fmt.Sprint(i), HashKey: key(i % 2)}}); err != nil {
			t.Fatal(err)
		}
	}
	shards := st.Shards()
	if err := s.spool.Split(t.Context(), st, shards[0].ID, record.HashKey{0x40}); err != nil {
		t.Fatal(err)
	}
	if err := s.spool.Merge(t.Context(), st, st.Shards()[3].ID, shards[1].ID); err != nil {
		t.Fatal(err)
	}
	shards = st.Shards()
	if len(shards) != 5 {
		t.Fatalf("%d shards", len(shards))
	}
	child := func(i int, parents ...string) childShard {
		return childShard{shardName(i), parents, hashKeyRange{decimal(shards[i].From), decimal(shards[i].To)}}
	}
	for shard, want := range map[int][]childShard{
		0: {child(2, shardName(0)), child(3, shardName(0))},
		1: {child(4, shardName(3), shardName(1))},
		3: {child(4, shardName(3), shardName(1))},
		2: nil, 4: nil, // open
	} {
		records := map[int]int{0: 3, 1: 3}[shard]
		it, seen := s.oldest(t, "s", shard), 0
		for seen < records {
			out := s.readOn(t, it, 2)
			if seen += len(out.Records); len(out.Records) == 0 || seen < records && (out.NextShardIterator == nil || out.ChildShards != nil || *out.MillisBehindLatest == 0) {
				t.Fatalf("shard %d after %d records: %+v", shard, seen, out)
			}
			if out.NextShardIterator == nil {
				it = ""
				break
			}
			it = *out.NextShardIterator
		}
		if seen != records {
			t.Fatalf("shard %d: %d records", shard, seen)
		}
		if it == "" {
			it = s.oldest(t, "s", shard)
		}
		out := s.readOn(t, it, 10)
		if (out.NextShardIterator == nil) != (want != nil) || !reflect.DeepEqual(out.ChildShards, want) || *out.MillisBehindLatest != 0 {
			t.Errorf("shard %d at its end: %+v, want the children %+v", shard, out, want)
		}
	}
	// What is put now goes to the open shards and says so.
	for i, want := range map[int]int{0: 2, 1: 4} {
		r := record.Record{Key: "k", HashKey: key(i)}
		if sh := shardOf(st, r.Hash()); sh.Index != want {
			t.Errorf("hash key %d belongs to shard %d, want %d", i, sh.Index, want)
		}
	}
}
