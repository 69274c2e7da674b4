package sparkplug

import (
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

// A metric is named by the key of a record that another gateway sent, also
// where that travelled beside the envelope.
func TestAForwardedRecordKeepsItsKey(t *testing.T) {
	name, err := mqtt.ParseTemplate("{key}", "key")
	if err != nil {
		t.Fatal(err)
	}
	far := record.Record{Key: "press/4", Data: []byte("1"), Arrived: time.UnixMilli(1)}
	r := far
	r.Data = envelope.NewBeside(record.Identity{Gateway: "edge-99", Epoch: 1}).Append(nil, "mqtt", &far)
	rd := reader{device: name, metric: name}
	if ss := rd.samples(nil, &lane.Lane{Stream: "s"}, &r); len(ss) != 1 || ss[0].device != "press_4" || ss[0].metric != "press/4" {
		t.Errorf("%+v", ss)
	}
}
