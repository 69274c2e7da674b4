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
func (l log) End() uint64   { return l.end }
func (l log) Arrived(seq uint64) (time.Time, bool) {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(seq)*time.Millisecond + l.late), seq < l.end
}

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
