package kinesis_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"forebay/uplink/lane"
)

// What a sink that aggregates says the records would take on the wire one by
// one is what one that does not aggregate takes.
func TestPlainBytes(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request, in put) { accept(w, in) })
	b := batch(3)
	for i := range 300 {
		b.Recs = append(b.Recs, batch(3, fmt.Sprintf(`{"n":%d,"pad":%q}`, i, strings.Repeat("x", i%70))).Recs...)
		b.Recs[i].Pos.Seq, b.Recs[i].Key = uint64(i+1), fmt.Sprint("press/", i%7)
	}
	for _, form := range [][2]string{{"raw", "json"}, {"envelope", "json"}, {"raw", "cbor"}, {"envelope", "cbor"}} {
		var took [2]lane.Outcome
		for i, aggregate := range []string{"on", "off"} {
			cfg := config(srv.URL)
			cfg.Format, cfg.Wire, cfg.Aggregate = form[0], form[1], aggregate
			if err := cfg.Check(); err != nil {
				t.Fatal(err)
			}
			took[i] = open(t, cfg).Send(t.Context(), []lane.Batch{b})[0]
			if took[i].Done != 300 {
				t.Fatalf("%s, %s: %+v", form, aggregate, took[i])
			}
		}
		if on, off := took[0], took[1]; on.Plain != off.Bytes || off.Plain != off.Bytes || on.Bytes >= off.Bytes {
			t.Errorf("%s: aggregated %d bytes, plain %d; not aggregated %d, plain %d", form, on.Bytes, on.Plain, off.Bytes, off.Plain)
		}
	}
}
