package sparkplug_test

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"

	"forebay/gateway/conf"
	"forebay/uplink/mqtt"
	"forebay/uplink/sparkplug"
)

// The bytes are those that protoc's code makes of sparkplug_b.proto.
func TestPayloadBytes(t *testing.T) {
	p := sparkplug.Payload{Time: 1000, HasSeq: true, Seq: 0, Metrics: []sparkplug.Metric{
		{Name: "bdSeq", Time: 1000, Type: sparkplug.Int64, Value: sparkplug.Value{Type: sparkplug.Int64, Int: 3}},
		{Alias: 7, Time: 2, Type: sparkplug.Double, Historical: true, Value: sparkplug.Value{Type: sparkplug.Double, Float: 1.5}},
		{Name: "n", Time: 1, Type: sparkplug.String, Null: true},
		{Name: "b", Time: 1, Type: sparkplug.Boolean, Value: sparkplug.Value{Type: sparkplug.Boolean}},
		{Name: "x", Time: 1, Type: sparkplug.Bytes, Value: sparkplug.Value{Type: sparkplug.Bytes, Bytes: []byte{0xff}}},
	}}
	want := strings.Join([]string{
		"08e807",
		"120e", "0a056264536571", "18e807", "2004", "5803",
		"1211", "1007", "1802", "200a", "2801", "69000000000000f83f",
		"1209", "0a016e", "1801", "200c", "3801",
		"1209", "0a0162", "1801", "200b", "7000",
		"120b", "0a0178", "1801", "2011", "820101ff",
		"1800",
	}, "")
	b := p.Append(nil)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	back, err := sparkplug.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	p.Metrics[0].Value.Type = sparkplug.UInt64 // a long is a long
	if !reflect.DeepEqual(back, p) {
		t.Errorf("%+v", back)
	}
}

func FuzzDecode(f *testing.F) {
	p := sparkplug.Payload{Time: 1, Metrics: []sparkplug.Metric{{Name: "Node Control/Rebirth", Type: sparkplug.Boolean, Value: sparkplug.Value{Type: sparkplug.Boolean, Bool: true}}}}
	f.Add(p.Append(nil))
	f.Add([]byte("\x12\x02\x0a\x05"))
	f.Add([]byte("\x1b\x1c"))
	f.Add([]byte{0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := sparkplug.Decode(b)
		if err != nil {
			return
		}
		if len(p.Metrics) > 10_000 {
			t.Fatal("no bound")
		}
		again, err := sparkplug.Decode(p.Append(nil))
		if err != nil || len(again.Metrics) != len(p.Metrics) || again.Seq != p.Seq || again.HasSeq != p.HasSeq || again.Time != p.Time {
			t.Fatalf("%+v comes back as %+v, %v", p, again, err)
		}
		for i, m := range p.Metrics {
			n := again.Metrics[i]
			if n.Name != m.Name || n.Alias != m.Alias || n.Time != m.Time || n.Null != m.Null || n.Historical != m.Historical {
				t.Fatalf("%+v comes back as %+v", m, n)
			}
		}
	})
}

func TestConfigCheck(t *testing.T) {
	good := sparkplug.Config{Link: mqtt.Link{Broker: "tcp://127.0.0.1:1"}, Group: "Plant 1"}
	for want, change := range map[string]func(c *sparkplug.Config){
		"":                  func(*sparkplug.Config) {},
		"broker:":           func(c *sparkplug.Config) { c.Broker = "127.0.0.1" },
		"group: is missing": func(c *sparkplug.Config) { c.Group = "" },
		"group: \"a/b\"":    func(c *sparkplug.Config) { c.Group = "a/b" },
		"group: STATE":      func(c *sparkplug.Config) { c.Group = "STATE" },
		"node:":             func(c *sparkplug.Config) { c.Node = "a#" },
		"primary_host:":     func(c *sparkplug.Config) { c.PrimaryHost = "+" },
		"device:":           func(c *sparkplug.Config) { c.Device = "{field}" },
		"metric: {field}":   func(c *sparkplug.Config) { c.Metric = "{key}" },
		"metric: {keys}":    func(c *sparkplug.Config) { c.Metric = "{keys}/{field}" },
		"format:":           func(c *sparkplug.Config) { c.Format = "envelope" },
		"barrier_topic:":    func(c *sparkplug.Config) { c.BarrierTopic = "spBv1.0/x" },
		"historical_after:": func(c *sparkplug.Config) { c.HistoricalAfter = 1 },
		"max_payload:":      func(c *sparkplug.Config) { c.MaxPayload = conf.Size(3) },
		"max_metrics:":      func(c *sparkplug.Config) { c.MaxMetrics = -1 },
	} {
		c := good
		change(&c)
		err := c.Check()
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		if err == nil {
			if err := c.WithDefaults().Check(); err != nil {
				t.Errorf("defaults: %v", err)
			}
		}
	}
	if got := good.Target(); got != "tcp://127.0.0.1:1, Sparkplug group Plant 1" {
		t.Error(got)
	}
}
