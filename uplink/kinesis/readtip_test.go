package kinesis_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
)

// An answer is one to GetRecords: at most one record, and how far it is from
// the tip.
type answer struct {
	id     string // "" for no record
	at     time.Time
	behind int
}

// shardOf is a Kinesis with one shard, which gives these answers, and the last
// one for ever.
func shardOf(t *testing.T, answers []answer) *kinesis.Sink {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var in struct{ ShardIterator string }
		if err == nil {
			err = json.Unmarshal(b, &in)
		}
		if err != nil {
			t.Error(err)
		}
		switch _, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); op {
		case "ListShards":
			fmt.Fprint(w, `{"Shards":[{"ShardId":"shardId-000000000000"}]}`)
		case "GetShardIterator":
			fmt.Fprint(w, `{"ShardIterator":"0"}`)
		case "GetRecords":
			n := 0
			if _, err := fmt.Sscan(in.ShardIterator, &n); err != nil {
				t.Error(err)
			}
			a, recs := answers[min(n, len(answers)-1)], []any{}
			if a.id != "" {
				recs = append(recs, map[string]any{"Data": envelopeOf(a.id), "SequenceNumber": fmt.Sprint(n + 1), "ApproximateArrivalTimestamp": float64(a.at.UnixMilli()) / 1e3})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"Records": recs, "NextShardIterator": fmt.Sprint(n + 1), "MillisBehindLatest": a.behind}) // the client may have gone
		default:
			t.Errorf("asked for %s", op)
		}
	}))
	t.Cleanup(srv.Close)
	var c kinesis.Config
	c.Endpoint, c.Region, c.Stream, c.AccessKey, c.SecretKey = srv.URL, "us-east-1", "press", "any", conf.NewSecret("any")
	s, err := kinesis.New(c, lane.Home{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestReadBackToTheTip: a shard is read until the target says that nothing is
// behind, whatever its records' times and our clock are; one that is written to
// all the time, until its records are later than the reading.
func TestReadBackToTheTip(t *testing.T) {
	now := time.Now()
	ahead, old, later := now.Add(24*time.Hour), now.Add(-time.Hour), now.Add(5*time.Minute)
	for name, c := range map[string]struct {
		answers []answer
		to      time.Time
		want    []string
	}{
		"times ahead of our clock":   {[]answer{{"7/1", ahead, 9}, {"7/2", ahead, 5}, {"7/3", ahead, 1}, {}}, time.Time{}, []string{"7/1", "7/2", "7/3"}},
		"empty, but not at the tip":  {[]answer{{"7/1", old, 9}, {behind: 8}, {behind: 8}, {"7/2", old, 1}, {}}, time.Time{}, []string{"7/1", "7/2"}},
		"records and said to be all": {[]answer{{"7/1", old, 0}, {"7/2", old, 0}, {}}, time.Time{}, []string{"7/1", "7/2"}},
		"never without a record":     {[]answer{{"7/1", old, 9}, {"7/2", now, 0}, {"7/3", later, 0}}, time.Time{}, []string{"7/1", "7/2", "7/3"}},
		"to a time":                  {[]answer{{"7/1", old, 9}, {"7/2", later, 9}}, now, []string{"7/1"}},
		"to a time that is ahead":    {[]answer{{"7/1", old, 9}, {"7/2", later, 9}, {}}, ahead, []string{"7/1", "7/2"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			err := shardOf(t, c.answers).ReadBack(t.Context(), time.Time{}, c.to, func(_, id string) error {
				got = append(got, strings.TrimPrefix(id, "edge/0123456789abcdef/"))
				return nil
			})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
		})
	}
}
