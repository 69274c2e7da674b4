package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// GetResult of a replay. Bytes are those of the records' data.
type GetResult struct {
	Records   int     `json:"records"`
	Bytes     int     `json:"bytes"`
	Calls     int     `json:"calls"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"records_per_second"`
	MBPerSec  float64 `json:"megabytes_per_second"` // 10^6 bytes
}

// RunKinesisGet reads a stream with GetRecords, every shard by itself and all
// at once, from its oldest record to its newest.
func RunKinesisGet(ctx context.Context, c KinesisConfig) (GetResult, error) {
	if err := c.Check(); err != nil {
		return GetResult{}, err
	}
	k := newKinesisClient(c, 64)
	defer k.close()
	shards, err := k.shards(ctx)
	if err != nil {
		return GetResult{}, err
	}
	iterators := make([]string, len(shards))
	for i, id := range shards {
		var it struct {
			ShardIterator string `json:"ShardIterator"`
		}
		if err := k.ask(ctx, "GetShardIterator", map[string]any{"StreamName": c.Stream, "ShardId": id, "ShardIteratorType": "TRIM_HORIZON"}, &it); err != nil {
			return GetResult{}, err
		}
		iterators[i] = it.ShardIterator
	}
	var wg sync.WaitGroup
	results, errs := make([]GetResult, len(shards)), make([]error, len(shards))
	start := time.Now()
	for i := range shards {
		wg.Go(func() { errs[i] = k.replay(ctx, iterators[i], &results[i]) })
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	if err := errors.Join(errs...); err != nil {
		return GetResult{}, err
	}
	out := GetResult{Seconds: took}
	for _, r := range results {
		out.Records += r.Records
		out.Bytes += r.Bytes
		out.Calls += r.Calls
	}
	out.PerSecond, out.MBPerSec = float64(out.Records)/took, float64(out.Bytes)/took/1e6
	return out, nil
}

// replay reads a shard until a call gives nothing.
func (k *kinesisClient) replay(ctx context.Context, iterator string, r *GetResult) error {
	var buf []byte
	scan, next := scanRecords, nextJSON
	if k.cfg.CBOR {
		scan, next = scanCBOR, nextCBOR
	}
	for iterator != "" {
		in := fmt.Appendf(nil, `{"ShardIterator":%q,"Limit":10000}`, iterator)
		if k.cfg.CBOR {
			in = appendCBORText(appendCBORText(appendCBOR(nil, cborMap, 2), "ShardIterator"), iterator)
			in = appendCBOR(appendCBORText(in, "Limit"), 0, 10_000)
		}
		var err error
		if buf, err = k.call(ctx, "GetRecords", newKinesisBody(in, k.cfg.CBOR), buf); err != nil {
			return err
		}
		r.Calls++
		n, size, err := scan(buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		r.Records += n
		r.Bytes += size
		if iterator, err = next(buf); err != nil {
			return err
		}
	}
	return nil
}

var dataMember = []byte(`"Data":"`)

// scanRecords counts the records of an answer and the bytes of their data. It
// looks for nothing else: a decoder of JSON would cost more than what is
// measured. Base64 has no quotes, and those within a key are escaped.
func scanRecords(b []byte) (records, size int, err error) {
	for {
		at := bytes.Index(b, dataMember)
		if at < 0 {
			return records, size, nil
		}
		b = b[at+len(dataMember):]
		end := bytes.IndexByte(b, '"')
		if end < 0 || end%4 != 0 {
			return 0, 0, fmt.Errorf("GetRecords: record %d has no base64", records)
		}
		size += end / 4 * 3
		for i := end - 1; i >= 0 && b[i] == '='; i-- {
			size--
		}
		records++
		b = b[end+1:]
	}
}

// nextJSON reads the next iterator; "" if there is none. It is looked for from
// the end; a record has no member of that name.
func nextJSON(b []byte) (string, error) {
	const name = `"NextShardIterator":`
	at := bytes.LastIndex(b, []byte(name))
	if at < 0 {
		return "", nil
	}
	b = b[at+len(name):]
	if bytes.HasPrefix(b, []byte("null")) {
		return "", nil
	}
	end := -1
	if len(b) > 0 {
		end = bytes.IndexByte(b[1:], '"')
	}
	if end < 0 {
		return "", errors.New("the answer ends within NextShardIterator")
	}
	return strconv.Unquote(string(b[:end+2]))
}
