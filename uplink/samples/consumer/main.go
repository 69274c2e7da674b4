// Command consumer is a sample: it reads a Kinesis stream that a gateway fills,
// takes KPL aggregates apart and prints each record once, its key and its
// envelope, tab between. AWS_ENDPOINT_URL points it at another endpoint.
//
//	consumer STREAM
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// field takes the next field off a protobuf message: its number, and its bytes
// or, as text, its number.
func field(msg []byte) (num uint64, val, rest []byte) {
	tag, n := binary.Uvarint(msg)
	v, m := binary.Uvarint(msg[n:])
	if rest = msg[n+m:]; tag&7 == 2 {
		return tag >> 3, rest[:v], rest[v:]
	}
	return tag >> 3, strconv.AppendUint(nil, v, 10), rest
}

// open takes a Kinesis record apart: {1 keys, 3 records {1 key's index, 3 data}}
// between a mark of four bytes and an MD5 of 16.
func open(key string, data []byte, each func(key string, data []byte)) {
	if !bytes.HasPrefix(data, []byte("\xf3\x89\x9a\xc2")) || len(data) < 20 {
		each(key, data)
		return
	}
	var keys []string
	for msg := data[4 : len(data)-16]; len(msg) > 0; {
		var num uint64
		var val []byte
		switch num, val, msg = field(msg); num {
		case 1:
			keys = append(keys, string(val))
		case 3:
			var data []byte
			at := 0
			for len(val) > 0 {
				var v []byte
				if num, v, val = field(val); num == 1 {
					at, _ = strconv.Atoi(string(v))
				} else if num == 3 {
					data = v
				}
			}
			each(keys[at], data)
		}
	}
}

// seen holds the highest sequence number of each lane, GATEWAY/EPOCH/SHARD.
// Keep it with your results if a restart is not to print again.
type seen map[string]uint64

// first reports whether a record comes for the first time. Its envelope begins
// with {"id":"GATEWAY/EPOCH/SHARD/SEQUENCE"; within a lane numbers only rise.
func (s seen) first(data []byte) bool {
	parts := strings.SplitN(string(data), `"`, 5)
	cut := strings.LastIndexByte(parts[3], '/')
	lane, n := parts[3][:cut], parts[3][cut+1:]
	seq, err := strconv.ParseUint(n, 10, 64)
	if err != nil || seq <= s[lane] {
		return false
	}
	s[lane] = seq
	return true
}

func main() {
	ctx, stream, once := context.Background(), &os.Args[1], seen{}
	cfg, err := config.LoadDefaultConfig(ctx)
	check(err)
	cl := kinesis.NewFromConfig(cfg)
	list, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: stream})
	check(err)
	for _, shard := range list.Shards { // parents come before their children
		it, err := cl.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{StreamName: stream, ShardId: shard.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		check(err)
		for next := it.ShardIterator; next != nil; {
			out, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: next})
			check(err)
			for _, r := range out.Records {
				open(*r.PartitionKey, r.Data, func(key string, data []byte) {
					if once.first(data) {
						fmt.Printf("%s\t%s\n", key, data)
					}
				})
			}
			if next = out.NextShardIterator; len(out.Records) == 0 && *out.MillisBehindLatest == 0 {
				break // the sample ends where the stream does; a consumer goes on
			}
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
