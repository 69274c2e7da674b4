package kafka

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"

	"forebay/spool/record"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A lane's place is a record of the topic of places:
//
//	key:   TRANSACTIONAL_ID TOPIC GATEWAY/EPOCH/SHARD
//	value: {"seq":N,"topic_id":"32 HEX DIGITS","began":N,"shape":"...","arrived":NS}
//
// It says up to which sequence number the topic holds the shard's records of
// that epoch, and from which on (lane.Cover). It counts only for the topic with that id, so that one that was
// deleted and created again begins anew.

// A place names what a sequence number counts in.
type place struct {
	topic string
	of    record.Origin
	shard record.ShardID
}

// A mark is how far a topic has got in a place.
type mark struct {
	Seq     uint64 `json:"seq"`
	TopicID string `json:"topic_id"`
	lane.Cover
}

func topicID(id kadm.TopicID) string { return hex.EncodeToString(id[:]) }

// appendKey appends the key of a place's record.
func appendKey(dst []byte, scope string, p place) []byte {
	dst = append(append(dst, scope...), ' ')
	dst = append(append(dst, p.topic...), ' ')
	dst = append(append(dst, p.of.Gateway...), '/')
	dst = append(append(dst, p.of.Epoch.String()...), '/')
	return strconv.AppendUint(dst, uint64(p.shard), 10)
}

// parseKey is the inverse of appendKey; false for the places of others.
func parseKey(key []byte, scope string) (place, bool) {
	rest, ok := strings.CutPrefix(string(key), scope+" ")
	if !ok {
		return place{}, false
	}
	topic, rest, ok := strings.Cut(rest, " ")
	if !ok {
		return place{}, false
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return place{}, false
	}
	k := strings.LastIndexByte(rest[:i], '/')
	if k < 0 {
		return place{}, false
	}
	shard, err := strconv.ParseUint(rest[i+1:], 10, 32)
	if err != nil {
		return place{}, false
	}
	epoch, err := strconv.ParseUint(rest[k+1:i], 16, 64)
	if err != nil {
		return place{}, false
	}
	return place{topic: topic, of: record.Origin{Gateway: rest[:k], Epoch: record.Epoch(epoch)}, shard: record.ShardID(shard)}, true
}

// A said is a place and its mark as a record tells them.
type said struct {
	place
	mark
}

// cursors is what a sink knows of its places. The topic is read record by
// record in the order of its log; what belongs to a transaction counts when
// its commit is met, so that nobody has to wait for the open transaction of
// another gateway, as a reader of committed records would. What has no end yet
// does not count, whatever epoch it is of: a sink that shuts us out at this
// moment may have begun it, and it may be aborted. Compaction takes a commit
// only when all records of its transaction are gone.
type cursors struct {
	scope string

	reading sync.Mutex // one reads at a time
	next    map[int32]int64
	pending map[int64][]said // by producer id

	mu    sync.Mutex
	marks map[place]mark
}

func newCursors(scope string) *cursors {
	return &cursors{
		scope: scope, next: make(map[int32]int64),
		pending: make(map[int64][]said), marks: make(map[place]mark),
	}
}

// held is how far the topic of that id has got in a place; the zero mark where
// it holds nothing of it.
func (c *cursors) held(p place, id string) mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m, ok := c.marks[p]; ok && m.TopicID == id {
		return m
	}
	return mark{}
}

// renewed reports whether the topic with that id was created anew since it took
// records of a place: it holds none of them.
func (c *cursors) renewed(p place, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.marks[p]
	return ok && m.TopicID != id
}

// set takes marks that are committed.
func (c *cursors) set(list []said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range list {
		if m, ok := c.marks[s.place]; ok && m.TopicID == s.TopicID && m.Seq >= s.Seq {
			continue
		}
		c.marks[s.place] = s.mark
	}
}

// take takes the next record of the topic.
func (c *cursors) take(r *kgo.Record) {
	if r.Attrs.IsControl() {
		// A control record's key is its version and its type: 0 abort, 1
		// commit (message format, control batches).
		if len(r.Key) < 4 {
			return
		}
		if binary.BigEndian.Uint16(r.Key[2:]) == 1 {
			c.set(c.pending[r.ProducerID])
		}
		delete(c.pending, r.ProducerID)
		return
	}
	p, ok := parseKey(r.Key, c.scope)
	if !ok {
		return
	}
	var m mark
	if json.Unmarshal(r.Value, &m) != nil {
		return
	}
	if !r.Attrs.IsTransactional() {
		return // nobody of ours wrote it
	}
	c.pending[r.ProducerID] = append(c.pending[r.ProducerID], said{p, m})
}

// partition is where the places of a scope are written.
func (c *cursors) partition(n int) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.scope))
	return int32(h.Sum32() % uint32(max(n, 1)))
}

// readCursors reads on in the topic of places up to its present end, for a
// producer that has just got its epoch, which ended what was pending of it. It
// gives the partition that the places go to.
func (s *Sink) readCursors(ctx context.Context) (int32, error) {
	c := s.cursors
	c.reading.Lock()
	defer c.reading.Unlock()
	d, err := s.prepareCursors(ctx)
	if err != nil {
		return 0, err
	}
	ends, err := kadm.NewClient(s.admin).ListEndOffsets(ctx, d.Topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, s.about(d.Topic, classify(err, s.adminWire, lane.Offline))
	}
	if id := topicID(d.ID); id != s.cursorID {
		// It is another topic of that name: what we know we know, but it is
		// read from its beginning.
		clear(c.next)
		clear(c.pending)
		s.cursorID = id
	}
	for n := range d.Partitions {
		end, ok := ends.Lookup(d.Topic, n)
		if !ok {
			return 0, &lane.Error{Class: lane.Transient, Text: fmt.Sprintf("topic %s: where partition %d ends is not known", d.Topic, n)}
		}
		p := part{topic: d.Topic, id: d.ID, partition: n}
		c.next[n], err = s.readPart(ctx, p, c.next[n], max(end.Offset, c.next[n]), false, func(r *kgo.Record) error {
			c.take(r)
			return nil
		})
		if err != nil {
			return 0, s.about(d.Topic, classify(err, s.adminWire, lane.Offline))
		}
	}
	return c.partition(len(d.Partitions)), nil
}
