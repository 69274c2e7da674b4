package expr_test

import (
	"testing"

	"forebay/spool/record"
)

const benchPayload = `{"name": "temp", "value": 71.5, "unit": "Cel", "quality": "good", "time": "2026-03-01T12:00:00Z", "device": "press-7", "temp": 79.5}`

func BenchmarkPredicate(b *testing.B) {
	p, err := newPredicate(`temp > 80 && device startsWith "press"`)
	if err != nil {
		b.Fatal(err)
	}
	if !p.Load(&record.Record{Key: "k", Data: []byte(benchPayload)}) {
		b.Fatal("not evaluated")
	}
	b.ReportAllocs()
	for b.Loop() {
		if p.Eval() {
			b.Fatal("true")
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	p, err := newPredicate(`temp > 80 && device startsWith "press" and value < 10`)
	if err != nil {
		b.Fatal(err)
	}
	r := record.Record{Key: "k", Data: []byte(benchPayload)}
	b.ReportAllocs()
	for b.Loop() {
		p.Load(&r)
	}
}
