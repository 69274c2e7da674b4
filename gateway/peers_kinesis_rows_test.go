//go:build peers

package main

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"
)

var sections = []section{
	{"signatures", (*column).signatures},
	{"streams", (*column).streams},
	{"listing shards", (*column).listing},
	{"putting", (*column).putting},
	{"reading", (*column).reading},
	{"errors", (*column).errors},
	{"retention", (*column).retention},
	{"tags", (*column).tags},
	{"settings", (*column).settings},
	{"dry runs", (*column).dryRuns},
	{"consumers", (*column).consumers},
	{"resharding", (*column).resharding},
	{"what a box has not", (*column).notOnABox},
	{"firehose", (*column).firehose},
	{"deleting", (*column).deleting},
}

const matrixShards = 3

func (r *column) signatures() {
	a := r.c.do(r.T, call{Service: "kinesis", Op: "ListStreams", In: obj{}, Secret: "peers/secret+with=sign"})
	r.refusal("a wrong secret key", "InvalidSignatureException", a)
}

// streams makes the stream of the client and looks at it every way.
func (r *column) streams() {
	r.ok("CreateStream", "", obj{"StreamName": r.stream, "ShardCount": matrixShards})
	r.active("DescribeStreamSummary")
	r.refused("CreateStream", "again", "ResourceInUseException", obj{"StreamName": r.stream, "ShardCount": matrixShards})
	r.refused("CreateStream", "bad name", "ValidationException", obj{"StreamName": "a b", "ShardCount": 1})

	d := sub(r.ok("DescribeStream", "", obj{"StreamName": r.stream}), "StreamDescription")
	r.arn = str(d, "StreamARN")
	r.check(r.arn == "arn:aws:kinesis:us-east-1:000000000000:stream/"+r.stream, "DescribeStream", "ARN %q", r.arn)
	r.check(str(d, "StreamName") == r.stream && str(d, "StreamStatus") == "ACTIVE" && d["HasMoreShards"] == false && str(d, "EncryptionType") == "NONE" &&
		num(d, "RetentionPeriodHours") == 24 && str(sub(d, "StreamModeDetails"), "StreamMode") == "PROVISIONED", "DescribeStream", "%v", d)
	made := at(d, "StreamCreationTimestamp")
	r.check(made.After(r.began.Add(-2*time.Second)) && made.Before(time.Now().Add(2*time.Second)), "DescribeStream", "made at %v", made)
	r.hashRanges("DescribeStream", list(d, "Shards"))

	byARN := sub(r.ok("DescribeStream", "by ARN, a page of 1", obj{"StreamARN": r.arn, "Limit": 1}), "StreamDescription")
	r.check(byARN == nil || len(list(byARN, "Shards")) == 1 && byARN["HasMoreShards"] == true, "DescribeStream: by ARN, a page of 1", "%v", byARN)
	rest := sub(r.ok("DescribeStream", "the next page", obj{"StreamName": r.stream, "ExclusiveStartShardId": shardName(0)}), "StreamDescription")
	r.check(len(list(rest, "Shards")) == 2 && rest["HasMoreShards"] == false, "DescribeStream: the next page", "%v", rest)
	s := sub(r.ok("DescribeStreamSummary", "by ARN", obj{"StreamARN": r.arn}), "StreamDescriptionSummary")
	r.check(s == nil || num(s, "OpenShardCount") == matrixShards && str(s, "StreamName") == r.stream && num(s, "ConsumerCount") == 0, "DescribeStreamSummary: by ARN", "%v", s)

	r.check(slices.Contains(list(r.ok("ListStreams", "", obj{}), "StreamNames"), any(r.stream)), "ListStreams", "%s is not there", r.stream)
	page := r.ok("ListStreams", "page by page", obj{"Limit": 1})
	names := list(page, "StreamNames")
	for page["HasMoreStreams"] == true && len(names) < 1000 {
		page = r.ok("ListStreams", "page by page", obj{"Limit": 1, "ExclusiveStartStreamName": names[len(names)-1]})
		names = append(names, list(page, "StreamNames")...)
	}
	r.check(slices.Contains(names, any(r.stream)) && slices.IsSortedFunc(names, func(a, b any) int { return strings.Compare(a.(string), b.(string)) }), "ListStreams: page by page", "%v", names)
	limits := r.ok("DescribeLimits", "", obj{})
	r.check(num(limits, "OpenShardCount") >= matrixShards && num(limits, "ShardLimit") > num(limits, "OpenShardCount"), "DescribeLimits", "%v", limits)
}

// active waits until the stream may be used; without it there is no matrix.
func (r *column) active(row string) {
	for range 200 {
		o := r.ok(row, "", obj{"StreamName": r.stream})
		switch status := str(sub(o, "StreamDescriptionSummary"), "StreamStatus"); {
		case o == nil:
			r.FailNow()
		case status == "ACTIVE":
			return
		}
	}
	r.Fatal("the stream does not become ACTIVE")
}

func shardName(i int) string { return fmt.Sprintf("shardId-%012d", i) }

// hashRanges compares with the division that AWS makes: equal parts of 2^128,
// rounded down, the last to the end.
func (r *column) hashRanges(row string, shards []any) {
	r.check(len(shards) == matrixShards, row, "%d shards", len(shards))
	all := new(big.Int).Lsh(big.NewInt(1), 128)
	part := new(big.Int).Div(all, big.NewInt(int64(len(shards))))
	for i, v := range shards {
		from := new(big.Int).Mul(part, big.NewInt(int64(i)))
		to := new(big.Int).Add(from, part)
		if i == len(shards)-1 {
			to = all
		}
		to = new(big.Int).Sub(to, big.NewInt(1))
		got := sub(v.(obj), "HashKeyRange")
		r.check(str(got, "StartingHashKey") == from.String() && str(got, "EndingHashKey") == to.String() && str(v.(obj), "ShardId") == shardName(i), row, "shard %d: %v", i, v)
	}
}

func (r *column) listing() {
	all := list(r.ok("ListShards", "", obj{"StreamName": r.stream}), "Shards")
	r.hashRanges("ListShards", all)
	var got []any
	for in := (obj{"StreamName": r.stream, "MaxResults": 1}); in != nil; {
		page := r.ok("ListShards", "page by page", in)
		got = append(got, list(page, "Shards")...)
		in = nil
		if next := str(page, "NextToken"); next != "" && len(got) < 100 {
			in = obj{"NextToken": next, "MaxResults": 1}
		}
	}
	r.hashRanges("ListShards: page by page", got)
	if o := r.ok("ListShards", "by ARN", obj{"StreamARN": r.arn}); o != nil {
		r.hashRanges("ListShards: by ARN", list(o, "Shards"))
	}
	for _, f := range []struct {
		filter obj
		want   int
	}{
		{obj{"Type": "AT_LATEST"}, matrixShards},
		{obj{"Type": "AT_TRIM_HORIZON"}, matrixShards},
		{obj{"Type": "FROM_TRIM_HORIZON"}, matrixShards},
		{obj{"Type": "AFTER_SHARD_ID", "ShardId": shardName(0)}, matrixShards - 1},
		{obj{"Type": "AT_TIMESTAMP", "Timestamp": time.Now().UTC().Format(time.RFC3339)}, matrixShards},
		{obj{"Type": "FROM_TIMESTAMP", "Timestamp": r.began.Add(-time.Hour).UTC().Format(time.RFC3339)}, matrixShards},
	} {
		variant := "filter " + str(f.filter, "Type")
		if str(f.filter, "Type") == "AT_TIMESTAMP" {
			// A second later than the stream: the CLI sends whole seconds.
			<-time.After(time.Until(r.began.Add(2 * time.Second)))
			f.filter["Timestamp"] = time.Now().UTC().Format(time.RFC3339)
		}
		n := len(list(r.ok("ListShards", variant, obj{"StreamName": r.stream, "ShardFilter": f.filter}), "Shards"))
		r.check(n == f.want, "ListShards: "+variant, "%d shards of %d", n, f.want)
	}
	r.refused("ListShards", "a token by chance", "InvalidArgumentException", obj{"NextToken": "AAAA"})
	r.refused("ListShards", "token and name", "InvalidArgumentException", obj{"NextToken": "AAAA", "StreamName": r.stream})
}

// A rec is a record as it was put.
type rec struct {
	data     []byte
	key      string
	hash     string // explicit
	shard    string
	sequence string
}

func (x rec) entry() obj {
	e := obj{"Data": base64.StdEncoding.EncodeToString(x.data), "PartitionKey": x.key}
	if x.hash != "" {
		e["ExplicitHashKey"] = x.hash
	}
	return e
}

// home is the shard that a record belongs to.
func (x rec) home() string {
	h := new(big.Int)
	if x.hash != "" {
		h.SetString(x.hash, 10)
	} else {
		sum := md5.Sum([]byte(x.key))
		h.SetBytes(sum[:])
	}
	part := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(matrixShards))
	return shardName(int(min(new(big.Int).Div(h, part).Int64(), matrixShards-1)))
}

// samples makes records with every byte, odd keys and hashes at the edges of
// the shards.
func samples(n int) []rec {
	src := rand.New(rand.NewPCG(1, 2))
	edges := []string{
		"0", "113427455640312821154458202477256070484", "113427455640312821154458202477256070485",
		"226854911280625642308916404954512140969", "226854911280625642308916404954512140970", "340282366920938463463374607431768211455",
	}
	keys := []string{"schlüssel-ß", "日本語", `quo"te\back`, "<&>'", strings.Repeat("k", 256), "tab\tnew\nline"}
	out := make([]rec, n)
	for i := range out {
		x := rec{data: make([]byte, 1+src.IntN(200)), key: fmt.Sprint("machine/", i%37)}
		for j := range x.data {
			x.data[j] = byte(src.Uint32())
		}
		if i < 256 {
			x.data[0] = byte(i)
		}
		switch {
		case i%50 < len(edges):
			x.hash = edges[i%50]
		case i%50 < len(edges)+len(keys):
			x.key = keys[i%50-len(edges)]
		}
		out[i] = x
	}
	return out
}

// putting writes what reading reads.
func (r *column) putting() {
	first := samples(500)
	entries := []any{}
	for _, x := range first {
		entries = append(entries, x.entry())
	}
	res := r.ok("PutRecords", "500 records", obj{"StreamName": r.stream, "Records": entries})
	r.check(num(res, "FailedRecordCount") == 0 && len(list(res, "Records")) == 500, "PutRecords: 500 records", "%v of them failed, %d answers", res["FailedRecordCount"], len(list(res, "Records")))
	for i, v := range list(res, "Records") {
		first[i].shard, first[i].sequence = str(v.(obj), "ShardId"), str(v.(obj), "SequenceNumber")
		r.check(first[i].shard == first[i].home(), "PutRecords: 500 records", "record %d went to %s and not to %s", i, first[i].shard, first[i].home())
	}
	r.rising("PutRecords: 500 records", first)
	r.refused("PutRecords", "501 records", "ValidationException", obj{"StreamName": r.stream, "Records": append(slices.Clone(entries), entries[0])})

	one := rec{data: []byte("by ARN\x00\xff"), key: "one"}
	last := ""
	for i, in := range []obj{{"StreamName": r.stream}, {"StreamName": r.stream}, {"StreamARN": r.arn}} {
		variant := []string{"", "SequenceNumberForOrdering", "by ARN"}[i]
		maps.Copy(in, one.entry())
		if i == 1 {
			in["SequenceNumberForOrdering"] = last
		}
		o := r.ok("PutRecord", variant, in)
		if o == nil {
			continue
		}
		x := one
		x.shard, x.sequence = str(o, "ShardId"), str(o, "SequenceNumber")
		last = x.sequence
		first = append(first, x)
		r.check(x.shard == x.home(), row("PutRecord", variant), "went to %s and not to %s", x.shard, x.home())
	}
	r.rising("PutRecord", first)
	big := rec{data: bytes.Repeat([]byte{0xfe}, 1<<20-3), key: "big"}
	in := big.entry()
	in["StreamName"] = r.stream
	o := r.ok("PutRecord", "1 MiB", in)
	big.shard, big.sequence = str(o, "ShardId"), str(o, "SequenceNumber")
	in["Data"] = base64.StdEncoding.EncodeToString(append(big.data, 0))
	r.refused("PutRecord", "a byte more than 1 MiB", "InvalidArgumentException", in)
	r.readBack(append(first, big))
}

// rising checks that the numbers of a shard rise in the order of the puts.
func (r *column) rising(row string, recs []rec) {
	last := map[string]*big.Int{}
	for i, x := range recs {
		n, ok := new(big.Int).SetString(x.sequence, 10)
		r.check(ok, row, "record %d has the sequence number %q", i, x.sequence)
		if !ok {
			continue
		}
		if before := last[x.shard]; before != nil {
			r.check(n.Cmp(before) > 0, row, "record %d: %s after %s", i, n, before)
		}
		last[x.shard] = n
	}
}

// readBack reads the whole stream and compares it with what was put.
func (r *column) readBack(put []rec) {
	byShard := map[string][]rec{}
	for _, x := range put {
		byShard[x.shard] = append(byShard[x.shard], x)
	}
	names := make([]string, 0, len(byShard))
	for s := range byShard {
		names = append(names, s)
	}
	sort.Strings(names)
	r.check(len(names) == matrixShards, "GetRecords", "records in %v", names)
	for _, shard := range names {
		got := r.readShard(shard, obj{"ShardIteratorType": "TRIM_HORIZON"}, 0)
		want := byShard[shard]
		r.check(len(got) == len(want), "GetRecords", "%s holds %d records of %d", shard, len(got), len(want))
		for i := range min(len(got), len(want)) {
			data, err := base64.StdEncoding.DecodeString(str(got[i], "Data"))
			when := at(got[i], "ApproximateArrivalTimestamp")
			r.check(err == nil && bytes.Equal(data, want[i].data) && str(got[i], "PartitionKey") == want[i].key && str(got[i], "SequenceNumber") == want[i].sequence,
				"GetRecords", "%s: record %d is not the one that was put: key %q, number %s", shard, i, str(got[i], "PartitionKey"), str(got[i], "SequenceNumber"))
			r.check(!when.Before(r.began.Add(-time.Second)) && when.Before(time.Now().Add(time.Second)), "GetRecords", "arrived at %v", when)
		}
	}
}

// readShard reads to the newest record, limit at a time.
func (r *column) readShard(shard string, from obj, limit int) []obj {
	in := obj{"StreamName": r.stream, "ShardId": shard}
	maps.Copy(in, from)
	it := str(r.ok("GetShardIterator", str(from, "ShardIteratorType"), in), "ShardIterator")
	var out []obj
	for range 1000 {
		in := obj{"ShardIterator": it}
		if limit > 0 {
			in["Limit"] = limit
		}
		res := r.ok("GetRecords", "", in)
		if res == nil {
			return out
		}
		for _, v := range list(res, "Records") {
			out = append(out, v.(obj))
		}
		behind := num(res, "MillisBehindLatest")
		r.check(behind >= 0, "GetRecords", "MillisBehindLatest is %v", res["MillisBehindLatest"])
		if it = str(res, "NextShardIterator"); behind == 0 || it == "" {
			return out
		}
	}
	r.check(false, "GetRecords", "%s has no end", shard)
	return out
}

// reading takes every kind of iterator.
func (r *column) reading() {
	shard := shardName(1)
	all := r.readShard(shard, obj{"ShardIteratorType": "TRIM_HORIZON"}, 0)
	r.check(len(all) > 20, "GetRecords", "only %d records in %s", len(all), shard)
	if len(all) <= 20 {
		return
	}
	number := func(i int) string { return str(all[i], "SequenceNumber") }
	same := func(row string, got []obj, from int) {
		r.check(len(got) == len(all)-from && len(got) > 0 && str(got[0], "SequenceNumber") == number(from), row, "%d records of %d", len(got), len(all)-from)
	}
	same("GetShardIterator: AT_SEQUENCE_NUMBER", r.readShard(shard, obj{"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": number(10)}, 0), 10)
	same("GetShardIterator: AFTER_SEQUENCE_NUMBER", r.readShard(shard, obj{"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": number(10)}, 0), 11)
	same("GetShardIterator: AT_TIMESTAMP", r.readShard(shard, obj{"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": r.began.Add(-time.Minute).UTC().Format(time.RFC3339)}, 0), 0)
	r.check(len(r.readShard(shard, obj{"ShardIteratorType": "LATEST"}, 0)) == 0, "GetShardIterator: LATEST", "it gives records")

	it := str(r.ok("GetShardIterator", "TRIM_HORIZON", obj{"StreamName": r.stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}), "ShardIterator")
	few := r.ok("GetRecords", "Limit 2", obj{"ShardIterator": it, "Limit": 2})
	behind := num(few, "MillisBehindLatest")
	r.check(len(list(few, "Records")) == 2 && behind > 0 && behind < float64(time.Since(r.began).Milliseconds()+1000), "GetRecords: Limit 2", "%d records, %v ms behind", len(list(few, "Records")), behind)
	next := r.ok("GetRecords", "Limit 2", obj{"ShardIterator": str(few, "NextShardIterator"), "Limit": 1})
	r.check(len(list(next, "Records")) == 1 && str(list(next, "Records")[0].(obj), "SequenceNumber") == number(2), "GetRecords: Limit 2", "the next iterator gives %v", next["Records"])
	if it := str(r.ok("GetShardIterator", "by ARN", obj{"StreamARN": r.arn, "ShardId": shard, "ShardIteratorType": "LATEST"}), "ShardIterator"); it != "" {
		r.ok("GetRecords", "by ARN", obj{"ShardIterator": it, "StreamARN": r.arn})
	}
}

// errors: what does not exist, and what is not right.
func (r *column) errors() {
	gone := obj{"StreamName": "nobody-made-it"}
	with := func(base obj, more obj) obj {
		out := obj{}
		maps.Copy(out, base)
		maps.Copy(out, more)
		return out
	}
	r.refused("PutRecord", "no such stream", "ResourceNotFoundException", with(gone, rec{data: []byte("x"), key: "k"}.entry()))
	r.refused("PutRecords", "no such stream", "ResourceNotFoundException", with(gone, obj{"Records": []any{rec{data: []byte("x"), key: "k"}.entry()}}))
	r.refused("DescribeStream", "no such stream", "ResourceNotFoundException", gone)
	r.refused("DescribeStreamSummary", "no such stream", "ResourceNotFoundException", gone)
	r.refused("ListShards", "no such stream", "ResourceNotFoundException", gone)
	r.refused("GetShardIterator", "no such shard", "ResourceNotFoundException", obj{"StreamName": r.stream, "ShardId": shardName(77), "ShardIteratorType": "LATEST"})
	r.refused("GetShardIterator", "no number of this stream", "InvalidArgumentException", obj{"StreamName": r.stream, "ShardId": shardName(0), "ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": "12"})
	r.refused("GetRecords", "an iterator by chance", "InvalidArgumentException", obj{"ShardIterator": base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 100))})
	r.refused("PutRecord", "a key of 257 characters", "ValidationException", with(obj{"StreamName": r.stream}, rec{data: []byte("x"), key: strings.Repeat("ü", 257)}.entry()))
	r.refused("PutRecord", "a hash key of 2^128", "InvalidArgumentException", with(obj{"StreamName": r.stream}, rec{data: []byte("x"), key: "k", hash: "340282366920938463463374607431768211456"}.entry()))
	r.refused("PutRecords", "more than 10 MiB", "InvalidArgumentException", obj{"StreamName": r.stream, "Records": r.elevenMiB()})
}

// elevenMiB is more than a request may hold, each record within its limit.
func (r *column) elevenMiB() []any {
	var out []any
	data := strings.Repeat("QUJD", 1<<20/4)
	for i := range 15 { // 15 x 768 KiB
		out = append(out, obj{"Data": data, "PartitionKey": fmt.Sprint(i)})
	}
	return out
}
