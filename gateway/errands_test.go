package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/spool/record"
	"forebay/uplink"
)

const errandConfig = `
[gateway]
name = "NAME"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "press"
shards = 2
[bandwidth]
limit_kbit = LIMIT
[[uplink]]
id = "cloud"
streams = ["press", "alarms"]
[uplink.kinesis]
endpoint = "http://LINK"
stream = "{stream}"
create_shards = 1
access_key = "AK"
secret_key = "x"
`

// errandPair is a gateway whose uplink's target is another one.
func errandPair(t *testing.T, limit string) (near, far *gw) {
	t.Helper()
	far = startGateway(t, "far", strings.NewReplacer("NAME", "far", "STREAM", "press").Replace(hopConfig))
	return startGateway(t, "near", strings.NewReplacer("NAME", "near", "LINK", far.kinesis, "LIMIT", limit).Replace(errandConfig)), far
}

// fillPress puts n records of a thousand bytes, and returns when they are stored.
func fillPress(t *testing.T, g *gw, from, n int) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"device\":\"d%d\",\"n\":%d,\"pad\":%q}\n", i%5, from+i, strings.Repeat("x", 900))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.kinesis+"/ingest/press?format=ndjson&key_field=device", strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %s, %v", resp.Status, body, err)
	}
}

// numbers are those of a stream's records, by key in their order.
func numbers(t *testing.T, g *gw, stream string) map[string][]int {
	t.Helper()
	out := map[string][]int{}
	for r, err := range g.client.Records(t.Context(), api.Tail{Stream: stream}) {
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Device string `json:"device"`
			N      int    `json:"n"`
		}
		data := []byte(r.Data)
		var env struct{ Data json.RawMessage }
		if json.Unmarshal(data, &env) == nil && env.Data != nil {
			data = env.Data
		}
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatalf("%s: %v", r.Data, err)
		}
		out[v.Device] = append(out[v.Device], v.N)
	}
	return out
}

func sum(m map[string][]int) (n int) {
	for _, l := range m {
		n += len(l)
	}
	return n
}

func cloud(t *testing.T, g *gw) api.Uplink {
	t.Helper()
	list, err := g.client.Uplinks(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	return list[0]
}

// previewed asks for what a replay of 3,000 records of a thousand bytes would
// be, twice: nothing comes of it.
func previewed(t *testing.T, g *gw, r api.ReplayRequest) {
	t.Helper()
	r.Preview = true
	for range 2 {
		e, err := g.client.Replay(t.Context(), "cloud", r)
		if err != nil || e.State != "preview" || e.ID != "cloud~replay-1" || e.As != "replay-1-press" || e.Total != 3000 || e.Done != 0 {
			t.Fatalf("%+v, %v", e, err)
		}
		if e.Bytes < 500_000 || e.Bytes > 6_000_000 {
			t.Errorf("3,000 records of a thousand bytes count as %d bytes", e.Bytes)
		}
	}
	r.As = "alarms"
	if e, err := g.client.Replay(t.Context(), "cloud", r); err == nil {
		t.Errorf("a name that is taken: %+v", e)
	}
	if u := cloud(t, g); len(u.Errands) != 0 {
		t.Errorf("a preview began something: %+v", u.Errands)
	}
}

// A time range goes out again under another name, over a kill, each key in
// order, beside what comes meanwhile; and the ledger says nothing of it.
func TestReplayOverAKill(t *testing.T) {
	near, far := errandPair(t, "8000")
	do := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := forebay(t, "", append(args, "--api", near.api)...)
		if code != want {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
		}
		return out + errs
	}
	fillPress(t, near, 0, 1000) // not of the range
	from := time.Now().UTC()
	fillPress(t, near, 1000, 3000)
	to := time.Now().UTC()
	fillPress(t, near, 4000, 500)
	eventually(t, 60*time.Second, "all is handed on", func() bool { return cloud(t, near).Waiting == 0 && sum(numbers(t, far, "press")) == 4500 })
	before, err := near.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	at := func(x time.Time) string { return x.Format(time.RFC3339Nano) }
	for _, bad := range [][]string{
		{"--stream", "press", "--from", at(to), "--to", at(from)},
		{"--stream", "press", "--as", "press"},
		{"--stream", "press", "--as", "alarms"},
		{"--stream", "mqtt"},
		{"--stream", "press", "--to", at(to.Add(time.Hour))},
	} {
		do(exitUsage, append([]string{"uplink", "replay", "cloud"}, bad...)...)
	}
	do(exitFailed, "uplink", "replay", "cloud", "--stream", "press", "--to", at(from.Add(-time.Hour)))
	previewed(t, near, api.ReplayRequest{By: "ana", Stream: "press", From: from, To: to})
	do(exitOK, "uplink", "pause", "cloud", "--by", "ana")
	if out := do(exitOK, "uplink", "replay", "cloud", "--stream", "press", "--from", at(from), "--to", at(to), "--by", "ana"); !strings.Contains(out, "cloud~replay-1: ") || !strings.Contains(out, "0 of 3000 records of press as replay-1-press") {
		t.Error(out)
	}
	near.kill()
	near.start(t, "near again")
	if u := cloud(t, near); len(u.Errands) != 1 || u.Errands[0].Total != 3000 || u.Errands[0].Done != 0 {
		t.Errorf("after a kill: %+v", u.Errands)
	}
	if out := do(exitOK, "uplinks"); !strings.Contains(out, "cloud~replay-1: paused") {
		t.Error(out)
	}
	do(exitOK, "uplink", "resume", "cloud", "--by", "ana")
	eventually(t, 30*time.Second, "the replay is under way", func() bool {
		u := cloud(t, near)
		return len(u.Errands) == 1 && u.Errands[0].Done > 0
	})
	near.kill()
	near.start(t, "near a third time")
	eventually(t, 60*time.Second, "the replay is done", func() bool { return len(cloud(t, near).Errands) == 0 })

	got := numbers(t, far, "replay-1-press")
	for key, l := range got {
		newest, seen := -1, map[int]bool{}
		for _, n := range l {
			if n < 1000 || n >= 4000 || fmt.Sprintf("d%d", n%5) != key {
				t.Fatalf("key %s holds %d", key, n)
			}
			if !seen[n] && n < newest {
				t.Fatalf("key %s: %d came first behind %d", key, n, newest)
			}
			seen[n], newest = true, max(newest, n)
		}
		if len(seen) != 600 {
			t.Errorf("key %s: %d of 600 records", key, len(seen))
		}
	}
	if len(got) != 5 {
		t.Errorf("%d keys", len(got))
	}
	if n := sum(numbers(t, far, "press")); n != 4500 {
		t.Errorf("the stream itself has %d records at the far side", n)
	}
	after, err := near.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	press := func(l api.Ledger) (out []any) {
		for _, s := range l.Streams {
			if s.Stream == "press" {
				out = append(out, s)
			}
		}
		for _, u := range l.Uplinks {
			if u.Stream == "press" {
				out = append(out, u)
			}
		}
		return out
	}
	if a, b := press(before), press(after); len(a) != 2 || !reflect.DeepEqual(a, b) {
		t.Errorf("the ledger was %+v and is %+v", a, b)
	}
	audit := do(exitOK, "tail", "audit")
	for _, want := range []string{`"event":"uplink-replay","object":"uplink/cloud~replay-1","by":"ana"`, `"event":"uplink-replay-ended"`, "done: 3000 of 3000 records"} {
		if !strings.Contains(audit, want) {
			t.Errorf("audit does not hold %s:\n%s", want, audit)
		}
	}
	if out := do(exitUsage, "uplink", "replay", "cloud", "--stream", "press", "--as", "replay-1-press"); !strings.Contains(out, "an earlier replay") {
		t.Error(out)
	}
	do(exitOK, "uplink", "pause", "cloud")
	if out := do(exitOK, "uplink", "replay", "cloud", "--stream", "press", "--as", "again-{stream}", "--json"); !strings.Contains(out, `"as": "again-press"`) {
		t.Error(out)
	}
	do(exitOK, "uplink", "cancel", "cloud~replay-2", "--by", "ben")
	eventually(t, 10*time.Second, "it is canceled", func() bool { return len(cloud(t, near).Errands) == 0 })
	do(exitFailed, "uplink", "cancel", "cloud~replay-2")
	near.sound(t)
	far.sound(t)
}

// What the target refused is listed, and sent again: in a lane of its own, so
// that nobody drops it for what came after it, with the id that it had then.
func TestRedriveOverAKill(t *testing.T) {
	near, far := errandPair(t, "0")
	do := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := forebay(t, strings.Repeat("y", 40_000), append(args, "--api", near.api)...)
		if code != want {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
		}
		return out + errs
	}
	limit := func(size string) {
		t.Helper()
		near.kill()
		text, err := os.ReadFile(near.config)
		if err != nil {
			t.Fatal(err)
		}
		plain, _, _ := strings.Cut(string(text), "max_record")
		if err := os.WriteFile(near.config, []byte(plain+"max_record = \""+size+"\"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		near.start(t, "near, "+size)
	}
	letters := func(n int) api.Refused {
		t.Helper()
		var list api.Refused
		eventually(t, 30*time.Second, fmt.Sprintf("%d letters", n), func() bool {
			var err error
			list, err = near.client.Refused(t.Context(), "cloud", 0)
			return err == nil && len(list.Letters) == n && len(cloud(t, near).Errands) == 0 && cloud(t, near).Waiting == 0
		})
		return list
	}
	limit("32KiB")
	do(exitFailed, "uplink", "redrive", "cloud", "--all")
	for i := range 3 {
		fillPress(t, near, i*10, 10)
		do(exitOK, "put", "press", fmt.Sprint("large/", i))
	}
	list := letters(3)
	slices.SortFunc(list.Letters, func(a, b api.Letter) int { return int(b.Seq) - int(a.Seq) })
	if l := list.Letters[2]; l.Stream != "press" || !strings.HasPrefix(l.Key, "large/") || l.Bytes != 40_000 || l.Reason == "" || !strings.HasPrefix(l.ID, "near/") {
		t.Errorf("%+v", l)
	}
	if out := do(exitOK, "uplink", "refused", "cloud", "--limit", "1"); !strings.Contains(out, list.Letters[0].ID) || strings.Contains(out, list.Letters[1].ID) || !strings.Contains(out, "3 refused, 1 shown") {
		t.Error(out)
	}
	// It is refused again, and is a letter anew.
	first := list.Letters[2]
	if out := do(exitOK, "uplink", "redrive", "cloud", "--id", first.ID, "--by", "ana"); !strings.Contains(out, "cloud~redrive-1: ") {
		t.Error(out)
	}
	eventually(t, 30*time.Second, "it is refused again", func() bool {
		l, err := near.client.Refused(t.Context(), "cloud", 0)
		return err == nil && l.Redrive == 1 && l.Total == 3
	})
	if l := letters(3).Letters[0]; l.ID != first.ID || l.Seq == first.Seq || l.Key != first.Key || l.Stream != "press" {
		t.Errorf("refused again: %+v", l)
	}
	limit("1MiB")
	do(exitOK, "uplink", "pause", "cloud")
	if out := do(exitOK, "uplink", "redrive", "cloud", "--all", "--by", "ana"); !strings.Contains(out, "0 of 3 records") {
		t.Error(out)
	}
	do(exitFailed, "uplink", "redrive", "cloud", "--all")
	near.kill()
	near.start(t, "near again")
	do(exitOK, "uplink", "resume", "cloud")
	if l := letters(0); l.Redrive != 4 {
		t.Errorf("%+v", l)
	}
	near.kill() // what was redriven is remembered
	near.start(t, "near a last time")
	do(exitFailed, "uplink", "redrive", "cloud", "--all")
	do(exitFailed, "uplink", "redrive", "cloud", "--id", first.ID)
	got := map[string]int{}
	for r, err := range far.client.Records(t.Context(), api.Tail{Stream: "press"}) {
		if err != nil {
			t.Fatal(err)
		}
		var env struct {
			ID    string
			Key   string
			Attrs map[string]string
		}
		if err := json.Unmarshal([]byte(r.Data), &env); err != nil {
			t.Fatal(err)
		}
		if id := env.Attrs["redrive.id"]; id != "" {
			got[id]++
			if !strings.Contains(env.ID, "/1073741825/") {
				t.Errorf("%s came again as %s", id, env.ID)
			}
		}
	}
	if len(got) != 3 || got[first.ID] != 1 {
		t.Errorf("came again: %v", got)
	}
	for _, want := range []string{`"event":"uplink-redrive","object":"uplink/cloud~redrive-1","by":"ana"`, "done: 1 of 1 record, 1 refused", "done: 3 of 3 records, 0 refused"} {
		if audit := do(exitOK, "tail", "audit"); !strings.Contains(audit, want) {
			t.Errorf("audit does not hold %s:\n%s", want, audit)
		}
	}
	near.sound(t)
	far.sound(t)
}

func TestErrandsFile(t *testing.T) {
	e := &errands{path: filepath.Join(t.TempDir(), errandsFile), book: errandBook{Redriven: map[string]map[record.ShardID][]uplink.Span{}}}
	for _, n := range []uint64{5, 7, 6, 1, 9, 2, 9, 6, 3, 8} {
		e.redriven("cloud", record.Pos{Shard: 4, Seq: n})
	}
	spans := e.book.Redriven["cloud"][4]
	if fmt.Sprint(spans) != "[{1 4 []} {5 10 []}]" {
		t.Errorf("%v", spans)
	}
	for n := range uint64(12) {
		if want := n >= 1 && n < 4 || n >= 5 && n < 10; covers(spans, n) != want {
			t.Errorf("covers %d: %v", n, !want)
		}
	}
}

// An errand that was canceled when the gateway was killed, and of whose end no
// trace was kept yet, does not begin again: its end is told, and it is gone.
func TestACanceledErrandStaysCanceledOverAKill(t *testing.T) {
	g := startGateway(t, "near", strings.NewReplacer("NAME", "near", "LINK", freePort(t), "LIMIT", "0").Replace(errandConfig))
	fillPress(t, g, 0, 10)
	if _, err := g.client.Replay(t.Context(), "cloud", api.ReplayRequest{Stream: "press", By: "otto"}); err != nil {
		t.Fatal(err)
	}
	g.kill()
	path := filepath.Join(g.data, errandsFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	over := strings.Replace(string(text), `"orders":[{`, `"orders":[{"over":"canceled","over_by":"anna",`, 1)
	if over == string(text) {
		t.Fatalf("no order in %s", text)
	}
	if err := os.WriteFile(path, []byte(over), 0o600); err != nil {
		t.Fatal(err)
	}
	g.start(t, "near")
	eventually(t, 20*time.Second, "it is gone", func() bool {
		text, err := os.ReadFile(path)
		return err == nil && len(cloud(t, g).Errands) == 0 && !strings.Contains(string(text), "cloud~replay-1")
	})
	told := 0
	for r, err := range g.client.Records(t.Context(), api.Tail{Stream: "audit"}) {
		if err != nil {
			t.Fatal(err)
		}
		if data := string(r.Data); strings.Contains(data, "uplink-replay-ended") {
			told++
			if !strings.Contains(data, "canceled: 0 of 10 records") || !strings.Contains(data, `"anna"`) {
				t.Errorf("its end was told as %s", data)
			}
		}
	}
	if told != 1 {
		t.Errorf("its end was told %d times", told)
	}
	g.sound(t)
}
