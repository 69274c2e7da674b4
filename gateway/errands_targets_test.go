package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forebay/uplink/envelope"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A replayFar is a target that a replay goes to, and how to read it.
type replayFar struct {
	table string // of the config
	// sent are the envelopes that lie there under a name.
	sent func(name string) [][]byte
}

// s3Far is a store in process.
func s3Far(t *testing.T) replayFar {
	store := s3mem.New()
	if err := store.CreateBucket("lake"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(store, gofakes3.WithTimeSkewLimit(0)).Server())
	t.Cleanup(srv.Close)
	return replayFar{`
[uplink.s3]
endpoint = "` + srv.URL + `"
region = "eu-central-1"
bucket = "lake"
max_age = "200ms"
object_size = "64KiB"
compression = "none"
access_key = "any"
secret_key = "any"
`, func(name string) (all [][]byte) {
		prefix := gofakes3.Prefix{HasPrefix: true, Prefix: "forebay/" + name + "/"}
		list, err := store.ListBucket("lake", &prefix, gofakes3.ListBucketPage{})
		if err != nil {
			t.Fatal(err)
		}
		if list.IsTruncated {
			t.Fatal("the list is cut")
		}
		for _, o := range list.Contents {
			got, err := store.GetObject("lake", o.Key, nil)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(got.Contents)
			if err != nil {
				t.Fatal(err)
			}
			for line := range bytes.Lines(text) {
				all = append(all, bytes.TrimSuffix(line, []byte("\n")))
			}
		}
		return all
	}}
}

// kafkaFar is a cluster in process, read by one who wants committed records.
func kafkaFar(t *testing.T) replayFar {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return replayFar{`
[uplink.kafka]
brokers = ["` + c.ListenAddrs()[0] + `"]
topic = "{stream}"
create_partitions = 2
compression = "none"
`, func(name string) (all [][]byte) {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(name), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		left := map[int32]int64{}
		ends.Each(func(o kadm.ListedOffset) {
			if o.Err == nil && o.Offset > 0 {
				left[o.Partition] = o.Offset
			}
		})
		for len(left) > 0 {
			f := cl.PollFetches(ctx)
			if err := ctx.Err(); err != nil {
				t.Fatal(err)
			}
			f.EachRecord(func(r *kgo.Record) {
				if !r.Attrs.IsControl() {
					all = append(all, r.Value)
				}
				if r.Offset+1 >= left[r.Partition] {
					delete(left, r.Partition)
				}
			})
		}
		return all
	}}
}

// numbersOf are how often each record came. The records of a key come in order.
func numbersOf(t *testing.T, envelopes [][]byte) map[int]int {
	t.Helper()
	out := map[int]int{}
	for _, e := range envelopes {
		o, err := envelope.Open(e)
		if err != nil {
			t.Fatalf("%s: %v", e, err)
		}
		var v struct {
			N int `json:"n"`
		}
		if err := json.Unmarshal(o.Data, &v); err != nil {
			t.Fatal(err)
		}
		out[v.N]++
	}
	return out
}

// onceEach fails unless the records from first on and before end are there once
// each, and no others.
func onceEach(t *testing.T, what string, got map[int]int, first, end int) {
	t.Helper()
	for n, times := range got {
		if n < first || n >= end || times != 1 {
			t.Errorf("%s: record %d came %d times; want those from %d to %d once", what, n, times, first, end-1)
			return
		}
	}
	if len(got) != end-first {
		t.Errorf("%s: %d of %d records", what, len(got), end-first)
	}
}

// A time range goes again to a store, and to Kafka, under another name: each
// record of it once, though the gateway is killed in the midst, and no other.
func TestReplayToATarget(t *testing.T) {
	for kind, far := range map[string]func(*testing.T) replayFar{"s3": s3Far, "kafka": kafkaFar} {
		t.Run(kind, func(t *testing.T) {
			target := far(t)
			config, _, _ := strings.Cut(errandConfig, "[uplink.kinesis]")
			g := startGateway(t, "near", strings.NewReplacer("NAME", "near", "LIMIT", "8000").Replace(config)+target.table)
			do := func(args ...string) string {
				t.Helper()
				code, out, errs := forebay(t, "", append(args, "--api", g.api)...)
				if code != exitOK {
					t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
				}
				return out
			}
			at := func(x time.Time) string { return x.Format(time.RFC3339Nano) }
			fillPress(t, g, 0, 700)
			from := time.Now().UTC()
			fillPress(t, g, 700, 2500)
			to := time.Now().UTC()
			fillPress(t, g, 3200, 300)
			eventually(t, 60*time.Second, "all is handed on", func() bool { return cloud(t, g).Waiting == 0 })
			do("uplink", "replay", "cloud", "--stream", "press", "--from", at(from), "--to", at(to), "--by", "ana")
			eventually(t, 30*time.Second, "the replay is under way", func() bool {
				u := cloud(t, g)
				return len(u.Errands) == 0 || u.Errands[0].Done > 0
			})
			g.kill()
			g.start(t, "near again")
			if x := cloud(t, g).Errands; len(x) != 1 || x[0].Total != 2500 || x[0].Done == 2500 {
				t.Errorf("after a kill: %+v", x)
			}
			fillPress(t, g, 3500, 100)
			eventually(t, 60*time.Second, "the replay is done", func() bool { u := cloud(t, g); return len(u.Errands) == 0 && u.Waiting == 0 })
			onceEach(t, "replayed", numbersOf(t, target.sent("replay-1-press")), 700, 3200)
			onceEach(t, "as they came", numbersOf(t, target.sent("press")), 0, 3600)
			toldOf(t, g, kind == "s3")
			g.sound(t)
		})
	}
}

// toldOf looks for what the gateway tells of its uplink's target: a store says
// by its answers what time it is, Kafka does not.
func toldOf(t *testing.T, g *gw, hasClock bool) {
	t.Helper()
	code, out, errs := forebay(t, "", "uplinks", "--json", "--api", g.api)
	var list []struct {
		ClockOff *float64 `json:"clock_offset_ms"`
		Cost     struct{ Month *struct{} }
	}
	if err := json.Unmarshal([]byte(out), &list); code != exitOK || err != nil || len(list) != 1 || !strings.Contains(out, `"clock_offset_ms"`) {
		t.Fatalf("exit code %d: %s%s, %v", code, out, errs, err)
	}
	if off := list[0].ClockOff; (off != nil) != hasClock || off != nil && (*off < -3000 || *off > 3000) || list[0].Cost.Month != nil {
		t.Errorf("%s", out)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.api+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || strings.Contains(string(text), `forebay_uplink_clock_offset_seconds{uplink="cloud"}`) != hasClock || strings.Contains(string(text), "forebay_uplink_month_cost") {
		t.Errorf("metrics: %v\n%s", err, text)
	}
}
