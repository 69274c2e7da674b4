package kafka_test

import (
	"log/slog"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kfake"
)

// A log is one whose records arrived as batchOf makes them, up to, and not
// with, end; late is how much later they did in truth.
type log struct {
	began, end uint64
	late       time.Duration
}

func (l log) Began() uint64 { return l.began }
func (l log) Again() bool   { return false }
func (l log) Since() uint64 { return l.Began() }
func (l log) End() uint64   { return l.end }
func (l log) Arrived(seq uint64) (time.Time, bool, error) {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(seq)*time.Millisecond + l.late), seq < l.end, nil
}

// A lost log is one that was set back to its oldest record.
type lost struct{ log }

func (lost) Again() bool { return true }

// A place in the topic of places is not believed of records that it does not
// speak of.
func TestAPlaceSpeaksOfWhatWasSent(t *testing.T) {
	t.Parallel()
	all := log{1, 1000, 0}
	for _, c := range []struct {
		name          string
		first, again  log
		from, behind  int
		shape, other  string
		words         string
		passed, taken int // records that are passed without being sent, and those that are sent
	}{
		{name: "the same", first: all, again: all, from: 1, behind: 1, passed: 20, taken: 5},
		{name: "made anew for the oldest", first: log{500, 1000, 0}, again: all, from: 500, behind: 1, words: "but only from 500 on"},
		{name: "made anew for the newest", first: all, again: log{500, 1000, 0}, from: 1, behind: 500, taken: 5},
		{name: "another shape", first: all, again: all, from: 1, behind: 1, shape: "aa", other: "bb", words: "another shape"},
		{name: "another shape from here on", first: all, again: all, from: 1, behind: 21, shape: "aa", other: "bb", taken: 5},
		{name: "an older copy", first: all, again: log{1, 15, 0}, from: 1, behind: 1, words: "the newest that is here is 14"},
		{name: "an older copy that has grown", first: all, again: log{1, 1000, 1}, from: 1, behind: 1, words: "arrived at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := newCluster(t, kfake.SeedTopics(2, "target"))
			do := func(txn, shape string, b lane.Batch, p lane.Place) lane.Outcome {
				s, err := kafka.New(
					kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "target", TransactionalID: txn, RequestTimeout: conf.Duration(5 * time.Second)},
					lane.Home{Uplink: "site", ID: identity, Shape: shape, Log: slog.New(slog.DiscardHandler)},
				)
				if err != nil {
					t.Fatal(err)
				}
				defer closes(t, s)
				b.Place = p
				return send(t, s, b)
			}
			want(t, do("one", c.shape, batchOf(laneOf(1), c.from, 20), c.first), 20, lane.OK, "")
			n := c.passed + c.taken
			if c.words != "" {
				n = 25
				for range 2 {
					want(t, do("one", c.other, batchOf(laneOf(1), c.behind, n), c.again), 0, lane.Misconfigured, c.words)
				}
				// What it says to do helps.
				want(t, do("two", c.other, batchOf(laneOf(1), c.behind, n), c.again), n, lane.OK, "")
				return
			}
			want(t, do("one", c.other, batchOf(laneOf(1), c.behind, n), c.again), n, lane.OK, "")
			if got := count(t, cluster); got != 20+c.taken {
				t.Errorf("%d records, want %d", got, 20+c.taken)
			}
		})
	}
}

// sinkOf is a sink of an uplink with a shape, which may begin with the newest.
func sinkOf(t *testing.T, cluster *kfake.Cluster, uplink, shape string, newest bool) *kafka.Sink {
	t.Helper()
	s, err := kafka.New(
		kafka.Config{Brokers: cluster.ListenAddrs(), Topic: "target", TransactionalID: "one", RequestTimeout: conf.Duration(5 * time.Second)},
		lane.Home{Uplink: uplink, ID: identity, Shape: shape, Newest: newest, Log: slog.New(slog.DiscardHandler)},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closes(t, s) })
	return s
}

// After a change of shape in place the place speaks of the new shape's records
// alone, however many batches there were.
func TestAShapeThatWasChangedInPlace(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.SeedTopics(2, "target"))
	do := func(uplink, shape string, from, n int) lane.Outcome {
		b := batchOf(laneOf(1), from, n)
		b.Place = log{1, 1000, 0}
		return send(t, sinkOf(t, cluster, uplink, shape, false), b)
	}
	want(t, do("site", "aa", 1, 20), 20, lane.OK, "")
	for from := 21; from < 36; from += 5 {
		want(t, do("site", "bb", from, 5), 5, lane.OK, "")
	}
	want(t, do("anew", "bb", 1, 35), 0, lane.Misconfigured, "but only from 21 on")
	want(t, do("anew", "bb", 21, 20), 20, lane.OK, "")
	if got := count(t, cluster); got != 40 {
		t.Errorf("%d records, want 40", got)
	}
}

// An uplink that began with the newest and lost its place with state.db goes
// on, and counts what it was never to send as left out; another says what is
// the matter.
func TestALostPlace(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.SeedTopics(2, "target"))
	do := func(newest bool, p lane.Place, from, n int) lane.Outcome {
		b := batchOf(laneOf(1), from, n)
		b.Place = p
		return send(t, sinkOf(t, cluster, "site", "aa", newest), b)
	}
	want(t, do(true, log{301, 1000, 0}, 301, 20), 20, lane.OK, "")
	set := lost{log{295, 1000, 0}}
	want(t, do(false, set, 295, 30), 0, lane.Misconfigured, "state.db was lost")
	want(t, do(true, log{295, 1000, 0}, 295, 30), 0, lane.Misconfigured, "but only from 301 on")
	o := do(true, set, 295, 30)
	want(t, o, 30, lane.OK, "")
	if o.Left != 6 {
		t.Errorf("%d are left out, want 6", o.Left)
	}
	if o = do(true, set, 325, 5); o.Done != 5 || o.Left != 0 {
		t.Errorf("%+v", o)
	}
	if got := count(t, cluster); got != 29 {
		t.Errorf("%d records, want 29", got)
	}
	want(t, do(false, log{1, 1000, 0}, 299, 10), 0, lane.Misconfigured, "but only from 301 on")
}

// A topic that was created anew while the uplink went on speaks of what came
// since.
func TestAPlaceOfATopicCreatedAgain(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.SeedTopics(2, "target"))
	do := func(from, n int) lane.Outcome {
		b := batchOf(laneOf(1), from, n)
		b.Place = log{1, 1000, 0}
		return send(t, sinkOf(t, cluster, "site", "aa", false), b)
	}
	want(t, do(1, 20), 20, lane.OK, "")
	if err := cluster.DeleteTopic("target"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.CreateTopic("target", 2, nil); err != nil {
		t.Fatal(err)
	}
	want(t, do(21, 5), 5, lane.OK, "")
	want(t, do(26, 5), 5, lane.OK, "")
	want(t, do(1, 30), 0, lane.Misconfigured, "but only from 21 on")
	want(t, do(21, 11), 11, lane.OK, "")
	if got := count(t, cluster); got != 11 {
		t.Errorf("%d records, want 11", got)
	}
}
