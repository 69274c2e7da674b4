package shape_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/shape"
)

// FuzzProject: what was JSON stays JSON and is what a slow reading of the config
// makes of it; what was none, and what is no object, stays as it is, byte for
// byte. The same bytes give the same bytes.
func FuzzProject(f *testing.F) {
	for _, s := range []string{
		`{"value":1,"motor":{"temp":2,"x":3},"a":[1,{"value":2}]}`, `{"a":1,"b":2}`, `{"b":2}`, `{}`, `[]`, `1`, `"x"`, ``, `{"value":1`, "{\"\\u0061\":1,\t\"b\" : {\"a\" : null } }",
		`{"value":{"a":{"a":[]}},"site":1}`, `{"a":{"b":1},"motor":3,"c":"\"}{\\"}`, `{"a":1,"a":2}`, `{"value":1e999}`, `+023.50`, "{\"\xff\":1}", ` {"b":{"b":true,"value":false}} `,
		strings.Repeat(`{"a":`, 1200) + "1" + strings.Repeat("}", 1200),
	} {
		for i := range uint16(8) {
			f.Add([]byte(s), i*0x1111+i)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, pick uint16) {
		c := configOf(pick)
		s, err := shape.New([]shape.Config{c})
		if err != nil {
			return // not every pick is a config
		}
		run := func() []byte {
			src := &list{recs: []record.Record{{Key: "k", Data: data, Pos: record.Pos{Shard: 1, Seq: 1}}}}
			b, err := s.Cursor("mqtt", src, shape.Options{}).Poll(t.Context(), 1)
			if err != nil || len(b.Recs) != 1 {
				t.Fatalf("%q: %d records, %v", data, len(b.Recs), err)
			}
			return b.Recs[0].Data
		}
		got := run()
		if again := run(); !bytes.Equal(got, again) {
			t.Fatalf("%q becomes %q and %q", data, got, again)
		}
		if !json.Valid(data) || !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
			if !bytes.Equal(got, data) {
				t.Fatalf("%q is no object and becomes %q", data, got)
			}
			return
		}
		if !json.Valid(got) {
			t.Fatalf("%q becomes %q, which is not JSON", data, got)
		}
		in, ok := object(t, data)
		if !ok {
			return // a name stands twice: readers differ about what it means
		}
		if out, ok := object(t, got); !ok || !reflect.DeepEqual(out, slowly(c, in)) {
			t.Fatalf("%+v: %q becomes %q, want %v", c, data, got, slowly(c, in))
		}
	})
}

// configOf makes a config of bits.
func configOf(pick uint16) (c shape.Config) {
	paths := []string{"value", "a", "motor.temp", "a.b", "b", "b.a"}
	for i, p := range paths {
		if pick&(1<<i) != 0 {
			c.Fields = append(c.Fields, p)
		} else if pick&(1<<(i+6)) != 0 {
			c.Drop = append(c.Drop, p)
		}
	}
	if pick&(1<<12) != 0 {
		c.Rename = map[string]string{"a": "b", "b": "a"}
	} else if pick&(1<<13) != 0 {
		c.Rename = map[string]string{"value": "a", "a.b": "a", "motor": "x"}
	}
	if pick&(1<<14) != 0 {
		c.Set = map[string]any{"site": "graz", "c": int64(3)}
	}
	return c
}

// object reads a JSON object; false where a name stands twice in one, or is not
// UTF-8.
func object(t *testing.T, data []byte) (map[string]any, bool) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	dec = json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return v, !bytes.Contains(data, []byte{0xff}) && !bytes.ContainsRune(data, '\ufffd') && json.Valid(bytes.ToValidUTF8(data, nil)) && len(bytes.ToValidUTF8(data, nil)) == len(data) && unique(t, dec)
}

// unique passes one value and reports whether no object in it has a name twice.
func unique(t *testing.T, dec *json.Decoder) bool {
	t.Helper()
	token := func() json.Token {
		tok, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	ok := true
	var value func()
	value = func() {
		d, is := token().(json.Delim)
		if !is {
			return
		}
		names := map[string]bool{}
		for dec.More() {
			if d == '{' {
				name, _ := token().(string)
				ok = ok && !names[name] && !strings.ContainsRune(name, '\ufffd')
				names[name] = true
			}
			value()
		}
		token()
	}
	value()
	return ok
}

// slowly is what a config makes of an object, as docs/uplinks/shape.md says it.
func slowly(c shape.Config, in map[string]any) map[string]any {
	var walk func(path string, v any, kept bool) (any, bool)
	named := func(list []string, path string) (is, below bool) {
		for _, p := range list {
			is = is || p == path
			below = below || strings.HasPrefix(p, path+".")
		}
		return is, below
	}
	members := func(prefix string, m map[string]any, kept bool) map[string]any {
		out := map[string]any{}
		for name, v := range m {
			v, ok := walk(prefix+name, v, kept)
			if !ok {
				continue
			}
			if _, renamed := c.Rename[prefix+name]; !renamed {
				taken := false
				for p, to := range c.Rename {
					if rest, ok := strings.CutPrefix(p, prefix); ok && !strings.Contains(rest, ".") {
						_, there := m[rest]
						taken = taken || there && to == name
					}
				}
				if !taken {
					out[name] = v
				}
				continue
			}
			out[c.Rename[prefix+name]] = v
		}
		return out
	}
	walk = func(path string, v any, kept bool) (any, bool) {
		if drop, _ := named(c.Drop, path); drop {
			return nil, false
		}
		is, below := named(c.Fields, path)
		kept = kept || is
		m, isObject := v.(map[string]any)
		if !kept && (!below || !isObject) {
			return nil, false
		}
		if isObject {
			return members(path+".", m, kept), true
		}
		return v, true
	}
	rest := maps.Clone(in)
	for name := range c.Set {
		delete(rest, name)
	}
	out := members("", rest, len(c.Fields) == 0)
	for name, v := range c.Set {
		if n, ok := v.(int64); ok {
			v = json.Number(string(rune('0' + n)))
		}
		out[name] = v
	}
	return out
}
