package opensearch_test

import (
	"strings"
	"testing"

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
