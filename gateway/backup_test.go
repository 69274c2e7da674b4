package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/spool"
)

const backedUpConfig = `
[gateway]
name = "edge"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "off"
[api]
listen = "API"
[spool]
segment_bytes = "256KiB"
[[stream]]
name = "sensors"
shards = 2
`

// A gateway is backed up while it takes records, then killed; its backup is
// restored on another box, which goes on. Everything acknowledged before the
// backup is there, under its old id, and nothing new has an id of the first.
func TestBackupOfARunningGateway(t *testing.T) {
	g := startGateway(t, "edge", backedUpConfig)
	var mu sync.Mutex
	acked := map[string]string{} // id by payload
	stop, done := make(chan struct{}), sync.WaitGroup{}
	for p := range 3 {
		done.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				data := fmt.Sprintf("%d-%d", p, n)
				res, err := g.client.Put(t.Context(), "sensors", fmt.Sprint("key", n%20), []byte(data))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acked[data] = fmt.Sprint(res.Shard, "/", res.Seq)
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	eventually(t, 30*time.Second, "records are taken", func() bool { return count() > 300 })
	before := map[string]bool{}
	mu.Lock()
	for data := range acked {
		before[data] = true
	}
	mu.Unlock()
	dir := t.TempDir()
	code, out, errs := forebay(t, "", "spool", "backup", dir, "--api", g.api)
	if code != exitOK || !strings.Contains(out, "gateway edge") {
		t.Fatalf("exit code %d, %s %s", code, out, errs)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 || !strings.HasPrefix(filepath.Base(files[0]), "edge-2") || !strings.HasSuffix(files[0], ".tar") {
		t.Fatalf("the backup is in %v, %v", files, err)
	}
	backup := files[0]
	if code, _, errs := forebay(t, "", "spool", "backup", backup, "--api", g.api); code != exitFailed || !strings.Contains(errs, "there already") {
		t.Errorf("over another: exit code %d, %s", code, errs)
	}
	eventually(t, 30*time.Second, "more records are taken", func() bool { return count() > 2*len(before) })
	close(stop)
	done.Wait()
	original := recordsOf(t, g)
	g.kill()

	// The killed one is backed up from its directory.
	closed := filepath.Join(dir, "closed.tar")
	if code, out, errs := forebay(t, "", "spool", "backup", closed, "--spool", g.data); code != exitOK {
		t.Fatalf("exit code %d, %s %s", code, out, errs)
	}
	if code, out, errs := forebay(t, "", "spool", "verify", closed, "--json"); code != exitOK || json.Unmarshal([]byte(out), &spool.BackupReport{}) != nil {
		t.Errorf("exit code %d, %s %s", code, out, errs)
	}

	other := startGatewayWith(t, backup)
	restored := recordsOf(t, other)
	for data := range before {
		if restored[data] == "" || restored[data] != original[data] {
			t.Fatalf("record %q has the id %q, had %q", data, restored[data], original[data])
		}
	}
	if _, err := other.client.Put(t.Context(), "sensors", "key1", []byte("later")); err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, id := range original {
		all[id] = true
	}
	if id := recordsOf(t, other)["later"]; id == "" || all[id] {
		t.Errorf("the new record has the id %q", id)
	}
	other.sound(t)

	epoch := func(g *gw) string {
		t.Helper()
		st, err := g.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Epoch
	}
	other.start(t, "other")
	was := epoch(other)
	if code, _, errs := forebay(t, "", "spool", "new-epoch", other.data); code != exitFailed || !strings.Contains(errs, "in use by process") {
		t.Errorf("while it runs: exit code %d, %s", code, errs)
	}
	other.stop()
	if code, out, errs := forebay(t, "", "spool", "new-epoch", other.data); code != exitOK {
		t.Errorf("exit code %d, %s %s", code, out, errs)
	}
	other.start(t, "other")
	if now := epoch(other); now == was {
		t.Errorf("the epoch is still %s", now)
	}
	if again := recordsOf(t, other); len(again) != len(restored)+1 || again["later"] == "" {
		t.Errorf("%d records, want %d", len(again), len(restored)+1)
	}
	other.sound(t)

	bad, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.tar")
	if err := os.WriteFile(broken, bytes.Clone(bad[:len(bad)/2]), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := forebay(t, "", "spool", "verify", broken); code != exitProblems || !strings.Contains(out, "not whole") {
		t.Errorf("exit code %d, %s", code, out)
	}
	to := filepath.Join(dir, "none")
	if code, _, errs := forebay(t, "", "spool", "restore", broken, "--to", to); code != exitFailed || !strings.Contains(errs, "not whole") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if left, err := filepath.Glob(to + "*"); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// startGatewayWith starts another gateway on a restored spool.
func startGatewayWith(t *testing.T, backup string) *gw {
	t.Helper()
	g := &gw{api: freePort(t), data: filepath.Join(t.TempDir(), "data")}
	g.config = filepath.Join(filepath.Dir(g.data), "edge.toml")
	text := strings.NewReplacer("API", g.api, "DATA", filepath.ToSlash(g.data)).Replace(backedUpConfig)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := forebay(t, "", "spool", "restore", backup, "--to", filepath.Join(g.data, "spool")); code != exitOK || !strings.Contains(out, "new epoch") {
		t.Fatalf("exit code %d, %s %s", code, out, errs)
	}
	if code, out, errs := forebay(t, "", "spool", "check", g.data); code != exitOK {
		t.Fatalf("exit code %d, %s %s", code, out, errs)
	}
	var err error
	if g.client, err = api.NewClient(g.api, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.client.Close)
	g.start(t, "other")
	return g
}

// recordsOf is the id of every record of the stream sensors by its payload.
func recordsOf(t *testing.T, g *gw) map[string]string {
	t.Helper()
	out := map[string]string{}
	for r, err := range g.client.Records(t.Context(), api.Tail{Stream: "sensors"}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Text == nil {
			t.Fatalf("record %s is no text: %+v", r.ID, r)
		}
		out[*r.Text] = r.ID
	}
	return out
}
