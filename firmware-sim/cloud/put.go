package cloud

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// put is a PutRecords request from which some records were taken.
type put struct {
	enc  encoding
	body []byte   // what is left of it
	kept []int    // places of the records that are in it
	lots []string // for each record of the request "", or the error it gets
}

const (
	internal  = "InternalFailure"
	throttled = "ProvisionedThroughputExceededException"
)

// sift takes the records out of a request that are to fail.
func (c *Cloud) sift(r *http.Request, body []byte, l lot) (*put, error) {
	enc := encodingOf(r)
	var in map[string]raw
	if err := enc.unmarshal(body, &in); err != nil {
		return nil, err
	}
	var recs []raw
	if err := enc.unmarshal(in["Records"], &recs); err != nil {
		return nil, err
	}
	p := &put{enc: enc, lots: make([]string, len(recs))}
	left := []raw{}
	ring := c.ring(r, enc, in["StreamName"], l)
	for i, rec := range recs {
		p.lots[i] = c.fate(enc, rec, l, ring)
		if p.lots[i] == "" {
			p.kept = append(p.kept, i)
			left = append(left, rec)
		}
	}
	var err error
	if in["Records"], err = enc.marshal(left); err != nil {
		return nil, err
	}
	p.body, err = enc.marshal(in)
	return p, err
}

// fate is the error that a record gets, "" for none.
func (c *Cloud) fate(enc encoding, rec raw, l lot, ring []shard) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.rng.Float64(); x < l.EntryFails {
		c.stats[sEntries].Add(1)
		if x < l.EntryFails/2 {
			return internal
		}
		return throttled
	}
	if !l.Throttle || len(ring) == 0 {
		return ""
	}
	var e struct {
		Data                          raw
		PartitionKey, ExplicitHashKey string
	}
	if enc.unmarshal(rec, &e) != nil {
		return "" // the endpoint says what is wrong with it
	}
	b := c.shards.bucket(shardOf(ring, e.PartitionKey, e.ExplicitHashKey))
	if !b.take(c.now(), float64(enc.size(e.Data)+len(e.PartitionKey))) {
		c.stats[sThrottled].Add(1)
		return throttled
	}
	return ""
}

// join puts the answer to what was sent and the errors of what was not
// together. answer is nil if nothing was sent.
func (p *put) join(answer []byte) ([]byte, error) {
	var got struct {
		FailedRecordCount int
		EncryptionType    string `json:",omitempty"`
		Records           []raw
	}
	if answer != nil {
		if err := p.enc.unmarshal(answer, &got); err != nil {
			return nil, fmt.Errorf("answer of the endpoint: %w", err)
		}
		if len(got.Records) != len(p.kept) {
			return nil, fmt.Errorf("the endpoint answers %d records of %d", len(got.Records), len(p.kept))
		}
	}
	stored := got.Records
	got.Records = make([]raw, 0, len(p.lots))
	for _, code := range p.lots {
		if code == "" {
			got.Records = append(got.Records, stored[0])
			stored = stored[1:]
			continue
		}
		b, err := p.enc.marshal(map[string]string{"ErrorCode": code, "ErrorMessage": "by lot"})
		if err != nil {
			return nil, err
		}
		got.Records = append(got.Records, b)
		got.FailedRecordCount++
	}
	return p.enc.marshal(got)
}

// shards are the limits of the shards there are.
type shards struct {
	rings   map[string]ring
	buckets map[string]*bucket
}

// A ring is a stream's open shards as they were a moment ago.
type ring struct {
	shards []shard
	at     time.Time
}

type shard struct {
	id       string
	from, to *big.Int
}

const ringAge = time.Second

// ring is the stream's open shards, asked for once a second.
func (c *Cloud) ring(r *http.Request, enc encoding, name raw, l lot) []shard {
	if !l.Throttle {
		return nil
	}
	var text string
	if enc.unmarshal(name, &text) != nil {
		return nil // the endpoint says what is wrong with it
	}
	stream, err := json.Marshal(text)
	if err != nil {
		return nil
	}
	c.mu.Lock()
	known, ok := c.shards.rings[string(stream)]
	c.mu.Unlock()
	if ok && c.now().Sub(known.at) < ringAge {
		return known.shards
	}
	body := []byte(`{"StreamName":` + string(stream) + `,"ShardFilter":{"Type":"AT_LATEST"}}`)
	status, _, answer, err := c.ask(r, "Kinesis_20131202.ListShards", jsonMedia, body)
	if err != nil || status != http.StatusOK {
		return known.shards
	}
	var out struct {
		Shards []struct {
			ShardID      string `json:"ShardId"`
			HashKeyRange struct{ StartingHashKey, EndingHashKey string }
		}
	}
	if json.Unmarshal(answer, &out) != nil {
		return known.shards
	}
	now := ring{at: c.now()}
	for _, s := range out.Shards {
		from, ok1 := new(big.Int).SetString(s.HashKeyRange.StartingHashKey, 10)
		to, ok2 := new(big.Int).SetString(s.HashKeyRange.EndingHashKey, 10)
		if ok1 && ok2 {
			now.shards = append(now.shards, shard{string(stream) + s.ShardID, from, to})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shards.rings == nil {
		c.shards.rings = map[string]ring{}
	}
	c.shards.rings[string(stream)] = now
	return now.shards
}

// shardOf is the shard that a record goes to.
func shardOf(ring []shard, key, explicit string) string {
	h, ok := new(big.Int).SetString(explicit, 10)
	if !ok {
		sum := md5.Sum([]byte(key))
		h = new(big.Int).SetBytes(sum[:])
	}
	for _, s := range ring {
		if s.from.Cmp(h) <= 0 && h.Cmp(s.to) <= 0 {
			return s.id
		}
	}
	return ""
}

// A bucket holds what a shard takes: 1,000 records and 1 MB a second.
type bucket struct {
	records, bytes float64
	at             time.Time
}

const (
	shardRecords = 1000
	shardBytes   = 1 << 20
)

func (s *shards) bucket(id string) *bucket {
	if s.buckets == nil {
		s.buckets = map[string]*bucket{}
	}
	b := s.buckets[id]
	if b == nil {
		b = &bucket{records: shardRecords, bytes: shardBytes}
		s.buckets[id] = b
	}
	return b
}

// take takes one record of n bytes; false if the second is used up.
func (b *bucket) take(now time.Time, n float64) bool {
	if !b.at.IsZero() {
		passed := max(now.Sub(b.at).Seconds(), 0)
		b.records = min(b.records+passed*shardRecords, shardRecords)
		b.bytes = min(b.bytes+passed*shardBytes, shardBytes)
	}
	b.at = now
	if b.records < 1 || b.bytes < n {
		return false
	}
	b.records--
	b.bytes -= n
	return true
}
