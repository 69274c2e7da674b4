package kvs_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/kvs"
	"forebay/uplink/lane"
)

const stream = "edge-07-cam1"

// once has the nth of an operation go wrong.
func once(what string, n int, fault string) func(op, stream string, k int) string {
	return func(op, _ string, k int) string {
		if op == what && k == n {
			return fault
		}
		return ""
	}
}

// What is done was persisted, whatever the service does; what follows begins
// behind the last PERSISTED.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		what  string
		n     int
		fault string
		done  int
		class lane.Class
		text  string
		left  int // fragments that are sent a second time
	}{
		{"putMedia", 1, "throttle", 0, lane.Throttled, "Rate exceeded", 0},
		{"putMedia", 1, "500", 0, lane.Ambiguous, "500", 0},
		{"putMedia", 1, "html", 0, lane.Offline, "captive portal", 0},
		{"putMedia", 1, "cut", 0, lane.Ambiguous, "", 0},
		{"putMedia", 1, "gone", 0, lane.Misconfigured, "ResourceNotFound", 0},
		{"getDataEndpoint", 1, "throttle", 0, lane.Throttled, "Rate exceeded", 0},
		{"getDataEndpoint", 1, "html", 0, lane.Offline, "captive portal", 0},
		{"describeStream", 1, "throttle", 0, lane.Throttled, "Rate exceeded", 0},
		{"describeStream", 1, "html", 0, lane.Offline, "captive portal", 0},
		{"fragment", 3, "cut", 2, lane.Ambiguous, "", 0},
		{"fragment", 3, "kept, then cut", 2, lane.Ambiguous, "", 1},
		{"fragment", 3, "noise", 2, lane.Ambiguous, "ended before", 0},
		{"fragment", 3, "error 4000 STREAM_READ_ERROR", 2, lane.Transient, "STREAM_READ_ERROR", 0},
		{"fragment", 3, "error 4008 STREAM_NOT_ACTIVE", 2, lane.Transient, "STREAM_NOT_ACTIVE", 0},
		{"fragment", 3, "error 4500 KMS_KEY_ACCESS_DENIED", 2, lane.Misconfigured, "key cannot be used", 0},
		{"fragment", 3, "error 4503 KMS_KEY_UNAVAILABLE", 2, lane.Throttled, "KMS_KEY_UNAVAILABLE", 0},
		{"fragment", 3, "error 5000 INTERNAL_ERROR", 2, lane.Ambiguous, "INTERNAL_ERROR", 0},
		// The next connection is made at once.
		{"fragment", 3, "error 4003 MAX_CONNECTION_DURATION_REACHED", 5, lane.OK, "", 0},
		{"fragment", 3, "error 4006 INVALID_MKV_DATA", 5, lane.OK, "", 0},
	} {
		t.Run(c.what+" "+c.fault, func(t *testing.T) {
			r := newRig(t, nil).slack()
			r.misbehave(once(c.what, c.n, c.fault))
			recs := r.clip(newFilm("cam1"), 5)
			o := r.send(t, recs)
			if o.Done != c.done || o.Class != c.class || o.Err != nil && !strings.Contains(o.Err.Error(), c.text) {
				t.Fatalf("%+v, want %d done, %s", o, c.done, c.class)
			}
			if refused := r.drain(t, recs[o.Done:]); len(refused) > 0 {
				t.Errorf("refused: %q", refused)
			}
			ids := r.ids(stream)
			if n := len(ids); n != 5+c.left || !slices.Equal(slices.Compact(ids), idsOf(recs)) {
				t.Errorf("%d fragments: %q", n, ids)
			}
		})
	}
}

// A fragment that the service refuses for itself is found, though others are
// on the connection, and is all that is refused.
func TestAFragmentIsRefused(t *testing.T) {
	r := newRig(t, nil).slack()
	recs := r.clip(newFilm("cam1"), 6)
	bad := began.Add(6 * time.Second).UnixMilli() // the fourth
	r.refuse = func(ms int64) bool { return ms == bad }
	refused := r.drain(t, recs)
	if len(refused) != 1 || !strings.Contains(refused[0], "INVALID_MKV_DATA") || !strings.Contains(refused[0], "4006") {
		t.Fatalf("%q", refused)
	}
	if ids := r.ids(stream); !slices.Equal(ids, idsOf(slices.Delete(slices.Clone(recs), 3, 4))) {
		t.Errorf("%q", ids)
	}
}

// One of several short chunks in a fragment is to blame.
func TestAJoinedFragmentIsRefused(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	f.fps = 10
	recs := []record.Record{r.film(f, 4, 4), r.film(f, 20, 20)}
	bad := began.UnixMilli()
	r.refuse = func(ms int64) bool { return ms == bad }
	if refused := r.drain(t, recs); len(refused) != 1 {
		t.Fatalf("%q", refused)
	}
	if ids := r.ids(stream); !slices.Equal(ids, idsOf(recs[1:])) {
		t.Errorf("%q", ids)
	}
}

// RECEIVED is not PERSISTED.
func TestReceivedIsNotEnough(t *testing.T) {
	r := newRig(t, nil).slack()
	r.misbehave(func(op, _ string, _ int) string {
		if op == "fragment" {
			return "forgotten"
		}
		return ""
	})
	o := r.send(t, r.clip(newFilm("cam1"), 2))
	if o.Done != 0 || o.Class != lane.Ambiguous || !strings.Contains(o.Err.Error(), "persisted nothing") {
		t.Errorf("%+v", o)
	}
}

// The acknowledgement may come when the next fragment begins, or the
// connection ends, and IDLE may come between.
func TestLateAnswers(t *testing.T) {
	r := newRig(t, nil).slack()
	r.idle = true
	r.misbehave(func(op, _ string, _ int) string {
		if op == "putMedia" {
			return "late"
		}
		return ""
	})
	recs := r.clip(newFilm("cam1"), 4)
	for i := range recs {
		if o := r.send(t, recs[i:i+1]); o.Done != 1 {
			t.Fatalf("%+v", o)
		}
	}
	if ids := r.ids(stream); !slices.Equal(ids, idsOf(recs)) {
		t.Errorf("%q", ids)
	}
}

// A connection that stands still is given up.
func TestStandingStill(t *testing.T) {
	r := newRig(t, nil).slack()
	r.Still(200 * time.Millisecond)
	r.misbehave(once("fragment", 2, "silent"))
	recs := r.clip(newFilm("cam1"), 3)
	if o := r.send(t, recs); o.Done != 1 || o.Class != lane.Ambiguous || !strings.Contains(o.Err.Error(), "stood still") {
		t.Fatalf("%+v", o)
	}
}

// A data endpoint is kept for 45 minutes, and beyond where the service is busy.
func TestTheDataEndpointIsKept(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	r.drain(t, r.clip(f, 2))
	r.Age(46 * time.Minute)
	r.misbehave(once("getDataEndpoint", 2, "throttle"))
	if o := r.send(t, r.clip(f, 1)); o.Done != 1 {
		t.Errorf("a throttled GetDataEndpoint: %+v", o)
	}
	if n := r.count("getDataEndpoint", stream); n != 2 {
		t.Errorf("%d GetDataEndpoint", n)
	}
}

func TestStreamsAreMade(t *testing.T) {
	r := newRig(t, nil).slack()
	r.missing[stream] = true
	recs := r.clip(newFilm("cam1"), 1)
	o := r.send(t, recs)
	if o.Class != lane.Misconfigured || !strings.Contains(o.Err.Error(), "create = true") {
		t.Errorf("%+v", o)
	}
	if err := r.Probe(t.Context()); err != nil {
		t.Errorf("Probe: %v", err)
	}
	r = newRig(t, func(c *kvs.Config) { c.Create, c.RetentionHours = true, 72 }).slack()
	r.missing[stream] = true
	if o := r.send(t, r.clip(newFilm("cam1"), 1)); o.Done != 1 || r.retention != 72 {
		t.Errorf("%+v, kept for %d hours", o, r.retention)
	}
}

// A stream that keeps nothing, or is being deleted, is never mistaken for one
// that is safe.
func TestStreamsThatKeepNothing(t *testing.T) {
	for _, c := range []struct {
		set   func(*rig)
		class lane.Class
		text  string
	}{
		{func(r *rig) { r.retention = 0 }, lane.Misconfigured, "keeps nothing"},
		{func(r *rig) { r.status = "DELETING" }, lane.Misconfigured, "DELETING"},
		{func(r *rig) { r.status = "CREATING" }, lane.Transient, "being made"},
	} {
		r := newRig(t, nil).slack()
		c.set(r)
		if o := r.send(t, r.clip(newFilm("cam1"), 1)); o.Done != 0 || o.Class != c.class || !strings.Contains(o.Err.Error(), c.text) {
			t.Errorf("%s: %+v", c.text, o)
		}
	}
}

// A policy that allows PutMedia and GetDataEndpoint alone is enough.
func TestDescribeStreamIsDenied(t *testing.T) {
	r := newRig(t, nil).slack()
	r.misbehave(func(op, _ string, _ int) string {
		if op == "describeStream" {
			return "denied"
		}
		return ""
	})
	if o := r.send(t, r.clip(newFilm("cam1"), 1)); o.Done != 1 {
		t.Errorf("%+v", o)
	}
}

// A Send takes so much at a time.
func TestAsMuchAsGoes(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	rec := r.film(f, 4, 4)
	var recs []record.Record
	for i := range 70 {
		again := rec
		again.Pos.Seq = uint64(i + 1)
		recs = append(recs, again)
	}
	recs = recs[:66]
	o := r.send(t, recs[:1])
	if o.Done != 1 {
		t.Fatalf("%+v", o)
	}
	big := slices.Clone(recs[:3])
	for i := range big {
		big[i].Chunk.Len = 40 << 20
	}
	if o := r.send(t, big); o.Done != 1 || o.Class != lane.Transient || !strings.Contains(o.Err.Error(), "the rest follows") {
		t.Errorf("%+v", o)
	}
}

func TestGone(t *testing.T) {
	r := newRig(t, nil).slack()
	recs := r.clip(newFilm("cam1"), 3)
	r.drain(t, recs[:1])
	r.CloseClientConnections()
	r.stand.Close()
	if o := r.send(t, recs[1:]); o.Done != 0 || o.Class == lane.OK { // on the connection that was there
		t.Errorf("%+v", o)
	}
	if o := r.send(t, recs[1:]); o.Done != 0 || o.Class != lane.Offline {
		t.Errorf("%+v", o)
	}
	if err := r.Probe(t.Context()); err == nil {
		t.Error("Probe finds it")
	}
}

func TestCancelled(t *testing.T) {
	r := newRig(t, nil).slack()
	ctx, cancel := context.WithCancel(t.Context())
	recs := r.clip(newFilm("cam1"), 3)
	r.misbehave(func(op, _ string, n int) string {
		if op == "fragment" && n == 2 {
			cancel()
			return "silent"
		}
		return ""
	})
	if o := r.Send(ctx, []lane.Batch{{Lane: evidence, Recs: recs}})[0]; o.Done > 1 || o.Class == lane.OK {
		t.Errorf("%+v", o)
	}
	if o := r.Send(ctx, []lane.Batch{{Lane: evidence, Recs: recs[1:]}})[0]; o.Done != 0 || o.Class == lane.OK {
		t.Errorf("%+v", o)
	}
	if out := r.Send(t.Context(), nil); len(out) != 0 {
		t.Errorf("a Send of nothing: %v", out)
	}
}

// Whatever happens, what is done has arrived, in order, and sending the rest
// again delivers everything.
func TestFlaky(t *testing.T) {
	r := newRig(t, nil).slack()
	r.Still(2 * time.Second)
	rng := rand.New(rand.NewPCG(3, 4))
	faults := map[string][]string{
		"putMedia":        {"", "", "", "throttle", "500", "html", "cut", "late", "late"},
		"fragment":        {"", "", "", "", "", "", "cut", "kept, then cut", "error 4000 X", "error 5001 X", "error 4003 X", "noise", "forgotten"},
		"getDataEndpoint": {"", "throttle", "html"},
		"describeStream":  {"", "throttle", "html", "denied"},
	}
	r.misbehave(func(op, _ string, _ int) string { return faults[op][rng.IntN(len(faults[op]))] })
	films := []*film{newFilm("cam1"), newFilm("cam2")}
	lanes := []lane.Lane{evidence, {Stream: "video", Shard: 4}}
	left := make([]lane.Batch, 2)
	all := map[string][]string{}
	for i := range 40 {
		rec := r.film(films[i%2], 2, 2)
		n := i / 2 % 2
		rec.Pos.Shard = lanes[n].Shard
		left[n].Lane, left[n].Recs = lanes[n], append(left[n].Recs, rec)
	}
	for _, b := range left {
		for i := range b.Recs {
			all["edge-07-"+b.Recs[i].Key+" "+b.Lane.Stream] = append(all["edge-07-"+b.Recs[i].Key+" "+b.Lane.Stream], identity.Of(&b.Recs[i]))
		}
	}
	var wg sync.WaitGroup
	for _, b := range left {
		wg.Go(func() {
			for tries := 0; len(b.Recs) > 0; tries++ {
				if tries == 300 {
					t.Errorf("%d records are left of %s", len(b.Recs), b.Lane.Stream)
					return
				}
				o := r.Send(t.Context(), []lane.Batch{b})[0]
				if o.Class == lane.Poison {
					t.Errorf("sound video is refused: %v", o.Err)
					return
				}
				b.Recs = b.Recs[o.Done:]
			}
		})
	}
	wg.Wait()
	for at, want := range all {
		name, lane, _ := strings.Cut(at, " ")
		var got []string
		seen := map[string]bool{}
		for _, id := range r.ids(name) {
			if slices.Contains(want, id) && !seen[id] {
				got, seen[id] = append(got, id), true
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s of %s: %q", name, lane, got)
		}
	}
}

// No secret is in an error, and a refused key is an operator's to mend.
func TestAKeyIsRefused(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) //nolint:errcheck // nobody reads it
		refuse(w, 403, "UnrecognizedClientException", "The security token included in the request is invalid.")
	}))
	defer srv.Close()
	r := newRig(t, func(c *kvs.Config) { c.Endpoint = srv.URL })
	o := r.send(t, r.clip(newFilm("cam1"), 1))
	if o.Class != lane.Auth || strings.Contains(o.Err.Error(), secretKey) {
		t.Errorf("%+v", o)
	}
}

func TestConfig(t *testing.T) {
	at := aws.Access{Region: "eu-central-1"}
	for _, c := range []struct {
		cfg  kvs.Config
		want string
	}{
		{kvs.Config{Access: at, Stream: "a b"}, "stream:"},
		{kvs.Config{Access: at, Stream: "{camra}"}, "stream:"},
		{kvs.Config{Access: at, RetentionHours: 24}, "retention_hours:"},
		{kvs.Config{Access: at, Create: true, RetentionHours: 100000}, "retention_hours:"},
		{kvs.Config{Access: at, AckTimeout: 1}, "ack_timeout:"},
		{kvs.Config{Access: at, RequestTimeout: 1}, "request_timeout:"},
		{kvs.Config{Access: aws.Access{Endpoint: "x"}}, "endpoint:"},
	} {
		if err := c.cfg.Check(); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
	c := kvs.Config{Access: at, Create: true}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	if d := c.WithDefaults(); d.Stream != "{gateway}-{camera}" || d.RetentionHours != 24 || d.AckTimeout.D() != time.Minute || d.Check() != nil {
		t.Errorf("%+v", d)
	}
	if s := c.Target(); !strings.Contains(s, "Kinesis Video") || !strings.Contains(s, "{gateway}-{camera}") {
		t.Error(s)
	}
}

// A chunk that is lost, or cannot be read, while the connection stands costs
// nothing that went before it.
func TestAChunkIsLostOnTheWay(t *testing.T) {
	for _, c := range []struct {
		fault string
		class lane.Class
		text  string
		after int // records that are in the end refused
	}{
		{"gone", lane.Poison, "kept no longer", 1},
		{"breaks", lane.Transient, "cannot be read", 0},
	} {
		r := newRig(t, nil).slack()
		r.disk.fault = func(off int64, opened int) string {
			if off == 3 && opened == 2 {
				return c.fault
			}
			return ""
		}
		recs := r.clip(newFilm("cam1"), 5)
		o := r.send(t, recs)
		if o.Done > 2 || o.Class != c.class || !strings.Contains(o.Err.Error(), c.text) {
			t.Errorf("%s: %+v", c.fault, o)
		}
		r.disk.fault = func(off int64, _ int) string {
			if off == 3 && c.fault == "gone" {
				return c.fault
			}
			return ""
		}
		if refused := r.drain(t, recs[o.Done:]); len(refused) != c.after {
			t.Errorf("%s: %q", c.fault, refused)
		}
		if ids := r.ids(stream); len(slices.Compact(ids)) != 5-c.after {
			t.Errorf("%s: %q", c.fault, ids)
		}
	}
}
