package kinesis_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kinesis"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// What a request claims of its lanes: all of a unit came by one way, and what
// another gateway wrote is claimed to rise only where it was stored as such.
func TestClaimOfForwardedRecords(t *testing.T) {
	env := func(seq int) []byte {
		return []byte(fmt.Sprintf(`{"id":"near/0000000000000007/2/%d","t":1795341600000,"data":1}`, seq))
	}
	typed := func(by string) string { return envelope.LanesType(by) }
	recs := []record.Record{
		{Data: []byte("1")},
		{Data: []byte("2")},
		{Data: env(1), Type: typed("aa")},
		{Data: aggregate(part{"k", string(env(2))}, part{"k", string(env(3))}), Type: typed("aa")},
		{Data: env(4), Type: typed("bb")},
		{Data: env(900)},
		{Data: aggregate(part{"k", "plain"}, part{"k", string(env(5))})},
		{Data: aggregate(part{"k", "plain"}, part{"k", "plain"})},
		{Data: []byte("3")},
	}
	for i := range recs {
		recs[i].Key, recs[i].Pos, recs[i].Arrived = "k", record.Pos{Shard: 9, Seq: uint64(i + 1)}, time.Unix(1700000000, 0)
	}
	for rising, want := range map[bool][]string{
		true: {
			"rising up", "rising up", "rising up aa.9", "rising up aa.9", "rising up aa.9", "rising up bb.9",
			"rising up -", "rising up -", "rising up -", "rising up", "rising up", "rising up",
		},
		false: make([]string, 12),
	} {
		var got []string
		srv := serve(t, func(w http.ResponseWriter, r *http.Request, in put) {
			n := 0
			for _, x := range in.Records {
				n = 1
				if a, err := kpl.Decode(x.Data); err == nil {
					n = a.Len()
				}
			}
			for range n {
				got = append(got, r.Header.Get("X-Forebay-Lanes"))
			}
			accept(w, in)
		})
		home := lane.Home{ID: record.Identity{Gateway: "mid", Epoch: 7}, Rising: rising, Series: "up", Log: slog.New(slog.DiscardHandler)}
		s, err := kinesis.New(config(srv.URL), home)
		if err != nil {
			t.Fatal(err)
		}
		o := s.Send(t.Context(), []lane.Batch{{Lane: lane.Lane{Stream: "cell", Shard: 9, Hash: record.HashOf("lane")}, Recs: recs, Backlog: true}})[0]
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if o.Done != len(recs) || !slices.Equal(got, want) {
			t.Errorf("%+v; claimed of each record\n%s\nwant\n%s", o, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
