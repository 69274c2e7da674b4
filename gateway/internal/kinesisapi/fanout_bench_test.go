package kinesisapi_test

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

func percentile(all []time.Duration, p float64) time.Duration {
	slices.Sort(all)
	return all[int(p*float64(len(all)-1))]
}

// BenchmarkPush measures from the answer to a put, which comes after the
// commit, to the event at the consumer; a consumer may have the event first.
func BenchmarkPush(b *testing.B) {
	for name, how := range ways {
		for _, others := range []int{0, 100} { // shards that are subscribed and idle
			b.Run(fmt.Sprintf("%s/%d-idle", name, others), func(b *testing.B) {
				x := start(b, kinesisapi.Config{}, spool.Config{})
				x.create("s", 1)
				x.create("idle", max(others, 1))
				cl := x.client()
				f := x.subscribed(how, x.register(cl, "s", "app"), shard0, latest)
				arn := x.register(cl, "idle", "app")
				for i := range others {
					x.subscribed(how, arn, fmt.Sprintf("shardId-%012d", i), latest)
				}
				var all []time.Duration
				for b.Loop() {
					seq := x.put(cl, "s", "x")[0]
					put := time.Now()
					f.data(1)
					all = append(all, time.Since(put))
					if *f.last.ContinuationSequenceNumber != seq {
						b.Fatalf("pushed %s, put %s", *f.last.ContinuationSequenceNumber, seq)
					}
				}
				b.ReportMetric(float64(percentile(all, 0.5).Microseconds()), "us-p50")
				b.ReportMetric(float64(percentile(all, 0.99).Microseconds()), "us-p99")
				b.ReportMetric(float64(percentile(all, 1).Microseconds()), "us-max")
			})
		}
	}
}

// BenchmarkPushReplay measures a backlog of 100-byte records.
func BenchmarkPushReplay(b *testing.B) {
	x := start(b, kinesisapi.Config{}, spool.Config{})
	st := x.create("s", 1)
	x.fill(st, 64<<20)
	cl := x.client()
	for name, how := range ways {
		b.Run(name, func(b *testing.B) {
			arn := x.register(cl, "s", "app-"+name)
			n := 0
			for b.Loop() {
				f := x.subscribed(how, arn, shard0, horizon)
				for {
					e, ok, err := f.next()
					if !ok {
						b.Fatal(err)
					}
					for _, r := range e.Records {
						n += len(r.Data)
					}
					if *e.MillisBehindLatest == 0 {
						break
					}
				}
				f.close()
				x.clock.Move(6 * time.Second)
			}
			b.SetBytes(int64(n / b.N))
		})
	}
}

// BenchmarkAmongAbusers measures PutRecords of a client that behaves, alone and
// amid 1,000 connections that are in the way.
func BenchmarkAmongAbusers(b *testing.B) {
	var p50, p99 [2]time.Duration
	for i, name := range []string{"alone", "amid"} {
		b.Run(name, func(b *testing.B) {
			x := start(b, kinesisapi.Config{}, spool.Config{})
			x.fill(x.create("s", 5), 12<<20)
			x.create("good", 1)
			cl := x.client()
			if name == "amid" {
				c := gather(x, cl, 550, 40, 60, 20, 250)
				defer c.leave()
				eventually(b, "the coming of the abusers", func() bool { return x.srv.Clients() >= 550 })
			}
			put := &kinesis.PutRecordsInput{StreamName: aws.String("good")}
			for range 500 {
				put.Records = append(put.Records, entry("k", bytes.Repeat([]byte("x"), 100)))
			}
			// What those in the way have asked for is worked off first, and measured
			// by TestAbusers: here they are only there.
			for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
				if _, err := cl.PutRecords(b.Context(), put); err != nil {
					b.Fatal(err)
				}
			}
			var all []time.Duration
			for b.Loop() {
				at := time.Now()
				if _, err := cl.PutRecords(b.Context(), put); err != nil {
					b.Fatal(err)
				}
				all = append(all, time.Since(at))
			}
			p50[i], p99[i] = percentile(all, 0.5), percentile(all, 0.99)
			b.ReportMetric(float64(p50[i].Microseconds()), "us-p50")
			b.ReportMetric(float64(p99[i].Microseconds()), "us-p99")
			if i == 1 && p50[0] > 0 {
				b.ReportMetric(float64(p50[1])/float64(p50[0]), "x-p50")
				b.ReportMetric(float64(p99[1])/float64(p99[0]), "x-p99")
			}
		})
	}
}

// BenchmarkIdleSubscriptions has 1,000 shards pushed of which nothing comes, and
// tells what the process holds for each, the client's half included.
func BenchmarkIdleSubscriptions(b *testing.B) {
	x := start(b, kinesisapi.Config{}, spool.Config{})
	x.create("s", 50)
	cl := x.client()
	before, goroutines := liveHeap(), runtime.NumGoroutine()
	for i := range kinesisapi.MaxSubscriptions / 50 {
		arn := x.register(cl, "s", fmt.Sprint("app-", i))
		for j := range 50 {
			x.subscribed((*box).subscribeRaw, arn, fmt.Sprintf("shardId-%012d", j), latest)
		}
	}
	n := float64(x.srv.Subscriptions())
	bytesEach, goroutinesEach := float64(liveHeap()-before)/n, float64(runtime.NumGoroutine()-goroutines)/n
	for b.Loop() {
		x.put(cl, "s", "x") // amid them
	}
	b.ReportMetric(bytesEach, "B/subscription")
	b.ReportMetric(goroutinesEach, "goroutines/subscription")
}
