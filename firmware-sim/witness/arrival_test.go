package witness

import "testing"

// FuzzOpen: whatever lies at the far end, the witness reads on.
func FuzzOpen(f *testing.F) {
	f.Add("k", []byte(`{"id":"e/0/0/1","stream":"mqtt","key":"s/a","arrived":"x","data":{"device":"a","seq":1,"run":"r"}}`))
	f.Add("k", []byte(`{"id":"e/0/0/1","stream":"mqtt","key":"s/a","arrived":"x","data_b64":"e30="}`))
	f.Add("k", []byte(`{"id":"hot/a/1","rule":"hot","event":"raised","transition":1}`))
	f.Add("k", []byte("\xF3\x89\x9A\xC2"))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		recs, aggregate, err := open(key, data)
		if !aggregate && (err != nil || len(recs) != 1) {
			t.Fatalf("a plain record became %d, %v", len(recs), err)
		}
		for _, r := range recs {
			if r.alarm != nil && r.id.device != "" {
				t.Fatalf("both an alarm and a device's record: %+v", r)
			}
		}
	})
}
