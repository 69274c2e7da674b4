package main

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/api"
)

const pausedConfig = `
[gateway]
name = "paused"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "target"
[bandwidth]
limit_kbit = 4000
[[uplink]]
id = "loop"
streams = ["serial", "audit"]
limit_kbit = 5000
[uplink.price]
model = "provisioned"
[uplink.kinesis]
endpoint = "http://KINESIS"
stream = "target"
access_key = "AK"
secret_key = "x"
`

// A pause outlives a kill, stands in the stream audit, and ends with resume.
func TestPauseOverARestart(t *testing.T) {
	g := startGateway(t, "paused", pausedConfig)
	do := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := forebay(t, "21.5", append(args, "--api", g.api)...)
		if code != want {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
		}
		return out + errs
	}
	uplink := func() api.Uplink {
		t.Helper()
		list, err := g.client.Uplinks(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list[0]
	}
	if out := do(exitFailed, "uplink", "pause", "none"); !strings.Contains(out, "no such uplink") {
		t.Error(out)
	}
	if out := do(exitOK, "uplink", "pause", "loop", "--by", "ana"); !strings.Contains(out, "uplink loop: paused") {
		t.Error(out)
	}
	do(exitOK, "put", "serial", "press-1")
	if out := do(exitFailed, "uplink", "retry", "loop"); !strings.Contains(out, "paused") {
		t.Error(out)
	}
	since := uplink().Since
	g.kill()
	g.start(t, "paused again")
	if u := uplink(); u.State != "paused" || u.PausedBy != "ana" || !u.Since.Equal(since) || u.Waiting == 0 {
		t.Errorf("after a kill: %+v", u)
	}
	if out := do(exitOK, "uplinks"); !strings.Contains(out, "paused by ana") {
		t.Error(out)
	}
	if out := do(exitOK, "status"); !strings.Contains(out, "paused since") || !strings.Contains(out, "by ana") {
		t.Error(out)
	}
	eventually(t, 30*time.Second, "the pause is an alarm", func() bool {
		return strings.Contains(do(exitOK, "alarms"), "is paused since")
	})
	do(exitOK, "uplink", "resume", "loop", "--by", "ben")
	eventually(t, 30*time.Second, "everything is handed on", func() bool { return uplink().Waiting == 0 })
	if u := uplink(); u.Used.Units == 0 || u.Used.Requests == 0 || u.Used.PayloadBytes == 0 || u.Used.WirePerPayload == 0 || u.Cost.Model != "provisioned" || u.LimitKbit != 4000 {
		t.Errorf("used %+v, cost %+v", u.Used, u.Cost)
	}
	if out := do(exitOK, "uplinks"); !strings.Contains(out, "4000 kbit/s") || !strings.Contains(out, "plain") {
		t.Error(out)
	}
	if v, err := g.client.Metric(t.Context(), "forebay_uplink_units_total"); err != nil || v == 0 {
		t.Errorf("metric: %v, %v", v, err)
	}
	do(exitOK, "uplink", "retry", "loop", "--by", "ben")
	audit := do(exitOK, "tail", "audit")
	for _, want := range []string{`"event":"uplink-paused","object":"uplink/loop","by":"ana"`, `"uplink-resumed"`, `"uplink-retried"`} {
		if !strings.Contains(audit, want) {
			t.Errorf("audit does not hold %s:\n%s", want, audit)
		}
	}
	g.sound(t)
}

// Pauses and resumes at once: in the end the uplink does what the book says.
func TestPauseAndResumeAtOnce(t *testing.T) {
	b, err := openPauses(filepath.Join(t.TempDir(), pausedFile))
	if err != nil {
		t.Fatal(err)
	}
	var paused atomic.Bool
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				err = b.pause("a", pause{time.Unix(0, 0), "ana"}, func() { paused.Store(true) })
			} else {
				err = b.resume("a", func() { paused.Store(false) })
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, noted := b.of("a"); noted != paused.Load() {
		t.Errorf("paused: %v, noted: %v", paused.Load(), noted)
	}
}

func TestPauseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), pausedFile)
	b, err := openPauses(path)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	if err := b.pause("a", pause{at, "ana"}, func() {}); err != nil {
		t.Fatal(err)
	}
	if err := b.pause("a", pause{at.Add(time.Hour), "ben"}, func() {}); err != nil {
		t.Fatal(err)
	}
	if b, err = openPauses(path); err != nil {
		t.Fatal(err)
	}
	if p, ok := b.of("a"); !ok || p != (pause{at, "ana"}) {
		t.Errorf("%+v, %v; the first one stands", p, ok)
	}
	if err := b.resume("a", func() {}); err != nil {
		t.Fatal(err)
	}
	if b, err = openPauses(path); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.of("a"); ok {
		t.Error("it is still paused")
	}
	for _, text := range []string{"{", `{"a":{"whom":"x"}}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openPauses(path); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if files, _ := filepath.Glob(path + "-*"); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}
