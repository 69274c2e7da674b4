package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/proof"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

const verifyNear = `
[gateway]
name = "edge-07"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "line"
shards = 4
[[uplink]]
id = "cloud"
streams = ["line"]
retry_max = "1s"
[uplink.kinesis]
endpoint = "http://FAR"
region = "us-east-1"
stream = "press-shop"
create_shards = 2
access_key = "any"
secret_key = "any"
`

const verifyFar = `
[gateway]
name = "far"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
`

// verified runs the command and gives what it says.
func verified(t *testing.T, code int, args ...string) proof.Verdict {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t, "forebay"), append([]string{"verify", "--json"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var ended *exec.ExitError
	if got := cmd.ProcessState.ExitCode(); err != nil && !errors.As(err, &ended) || got != code {
		t.Fatalf("verify ended with %d (%v), not %d:\n%s%s", got, err, code, out, errs.String())
	}
	var v proof.Verdict
	if len(out) > 0 {
		if err := json.Unmarshal(out, &v); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
	}
	return v
}

// envelopes reads a far stream, as a consumer does.
type farRecord struct{ key, data, id string }

func envelopes(t *testing.T, addr, stream string) (all []farRecord) {
	t.Helper()
	consume(t, addr, stream, func(key string, data []byte) {
		in, err := envelope.Open(data)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, farRecord{key, string(data), in.ID})
	})
	return all
}

// remake makes a far stream anew, with these records and no others.
func remake(t *testing.T, addr, stream string, recs []farRecord) {
	t.Helper()
	cl, ctx := kinesisAt(addr), t.Context()
	if _, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: &stream}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the stream is made anew", func() bool {
		_, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: &stream, ShardCount: aws.Int32(1)})
		return err == nil
	})
	for part := range slices.Chunk(recs, 500) {
		in := &kinesis.PutRecordsInput{StreamName: &stream}
		for _, r := range part {
			in.Records = append(in.Records, types.PutRecordsRequestEntry{PartitionKey: aws.String(r.key), Data: []byte(r.data)})
		}
		eventually(t, 20*time.Second, "the records are put", func() bool {
			out, err := cl.PutRecords(ctx, in)
			return err == nil && *out.FailedRecordCount == 0
		})
	}
}

// TestVerify: what a far gateway holds is complete, and then it is not, by
// known records: the verifier proves the one and names the other.
func TestVerify(t *testing.T) {
	far := startGateway(t, "far", verifyFar)
	near := startGateway(t, "near", strings.ReplaceAll(verifyNear, "FAR", far.kinesis))
	put(t, near.kinesis, 3000)
	eventually(t, time.Minute, "the backlog is drained", func() bool { return waiting(t, near) == 0 })
	args := []string{"--config", near.config, "--target", "cloud", "--api", near.api}

	v := verified(t, 0, args...)
	if v.Result != proof.NoGap || v.Compared != 3000 || v.Found != 3000 || v.Again != 0 || v.Disorder != 0 || len(v.Shards) != 4 {
		t.Fatalf("a far end that has all: %+v", v)
	}
	all := envelopes(t, far.kinesis, "press-shop")
	verified(t, 2, append(args, "--from", time.Now().Add(time.Hour).Format(time.RFC3339))...) // records of the future
	if v := verified(t, 0, append(args, "--to", time.Now().Add(-time.Hour).Format(time.RFC3339))...); v.Compared != 0 || v.Result != proof.Nothing {
		t.Errorf("records of a time in which there were none: %+v", v)
	}

	// Three in a row and a lone one are taken out, and one comes twice.
	byLane := map[string][]string{}
	for _, r := range all {
		lane, _, _ := envelope.SplitID(r.id)
		byLane[lane] = append(byLane[lane], r.id)
	}
	lanes := []string{}
	for l := range byLane {
		lanes = append(lanes, l)
	}
	slices.Sort(lanes)
	run, lone := byLane[lanes[1]][100:103], byLane[lanes[2]][7]
	thin := slices.DeleteFunc(slices.Clone(all), func(r farRecord) bool { return slices.Contains(run, r.id) || r.id == lone })
	thin = append(thin, thin[11], farRecord{"k", `{"id":"other/00000000000000aa/1/5","stream":"s","key":"k","t":1}`, ""})
	remake(t, far.kinesis, "press-shop", thin)
	check := func(v proof.Verdict) {
		t.Helper()
		if v.Result != proof.HasGap || v.Missing != 4 || v.Found != 2996 || v.Compared != 3000 || v.Again != 1 || len(v.Gaps) != 2 {
			t.Fatalf("a far end with a gap: %+v", v)
		}
		g, h := v.Gaps[0], v.Gaps[1]
		if g.First != run[0] || g.Last != run[2] || g.Records != 3 || g.From == nil || g.To == nil || h.First != lone || h.Last != lone || h.Stream != "line" || h.Among {
			t.Errorf("%+v\nare not the gaps %v and %s", v.Gaps, run, lone)
		}
		if len(v.Others) != 1 || v.Others[0].Lane != "other/00000000000000aa/1" || v.Others[0].Records != 1 {
			t.Errorf("others: %+v", v.Others)
		}
	}
	check(verified(t, 1, args...))
	near.sound(t)
	check(verified(t, 1, "--config", near.config, "--target", "cloud", "--spool", near.data))

	// What cannot be found out says so.
	verified(t, 2, "--config", near.config, "--target", "none", "--spool", near.data)
	verified(t, 2, args...) // no gateway answers
	far.stop()
}

// put puts n records, and what was not answered again.
func put(t *testing.T, addr string, n int) {
	t.Helper()
	cl := kinesisAt(addr)
	for at := 0; at < n; at += 500 {
		in := &kinesis.PutRecordsInput{StreamName: aws.String("line")}
		for i := at; i < min(at+500, n); i++ {
			in.Records = append(in.Records, types.PutRecordsRequestEntry{PartitionKey: aws.String(fmt.Sprintf("press-%d", i%50)), Data: fmt.Appendf(nil, `{"n":%d}`, i)})
		}
		out, err := cl.PutRecords(context.Background(), in)
		if err != nil || *out.FailedRecordCount > 0 {
			t.Fatalf("put: %v", err)
		}
	}
}

const verifyHop = verifyFar + `
[[stream]]
name = "press-shop"
shards = 2
[[uplink]]
id = "up"
streams = ["press-shop"]
retry_max = "1s"
[uplink.kinesis]
endpoint = "http://TOP"
region = "us-east-1"
stream = "all"
create_shards = 2
access_key = "any"
secret_key = "any"
`

// TestVerifyAChain: a gateway in the middle is verified by the ids of the
// gateway below, records that came in an aggregate by their parts; and where
// some were filtered their number is compared.
func TestVerifyAChain(t *testing.T) {
	top := startGateway(t, "top", strings.Replace(verifyFar, `"far"`, `"top"`, 1))
	hop := startGateway(t, "hop", strings.ReplaceAll(verifyHop, "TOP", top.kinesis))
	near := startGateway(t, "near", strings.ReplaceAll(verifyNear, "FAR", hop.kinesis)+`
[[uplink.shape]]
when = "n >= 100"
unsure = "send"
`)
	put(t, near.kinesis, 1000)
	var enc kpl.Encoder
	for i := range 3 {
		enc.Add("press-7", "", fmt.Appendf(nil, `{"part":%d}`, i))
	}
	if _, err := kinesisAt(near.kinesis).PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: aws.String("line"), PartitionKey: aws.String("press-7"), Data: enc.AppendTo(nil)}); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*gw{near, hop} {
		eventually(t, time.Minute, "the backlog is drained", func() bool { return waiting(t, g) == 0 })
	}
	first := []string{"--config", near.config, "--target", "cloud", "--api", near.api}
	second := []string{"--config", hop.config, "--target", "up", "--api", hop.api}
	if v := verified(t, 0, first...); v.Compared != 1003 || v.Found != 903 || v.Explained != 100 || v.Missing != 0 || len(v.Why) == 0 {
		t.Errorf("filtered by number: %+v", v)
	}
	if v := verified(t, 0, second...); v.Compared != 903 || v.Found != 903 || v.Disorder != 0 || len(v.Others) != 0 {
		t.Errorf("the one in the middle: %+v", v)
	}
	all := envelopes(t, top.kinesis, "all")
	gone := slices.IndexFunc(all, func(r farRecord) bool { return strings.HasSuffix(r.id, "/2") && strings.Count(r.id, "/") == 4 })
	if gone < 0 {
		t.Fatal("no part of an aggregate came to the top")
	}
	remake(t, top.kinesis, "all", slices.Delete(slices.Clone(all), gone, gone+1))
	if v := verified(t, 1, second...); v.Missing != 1 || len(v.Gaps) != 1 || v.Gaps[0].First != all[gone].id || v.Gaps[0].Stream != "press-shop" {
		t.Errorf("without %s: %+v", all[gone].id, v)
	}
	for _, g := range []*gw{near, hop, top} {
		g.sound(t)
	}
}
