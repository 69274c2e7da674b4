package main

import (
	"os"
	"strings"
	"testing"
	"time"
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
