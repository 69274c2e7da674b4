package sparkplug_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
	"forebay/uplink/sparkplug"
)

// at is a time in whole milliseconds, as Sparkplug has it.
func at(ago time.Duration) time.Time { return time.Now().Add(-ago).Truncate(time.Millisecond) }

// Payloads become metrics with their names, types and times.
func TestValues(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr(), Device: "{source}"})
	now := at(0)
	taken := now.Add(-time.Hour)
	r := rec(1, "line4/press", `{"temp":21.5,"motor":{"on":true,"speed":1200},"state":"run","tags":[1,2],"gone":null,"big":9007199254740993}`, now)
	r.At = taken
	out := send(t, s, false, r, rec(2, "plain", "text", now), rec(3, "bare", "7", now), rec(4, "bin", "\xff\x00", now), rec(5, "empty", "", now))
	if out.Done != 5 || out.Bytes == 0 {
		t.Fatalf("%+v", out)
	}
	var got []string
	for _, v := range h.read() {
		if v.device != "broker" {
			t.Errorf("device %q", v.device)
		}
		x := v.Value
		got = append(got, fmt.Sprintf("%s %d %v %d %v %v %q %q null=%v %s", v.name, v.Type, v.Historical, int64(x.Int), x.Float, x.Bool, x.Text, x.Bytes, v.Null, map[uint64]string{uint64(now.UnixMilli()): "arrived", uint64(taken.UnixMilli()): "at"}[v.Time]))
	}
	want := []string{
		`line4/press/temp 10 false 0 21.5 false "" "" null=false at`,
		`line4/press/motor/on 11 false 0 0 true "" "" null=false at`,
		`line4/press/motor/speed 10 false 0 1200 false "" "" null=false at`,
		`line4/press/state 12 false 0 0 false "run" "" null=false at`,
		`line4/press/tags 12 false 0 0 false "[1,2]" "" null=false at`,
		`line4/press/gone 12 false 0 0 false "" "" null=true at`,
		`line4/press/big 4 false 9007199254740993 0 false "" "" null=false at`,
		`plain 12 false 0 0 false "text" "" null=false arrived`,
		`bare 10 false 0 7 false "" "" null=false arrived`,
		`bin 17 false 0 0 false "" "\xff\x00" null=false arrived`,
		`empty 12 false 0 0 false "" "" null=false arrived`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if said := h.said(); !slices.Equal(said[:2], []string{"NBIRTH", "DBIRTH broker"}) || strings.Contains(strings.Join(said[2:], " "), "BIRTH") {
		t.Errorf("said %q", said)
	}
}

// The seq runs to 255 and on from 0, over births and data, and a new metric
// or a wider type is born before its data.
func TestSequenceAndLateMetrics(t *testing.T) {
	for _, aliases := range []bool{false, true} {
		h := newHost(t)
		s := open(t, sparkplug.Config{Link: h.addr(), Aliases: aliases})
		for i := range 700 {
			data := fmt.Sprint(i)
			switch {
			case i == 400:
				data = "true" // the type widens
			case i > 600:
				data = fmt.Sprintf(`{"part%d":%d}`, i%3, i)
			}
			if out := send(t, s, false, rec(i+1, "k", data, time.Now())); out.Done != 1 {
				t.Fatalf("%+v", out)
			}
		}
		values := h.read()
		if len(values) != 700 || values[400].Value.Text != "true" || values[500].Value.Text != "500" || values[399].Value.Float != 399 {
			t.Errorf("%d values", len(values))
		}
		births := 0
		for _, v := range h.said() {
			if strings.HasPrefix(v, "DBIRTH") {
				births++
			}
		}
		if births != 5 {
			t.Errorf("%d births of the device", births)
		}
	}
}

// Forwarded envelopes and aggregates are what they were where they came from.
func TestForwarded(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr()})
	first := record.Record{Key: "cell/temp", Source: "plc", Data: []byte("3.5"), At: at(time.Minute), Arrived: at(0), Pos: record.Pos{Shard: 9, Seq: 4}}
	env := envelope.New(record.Identity{Gateway: "cell", Epoch: 1}).Append(nil, "sensors", &first)
	var enc kpl.Encoder
	enc.Reset()
	enc.Add("a", "1", []byte("1"))
	enc.Add("b", "1", env)
	if out := send(t, s, false, rec(1, "outer", string(env), at(0)), rec(2, "outer", string(enc.AppendTo(nil)), at(0))); out.Done != 2 {
		t.Fatalf("%+v", out)
	}
	var got []string
	for _, v := range h.read() {
		got = append(got, fmt.Sprint(v.device, " ", v.name, " ", v.Value.Float, " ", v.Time == uint64(first.At.UnixMilli())))
	}
	if want := []string{"sensors cell/temp 3.5 true", "mqtt a 1 false", "sensors cell/temp 3.5 true"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A host that asks for it gets all births again, with the same bdSeq; any
// other command is refused and counted.
func TestCommands(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr()})
	if out := send(t, s, false, rec(1, "k", "1", time.Now()), rec(2, "j", `"x"`, time.Now())); out.Done != 2 {
		t.Fatalf("%+v", out)
	}
	h.forget()
	rebirth := func(v sparkplug.Value, typ sparkplug.Datatype) []byte {
		p := sparkplug.Payload{Time: 1, Metrics: []sparkplug.Metric{{Name: "Node Control/Rebirth", Type: typ, Value: v}}}
		return p.Append(nil)
	}
	h.publish("spBv1.0/plant/NCMD/edge-07", rebirth(sparkplug.Value{Type: sparkplug.Boolean, Bool: true}, sparkplug.Boolean), false)
	eventually(t, "a rebirth", func() bool { return len(h.said()) == 2 })
	if said := h.said(); !slices.Equal(said, []string{"NBIRTH", "DBIRTH mqtt"}) {
		t.Errorf("%q", said)
	}
	if m := h.current("mqtt", "k"); m.Value.Float != 1 || m.Null {
		t.Errorf("the birth has not the last value: %+v", m)
	}
	write := sparkplug.Payload{Time: 1, Metrics: []sparkplug.Metric{{Name: "Node Control/Reboot", Type: sparkplug.Boolean, Value: sparkplug.Value{Type: sparkplug.Boolean, Bool: true}}}}
	h.publish("spBv1.0/plant/NCMD/edge-07", write.Append(nil), false)
	h.publish("spBv1.0/plant/NCMD/edge-07", []byte("\xff garbage"), false)
	h.publish("spBv1.0/plant/NCMD/edge-07", rebirth(sparkplug.Value{Type: sparkplug.Boolean}, sparkplug.Boolean), false)
	h.publish("spBv1.0/plant/DCMD/edge-07/mqtt", write.Append(nil), false)
	eventually(t, "four refusals", func() bool { return s.CommandsRefused() == 4 })
	if out := send(t, s, false, rec(3, "k", "2", time.Now())); out.Done != 1 {
		t.Fatalf("%+v", out)
	}
	if said := h.said(); !slices.Equal(said, []string{"NBIRTH", "DBIRTH mqtt", "DDATA mqtt"}) {
		t.Errorf("%q", said)
	}
}

// The node says its death before it leaves; where the connection breaks, the
// broker says it.
func TestDeath(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr()})
	if out := send(t, s, false, rec(1, "k", "1", time.Now())); out.Done != 1 || !h.alive() {
		t.Fatalf("%+v", out)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the death", func() bool { return !h.alive() })
	if said := h.said(); said[len(said)-1] != "NDEATH" {
		t.Errorf("%q", said)
	}
	s2 := open(t, sparkplug.Config{Link: h.addr(), Node: "edge-07"})
	h.mu.Lock()
	h.connects = 0 // it is another process, whose bdSeq begins at 0
	h.cut = func(topic string, _ []byte) bool { return strings.Contains(topic, "DDATA") }
	h.mu.Unlock()
	if out := send(t, s2, false, rec(1, "k", "1", time.Now())); out.Done != 0 || out.Class != lane.Ambiguous {
		t.Fatalf("%+v", out)
	}
	eventually(t, "the will", func() bool { return !h.alive() })
	h.mu.Lock()
	h.cut = nil
	h.mu.Unlock()
	if out := send(t, s2, false, rec(1, "k", "1", time.Now())); out.Done != 1 || !h.alive() {
		t.Fatalf("%+v", out)
	}
}

// Nothing is said before the primary host is online, and nothing after it has
// gone: the node dies then, and is born again when the host is back.
func TestPrimaryHost(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr(), PrimaryHost: "scada"})
	try := func(seq int) lane.Outcome { return send(t, s, false, rec(seq, "k", fmt.Sprint(seq), time.Now())) }
	if out := try(1); out.Class != lane.Offline || !strings.Contains(out.Err.Error(), "scada is not online") {
		t.Fatalf("%+v", out)
	}
	h.state(false, 100)
	if out := try(1); out.Class != lane.Offline || len(h.said()) > 0 {
		t.Fatalf("%+v, %q", out, h.said())
	}
	h.publish("spBv1.0/STATE/other", []byte(`{"online":true,"timestamp":200}`), true)
	h.state(true, 99) // older than the last: it counts for nothing
	if err := s.Probe(t.Context()); err == nil || len(h.said()) > 0 {
		t.Fatalf("%v, %q", err, h.said())
	}
	h.state(true, 200)
	eventually(t, "the host is online", func() bool { return s.Probe(t.Context()) == nil })
	if out := try(1); out.Done != 1 {
		t.Fatalf("%+v", out)
	}
	if !h.alive() {
		t.Error("not born")
	}
	h.state(false, 150) // older
	if out := try(2); out.Done != 1 {
		t.Fatalf("%+v", out)
	}
	h.forget()
	h.state(false, 300)
	eventually(t, "the death", func() bool { return !h.alive() })
	if out := try(3); out.Class != lane.Offline {
		t.Fatalf("%+v", out)
	}
	if said := h.said(); !slices.Equal(said, []string{"NDEATH"}) {
		t.Errorf("%q", said)
	}
	h.state(true, 400)
	eventually(t, "the host is online", func() bool { return s.Probe(t.Context()) == nil })
	if out := try(3); out.Done != 1 {
		t.Fatalf("%+v", out)
	}
	if said := h.said(); !slices.Equal(said, []string{"NDEATH", "NBIRTH", "DBIRTH mqtt", "DDATA mqtt"}) {
		t.Errorf("%q", said)
	}
}

// A host that goes while data is on its way: the data is not done.
func TestHostGoesWhileDataIsOnItsWay(t *testing.T) {
	h := newHost(t)
	h.state(true, 1)
	s := open(t, sparkplug.Config{Link: h.addr(), PrimaryHost: "scada"})
	if out := send(t, s, false, rec(1, "k", "1", time.Now())); out.Done != 1 {
		t.Fatalf("%+v", out)
	}
	gate := make(chan struct{})
	h.mu.Lock()
	h.deaf = gate
	h.mu.Unlock()
	done := make(chan lane.Outcome, 1)
	go func() {
		done <- s.Send(t.Context(), []lane.Batch{{Lane: line, Recs: []record.Record{rec(2, "k", "2", time.Now())}}})[0]
	}()
	eventually(t, "data", func() bool { return len(h.read()) == 2 })
	h.state(false, 2)
	// The node hears it on the connection whose barrier the broker holds back.
	out := <-done
	close(gate)
	if out.Done != 0 || out.Class != lane.Ambiguous || !strings.Contains(out.Err.Error(), "host went offline") {
		t.Errorf("%+v", out)
	}
}

// What waited is history, the last of it the present.
func TestHistory(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr()})
	old := at(time.Hour)
	if out := send(t, s, true, rec(1, "set", "1", old), rec(2, "set", "2", old.Add(time.Second)), rec(3, "temp", "10", old.Add(time.Minute))); out.Done != 3 {
		t.Fatalf("%+v", out)
	}
	if m := h.current("mqtt", "set"); !m.Null {
		t.Errorf("history shows as present: %+v", m)
	}
	// The end of the backlog: what waits no more is the present, and so is the
	// last value of what has not changed since.
	if out := send(t, s, false, rec(4, "temp", "11", old.Add(2*time.Minute)), rec(5, "temp", "12", at(0))); out.Done != 2 {
		t.Fatalf("%+v", out)
	}
	var got []string
	for _, v := range h.read() {
		got = append(got, fmt.Sprint(v.name, " ", v.Value.Float, " ", v.Historical))
	}
	want := []string{"set 1 true", "set 2 true", "temp 10 true", "temp 11 true", "temp 12 false", "set 2 false"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if m := h.current("mqtt", "set"); m.Value.Float != 2 || m.Time != uint64(old.Add(time.Second).UnixMilli()) {
		t.Errorf("shown %+v", m)
	}
	// So it is where all that waited is one batch.
	h.forget()
	if out := send(t, s, false, rec(6, "one", "1", old), rec(7, "one", "2", old.Add(time.Second))); out.Done != 2 {
		t.Fatalf("%+v", out)
	}
	if v := h.read(); len(v) != 3 || !v[0].Historical || !v[1].Historical || v[2].Historical || v[2].Value.Float != 2 || v[2].Time != v[1].Time {
		t.Errorf("%+v", v)
	}
	// Records that arrived in the session and wait a little are no history.
	h.forget()
	if out := send(t, s, true, rec(8, "temp", "13", time.Now())); out.Done != 1 || h.read()[0].Historical {
		t.Errorf("%+v %+v", out, h.read())
	}
}

// A record that the broker never takes goes out of the way, and no other.
func TestTheCulpritIsFound(t *testing.T) {
	h := newHost(t)
	h.cut = func(topic string, b []byte) bool { return strings.Contains(topic, "/DDATA/") && len(b) > 20_000 }
	s := open(t, sparkplug.Config{Link: h.addr(), Format: "raw"})
	var recs []record.Record
	for i := range 10 {
		data := fmt.Sprint(i)
		if i == 6 {
			data = strings.Repeat("x", 30_000)
		}
		recs = append(recs, rec(i+1, "k", data, time.Now()))
	}
	var poison []uint64
	for tries := 0; len(recs) > 0; tries++ {
		out := send(t, s, false, recs...)
		recs = recs[out.Done:]
		if out.Class == lane.Poison {
			poison = append(poison, recs[0].Pos.Seq)
			recs = recs[1:]
		}
		if tries > 30 {
			t.Fatalf("%d left, %v: %v", len(recs), out.Class, out.Err)
		}
	}
	if !slices.Equal(poison, []uint64{7}) {
		t.Errorf("poison %v", poison)
	}
	// Where all data is refused nothing is.
	h.mu.Lock()
	h.cut = func(topic string, _ []byte) bool { return strings.Contains(topic, "/DDATA/") }
	h.mu.Unlock()
	last := lane.Outcome{}
	for range 12 {
		if last = send(t, s, false, rec(20, "k", "1", time.Now())); last.Class == lane.Poison {
			t.Fatalf("%+v", last)
		}
	}
	if last.Class != lane.Misconfigured {
		t.Errorf("%+v, %v", last, last.Err)
	}
	h.mu.Lock()
	h.cut = func(topic string, _ []byte) bool { return strings.Contains(topic, "BIRTH") }
	h.mu.Unlock()
	s2 := open(t, sparkplug.Config{Link: h.addr()})
	h.mu.Lock()
	h.connects = 0
	h.mu.Unlock()
	for range 5 {
		last = send(t, s2, false, rec(20, "k", "1", time.Now()))
	}
	if last.Class != lane.Misconfigured || !strings.Contains(last.Err.Error(), "when the node was born") {
		t.Errorf("%+v, %v", last, last.Err)
	}
}

// Bounds: too many metrics, too large a message.
func TestBounds(t *testing.T) {
	h := newHost(t)
	s := open(t, sparkplug.Config{Link: h.addr(), MaxMetrics: 3, MaxPayload: conf.Size(2 << 10)})
	out := send(t, s, false, rec(1, "k", `{"a":1,"b":2,"c":3}`, time.Now()), rec(2, "k", `{"a":5}`, time.Now()), rec(3, "k", `{"d":1}`, time.Now()))
	if out.Done != 2 || out.Class != lane.Poison || !strings.Contains(out.Err.Error(), "max_metrics") {
		t.Errorf("%+v", out)
	}
	if out := send(t, s, false, rec(4, "k", `{"a":"`+strings.Repeat("x", 3000)+`"}`, time.Now())); out.Class != lane.Poison || !strings.Contains(out.Err.Error(), "max_payload") {
		t.Errorf("%+v", out)
	}
	if n := len(h.read()); n != 4 {
		t.Errorf("%d values", n)
	}
}
