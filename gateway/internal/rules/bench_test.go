package rules_test

import (
	"fmt"
	"testing"

	"forebay/gateway/conf"
	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

const benchPayload = `{"name": "temp", "value": 71.5, "unit": "Cel", "quality": "good", "time": "2026-03-01T12:00:00Z", "device": "press-7", "temp": 79.5}`

func BenchmarkStep20(b *testing.B) {
	e, r := twenty(b)
	b.ReportAllocs()
	for b.Loop() {
		if as := e.Step(t0, "mqtt", &r); as != nil {
			b.Fatal(as)
		}
	}
}

func twenty(tb testing.TB) (*rules.Engine, record.Record) {
	var rs []rules.Rule
	for i := range 20 {
		r := rules.Rule{ID: conf.Name(fmt.Sprint("r", i)), Match: "plant/+/+", When: fmt.Sprintf(`temp > %d and device startsWith "press"`, 80+i), Clear: fmt.Sprintf("temp < %d", 70+i)}
		if i%2 == 0 {
			r.Key = "{1}"
		}
		rs = append(rs, r)
	}
	e, err := rules.Compile(rs)
	if err != nil {
		tb.Fatal(err)
	}
	return e, record.Record{Key: "plant/line1/temp", Source: "broker", Arrived: t0, Data: []byte(benchPayload)}
}

// TestStepAllocatesNothing: a record that changes nothing costs no memory.
func TestStepAllocatesNothing(t *testing.T) {
	e, r := twenty(t)
	if n := testing.AllocsPerRun(100, func() { e.Step(t0, "mqtt", &r) }); n != 0 {
		t.Errorf("%v allocations a record", n)
	}
	// While an alarm stands, too.
	hot := r
	hot.Data = []byte(`{"temp": 200, "device": "press-7"}`)
	if as := e.Step(t0, "mqtt", &hot); len(as) != 20 {
		t.Fatalf("%d alarms", len(as))
	}
	if n := testing.AllocsPerRun(100, func() { e.Step(t0, "mqtt", &hot) }); n != 0 {
		t.Errorf("%v allocations a record while the alarms stand", n)
	}
}
