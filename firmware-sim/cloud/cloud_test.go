package cloud_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/firmware-sim/cloud"
)

// An endpoint remembers what PutRecords stored.
type endpoint struct {
	mu   sync.Mutex
	keys []string
	ops  []string
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	e.ops = append(e.ops, op)
	switch op {
	case "ListShards":
		fmt.Fprint(w, `{"Shards":[{"ShardId":"shardId-0","HashKeyRange":{"StartingHashKey":"0","EndingHashKey":"99"}},`+
			`{"ShardId":"shardId-1","HashKeyRange":{"StartingHashKey":"100","EndingHashKey":"340282366920938463463374607431768211455"}}]}`)
	case "PutRecords":
		var in struct {
			Records []struct{ PartitionKey string }
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = unmarshal(r.Header, body, &in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out := map[string]any{"FailedRecordCount": 0}
		recs := []map[string]string{}
		for _, rec := range in.Records {
			e.keys = append(e.keys, rec.PartitionKey)
			recs = append(recs, map[string]string{"SequenceNumber": fmt.Sprint(len(e.keys)), "ShardId": "shardId-0"})
		}
		out["Records"] = recs
		b, err := marshal(r.Header, out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		if _, err := w.Write(b); err != nil {
			return
		}
	default:
		fmt.Fprint(w, `{}`)
	}
}

func (e *endpoint) stored() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.keys...)
}

func open(t *testing.T, f cloud.Faults) (*endpoint, *cloud.Cloud, string) {
	t.Helper()
	e := &endpoint{}
	back := httptest.NewServer(e)
	t.Cleanup(back.Close)
	c, err := cloud.New(back.URL, 7, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(c)
	t.Cleanup(front.Close)
	return e, c, front.URL
}

const cborMedia = "application/x-amz-cbor-1.1"

func unmarshal(h http.Header, b []byte, into any) error {
	if h.Get("Content-Type") == cborMedia {
		return cbor.Unmarshal(b, into)
	}
	return json.Unmarshal(b, into)
}

func marshal(h http.Header, v any) ([]byte, error) {
	if h.Get("Content-Type") == cborMedia {
		return cbor.Marshal(v)
	}
	return json.Marshal(v)
}

type answer struct {
	FailedRecordCount int
	Records           []struct{ SequenceNumber, ErrorCode string }
}

// put sends records of the hash keys, by turns in each encoding; err where no
// answer came.
func put(t *testing.T, url string, signed time.Time, data string, hashes ...string) (int, answer, http.Header, error) {
	t.Helper()
	type rec struct {
		Data                          []byte
		PartitionKey, ExplicitHashKey string
	}
	in := struct {
		StreamName string
		Records    []rec
	}{StreamName: "s"}
	for i, h := range hashes {
		in.Records = append(in.Records, rec{[]byte(data), fmt.Sprintf("k%d", i), h})
	}
	h := http.Header{"Content-Type": {"application/x-amz-json-1.1"}}
	if turn.Add(1)%2 == 0 {
		h.Set("Content-Type", cborMedia)
	}
	body, err := marshal(h, in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = h
	req.Header.Set("X-Amz-Target", "Kinesis_20131202.PutRecords")
	req.Header.Set("X-Amz-Date", signed.UTC().Format("20060102T150405Z"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, answer{}, nil, err
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, answer{}, nil, err
	}
	var a answer
	switch {
	case resp.StatusCode == http.StatusOK && unmarshal(h, b, &a) != nil:
		return resp.StatusCode, answer{}, resp.Header, nil
	case resp.StatusCode >= 400:
		var e struct {
			Type string `json:"__type"`
		}
		if err := unmarshal(h, b, &e); err != nil || e.Type == "" {
			t.Errorf("%s: %d %q, %v", h.Get("Content-Type"), resp.StatusCode, b, err)
		}
	}
	return resp.StatusCode, a, resp.Header, nil
}

var turn atomic.Int32

// both runs a test that begins with the one encoding, and with the other.
func both(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	for i, media := range []string{"cbor", "json"} {
		turn.Store(int32(i) + 1)
		t.Run(name+" "+media, f)
	}
}

// What is answered as stored is, what is answered as failed is not, each at
// its place.
func TestEntriesFailByLot(t *testing.T) {
	e, c, url := open(t, cloud.Faults{EntryFails: 0.3})
	var want []string
	failed := map[string]int{}
	for range 40 {
		status, a, _, err := put(t, url, time.Now(), "x", "1", "2", "3", "4", "5")
		if err != nil || status != http.StatusOK || len(a.Records) != 5 {
			t.Fatalf("%d %+v %v", status, a, err)
		}
		n := 0
		for i, r := range a.Records {
			if r.ErrorCode == "" && r.SequenceNumber != "" {
				want = append(want, fmt.Sprintf("k%d", i))
				continue
			}
			failed[r.ErrorCode]++
			n++
		}
		if n != a.FailedRecordCount {
			t.Errorf("%d failed, FailedRecordCount %d", n, a.FailedRecordCount)
		}
	}
	if got := e.stored(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("stored %v, answered %v", got, want)
	}
	s := c.Stats()
	if failed["InternalFailure"] == 0 || failed["ProvisionedThroughputExceededException"] == 0 || len(failed) != 2 ||
		int(s.EntriesFailed) != 200-len(want) || int(s.Records) != len(want) || s.Acknowledged != s.Records {
		t.Errorf("%v, %+v", failed, s)
	}
}

func TestFaultsOfARequest(t *testing.T) {
	for name, c := range map[string]struct {
		faults cloud.Faults
		status int // 0: no answer
		stored int
	}{
		"none":        {cloud.Faults{}, 200, 1},
		"up":          {cloud.Faults{Mode: cloud.Up}, 200, 1},
		"fail before": {cloud.Faults{FailBefore: 1}, 500, 0},
		"fail after":  {cloud.Faults{FailAfter: 1}, 500, 1},
		"cut before":  {cloud.Faults{CutBefore: 1}, 0, 0},
		"cut after":   {cloud.Faults{CutAfter: 1}, 0, 1},
		"down":        {cloud.Faults{Mode: cloud.Down}, 0, 0},
		"portal":      {cloud.Faults{Mode: cloud.Portal}, 200, 0},
		"clock":       {cloud.Faults{Clock: cloud.Duration(24 * time.Hour)}, 400, 0},
		"clock back":  {cloud.Faults{Clock: cloud.Duration(-10 * 365 * 24 * time.Hour)}, 400, 0},
		"slow":        {cloud.Faults{Slow: cloud.Duration(time.Millisecond)}, 200, 1},
	} {
		both(t, name, func(t *testing.T) {
			e, cl, url := open(t, c.faults)
			status, a, h, err := put(t, url, time.Now(), "x", "1")
			if (err != nil) != (c.status == 0) || status != c.status || len(e.stored()) != c.stored {
				t.Fatalf("status %d, %d stored, %v", status, len(e.stored()), err)
			}
			if ok := len(a.Records) == 1 && a.Records[0].SequenceNumber != ""; ok != (c.status == 200 && c.stored == 1) {
				t.Errorf("answer %+v", a)
			}
			if c.faults.Clock == 0 {
				return
			}
			// The Date says what the cloud's time is: signed by it, it is taken.
			at, err := http.ParseTime(h.Get("Date"))
			if err != nil {
				t.Fatal(err)
			}
			if status, _, _, err := put(t, url, at, "x", "1"); err != nil || status != 200 || cl.Stats().Refused != 1 {
				t.Errorf("signed by the cloud's clock: %d %v", status, err)
			}
		})
	}
}

// A half-open way gives no answer until it changes, and stores nothing.
func TestHalfOpen(t *testing.T) {
	e, c, url := open(t, cloud.Faults{Mode: cloud.HalfOpen})
	done := make(chan error, 1)
	go func() {
		_, _, _, err := put(t, url, time.Now(), "x", "1")
		done <- err
	}()
	for c.Stats().Lost == 0 {
		select {
		case err := <-done:
			t.Fatalf("answered: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := c.Set(cloud.Faults{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || len(e.stored()) != 0 {
		t.Errorf("%v, %d stored", err, len(e.stored()))
	}
}

// Each shard takes a thousand records at once, and 1 MB.
func TestThrottleByShard(t *testing.T) {
	e, c, url := open(t, cloud.Faults{Throttle: true})
	hashes := make([]string, 500)
	for i := range hashes {
		hashes[i] = "5"
	}
	for range 4 {
		if _, _, _, err := put(t, url, time.Now(), "x", hashes...); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(e.stored()); n < 1000 || n >= 2000 || int(c.Stats().Throttled) != 2000-n {
		t.Errorf("%d of 2000 stored, %d throttled", n, c.Stats().Throttled)
	}
	before := len(e.stored())
	if _, a, _, err := put(t, url, time.Now(), "x", "200"); err != nil || a.FailedRecordCount != 0 || len(e.stored()) != before+1 {
		t.Errorf("the other shard: %+v %v", a, err)
	}
	big := strings.Repeat("A", 600<<10)
	if _, a, _, err := put(t, url, time.Now(), big, "300", "300"); err != nil || a.FailedRecordCount != 1 {
		t.Errorf("two records of 600 KB: %+v %v", a.FailedRecordCount, err)
	}
}

// In front of nothing everything is taken, and faults are drawn all the same.
func TestNothing(t *testing.T) { both(t, "in", takesEverything) }

func takesEverything(t *testing.T) {
	c, err := cloud.New(cloud.Nothing, 7, cloud.Faults{EntryFails: 0.5}, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(c)
	defer srv.Close()
	status, a, _, err := put(t, srv.URL, time.Now(), "x", "1", "2", "3", "4", "5", "6", "7", "8")
	if err != nil || status != http.StatusOK || len(a.Records) != 8 || a.FailedRecordCount == 0 || a.FailedRecordCount == 8 || int(c.Stats().Records) != 8-a.FailedRecordCount {
		t.Errorf("%d %+v %+v %v", status, a, c.Stats(), err)
	}
}

func TestControl(t *testing.T) {
	e, c, _ := open(t, cloud.Faults{EntryFails: 0.5})
	srv := httptest.NewServer(c.Control())
	defer srv.Close()
	post := func(path, body string) (int, string) {
		t.Helper()
		resp, err := http.Post(srv.URL+path, "application/json", bytes.NewReader([]byte(body))) //nolint:noctx // a test server
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if status, b := post("/faults", `{"mode":"down","clock":"24h"}`); status != 200 || !strings.Contains(b, `"mode":"down"`) || !strings.Contains(b, `"entry_fails":0.5`) || !strings.Contains(b, `"clock":"24h0m0s"`) {
		t.Errorf("%d %s", status, b)
	}
	for _, bad := range []string{`{"mode":"sideways"}`, `{"entry_fails":2}`, `{"unknown":1}`, `{`} {
		if status, b := post("/faults", bad); status != 400 {
			t.Errorf("%s: %d %s", bad, status, b)
		}
	}
	if status, b := post("/reshard?stream=s&shards=6", ""); status != 200 || e.ops[len(e.ops)-1] != "UpdateShardCount" {
		t.Errorf("%d %s", status, b)
	}
	if status, _ := post("/reshard?stream=s&shards=none", ""); status != 400 {
		t.Error("no number of shards is one")
	}
	if c.Faults().Mode != cloud.Down {
		t.Errorf("%+v", c.Faults())
	}
}
