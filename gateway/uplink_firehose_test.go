package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/firehose"
	"forebay/uplink/lane"
)

// TestFirehoseUplinkToAGateway: the Firehose uplink and another gateway's
// Firehose door understand each other. Many envelopes to a Firehose record
// arrive as its lines; one each, they arrive as records of their own.
func TestFirehoseUplinkToAGateway(t *testing.T) {
	far := startGateway(t, "hose", strings.NewReplacer("NAME", "hose", "STREAM", "lines").Replace(hopConfig)+"[[stream]]\nname = \"single\"\n")
	id := record.Identity{Gateway: "cell", Epoch: 7}
	const lanes, each = 3, 40
	for _, cfg := range []firehose.Config{{Stream: "lines"}, {Stream: "single", PerRecord: 1, Delimiter: "none"}} {
		cfg.Access = aws.Access{Endpoint: "http://" + far.kinesis, Region: "us-east-1", AccessKey: "any", SecretKey: conf.NewSecret("any")}
		s, err := firehose.New(cfg, lane.Home{ID: id, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Probe(t.Context()); err != nil {
			t.Errorf("Probe: %v", err)
		}
		var batches []lane.Batch
		for shard := range record.ShardID(lanes) {
			b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: shard + 1}}
			for i := range each {
				b.Recs = append(b.Recs, record.Record{Key: fmt.Sprint("k", i%3), Data: fmt.Appendf(nil, `{"n":%d}`, i), Pos: record.Pos{Shard: shard + 1, Seq: uint64(i + 1)}})
			}
			batches = append(batches, b)
		}
		for i, o := range s.Send(t.Context(), batches) {
			if o.Done != each || o.Class != lane.OK {
				t.Fatalf("%s, lane %d: %+v", cfg.Stream, i, o)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		records, next := 0, map[string]int{}
		for rec, err := range far.client.Records(t.Context(), api.Tail{Stream: cfg.Stream}) {
			if err != nil {
				t.Fatal(err)
			}
			records++
			data := []byte(rec.Data)
			if rec.Text != nil { // many lines are no JSON
				data = []byte(*rec.Text)
			}
			for line := range bytes.Lines(data) {
				o, err := envelope.Open(bytes.TrimSuffix(line, []byte("\n")))
				if err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				var shard, seq int
				if _, err := fmt.Sscanf(o.ID, "cell/0000000000000007/%d/%d", &shard, &seq); err != nil {
					t.Fatalf("id %q: %v", o.ID, err)
				}
				key := fmt.Sprint(shard)
				if seq != next[key]+1 || string(o.Data) != fmt.Sprintf(`{"n":%d}`, seq-1) {
					t.Fatalf("shard %d: record %d after %d, %s", shard, seq, next[key], o.Data)
				}
				next[key] = seq
			}
		}
		want := lanes
		if cfg.PerRecord == 1 {
			want = lanes * each
		}
		if records != want || len(next) != lanes {
			t.Errorf("%s: %d records of %d lanes, want %d", cfg.Stream, records, len(next), want)
		}
		for shard, n := range next {
			if n != each {
				t.Errorf("%s: shard %s has %d of %d", cfg.Stream, shard, n, each)
			}
		}
	}
}
