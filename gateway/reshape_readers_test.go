package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/points"
	"forebay/gateway/internal/rules"
	"forebay/spool"
)

// parity is a rule that changes with every record of a key, as long as they come
// in order.
func parity(t *testing.T) *rules.Engine {
	t.Helper()
	e, err := rules.Compile([]rules.Rule{{ID: "odd", From: "mqtt", When: "odd == 1", Clear: "odd == 0", Ack: "none"}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRulesFollowSplitsAndMerges(t *testing.T) {
	r := newReshaped(t, 11)
	if _, err := r.sp.Ensure(t.Context(), spool.StreamConfig{Name: rules.AlarmStream}); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(t.TempDir(), "rules.db")
	for run := range 3 {
		loop, err := rules.NewLoop(db, parity(t), forRules{r.sp}, rules.Options{FromOldest: true, Logger: slog.New(slog.NewTextHandler(&r.log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- loop.Run(ctx) }()
		r.write(8)
		alarms, err := r.sp.Stream(rules.AlarmStream)
		if err == nil {
			err = r.sp.Rescale(t.Context(), alarms, run+2)
		}
		if err != nil {
			t.Fatal(err)
		}
		if run == 2 {
			want := reshapedKeys * (int(r.next) - 1)
			eventually(t, time.Minute, "every change is in the alarm stream", func() bool { return transitions(t, r.sp) >= want })
			if got := transitions(t, r.sp); got != want {
				t.Errorf("%d transitions, want %d", got, want)
			}
			if s := loop.Stats(); s.Shards != r.st.Config().Shards || len(s.Problems) > 0 {
				t.Errorf("the rules say %+v, and %d shards are open", s, r.st.Config().Shards)
			}
			// Without the stream there is nothing to read, and nothing is wrong.
			if err := r.sp.Delete(t.Context(), "mqtt", ""); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "the stream is missed", func() bool { return slices.Equal(loop.Stats().MissingFrom, []string{"mqtt"}) })
			if r.st, err = r.sp.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"}); err != nil {
				t.Fatal(err)
			}
			before := transitions(t, r.sp)
			r.next += r.next % 2 // the last was odd or even; now every key changes
			r.next++
			r.round()
			r.round()
			eventually(t, time.Minute, "the namesake is followed", func() bool { return transitions(t, r.sp) >= before+reshapedKeys })
		}
		cancel()
		if err := errors.Join(<-done, loop.Close()); err != nil {
			t.Fatal(err)
		}
		r.reopen(r.dir)
	}
	if log := r.log.String(); strings.Contains(log, "trying again") {
		t.Errorf("the log says:\n%s", log)
	}
}

// transitions counts the changes of alarms, and fails where an alarm does not
// come and go in turns.
func transitions(t *testing.T, sp *spool.Spool) (n int) {
	t.Helper()
	st, err := sp.Stream(rules.AlarmStream)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]string{}
	for _, sh := range st.Shards() {
		for b, err := range st.Scan(t.Context(), sh.ID, spool.Oldest()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range b.Recs {
				var a rules.Alarm
				if err := json.Unmarshal(r.Data, &a); err != nil {
					t.Fatal(err)
				}
				if n++; last[a.Key] == a.State {
					t.Fatalf("the alarm of %s is %s once more", a.Key, a.State)
				}
				last[a.Key] = a.State
			}
		}
	}
	return n
}

func TestPointsFollowSplitsAndMerges(t *testing.T) {
	r := newReshaped(t, 12)
	r.write(12) // the past is read in order, too
	var cfgs []points.Config
	for k := range reshapedKeys {
		cfgs = append(cfgs, points.Config{ID: conf.Name(fmt.Sprintf("p%d", k)), Key: fmt.Sprintf("key-%d", k), Field: "n"})
	}
	keeper, err := points.NewKeeper(cfgs, forPoints{r.sp}, points.Options{Logger: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keeper.Run(ctx) }()
	r.write(12)
	last := func() bool {
		for _, p := range keeper.Snapshot(false) {
			if p.Value == nil || *p.Value != float64(r.next-1) {
				return false
			}
		}
		return true
	}
	eventually(t, time.Minute, "the tiles show the newest values", last)
	if err := r.sp.Delete(t.Context(), "mqtt", ""); err != nil {
		t.Fatal(err)
	}
	if r.st, err = r.sp.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"}); err != nil {
		t.Fatal(err)
	}
	r.round()
	eventually(t, time.Minute, "the tiles show the namesake's values", last)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if log := r.log.String(); strings.Contains(log, "level=WARN") {
		t.Errorf("the log says:\n%s", log)
	}
}

// call asks the gateway's Kinesis endpoint, which has no keys and takes any.
func (g *gw) call(t *testing.T, operation, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.kinesis, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	day, at := time.Now().UTC().Format("20060102"), time.Now().UTC().Format("20060102T150405Z")
	for k, v := range map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Kinesis_20131202." + operation, "X-Amz-Date": at,
		"Authorization": "AWS4-HMAC-SHA256 Credential=any/" + day + "/us-east-1/kinesis/aws4_request, SignedHeaders=host;x-amz-date;x-amz-target, Signature=" + strings.Repeat("0", 64),
	} {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s %v", operation, resp.StatusCode, b, err)
	}
}

// What was split by an SDK is shown with its shards' states.
func TestClosedShardsAreListed(t *testing.T) {
	g := startGateway(t, "alone", strings.NewReplacer("NAME", "alone", "STREAM", "cell").Replace(hopConfig))
	g.call(t, "UpdateShardCount", `{"StreamName":"cell","TargetShardCount":3,"ScalingType":"UNIFORM_SCALING"}`)
	list, err := g.client.Streams(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cell := list[slices.IndexFunc(list, func(s api.Stream) bool { return s.Name == "cell" })]
	open := 0
	for _, sh := range cell.Shards {
		if sh.Open() != (sh.State == "open") || sh.Open() != (len(sh.Children) == 0) {
			t.Errorf("shard %+v", sh)
		}
		if sh.Open() {
			open++
		}
	}
	first := cell.Shards[0]
	i := slices.IndexFunc(cell.Shards, func(sh api.Shard) bool { return len(first.Children) > 0 && sh.ID == first.Children[0] })
	if open != 3 || first.ID != "shardId-000000000000" || i < 0 || !slices.Contains(cell.Shards[i].Parents, first.ID) {
		t.Errorf("%d are open of %+v", open, cell.Shards)
	}
	code, out, errs := forebay(t, "", "streams", "--api", g.api)
	if want := fmt.Sprintf("3, %d closed", len(cell.Shards)-3); code != exitOK || !strings.Contains(out, want) {
		t.Errorf("streams prints, with %d:\n%s%s", code, out, errs)
	}
	code, out, errs = forebay(t, "", "streams", "--shards", "--api", g.api)
	if code != exitOK || strings.Count(out, "\ncell ") != len(cell.Shards) || !strings.Contains(out, "shardId-000000000000") || !strings.Contains(out, "closed") {
		t.Errorf("streams --shards prints, with %d:\n%s%s", code, out, errs)
	}
	if code, out, _ := forebay(t, "", "--version"); code != exitOK || out != "forebay "+version+"\n" {
		t.Errorf("--version prints %q", out)
	}
	g.sound(t)
}
