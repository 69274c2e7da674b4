package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

const aheadConfig = `
[gateway]
name = "ahead"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "target"
[[uplink]]
id = "loop"
streams = ["serial"]
order = "live-first"
live_after = "1s"
limit_kbit = 400
[uplink.kinesis]
endpoint = "http://KINESIS"
stream = "target"
access_key = "AK"
secret_key = "x"
`

// After an outage the newest records overtake the backlog; a kill in the
// middle of it loses nothing, and the ledger counts every record once.
func TestLiveFirstOverAKill(t *testing.T) {
	g := startGateway(t, "ahead", aheadConfig)
	ctx := t.Context()
	put := func(kind string, from, n int) {
		t.Helper()
		for i := range n {
			data := fmt.Sprintf(`{"%s":%d,"pad":"%s"}`, kind, from+i, strings.Repeat("x", 1000))
			if _, err := g.client.Put(ctx, "serial", "press-1", []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	line := func() (u api.UplinkLedger) {
		t.Helper()
		l, err := g.client.Ledger(ctx)
		if err != nil || !l.Balance {
			t.Fatalf("%+v, %v", l, err)
		}
		for _, u = range l.Uplinks {
			if u.Uplink == "loop" {
				return u
			}
		}
		t.Fatalf("the ledger has no line of the uplink: %+v", l.Uplinks)
		return u
	}
	if _, err := g.client.PauseUplink(ctx, "loop", "test"); err != nil {
		t.Fatal(err)
	}
	put("old", 0, 400)
	eventually(t, 10*time.Second, "the backlog is old", func() bool {
		u, err := g.client.Uplinks(ctx)
		return err == nil && u[0].Oldest != nil && time.Since(*u[0].Oldest) > 1500*time.Millisecond
	})
	if _, err := g.client.ResumeUplink(ctx, "loop", "test"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.data, aheadFile("loop"))
	put("live", 0, 5)
	eventually(t, 20*time.Second, "what went ahead is kept", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(b), `"to":406`)
	})
	if l := line(); l.In != 405 || l.Delivered+l.Pending != 405 || l.Pending < 10 {
		t.Errorf("while it drains: %+v", l)
	}
	g.kill()
	g.start(t, "ahead again")
	put("live", 5, 5)
	eventually(t, 60*time.Second, "everything is handed on", func() bool {
		u, err := g.client.Uplinks(ctx)
		return err == nil && u[0].Waiting == 0
	})
	eventually(t, 10*time.Second, "the cursor has come to the end", func() bool { return line().Pending == 0 })
	if l := line(); l.In != 410 || l.Delivered != 410 {
		t.Errorf("in the end: %+v", l)
	}
	seen, firstLive, lastOld := map[string]int{}, 0, 0
	for r, err := range g.client.Records(context.WithoutCancel(ctx), api.Tail{Stream: "target"}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"old", "live"} {
			var n int
			i := strings.Index(string(r.Data), `{"`+kind+`":`)
			if i < 0 {
				continue
			}
			if _, err := fmt.Sscanf(string(r.Data[i:]), `{"`+kind+`":%d`, &n); err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprint(kind, n)
			if seen[name]++; seen[name] > 1 {
				continue
			}
			if kind == "old" {
				lastOld = len(seen)
			} else if firstLive == 0 {
				firstLive = len(seen)
			}
		}
	}
	if len(seen) != 410 || firstLive == 0 || firstLive > 200 || lastOld < firstLive {
		t.Errorf("%d of 410 records came; the first live one was number %d, the last old one %d", len(seen), firstLive, lastOld)
	}
	g.sound(t)
}

// A file of another epoch, or one that cannot be, is not believed.
func TestAheadFileIsNotBelieved(t *testing.T) {
	g := startGateway(t, "ahead", aheadConfig)
	if _, err := g.client.Put(t.Context(), "serial", "k", []byte("1")); err != nil {
		t.Fatal(err)
	}
	st, err := g.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.client.PauseUplink(t.Context(), "loop", "test"); err != nil {
		t.Fatal(err)
	}
	streams, err := g.client.Streams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shard := uint32(0)
	for _, s := range streams {
		if s.Name == "serial" {
			shard = s.Shards[0].Number
		}
	}
	for _, epoch := range []string{"0000000000000001", st.Epoch} {
		for range 3 {
			if _, err := g.client.Put(t.Context(), "serial", "k", []byte(`{"v":"two"}`)); err != nil {
				t.Fatal(err)
			}
		}
		g.stop()
		text := fmt.Sprintf(`{"epoch":%q,"lanes":[{"stream":"serial","shard":%d,"spans":[{"from":1,"to":1000}]}]}`, epoch, shard)
		if err := os.WriteFile(filepath.Join(g.data, aheadFile("loop")), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g.start(t, "ahead again")
		if u, err := g.client.Uplinks(t.Context()); err != nil || u[0].Waiting < 3 {
			t.Errorf("epoch %s: %+v, %v", epoch, u, err)
		}
		if _, err := g.client.ResumeUplink(t.Context(), "loop", "test"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "everything is handed on", func() bool {
			u, err := g.client.Uplinks(t.Context())
			return err == nil && u[0].Waiting == 0
		})
		if _, err := g.client.PauseUplink(t.Context(), "loop", "test"); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for r, err := range g.client.Records(t.Context(), api.Tail{Stream: "target"}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r.Data), `"two"`) {
			n++
		}
	}
	if n != 6 {
		t.Errorf("%d records came, want 6", n)
	}
	g.sound(t)
}
