package nats_test

import (
	"bytes"
	"strings"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/nats"
)

// A limit that was raised at the target counts at once: a record that it takes
// now is not set aside.
func TestARaisedLimitCounts(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true,"max_msg_size":1000`)
	s := sink(t, identity, nats.Config{}, srv.ClientURL())
	wantDone(t, send(t, s, batch(1, 1, 3)), 3)
	request(t, nc, "$JS.API.STREAM.UPDATE.TARGET", `{"name":"TARGET","subjects":["forebay.>"],`+onDisk+`,"allow_atomic":true,"max_msg_size":100000}`)
	b := batch(1, 4, 3)
	b.Recs[1].Data = bytes.Repeat([]byte("x"), 20_000)
	wantDone(t, send(t, s, b), 3)
}

// What another gateway sent without its key in the envelope, because the key
// travelled beside it, has it here, where nothing else says it.
func TestAForwardedRecordKeepsItsKey(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	b := batch(1, 1, 1)
	far := rec(7, 9)
	far.Key = "press/4"
	b.Recs[0].Key = far.Key
	b.Recs[0].Data = envelope.NewBeside(record.Identity{Gateway: "edge-99", Epoch: 1}).Append(nil, "mqtt", &far)
	wantDone(t, send(t, sink(t, identity, nats.Config{}, srv.ClientURL()), b), 1)
	o, err := envelope.Open(read(t, nc, "forebay.>")[0].data)
	if err != nil || o.Key != far.Key || !strings.HasPrefix(o.ID, "edge-99/") {
		t.Errorf("%+v, %v", o, err)
	}
}
