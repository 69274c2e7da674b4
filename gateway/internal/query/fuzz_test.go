package query_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"forebay/gateway/internal/query"
)

func seeds(f *testing.F) {
	files, err := filepath.Glob("testdata/cases/*.sql")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	for _, s := range []string{"'", `"`, "[", "/*", "--", "x'", "a.b.c(", "1.e+5", "$", "``", "a . b", "select 1;/**/;", "é.ü", "sensors.a.b.c", "x.*"} {
		f.Add(s)
	}
}

// Tokens follow one another, and what lies between them is white space and
// comments.
func FuzzTokens(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text string) {
		at := 0
		for _, s := range query.Tokens(text) {
			if s.Start < at || s.End <= s.Start || s.End > len(text) {
				t.Fatalf("token %v of %q behind %d", s, text, at)
			}
			if gap := strings.TrimLeft(text[at:s.Start], " \t\n\f\r"); gap != "" && !strings.HasPrefix(gap, "--") && !strings.HasPrefix(gap, "/*") {
				t.Fatalf("%q passes over %q", text, gap)
			}
			at = s.End
		}
		once, err := query.Rewrite(text, "sensors", "press.raw")
		if err != nil {
			return
		}
		twice, err := query.Rewrite(once, "sensors", "press.raw")
		if err != nil {
			t.Fatalf("%q becomes %q, which is refused: %v", text, once, err)
		}
		if again, err := query.Rewrite(twice, "sensors", "press.raw"); err != nil || again != twice {
			t.Fatalf("%q becomes %q, then %q, then %q (%v)", text, once, twice, again, err)
		}
	})
}

// Whatever is asked: an answer, or an error for the one who asked.
func FuzzQuery(f *testing.F) {
	seeds(f)
	e := floor(f, query.Options{AtOnce: 64, Memory: 1 << 30})
	f.Fuzz(func(t *testing.T, text string) {
		_, err := e.Run(t.Context(), query.Query{SQL: text, Timeout: 200 * time.Millisecond, MaxRows: 1000}, &sheet{})
		if _, ok := errors.AsType[*query.Error](err); err != nil && !ok {
			t.Fatalf("%q: %T %v", text, err, err)
		}
	})
}

// A payload is JSON where encoding/json says so, and its fields are the same.
func FuzzFields(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":{"b":[1,2.5,"x"]},"a.b":7}`, `[1]`, `12`, `-0.5e+3`, `"x\u00e9"`, `{"a":null,"a":true}`, ` { } `, `{"a":1}x`, `{"a":01}`, "{\"a\":\"\x01\"}", `{"\u0061":"\ud83d\ude00\"\\"}`, `1e999`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := query.Fields([]byte(text), "a", "b", "value")
		if ok != json.Valid([]byte(text)) {
			t.Fatalf("%q is JSON: %v", text, ok)
		}
		var top map[string]json.RawMessage
		if !ok || json.Unmarshal([]byte(text), &top) != nil || top == nil {
			return
		}
		for i, name := range []string{"a", "b", "value"} {
			raw, has := top[name]
			if !has {
				continue
			}
			var want string
			if json.Unmarshal(raw, &want) != nil || string(raw) == "null" || strings.ContainsRune(want, '\ufffd') {
				continue // no text, or not valid UTF-8, which encoding/json mends
			}
			if got[i] != want {
				t.Fatalf("%q: field %s is %#v, want %q", text, name, got[i], want)
			}
		}
	})
}

func TestFields(t *testing.T) {
	const doc = `{"temp": 20.5, "n": -7, "big": 92233720368547758080, "ok": true, "no": false, "nil": null,
		"motor": {"rpm": 1450, "phase": [1.5, {"x": "y"}]}, "a.b": 1, "a": {"c": 2}, "s": "tab\there", "twice": 1, "twice": 2, "": {"": 3}}`
	for path, want := range map[string]any{
		"temp": 20.5, "n": int64(-7), "big": 92233720368547758080.0, "ok": int64(1), "no": int64(0), "nil": nil, "motor.rpm": int64(1450),
		"motor": `{"rpm": 1450, "phase": [1.5, {"x": "y"}]}`, "motor.phase.0": 1.5, "motor.phase.1.x": "y", "motor.phase.2": nil, "a.b": int64(1), "a.c": int64(2),
		"s": "tab\there", "twice": int64(2), "value": nil, "temp.x": nil, ".": int64(3),
	} {
		got, ok := query.Fields([]byte(doc), path)
		if !ok || got[0] != want {
			t.Errorf("%s is %#v (%v), want %#v", path, got[0], ok, want)
		}
	}
	for _, bad := range []string{"", "{", `{"a":1`, `{"a":1}}`, `{"a" 1}`, "nul", "+1", ".5", "1.", strings.Repeat("[", 5000) + strings.Repeat("]", 5000)} {
		if got, ok := query.Fields([]byte(bad), "a", "value"); ok || got[0] != nil || got[1] != nil {
			t.Errorf("%.20q is JSON: %v", bad, got)
		}
	}
}

// Every function that queries may call is one of this SQLite or ours.
func TestFunctionsExist(t *testing.T) {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT DISTINCT name FROM pragma_function_list")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	have := []string{"now"}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		have = append(have, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, f := range query.Functions() {
		if !slices.Contains(have, f) {
			t.Errorf("%s is no function of this SQLite", f)
		}
	}
	var left []string
	for _, h := range have {
		if !slices.Contains(query.Functions(), h) {
			left = append(left, h)
		}
	}
	t.Logf("refused: %s", strings.Join(left, " "))
}
