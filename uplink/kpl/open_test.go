package kpl_test

import (
	"testing"

	"forebay/uplink/kpl"
)

func TestOpen(t *testing.T) {
	var e kpl.Encoder
	fill := func(n int) []byte {
		e.Reset()
		for range n {
			e.Add("k", "", nil)
		}
		return e.AppendTo(nil)
	}
	if a := kpl.Open(fill(kpl.MaxParts)); a == nil || a.Len() != kpl.MaxParts {
		t.Error("an aggregate of as many records as there may be is not opened")
	}
	damaged := fill(2)
	damaged[len(damaged)-1]++
	for name, data := range map[string][]byte{"too many": fill(kpl.MaxParts + 1), "damaged": damaged, "empty": fill(0), "none": []byte("x")} {
		if kpl.Open(data) != nil {
			t.Errorf("%s: opened", name)
		}
	}
}
