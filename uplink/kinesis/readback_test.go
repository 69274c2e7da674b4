package kinesis_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/kinesis"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A shelf is a Kinesis that is only read: two streams of three shards, the last
// of which came of the first two. Its iterators say where they stand, and it
// refuses as the service does.
type shelf struct {
	t    *testing.T
	mu   sync.Mutex
	n    int
	old  map[string]bool // iterators that have expired once
	data map[string][][]byte
}

func envelopeOf(id string) []byte {
	return fmt.Appendf(nil, `{"id":"edge/0123456789abcdef/%s","key":"k","t":1}`, id)
}

func newShelf(t *testing.T) (*shelf, *kinesis.Sink) {
	t.Helper()
	var agg kpl.Encoder
	agg.Add("k", "", envelopeOf("7/2"))
	agg.Add("k", "", envelopeOf("7/3/1"))
	f := &shelf{t: t, old: map[string]bool{}, data: map[string][][]byte{
		"plant-a/shardId-000000000000": {envelopeOf("7/1"), agg.AppendTo(nil)},
		"plant-a/shardId-000000000001": {[]byte("not ours"), envelopeOf("8/1")},
		"plant-a/shardId-000000000002": {envelopeOf("7/4"), envelopeOf("8/2")},
		"plant-b/shardId-000000000000": {envelopeOf("9/1")},
	}}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	var c kinesis.Config
	c.Endpoint, c.Region, c.Stream, c.AccessKey, c.SecretKey = srv.URL, "us-east-1", "plant-{stream}", "any", conf.NewSecret("any")
	s, err := kinesis.New(c, lane.Home{ID: record.Identity{Gateway: "edge"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, s
}

func (f *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in struct{ StreamName, ShardId, ShardIterator, ShardIteratorType, StartingSequenceNumber string } //nolint:revive // names of the API
	b, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		f.t.Error(err)
	}
	_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	refuse := func(status int, code string) {
		w.Header().Set("X-Amzn-RequestId", "r")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type":%q,"message":"again"}`, code)
	}
	if f.n++; f.n%5 == 0 {
		refuse(http.StatusBadRequest, "ProvisionedThroughputExceededException")
		return
	}
	switch op {
	case "ListStreams":
		fmt.Fprint(w, `{"StreamNames":["other","plant-a","plant-b"],"HasMoreStreams":false}`)
	case "DescribeStreamSummary":
		hours := map[string]int{"plant-a": 24, "plant-b": 48}[in.StreamName]
		fmt.Fprintf(w, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE","RetentionPeriodHours":%d}}`, hours)
	case "ListShards":
		if in.StreamName == "plant-b" {
			fmt.Fprint(w, `{"Shards":[{"ShardId":"shardId-000000000000"}]}`)
			return
		}
		fmt.Fprint(w, `{"Shards":[{"ShardId":"shardId-000000000002","ParentShardId":"shardId-000000000000","AdjacentParentShardId":"shardId-000000000001"},`+
			`{"ShardId":"shardId-000000000001"},{"ShardId":"shardId-000000000000"}]}`)
	case "GetShardIterator":
		at := "0"
		if in.ShardIteratorType == "AFTER_SEQUENCE_NUMBER" {
			at = in.StartingSequenceNumber
		}
		fmt.Fprintf(w, `{"ShardIterator":"%s/%s@%s"}`, in.StreamName, in.ShardId, at)
	case "GetRecords":
		place, at := in.ShardIterator, 0
		place, num, _ := strings.Cut(place, "@")
		if _, err := fmt.Sscan(num, &at); err != nil {
			f.t.Error(err)
		}
		if at == 1 && !f.old[place] {
			f.old[place] = true
			refuse(http.StatusBadRequest, "ExpiredIteratorException")
			return
		}
		all := f.data[place]
		if at >= len(all) {
			if strings.HasSuffix(place, "2") || strings.HasPrefix(place, "plant-b") {
				fmt.Fprintf(w, `{"Records":[],"NextShardIterator":"%s@%d","MillisBehindLatest":0}`, place, at)
			} else {
				fmt.Fprint(w, `{"Records":[],"MillisBehindLatest":0}`)
			}
			return
		}
		data, err := json.Marshal(all[at])
		if err != nil {
			f.t.Error(err)
		}
		fmt.Fprintf(w, `{"Records":[{"Data":%s,"PartitionKey":"k","SequenceNumber":"%d","ApproximateArrivalTimestamp":1.7953e9}],"NextShardIterator":"%s@%d","MillisBehindLatest":5}`, data, at+1, place, at+1)
	default:
		f.t.Errorf("asked for %s", op)
	}
}

// TestReadBack: every id in its lane's order, parents before their child,
// aggregates opened, over throttling and iterators that expire.
func TestReadBack(t *testing.T) {
	_, s := newShelf(t)
	var got []string
	err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(under, id string) error {
		if of := map[bool]string{true: "b", false: "a"}[strings.Contains(id, "/9/")]; under != s.Under(of) || under != "plant-"+of {
			t.Errorf("%s lies under %s", id, under)
		}
		got = append(got, strings.TrimPrefix(id, "edge/0123456789abcdef/"))
		return nil
	})
	if want := []string{"7/1", "7/2", "7/3/1", "8/1", "7/4", "8/2", "9/1"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	enough := errors.New("enough")
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	if err := s.ReadBack(t.Context(), time.Now(), time.Time{}, func(_, id string) error { return fmt.Errorf("%s is old", id) }); err != nil {
		t.Error(err)
	}
}

// TestKeeps: the shortest retention counts.
func TestKeeps(t *testing.T) {
	_, s := newShelf(t)
	since, err := s.Keeps(t.Context())
	if ago := time.Since(since).Round(time.Hour); err != nil || ago != 24*time.Hour {
		t.Errorf("%v, %v", ago, err)
	}
}

func TestRawHasNoIDs(t *testing.T) {
	var c kinesis.Config
	c.Endpoint, c.Region, c.Stream, c.Format, c.AccessKey, c.SecretKey = "http://127.0.0.1:1", "us-east-1", "s", "raw", "any", conf.NewSecret("any")
	s, err := kinesis.New(c, lane.Home{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return nil }); err == nil || !strings.Contains(err.Error(), "no ids") {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
