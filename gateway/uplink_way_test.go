package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/nats"
)

// An uplink that goes elsewhere for a while, and one whose shape lets nothing
// pass for a while, speak at the target only of what they brought there; made
// anew they do not pass the rest as sent.
func TestAnUplinkThatWentAnotherWay(t *testing.T) {
	for _, c := range []struct{ name, away string }{
		{"another stream", "stream = \"ELSEWHERE\"\nsubject = \"elsewhere.{gateway}.{stream}.{shard}\"\n"},
		{"another shape", "stream = \"TARGET\"\n[[uplink.shape]]\nstreams = [\"press\"]\nwhen = \"n < 0\"\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, count := natsTarget(t)
			const all, there = "forebay.near.press.*", "stream = \"TARGET\"\n"
			g := startGateway(t, "near", anewConfig)
			plain, err := os.ReadFile(g.config)
			if err != nil {
				t.Fatal(err)
			}
			become := func(id, way string) {
				t.Helper()
				g.stop()
				text := string(plain) + "[[uplink]]\nid = \"" + id + "\"\nstreams = [\"press\"]\nretry_max = \"1s\"\n[uplink.nats]\nservers = [\"" + url +
					"\"]\ncreate_stream = true\n" + way
				if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				g.start(t, "near")
			}
			passed := func(n uint64) {
				t.Helper()
				eventually(t, 30*time.Second, "the records are passed", func() bool { return count("TARGET", all) == n && cloud(t, g).Waiting == 0 })
			}
			become("one", there)
			fillPress(t, g, 0, 100)
			passed(100)
			become("one", c.away)
			fillPress(t, g, 100, 50)
			passed(100)
			become("one", there)
			become("one", there)
			for i := range 2 {
				fillPress(t, g, 150+10*i, 10)
				passed(uint64(110 + 10*i))
			}
			become("two", there)
			eventually(t, 30*time.Second, "the uplink says what is wrong", func() bool {
				u := cloud(t, g)
				return u.Class == "misconfigured" && strings.Contains(u.Error, "but only from 151 on")
			})
			if u := cloud(t, g); u.Waiting != 170 || u.Delivered != 0 {
				t.Errorf("%d wait, %d are delivered", u.Waiting, u.Delivered)
			}
			g.sound(t)
		})
	}
}

// What the file does not say for certain began where the cursor stands.
func TestSinceWhenAnUplinkGoesOn(t *testing.T) {
	r := newReshaped(t, 5)
	cfg := uplink.Config{ID: "up", NATS: &nats.Config{Servers: []string{"nats://127.0.0.1:1"}, Stream: "TARGET"}}
	mine, err := cfg.Way()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := cfg
	elsewhere.NATS = &nats.Config{Servers: cfg.NATS.Servers, Stream: "OTHER"}
	other, err := elsewhere.Way()
	if err != nil || other == mine {
		t.Fatalf("%s, %v", other, err)
	}
	path := filepath.Join(t.TempDir(), "way-up.json")
	// Lanes gives since when the uplink goes on in its first shard, which then
	// has passed n more records.
	lanes := func(n int) (uint64, record.ShardID) {
		t.Helper()
		r.wander(100)
		view := newForUplink(r.sp, cfg, slog.New(slog.DiscardHandler))
		if err := view.noteWay(path); err != nil {
			t.Fatal(err)
		}
		list, err := view.Lanes(t.Context())
		if err != nil || len(list) == 0 {
			t.Fatalf("%d lanes, %v", len(list), err)
		}
		since := list[0].Place.Since()
		if n > 0 {
			b, err := list[0].Next(t.Context(), n)
			if err == nil {
				err = list[0].Commit(b.Recs[n-1].Pos.Seq, record.Tally{Delivered: uint64(n)})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := view.close(); err != nil {
			t.Fatal(err)
		}
		return since, list[0].Shard
	}
	since, shard := lanes(4)
	if since != 1 {
		t.Errorf("it begins at %d", since)
	}
	if since, _ = lanes(0); since != 1 {
		t.Errorf("after a restart it goes on since %d", since)
	}
	for _, c := range []struct {
		name, file string
		since      uint64
	}{
		{"noted", fmt.Sprintf(`{"way":%q,"since":{"%d":3}}`, mine, shard), 3},
		{"another way", fmt.Sprintf(`{"way":%q,"since":{"%d":3}}`, other, shard), 5},
		{"another shard", fmt.Sprintf(`{"way":%q,"since":{"9999":3}}`, mine), 5},
		{"set back", fmt.Sprintf(`{"way":%q,"since":{"%d":99}}`, mine, shard), 5},
		{"damaged", `{"way"`, 5},
		{"nothing", `null`, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if since, _ := lanes(0); since != c.since {
					t.Errorf("it goes on since %d, want %d", since, c.since)
				}
			}
		})
	}
}
