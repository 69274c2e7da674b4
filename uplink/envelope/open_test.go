package envelope_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
)

const first = `{"id":"near/0000000000000007/2/5","stream":"mqtt","key":"k","arrived":"2026-11-22T10:00:00Z","source":"mqtt","data":1}`

func TestIsEnvelope(t *testing.T) {
	for _, dir := range []string{"golden", "first"} {
		for name, c := range goldens(t, dir) {
			if !envelope.Is([]byte(c.Want)) {
				t.Errorf("%s/%s is taken for none", dir, name)
			}
		}
	}
	now := `{"id":"near/0000000000000007/2/5","t":1763805600000,"data":1}`
	for _, s := range []string{
		now, strings.Replace(now, `"t"`, `"stream":"s","t"`, 1), strings.Replace(now, `"t"`, `"key":"k","t"`, 1),
		strings.Replace(now, `"t"`, `"at":-1.25,"t"`, 1), strings.Replace(now, `/5"`, `/5/7"`, 1),
	} {
		if !envelope.Is([]byte(s)) {
			t.Errorf("taken for none: %s", s)
		}
		if _, err := envelope.Open([]byte(s)); err != nil {
			t.Errorf("not opened: %s: %v", s, err)
		}
	}
	for _, s := range []string{
		strings.Replace(now, `1763805600000`, `"x"`, 1), strings.Replace(now, `"t":1763805600000,`, ``, 1), strings.Replace(now, `"t"`, `"key":1,"t"`, 1),
		strings.Replace(now, `"t"`, `"arrived":"2026-11-22T10:00:00Z","t"`, 1), strings.Replace(now, `"t"`, `"arrived"`, 1), strings.Replace(now, `:1763805600000`, `:null`, 1),
	} {
		if envelope.Is([]byte(s)) {
			t.Errorf("taken for an envelope: %s", s)
		}
	}
	for _, s := range []string{`1e3`, `1.1234567`, `99999999999999999999`} {
		if _, err := envelope.Open([]byte(strings.Replace(now, `1763805600000`, s, 1))); err == nil {
			t.Errorf("a time of %s is opened", s)
		}
	}
	swap := func(old, new string) string { return strings.Replace(first, old, new, 1) }
	for _, s := range []string{
		swap("/5\"", "/5/1\""), swap("/5\"", "/18446744073709551615\""), swap("\"k\"", `"\"\\"`), swap("near", `e\"`),
		swap(`"arrived"`, `"at":"2026-11-22T10:00:00Z","arrived"`), swap(`"source"`, `"new":{},"source"`),
	} {
		if !envelope.Is([]byte(s)) {
			t.Errorf("taken for none: %s", s)
		}
	}
	for _, s := range []string{
		"", "{", `{"id":"`, `{"id":"x"}`, first[:len(first)-1], first + "\n", " " + first, first + first,
		swap("/5\"", "\""), swap("/5\"", "/5/1/1\""), swap("/5\"", "/x\""), swap("/5\"", "/-5\""), swap("/5\"", "/\""), swap("near/", "/"), swap("near/", ""),
		swap("0007", "007"), swap("0007", "000A"), swap(`"stream"`, `"Stream"`), swap(`"key":"k",`, ""), swap(`"key":"k"`, `"key":1`),
		swap(`"arrived"`, `"when"`), swap(":1}", ":}"), swap(":1}", ":\n1}"), swap(":1}", ":\"\xff\"}"),
	} {
		if envelope.Is([]byte(s)) {
			t.Errorf("taken for an envelope: %s", s)
		}
		if _, err := envelope.Open([]byte(s)); err == nil {
			t.Errorf("opened: %s", s)
		}
	}
	if _, err := envelope.Open([]byte(swap("22T10", "22X10"))); err == nil {
		t.Error("a time that is none is opened")
	}
}

// FuzzOpen: nothing makes it fail but by an error; what a sink wrote opens to
// what it was; what is taken for an envelope is handed on byte for byte.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(first), "k", int64(1))
	f.Add([]byte(`{"id":"e/0000000000000007/1/2/3","stream":"s","key":"","at":"x","arrived":1}`), "\"", int64(0))
	f.Add([]byte(`{"id":"\`), "", int64(-5))
	f.Add([]byte(`{"id":"e/0000000000000007/1/2","stream":"s","key":"\u0000","arrived":"2026-11-22T10:00:00Z","data_b64":"AA=="}`), "\x00", int64(9))
	f.Fuzz(func(t *testing.T, data []byte, key string, at int64) {
		in, err := envelope.Open(data)
		if err == nil && (!envelope.Is(data) || !json.Valid(data) || len(in.Data) > len(data)) {
			t.Fatalf("opened %q", data)
		}
		r := record.Record{Key: key, Data: data, Pos: record.Pos{Shard: 1, Seq: 2}, Source: key, Attrs: map[string]string{"k": key}}
		if at >= 0 && at < 1<<35 {
			r.At = time.Unix(at, 5).UTC()
		}
		b := envelope.New(identity).Append(nil, "s", &r)
		out, err := envelope.Open(b)
		if err != nil {
			t.Fatalf("our own %q: %v", b, err)
		}
		key = strings.ToValidUTF8(key, "\ufffd")
		if out.ID != identity.ID(r.Pos) || out.Stream != "s" || !bytes.Equal(out.Data, data) || !out.At.Equal(r.At) {
			t.Fatalf("%q opened to %+v", b, out)
		}
		if strings.ContainsRune(key, '\ufffd') {
			return // how many marks stand for broken bytes is not ours to say
		}
		if out.Key != key || out.Source != key || out.Attrs["k"] != key {
			t.Fatalf("%q opened to %+v", b, out)
		}
	})
}

func TestLaneOf(t *testing.T) {
	for id, want := range map[string]struct {
		lane string
		at   envelope.Place
	}{
		"near/0000000000000007/2/5":                    {"near/0000000000000007/2", envelope.Place{Seq: 5}},
		"near/0000000000000007/2/5/9":                  {"near/0000000000000007/2", envelope.Place{Seq: 5, Part: 9}},
		"a/b/0123456789abcdef/12/18446744073709551615": {"a/b/0123456789abcdef/12", envelope.Place{Seq: 1<<64 - 1}},
		"n/0000000000000007/2":                         {},
		"n/7/2/5":                                      {},
		"n/0000000000000007/2/x":                       {},
		"n/0000000000000007/2/5/6/7":                   {},
		"/0000000000000007/2/5":                        {},
		"":                                             {},
	} {
		lane, at, ok := envelope.LaneOf([]byte(`{"id":"` + id + `","t":1}`))
		if ok != (want.lane != "") || string(lane) != want.lane || at != want.at {
			t.Errorf("%q: %q %v %v", id, lane, at, ok)
		}
		if ok {
			if lane, at, ok := envelope.SplitID(id); !ok || lane != want.lane || at != want.at {
				t.Errorf("%q splits to %q %v %v", id, lane, at, ok)
			}
		}
	}
	if !(envelope.Place{Seq: 2}).After(envelope.Place{Seq: 1, Part: 9}) || !(envelope.Place{Seq: 2, Part: 1}).After(envelope.Place{Seq: 2}) || (envelope.Place{Seq: 2}).After(envelope.Place{Seq: 2}) {
		t.Error("places are out of order")
	}
}
