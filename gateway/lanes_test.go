package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"forebay/gateway/api"
	"forebay/uplink/envelope"
)

const twoUplinks = `
[[uplink]]
id = "low"
streams = ["line"]
[[uplink.shape]]
when = "n < 1000"
[uplink.kinesis]
endpoint = "http://LINK"
region = "us-east-1"
stream = "cell"
access_key = "any"
secret_key = "any"
[[uplink]]
id = "high"
streams = ["line"]
[[uplink.shape]]
when = "n >= 1000"
[uplink.kinesis]
endpoint = "http://LINK"
region = "us-east-1"
stream = "cell"
access_key = "any"
secret_key = "any"
`

// TestLanesByTwoUplinks: two uplinks of a gateway share its lanes out between
// them, and a device of the gateway in the middle writes what looks like a
// record far ahead in one of them. None of that makes the gateways behind take
// a record for stored that is not.
func TestLanesByTwoUplinks(t *testing.T) {
	const records = 2000
	hop := func(name, stream, more string, pairs ...string) *gw {
		t.Helper()
		return startGateway(t, name, strings.NewReplacer(append(pairs, "NAME", name, "STREAM", stream)...).Replace(hopConfig+more))
	}
	top := hop("cloud", "site", "")
	far := hop("site", "cell", hopUplink, "FROM", "cell", "LINK", top.kinesis, "TO", "site")
	near := hop("edge", "line", twoUplinks, "LINK", far.kinesis)

	var put atomic.Int64
	feed(t.Context(), t, near.kinesis, 500, &put)
	lanes := map[string]bool{}
	for r, err := range near.client.Records(t.Context(), api.Tail{Stream: "line"}) {
		if err != nil {
			t.Fatal(err)
		}
		lanes[r.ID[:strings.LastIndexByte(r.ID, '/')]] = true
	}
	if len(lanes) == 0 {
		t.Fatal("no lanes")
	}
	for l := range lanes {
		in := &kinesis.PutRecordInput{StreamName: aws.String("cell"), PartitionKey: aws.String("a device"), Data: fmt.Appendf(nil, `{"id":"%s/99999999","t":1}`, l)}
		if _, err := kinesisAt(far.kinesis).PutRecord(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	idle := func() bool {
		ups, err := near.client.Uplinks(t.Context())
		return err == nil && len(ups) == 2 && ups[0].Waiting+ups[1].Waiting == 0
	}
	eventually(t, 20*time.Second, "that is handed on", func() bool { return idle() && waiting(t, far) == 0 })
	feed(t.Context(), t, near.kinesis, records, &put)
	eventually(t, 20*time.Second, "the rest is handed on", idle)
	eventually(t, 20*time.Second, "and on", func() bool { return waiting(t, far) == 0 })

	want := map[string]bool{}
	for r, err := range near.client.Records(t.Context(), api.Tail{Stream: "line"}) {
		if err != nil {
			t.Fatal(err)
		}
		want[r.ID] = true
	}
	if len(want) != 500+records {
		t.Fatalf("the first gateway has %d records", len(want))
	}
	for name, at := range map[string]struct {
		g      *gw
		stream string
	}{"site": {far, "cell"}, "cloud": {top, "site"}} {
		got := map[string]int{}
		consume(t, at.g.kinesis, at.stream, func(_ string, data []byte) {
			if in, err := envelope.Open(data); err == nil && want[in.ID] {
				got[in.ID]++
			}
		})
		again := 0
		for _, n := range got {
			again += n - 1
		}
		if len(got) != len(want) || again != 0 {
			t.Errorf("%s: %d of %d records are missing, %d are there twice", name, len(want)-len(got), len(want), again)
		}
	}
	for _, g := range []*gw{near, far, top} {
		g.sound(t)
	}
}
