package kinesisapi_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/kpl"
)

// env is an envelope of record seq of a lane.
func env(lane string, seq int) string {
	return fmt.Sprintf(`{"id":"%s/%d","t":1795341600000,"data":%d}`, lane, seq, seq)
}

func envs(lane string, from, to int) (all []string) {
	for i := from; i <= to; i++ {
		all = append(all, env(lane, i))
	}
	return all
}

func packed(all ...string) []byte {
	var enc kpl.Encoder
	for _, s := range all {
		enc.Add("k", "7", []byte(s))
	}
	return enc.AppendTo(nil)
}

const near = "near/0000000000000007/2"

// lanes makes a PutRecords request; status 0 where no answer came.
func (b *box) lanes(ctx context.Context, who aws.Credentials, header, body string) (int, string) {
	b.t.Helper()
	r := b.signedAs(who, "Kinesis_20131202.PutRecords", body).WithContext(ctx)
	if header != "" {
		r.Header.Set("X-Forebay-Lanes", header)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		if ctx.Err() == nil {
			b.t.Error(err)
		}
		return 0, ""
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		b.t.Error(err)
	}
	return resp.StatusCode, string(text)
}

// send puts units as another gateway does, and gives the sequence numbers.
func (b *box) send(header string, units ...[]byte) []string {
	b.t.Helper()
	var recs []map[string]string
	for _, u := range units {
		recs = append(recs, map[string]string{"Data": base64.StdEncoding.EncodeToString(u), "PartitionKey": "k", "ExplicitHashKey": "7"})
	}
	body, err := json.Marshal(map[string]any{"StreamName": "site", "Records": recs})
	if err != nil {
		b.t.Fatal(err)
	}
	status, answer := b.lanes(b.t.Context(), testCreds, header, string(body))
	var out struct {
		FailedRecordCount int
		Records           []struct{ SequenceNumber string }
	}
	if err := json.Unmarshal([]byte(answer), &out); err != nil || status != http.StatusOK || out.FailedRecordCount != 0 || len(out.Records) != len(units) {
		b.t.Fatalf("%d %s: %v", status, answer, err)
	}
	var seqs []string
	for _, r := range out.Records {
		if r.SequenceNumber == "" {
			b.t.Fatalf("no sequence number: %s", answer)
		}
		seqs = append(seqs, r.SequenceNumber)
	}
	return seqs
}

// inside is everything that the stream holds, aggregates taken apart.
func inside(t *testing.T, st *spool.Stream) (all []string) {
	t.Helper()
	for _, sh := range st.Shards() {
		for batch, err := range st.Scan(context.Background(), sh.ID, spool.Oldest()) {
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range batch.Recs {
				if !kpl.IsAggregate(r.Data) {
					all = append(all, string(r.Data))
					continue
				}
				a, err := kpl.Decode(r.Data)
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range a.All() {
					all = append(all, string(u.Data))
				}
			}
		}
	}
	return all
}

func holds(t *testing.T, st *spool.Stream, want ...string) {
	t.Helper()
	if got := inside(t, st); !slices.Equal(got, want) {
		t.Errorf("the stream holds %d records:\n%s\nwant %d:\n%s", len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
}

// What comes again is stored once and answered as stored, wherever the new
// batch begins and ends.
func TestLanesAreStoredOnce(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 2)
	first := b.send("rising", packed(envs(near, 1, 5)...))
	again := b.send("rising", packed(envs(near, 1, 5)...))
	if !slices.Equal(first, again) {
		t.Errorf("answered %v, then %v", first, again)
	}
	b.send("rising", packed(envs(near, 3, 8)...))   // overlaps
	b.send("rising", []byte(env(near, 8)))          // alone, and there
	b.send("rising", []byte(env(near, 9)))          // alone, and new
	b.send("rising", packed(envs(near, 12, 13)...)) // what is between was filtered
	b.send("rising", packed(envs(near, 9, 13)...))
	holds(t, st, slices.Concat(envs(near, 1, 9), envs(near, 12, 13))...)
	if n := b.srv.Repeated(); n != 5+3+1+5 {
		t.Errorf("%d repeated", n)
	}
}

// Many lanes in one request, lanes of gateways further down in one unit, parts
// of what was stored as one record, and what is of no lane.
func TestLanesOfAChain(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	other, cell := "near/0000000000000007/3", "cell/00000000000000aa/1"
	mixed := packed(env(near, 1), env(cell, 1), env(near, 2), env(cell, 2))
	parts := packed(env(other, 1), env(other+"/2", 1), env(other+"/2", 2), env(other, 3))
	plain := packed("21.5", env(near, 1))
	b.send("rising", mixed, parts, plain, []byte("plain"))
	b.send("rising", mixed, packed(env(other+"/2", 1), env(other+"/2", 2), env(other+"/2", 3), env(other, 3), env(other, 4)), plain, []byte("plain"))
	holds(t, st,
		env(near, 1), env(cell, 1), env(near, 2), env(cell, 2), env(other, 1), env(other+"/2", 1), env(other+"/2", 2), env(other, 3), "21.5", env(near, 1), "plain",
		env(other, 4), "21.5", env(near, 1), "plain")
}

// A new epoch is a new lane; who does not say that lanes rise is taken at his
// word: everything is stored.
func TestLanesOfOthers(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	restored := "near/0000000000000008/2"
	b.send("rising", packed(envs(near, 1, 2)...))
	b.send("rising", packed(envs(restored, 1, 2)...))
	b.send("", packed(envs(near, 1, 2)...))
	b.send("falling", packed(envs(near, 1, 2)...))
	holds(t, st, slices.Concat(envs(near, 1, 2), envs(restored, 1, 2), envs(near, 1, 2), envs(near, 1, 2))...)
}

// A put that failed is no mark.
func TestAFailedPutOfALaneIsNoMark(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	b.in.before = func(_ context.Context, _ string, recs []record.Record, done func([]record.Result)) (bool, error) {
		out := make([]record.Result, len(recs))
		for i := range out {
			out[i].Err = record.ErrFull
		}
		done(out)
		return true, nil
	}
	body := fmt.Sprintf(`{"StreamName":"site","Records":[{"Data":%q,"PartitionKey":"k"}]}`, base64.StdEncoding.EncodeToString(packed(envs(near, 1, 2)...)))
	if status, answer := b.lanes(t.Context(), testCreds, "rising", body); status != 200 || !strings.Contains(answer, "ProvisionedThroughputExceeded") {
		t.Fatalf("%d %s", status, answer)
	}
	b.in.before = nil
	b.send("rising", packed(envs(near, 1, 3)...))
	holds(t, st, envs(near, 1, 3)...)
}

// A client that goes away before its commit leaves the lane taken until the
// log has answered; what it sends again is then known.
func TestALaneWaitsForTheCommit(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	held, gone := make(chan func(), 1), make(chan struct{})
	b.in.before = func(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) (bool, error) {
		b.in.before = nil
		held <- func() {
			if err := b.in.PutTo(context.Background(), stream, recs, done); err != nil {
				t.Error(err)
			}
		}
		return true, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(gone)
		body := fmt.Sprintf(`{"StreamName":"site","Records":[{"Data":%q,"PartitionKey":"k"}]}`, base64.StdEncoding.EncodeToString(packed(envs(near, 1, 4)...)))
		b.lanes(ctx, testCreds, "rising", body)
	}()
	commit := <-held
	cancel()
	<-gone
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		b.send("rising", packed(envs(near, 1, 6)...))
	}()
	commit()
	<-answered
	holds(t, st, envs(near, 1, 6)...)
}

// The marks outlive the process, kept or not: what was stored behind the last
// keeping is read again.
func TestLanesAfterARestart(t *testing.T) {
	for name, kept := range map[string]bool{"kept": true, "not kept": false} {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{}, spool.Config{})
			st := b.create("site", 1)
			b.send("rising", packed(envs(near, 1, 4)...))
			if kept {
				kinesisapi.KeepMarks(b.srv)
				kinesisapi.KeepMarks(b.srv)
			}
			b.send("rising", packed(envs(near, 5, 6)...))
			if err := b.sp.Split(t.Context(), st, st.Shards()[0].ID, record.HashKey{0x80}); err != nil {
				t.Fatal(err)
			}
			b.send("rising", packed(envs(near, 7, 8)...))
			b = b.another()
			b.send("rising", packed(envs(near, 1, 10)...))
			holds(t, st, envs(near, 1, 10)...)
		})
	}
}

// With keys, nobody moves the mark of a lane that somebody else sends.
func TestLanesBelongToTheirSender(t *testing.T) {
	cfg := kinesisapi.Config{Keys: []kinesisapi.Key{
		{AccessKey: "NEAR", SecretKey: conf.NewSecret("one-secret-of-16-or-more")}, {AccessKey: "THIEF", SecretKey: conf.NewSecret("two-secret-of-16-or-more")},
	}}
	b := start(t, cfg, spool.Config{})
	st := b.create("site", 1)
	as := func(key, secret string, unit []byte) {
		t.Helper()
		body := fmt.Sprintf(`{"StreamName":"site","Records":[{"Data":%q,"PartitionKey":"k"}]}`, base64.StdEncoding.EncodeToString(unit))
		if status, answer := b.lanes(t.Context(), aws.Credentials{AccessKeyID: key, SecretAccessKey: secret}, "rising", body); status != 200 || strings.Contains(answer, "ErrorCode") {
			t.Fatalf("%d %s", status, answer)
		}
	}
	as("NEAR", "one-secret-of-16-or-more", packed(envs(near, 1, 2)...))
	as("THIEF", "two-secret-of-16-or-more", []byte(env(near, 1000)))
	as("NEAR", "one-secret-of-16-or-more", packed(envs(near, 3, 4)...))
	as("NEAR", "one-secret-of-16-or-more", packed(envs(near, 3, 5)...))
	holds(t, st, slices.Concat(envs(near, 1, 2), []string{env(near, 1000)}, envs(near, 3, 5))...)
}

// However many lanes come, the known ones are bounded; forgetting one costs a
// repetition and never a record.
func TestLanesAreBounded(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	n := kinesisapi.MaxMarks + 500
	var units []string
	for i := range n {
		units = append(units, env(fmt.Sprintf("g%d/0000000000000001/1", i), 1))
	}
	for chunk := range slices.Chunk(units, 100) {
		b.send("rising", packed(chunk...))
	}
	kinesisapi.KeepMarks(b.srv)
	kinesisapi.KeepMarks(b.srv)
	if len(st.Note()) == 0 || len(st.Note()) > 256<<10 {
		t.Errorf("a note of %d bytes", len(st.Note()))
	}
	if got := inside(t, st); !slices.Equal(got, units) {
		t.Errorf("%d records, want %d", len(got), n)
	}
}

// Two uplinks of one gateway that send parts of the same lanes: what one has
// brought says nothing about the other.
func TestSeriesOfALane(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	b.send("rising hot", []byte(env(near, 2)), []byte(env(other, 9)))
	b.send("rising hot", []byte(env(near, 4)))
	b.send("rising cold", packed(env(near, 1), env(near, 3)))
	b.send("rising cold", packed(env(near, 1), env(near, 3), env(near, 5)))
	b.send("rising hot", packed(env(near, 2), env(near, 4), env(near, 6)))
	holds(t, st, env(near, 2), env(other, 9), env(near, 4), env(near, 1), env(near, 3), env(near, 5), env(near, 6))
}

const other = "near/0000000000000007/3"

// They are told apart after a crash too, when the marks are read from the log.
func TestSeriesAfterACrash(t *testing.T) {
	for name, kept := range map[string]bool{"kept": true, "not kept": false} {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{}, spool.Config{})
			st := b.create("site", 1)
			b.send("rising hot", []byte(env(near, 2)))
			if kept {
				kinesisapi.KeepMarks(b.srv)
				kinesisapi.KeepMarks(b.srv)
			}
			b.send("rising hot", []byte(env(near, 10)))
			b = b.another()
			b.send("rising cold", packed(env(near, 1), env(near, 3)))
			b.send("rising hot", packed(env(near, 2), env(near, 10), env(near, 11)))
			holds(t, st, env(near, 2), env(near, 10), env(near, 1), env(near, 3), env(near, 11))
		})
	}
}

// An uplink that began with the newest records and was made anew to bring the
// oldest too: what was never sent is not taken for stored.
func TestALaneFromBeforeItsBeginning(t *testing.T) {
	for name, restart := range map[string]bool{"at once": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{}, spool.Config{})
			st := b.create("site", 1)
			b.send("rising up", packed(envs(near, 100, 105)...))
			if restart {
				b = b.another()
			}
			b.send("rising up", packed(envs(near, 1, 3)...))
			b.send("rising up", packed(envs(near, 2, 5)...))
			holds(t, st, slices.Concat(envs(near, 100, 105), envs(near, 1, 5))...)
		})
	}
}

// A gateway between tells which records of others it knows to rise, and by
// which way each came to it.
func TestLanesByOtherWays(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	mid := "mid/0000000000000001/1"
	b.send("rising up -,", []byte(env(near, 100)), []byte(env(mid, 1))) // live-first, further down
	b.send("rising up ,-", []byte(env(mid, 1)), []byte(env(near, 1)))
	b.send("rising up a.1,b.1", []byte(env(near, 7)), []byte(env(near, 6)))
	b.send("rising up b.1,a.1", packed(env(near, 6), env(near, 8)), packed(env(near, 7)))
	b.send("rising up a.1", packed(env(near, 7)), packed(env(near, 7))) // it does not tell of both
	holds(t, st, env(near, 100), env(mid, 1), env(near, 1), env(near, 7), env(near, 6), env(near, 8), env(near, 7), env(near, 7))
}
