package uplink_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/http"
	"forebay/uplink/lane"
	"forebay/uplink/opensearch"
)

// drain pumps a log of four lanes, which grows meanwhile, to a target that
// misbehaves with every other request, until nothing waits. Two records of it
// the target never takes.
func drain(t *testing.T, cfg uplink.Config, misbehave func(func() string), faults []string) *memLog {
	log := newLog(t)
	for i := range 4 {
		log.shard([]string{"mqtt", "alarms"}[i%2]).put(600, fmt.Sprintf("press-%d/temp", i))
	}
	log.cursors[0].recs[77].Data = []byte(`"<<invalid>>"`)
	log.cursors[3].recs[599].Data = []byte(`{"x":"<<invalid>>"}`)
	rng := rand.New(rand.NewPCG(21, 22))
	misbehave(func() string {
		if rng.IntN(2) == 0 {
			return ""
		}
		return faults[rng.IntN(len(faults))]
	})
	cfg.ID, cfg.Linger, cfg.RetryMax = "x", conf.Duration(time.Millisecond), conf.Duration(time.Second)
	quiet := slog.New(slog.DiscardHandler)
	sink, err := uplink.New(cfg, lane.Home{ID: identity, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p := uplink.NewPump(cfg, sink, log, uplink.Options{Logger: quiet})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for n := uint64(2000); n > 0; n -= 500 {
		until(t, "records are still waiting", func() bool { return log.pending() <= n })
		log.cursors[2].put(100, "press-2/temp")
	}
	until(t, "records are still waiting", func() bool { return log.pending() == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := sink.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if len(log.refused) != 2 {
		t.Errorf("%d records were refused, want 2", len(log.refused))
	}
	return log
}

// wantAll wants a lane's sequence numbers once each, in order, but the refused.
func wantAll(t *testing.T, log *memLog, got func(l lane.Lane) []uint64) {
	t.Helper()
	refused := make(map[record.Pos]bool)
	for _, r := range log.refused {
		refused[r.rec.Pos] = true
	}
	for _, c := range log.cursors {
		var want []uint64
		for i := range c.recs {
			if !refused[c.recs[i].Pos] {
				want = append(want, c.recs[i].Pos.Seq)
			}
		}
		have := got(c.lane)
		for i := range want {
			if i >= len(have) || have[i] != want[i] {
				t.Errorf("lane %d: %d records arrived, want %d; the first that is missing or out of place is %d", c.lane.Shard, len(have), len(want), want[i])
				break
			}
		}
		if len(have) > len(want) {
			t.Errorf("lane %d: %d records arrived, want %d", c.lane.Shard, len(have), len(want))
		}
	}
}

// A target that keeps the keys of its batches holds every record once, in
// order: what was ambiguous came again under its key.
func TestChaosHTTP(t *testing.T) {
	cfg := http.Config{Compression: "gzip"}
	c := newCollector(t, &cfg)
	log := drain(t, uplink.Config{HTTP: &cfg}, c.misbehave, []string{"500 after", "cut after", "html after", "other answer", "429", "429", "408", "html"})
	wantAll(t, log, func(l lane.Lane) (seqs []uint64) {
		for _, r := range c.recs {
			var shard record.ShardID
			var seq uint64
			if _, err := fmt.Sscanf(r.ID, "edge-07/0000000000001234/%d/%d", &shard, &seq); err != nil {
				t.Fatalf("id %q: %v", r.ID, err)
			}
			if shard == l.Shard {
				seqs = append(seqs, seq)
			}
		}
		return seqs
	})
}

func TestChaosOpenSearch(t *testing.T) {
	cfg := opensearch.Config{}
	c := newCluster(t, &cfg)
	log := drain(t, uplink.Config{OpenSearch: &cfg}, c.misbehave, []string{"500 after", "cut after", "short answer", "429", "items 429", "items 503", "items 500", "html"})
	wantAll(t, log, func(l lane.Lane) (seqs []uint64) {
		for _, d := range c.lane(l) {
			seqs = append(seqs, d.Seq)
		}
		return seqs
	})
}
