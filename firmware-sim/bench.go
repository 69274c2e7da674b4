package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"forebay/firmware-sim/load"
)

type benchKinesisCmd struct {
	Put  benchPutCmd  `cmd:"" help:"Rate of PutRecords, and latency from a request to its acknowledgement."`
	Get  benchGetCmd  `cmd:"" help:"Rate of GetRecords over every shard at once, from the oldest record to the newest."`
	Push benchPushCmd `cmd:"" help:"Latency of SubscribeToShard, from the acknowledgement of a put to the event."`
}

type kinesisFlags struct {
	Endpoint  string `help:"The Kinesis endpoint." default:"http://127.0.0.1:4567" placeholder:"URL"`
	Region    string `help:"AWS region." default:"us-east-1" env:"AWS_REGION"`
	AccessKey string `help:"Access key; any will do where the endpoint has none." default:"bench" env:"AWS_ACCESS_KEY_ID"`
	SecretKey string `help:"Secret key." default:"bench" env:"AWS_SECRET_ACCESS_KEY"`
	Stream    string `help:"Stream; it is made if it is not there." default:"bench"`
	Shards    int    `help:"Shards of a stream that is made." default:"4"`
	CBOR      bool   `name:"cbor" help:"Put and get in CBOR, as the SDK for Java does, and not in JSON."`
	JSON      bool   `name:"json" help:"Print the result as JSON."`
}

func (f kinesisFlags) config() load.KinesisConfig {
	return load.KinesisConfig{Endpoint: f.Endpoint, Region: f.Region, AccessKey: f.AccessKey, SecretKey: f.SecretKey, Stream: f.Stream, Shards: f.Shards, CBOR: f.CBOR}
}

// print writes a result as JSON or in words.
func (f kinesisFlags) print(e *env, result any, format string, args ...any) error {
	if f.JSON {
		return json.NewEncoder(e.out).Encode(result)
	}
	_, err := fmt.Fprintf(e.out, format+"\n", args...)
	return err
}

type benchPutCmd struct {
	kinesisFlags
	Connections int     `help:"Requests in flight." default:"8"`
	Batch       int     `help:"Records of a request." default:"500"`
	Size        int     `help:"Bytes of a record." default:"100"`
	Count       int     `help:"Records in all." default:"1000000"`
	Keys        int     `help:"Partition keys; as many as 64,000 are used." default:"1000"`
	Rate        float64 `help:"Records per second; 0 is as fast as they are taken. With a rate, latency counts from when a request was due." default:"0"`
}

func (c benchPutCmd) Run(ctx context.Context, e *env) error {
	r, err := load.RunKinesisPut(ctx, load.KinesisPut{
		KinesisConfig: c.config(), Connections: c.Connections, Batch: c.Batch, Size: c.Size, Count: c.Count, Keys: c.Keys, Rate: c.Rate,
	})
	if err != nil {
		return fmt.Errorf("bench kinesis put: %w", err)
	}
	return c.print(e, r, "%.0f records/s (%d of %d bytes in %.2f s, %d in a request, %d requests in flight); acknowledged after p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, at most %.2f ms",
		r.PerSecond, r.Records, r.Size, r.Seconds, r.Batch, r.Connections, r.P50, r.P90, r.P99, r.Max)
}

type benchGetCmd struct{ kinesisFlags }

func (c benchGetCmd) Run(ctx context.Context, e *env) error {
	r, err := load.RunKinesisGet(ctx, c.config())
	if err != nil {
		return fmt.Errorf("bench kinesis get: %w", err)
	}
	return c.print(e, r, "%.1f MB/s, %.0f records/s (%d records with %d bytes of data in %.2f s, %d calls)", r.MBPerSec, r.PerSecond, r.Records, r.Bytes, r.Seconds, r.Calls)
}

type benchPushCmd struct {
	kinesisFlags
	Count int           `help:"Records." default:"1000"`
	Pause time.Duration `help:"Pause between records." default:"5ms"`
}

func (c benchPushCmd) Run(ctx context.Context, e *env) error {
	r, err := load.RunKinesisPush(ctx, load.KinesisPush{KinesisConfig: c.config(), Count: c.Count, Pause: c.Pause})
	if err != nil {
		return fmt.Errorf("bench kinesis push: %w", err)
	}
	return c.print(e, r, "%d records pushed p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, at most %.2f ms after they were acknowledged (%d before); put in p50 %.2f ms, p99 %.2f ms",
		r.Records, r.P50, r.P90, r.P99, r.Max, r.Early, r.PutP50, r.PutP99)
}
