package rules_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

// TestSameWords: an alarm record says what the API says, name for name, and
// the transition.
func TestSameWords(t *testing.T) {
	tags := func(v any) map[string]string {
		m := map[string]string{}
		for f := range reflect.TypeOf(v).Fields() {
			m[f.Tag.Get("json")] = f.Name + " " + f.Type.String()
		}
		return m
	}
	want := tags(api.Alarm{})
	want["transition"], want["event"] = "Transition uint64", "Event string"
	if got := tags(rules.Alarm{}); !reflect.DeepEqual(got, want) {
		t.Errorf("\n%v\n%v", got, want)
	}
}

// TestWildKeys: keys that are too long or not text make records that the log
// takes.
func TestWildKeys(t *testing.T) {
	e := load(t, "[[rule]]\nid = \"r\"\nkey = \"{k}\"\nwhen = \"value > 80\"\ntext = \"{x}\"\n[[rule]]\nid = \"p\"\nwhen = \"value > 80\"\n")
	seen := 0
	for _, key := range []string{"a", strings.Repeat("ü", 256), strings.Repeat("x", 256)} {
		for _, payload := range []string{
			`{"value": 90, "k": "\ud800", "x": "\u0000"}`, `{"value": 90, "k": "` + strings.Repeat("k", 300) + `"}`, `{"value": 90, "k": "` + strings.Repeat("k", 256) + `", "unit": "` + strings.Repeat("u", 100) + `"}`,
			`{"value": 90, "k": ""}`, `{"value": 90, "k": "z", "x": "` + strings.Repeat("x", 100_000) + `"}`,
		} {
			in := record.Record{Key: key, Arrived: t0, Data: []byte(payload)}
			for _, a := range e.Step(t0, "mqtt", &in) {
				seen++
				r := record.Record{Key: a.RecordKey()}
				if err := r.Check(); err != nil {
					t.Errorf("%.40q: %v", a.RecordKey(), err)
				}
				if len(a.Text) > 4096 || len(a.Unit) > 64 {
					t.Errorf("text of %d bytes, unit of %d", len(a.Text), len(a.Unit))
				}
			}
		}
	}
	if seen != 6 {
		t.Errorf("%d alarms", seen)
	}
}

func TestOrder(t *testing.T) {
	e := load(t, "[[rule]]\nid = \"low\"\nmatch = \"l/#\"\nwhen = \"value > 80\"\nseverity = 4\n[[rule]]\nid = \"top\"\nmatch = \"t/#\"\nwhen = \"value > 80\"\nseverity = \"critical\"\n")
	step := func(s int, key, payload string) {
		r := record.Record{Key: key, Arrived: t0.Add(time.Duration(s) * time.Second), Data: []byte(payload)}
		e.Step(r.Arrived, "mqtt", &r)
	}
	step(0, "l/old", "90")
	step(1, "l/new", "90")
	step(2, "t/acked", "90")
	step(3, "t/gone", "90")
	step(4, "t/gone", "10")
	step(5, "t/active", "90")
	e.Ack([]string{"top/t/acked/1"}, "x", "", t0)
	var got []string
	for _, a := range e.Alarms() {
		got = append(got, a.Key)
	}
	if s := strings.Join(got, " "); s != "t/active t/gone l/new l/old t/acked" {
		t.Error(s)
	}
}
