package opensearch_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/opensearch"
)

// A device that writes what looks like an envelope of this very gateway does
// not take the place of a record that is still to come.
func TestAForgedEnvelopeTakesNoPlace(t *testing.T) {
	c := newCluster(t)
	s := open(t, opensearch.Config{URL: c.URL})
	truth := batch(3, 2, `{"alarm":true}`)
	forged := batch(3, 1, "")
	lie := truth.Recs[0]
	lie.Data = []byte(`{"alarm":false}`)
	forged.Recs[0].Data = envelope.New(record.Identity{Gateway: home.ID.Gateway, Epoch: home.ID.Epoch}).Append(nil, "mqtt", &lie)
	want(t, send(t, s, forged), 1, lane.OK, "")
	want(t, send(t, s, truth), 1, lane.OK, "")
	for key, doc := range c.docs {
		if strings.HasSuffix(key, "/3/2") && strings.Contains(doc, `"data":{"mqtt":{"alarm":true}}`) {
			return
		}
	}
	t.Errorf("the record is done, and not there: %q", c.docs)
}

// The day in an envelope, which any device may write, chooses among the indices
// of about a year and no others. Sent again, a record goes to the same one.
func TestAForgedArrivalMakesNoIndex(t *testing.T) {
	c := newCluster(t)
	day := func(d int) time.Time { return arrived.AddDate(0, 0, d) }
	for i, x := range []struct {
		said, want time.Time
	}{
		{arrived, arrived},
		{day(-300), day(-300)}, // it waited through a long outage
		{day(1), day(1)},
		{day(-401), arrived},
		{day(2), arrived},
		{time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), arrived},
		{time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), arrived},
		{time.Unix(0, 0), arrived},
	} {
		b := batch(3, i+1, "")
		far := batch(9, i+1, `{"n":1}`).Recs[0]
		far.Arrived = x.said
		b.Recs[0].Data = envelope.New(record.Identity{Gateway: "cell-1", Epoch: 7}).Append(nil, "mqtt", &far)
		for range 2 {
			want(t, send(t, open(t, opensearch.Config{URL: c.URL}), b), 1, lane.OK, "")
		}
		id := fmt.Sprintf("forebay-mqtt-%s/cell-1/0000000000000007/9/%d", x.want.UTC().Format("2006.01.02"), i+1)
		if _, there := c.docs[id]; !there || len(c.docs) != i+1 {
			t.Errorf("said to have arrived at %s: no %s, %d documents", x.said, id, len(c.docs))
		}
	}
}
