package sparkplug

import (
	"testing"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// Whatever a record holds becomes samples that have names and, of one metric,
// types that a birth can hold.
func FuzzSamples(f *testing.F) {
	f.Add("line4/temp", []byte(`{"a":{"b":[1,{"c":2}],"":"x"},"n":1e400}`))
	f.Add("a+b#/\x00", []byte("\xff"))
	f.Add("k", []byte(`{"a":1,"a":"x"}`))
	f.Add("", []byte(" \n"))
	f.Add("k", []byte(`{"id":"g/0123456789abcdef/1/2","stream":"s"}`))
	dev, metric, err := Config{}.templates()
	if err != nil {
		f.Fatal(err)
	}
	rd := &reader{device: dev, metric: metric, gateway: "g"}
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		ss := rd.samples(nil, &lane.Lane{Stream: "mqtt"}, &record.Record{Key: key, Data: data})
		if len(ss) == 0 {
			t.Fatal("nothing came of it")
		}
		g := registry{limit: 1 << 20}
		if err := g.learn(ss); err != nil {
			t.Fatal(err)
		}
		for i := range ss {
			s := &ss[i]
			m := g.say(laneID{}, s)
			if s.metric == "" || !utf8.ValidString(s.metric) || s.time == 0 || s.device == "" || !validID(s.device) {
				t.Fatalf("%+v", s)
			}
			if v := s.value.as(m.typ); v.Type != m.typ && v.Type != Unknown {
				t.Fatalf("%+v as %d is %+v", s.value, m.typ, v)
			}
		}
		p := g.list[0].birth(true, 1<<20, time.UnixMilli(1))
		if _, err := Decode(p.Append(nil)); err != nil && len(p.Metrics) <= maxMetrics {
			t.Fatal(err)
		}
	})
}
