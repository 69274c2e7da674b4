package kinesisapi

import "testing"

// FuzzNote: a note that can be read is written again as what it was.
func FuzzNote(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"mode":"ON_DEMAND","max_record_kib":2048,"tags":{"k":"v"}}`, `{"MODE":"x","later":{"y":[1,2.50]}}`,
		`{"consumers":[{"name":"c","created":"2026-11-23T04:00:00.123456789Z","tags":{}}]}`, `{"consumers":[null]}`, `{"tags":null}`, `[]`, `{"a":1,"a":2}`,
		`{"marks":[1, 2]}`, `{"marks":{"lanes":[["l","s",1,0,2,0,1,1,5]],"from":{"1":2}}}`, `{"marks":{"lanes":[["l",4,0,"k",1,1,5]],"from":null}}`, `{"MARKS":"x","marks":null}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseNote(text)
		if err != nil {
			return
		}
		once, err := n.encode()
		if err != nil {
			return // a time that JSON cannot say
		}
		again, err := parseNote(once)
		if err != nil {
			t.Fatalf("%q became %q, which cannot be read: %v", text, once, err)
		}
		if twice, err := again.encode(); err != nil || twice != once {
			t.Errorf("%q became %q and then %q, %v", text, once, twice, err)
		}
	})
}
