package uplink_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// cloud is a Kinesis that misbehaves as it is told, and holds its client to
// the service's rules and to ours: one record of a lane per request, one hash
// key inside and out.
type cloud struct {
	t   *testing.T
	srv *httptest.Server

	mu       sync.Mutex
	streams  map[string]*cloudStream
	fault    func(op string) string // "", or the name of a fault
	skew     time.Duration          // its clock's distance from ours
	auto     bool                   // its streams spread records by themselves
	jsonOnly bool                   // it does not understand CBOR
	requests map[string]int
	units    []cloudUnit
}

type cloudStream struct {
	shards int
	recs   [][]cloudRecord // by shard, in the order they came
}

// cloudUnit is one Kinesis record as it came.
type cloudUnit struct {
	size, records int
}

type cloudRecord struct {
	ID, Stream, Key string
	Data            string
}

func newCloud(t *testing.T) *cloud {
	c := &cloud{t: t, streams: make(map[string]*cloudStream), requests: make(map[string]int)}
	c.srv = httptest.NewServer(c)
	t.Cleanup(c.srv.Close)
	return c
}

// add makes the stream "target".
func (c *cloud) add(shards int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams["target"] = &cloudStream{shards: shards, recs: make([][]cloudRecord, shards)}
}

func (c *cloud) misbehave(f func(op string) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

func fail(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": text}) // the client may have gone
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Kinesis_20131202.")
	c.requests[op]++
	now := time.Now().Add(c.skew)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	unmarshal := json.Unmarshal
	if r.Header.Get("Content-Type") == cborMedia {
		if c.jsonOnly {
			fail(w, 404, "UnknownOperationException", "")
			return
		}
		unmarshal, w = cbor.Unmarshal, inCBOR{w}
	}
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDTEST/") {
		fail(w, 400, "UnrecognizedClientException", "The security token included in the request is invalid.")
		return
	}
	signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if d := now.Sub(signed); err != nil || d > 5*time.Minute || d < -5*time.Minute {
		fail(w, 400, "InvalidSignatureException", "Signature expired: "+r.Header.Get("X-Amz-Date")+" is now earlier than the server's")
		return
	}
	fault := ""
	if c.fault != nil {
		fault = c.fault(op)
	}
	switch fault {
	case "throttle":
		fail(w, 400, "ProvisionedThroughputExceededException", "Rate exceeded")
		return
	case "503":
		w.WriteHeader(503)
		return
	case "html":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body>Welcome! Please accept the terms.</body></html>")
		return
	case "redirect":
		http.Redirect(w, r, "http://portal.invalid/login", http.StatusFound)
		return
	case "cut before":
		panic(http.ErrAbortHandler)
	}
	switch op {
	case "PutRecords":
		c.putRecords(w, unmarshal, body, fault)
	case "DescribeStreamSummary":
		c.describe(w, body)
	case "CreateStream":
		var in struct {
			StreamName string
			ShardCount int
		}
		if json.Unmarshal(body, &in) != nil || in.ShardCount < 1 {
			fail(w, 400, "ValidationException", "1 validation error detected: shardCount")
			return
		}
		c.streams[in.StreamName] = &cloudStream{shards: in.ShardCount, recs: make([][]cloudRecord, in.ShardCount)}
	default:
		fail(w, 400, "UnknownOperationException", "")
	}
}

func (c *cloud) describe(w http.ResponseWriter, body []byte) {
	var in struct{ StreamName string }
	if err := json.Unmarshal(body, &in); err != nil || c.streams[in.StreamName] == nil {
		fail(w, 400, "ResourceNotFoundException", "Stream "+in.StreamName+" under account 000000000000 not found.")
		return
	}
	sum := map[string]any{"StreamName": in.StreamName, "StreamStatus": "ACTIVE"}
	if c.auto {
		sum["RecordDistributionStrategy"] = "AUTO"
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"StreamDescriptionSummary": sum}) // the client may have gone
}

type putEntry struct {
	Data            []byte
	PartitionKey    string
	ExplicitHashKey string
}

func (c *cloud) putRecords(w http.ResponseWriter, unmarshal func([]byte, any) error, body []byte, fault string) {
	var in struct {
		StreamName string
		Records    []putEntry
	}
	if err := unmarshal(body, &in); err != nil {
		c.t.Errorf("request: %v", err)
		fail(w, 400, "SerializationException", err.Error())
		return
	}
	s := c.streams[in.StreamName]
	if s == nil {
		fail(w, 400, "ResourceNotFoundException", "Stream "+in.StreamName+" under account 000000000000 not found.")
		return
	}
	if n := len(in.Records); n < 1 || n > 500 {
		c.t.Errorf("%d records in a request", n)
	}
	total, seen := 0, make(map[string]bool)
	for i, e := range in.Records {
		total += len(e.Data) + len(e.PartitionKey)
		if seen[e.ExplicitHashKey] {
			c.t.Errorf("two records of lane %s in a request", e.ExplicitHashKey)
		}
		seen[e.ExplicitHashKey] = true
		if strings.Contains(string(e.Data), "<<invalid>>") || len(e.Data)+len(e.PartitionKey) > 1<<20 {
			fail(w, 400, "ValidationException", fmt.Sprintf("1 validation error detected: Value at 'records.%d.member.data' failed to satisfy constraint", i+1))
			return
		}
	}
	if total > 5<<20 {
		c.t.Errorf("a request of %d bytes", total)
	}
	out := make([]map[string]string, len(in.Records))
	for i, e := range in.Records {
		if fault == "entries" && i%3 == 0 {
			out[i] = map[string]string{"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"}
			continue
		}
		if fault == "busy shards" && i%2 == 0 {
			out[i] = map[string]string{"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded for shard"}
			continue
		}
		shard := c.store(s, e)
		out[i] = map[string]string{"SequenceNumber": fmt.Sprint("4957", len(s.recs[shard])), "ShardId": fmt.Sprintf("shardId-%012d", shard)}
	}
	switch fault {
	case "500 after":
		fail(w, 500, "InternalFailure", "Internal Service Failure")
		return
	case "cut after":
		panic(http.ErrAbortHandler)
	case "html after":
		fmt.Fprint(w, "<html>gateway</html>")
		return
	case "short answer":
		out = out[:len(out)-1]
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(map[string]any{"FailedRecordCount": 0, "Records": out}) // the client may have gone
}

// store keeps a Kinesis record's user records, as a stock consumer would.
func (c *cloud) store(s *cloudStream, e putEntry) int {
	hash, ok := new(big.Int).SetString(e.ExplicitHashKey, 10)
	if !ok || hash.Sign() < 0 || hash.BitLen() > 128 {
		c.t.Errorf("explicit hash key %q", e.ExplicitHashKey)
		return 0
	}
	shard := int(new(big.Int).Rsh(new(big.Int).Mul(hash, big.NewInt(int64(s.shards))), 128).Int64())
	n := 0
	add := func(key string, data []byte) {
		n++
		s.recs[shard] = append(s.recs[shard], openEnvelope(c.t, key, data))
	}
	if !kpl.IsAggregate(e.Data) {
		add(e.PartitionKey, e.Data)
	} else {
		a, err := kpl.Decode(e.Data)
		if err != nil {
			c.t.Errorf("aggregate: %v", err)
			return shard
		}
		for _, r := range a.All() {
			if r.HashKey != e.ExplicitHashKey {
				c.t.Errorf("hash key %s inside, %s outside", r.HashKey, e.ExplicitHashKey)
			}
			add(r.Key, r.Data)
		}
	}
	c.units = append(c.units, cloudUnit{len(e.Data) + len(e.PartitionKey), n})
	return shard
}

func openEnvelope(t *testing.T, key string, data []byte) cloudRecord {
	env, err := envelope.Open(data)
	if err != nil {
		t.Errorf("envelope %q: %v", data, err)
	}
	if env.Key != "" {
		t.Errorf("the key %q travels twice", env.Key)
	}
	return cloudRecord{env.ID, env.Stream, key, string(env.Data)}
}

// all gives what a stream holds, in the order it came.
func (c *cloud) all(stream string) []cloudRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []cloudRecord
	if s := c.streams[stream]; s != nil {
		for _, shard := range s.recs {
			out = append(out, shard...)
		}
	}
	return out
}
