package expr_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	lang "github.com/expr-lang/expr"

	"forebay/gateway/expr"
	"forebay/spool/record"
)

// predicate is one expression with the row that it is asked about.
type predicate struct {
	schema *expr.Schema
	f      expr.Cond
	needs  expr.Needs
	row    expr.Row
}

func newPredicate(src string) (*predicate, error) {
	s := expr.NewSchema()
	f, needs, err := expr.NewCompiler(s, "rule").Condition(src)
	return &predicate{schema: s, f: f, needs: needs}, err
}

// Load decodes a payload; it reports whether the expression can be evaluated.
func (p *predicate) Load(r *record.Record) bool {
	return p.schema.Load(&p.row, "mqtt", r) && p.row.Has(p.needs)
}

func (p *predicate) Eval() bool { return p.f(&p.row) }

// extract is what the scanner finds at paths in a JSON text: nil where there is
// no scalar. It takes instruments' numbers too.
func extract(data []byte, paths ...[]string) (found []any, ok bool) {
	s := expr.NewSchema()
	fields := make([]int, 0, len(paths))
	for _, p := range paths {
		fields = append(fields, s.Field(p))
	}
	var w expr.Row
	if !s.Load(&w, "mqtt", &record.Record{Key: "k", Data: data}) {
		return nil, false
	}
	for _, i := range fields {
		switch v := w.At(i); v.Kind {
		case expr.Number:
			found = append(found, v.Num)
		case expr.Text:
			found = append(found, string(v.Str))
		case expr.Boolean:
			found = append(found, v.Num != 0)
		default:
			found = append(found, nil)
		}
	}
	return found, true
}

func TestExpressions(t *testing.T) {
	const payload = `{"temp": 81.5, "state": "run", "ok": true, "motor": {"rpm": 1500, "bearing": {"temp": 60}}, "line-1": 7, "n": 0, "name": "Gr\u00fc\u00dfe", "a": 1, "b": 1, "c": "1"}`
	for src, want := range map[string]bool{
		`temp > 80`:                         true,
		`80 < temp`:                         true,
		`temp >= 81.5 and temp <= 81.5`:     true,
		`temp > 80 && state == "idle"`:      false,
		`temp > 90 or state == "run"`:       true,
		`not (temp > 80)`:                   false,
		`!ok`:                               false,
		`ok`:                                true,
		`ok == true and temp != 80`:         true,
		`motor.rpm / 60 == 25`:              true,
		`motor.bearing.temp + 21.5 == temp`: true,
		`motor["bearing"]["temp"] == 60`:    true,
		`$env["line-1"] == 7`:               true,
		`state in ["idle", "run"]`:          true,
		`state not in ["idle", "run"]`:      false,
		`motor.rpm in [1000, 1500.0, -3]`:   true,

		`key startsWith "plant/" and key endsWith "temp"`: true,
		`topic contains "line1"`:                          true,
		`key matches "^plant/line[0-9]+/temp$"`:           true,
		`source == "broker" and stream == "mqtt"`:         true,
		`len(name) == 5`:                                  true,
		`name == "Grüße"`:                                 true,
		`abs(temp - 100) < 20`:                            true,
		`min(temp, 50, 70) == 50 and max(temp, 50) > 81`:  true,
		`(temp > 80 ? motor.rpm : 0) > 1000`:              true,
		`(ok ? "yes" : "no") == "yes"`:                    true,
		`2 ** 3 == 8 and 2 ^ 3 == 8`:                      true,
		`-temp < -81`:                                     true,
		`1 < n < 3`:                                       false,
		`80 < temp < 90`:                                  true,
		`a == b`:                                          true,
		`a == c`:                                          false,
		`state > "a" and state <= "run"`:                  true,
		`1 / n > 1e300`:                                   true,
	} {
		p, err := newPredicate(src)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		r := record.Record{Key: "plant/line1/temp", Source: "broker", Data: []byte(payload)}
		if !p.Load(&r) {
			t.Errorf("%s: not evaluated", src)
		} else if got := p.Eval(); got != want {
			t.Errorf("%s is %v, want %v", src, got, want)
		}
	}
}

func TestWhatIsNotEvaluated(t *testing.T) {
	for _, c := range []struct{ src, payload string }{
		{`temp > 80`, `{}`},
		{`temp > 80`, `{"temp": null}`},
		{`temp > 80`, `{"temp": "81"}`},
		{`temp > 80`, `{"temp": {"value": 81}}`},
		{`temp > 80`, `{"temp": [81]}`},
		{`temp > 80`, `{"temp": 81`},
		{`temp > 80`, `{"temp": 81} x`},
		{`temp > 80`, `{"temp": 1e999}`},
		{`temp > 80`, ``},
		{`temp > 80 or rpm > 5`, `{"temp": 90}`},
		{`motor.temp > 80`, `{"motor": 81}`},
		{`motor.temp > 80`, `{"motor.temp": 81}`},
		{`motor.temp > 80`, `{"motor": {"temp": 81}, "motor": {}}`},
	} {
		p, err := newPredicate(c.src)
		if err != nil {
			t.Fatalf("%s: %v", c.src, err)
		}
		if p.Load(&record.Record{Key: "k", Data: []byte(c.payload)}) {
			t.Errorf("%s is evaluated on %s", c.src, c.payload)
		}
	}
}

func TestBareValues(t *testing.T) {
	for payload, want := range map[string]bool{
		"81": true, " 81.5\r\n": true, "+081.50": true, "-81": false, "7.9e1": false, "8.1e1": true,
	} {
		p, err := newPredicate("value > 80")
		if err != nil {
			t.Fatal(err)
		}
		if !p.Load(&record.Record{Key: "k", Data: []byte(payload)}) || p.Eval() != want {
			t.Errorf("%q: want %v", payload, want)
		}
	}
	for _, payload := range []string{"81 C", "NaN", "inf", "0x51", "1_000", strings.Repeat("1", 400)} {
		p, _ := newPredicate("value > 80")
		if p.Load(&record.Record{Key: "k", Data: []byte(payload)}) {
			t.Errorf("%q is taken for a number", payload)
		}
	}
}

func TestLongExpression(t *testing.T) {
	long := "temp > 1" + strings.Repeat(" or temp > 1", 60)
	var e *expr.Error
	if _, err := newPredicate(long); !errors.As(err, &e) || !strings.Contains(e.Message, "more than 200 parts") {
		t.Errorf("a long expression: %v", err)
	}
	if _, err := newPredicate(strings.Repeat("(", 1<<20)); err == nil {
		t.Error("a mebibyte of brackets is taken")
	}
}

// ---- the reference: expr's own virtual machine

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

type gen struct{ *rand.Rand }

func (g gen) pick(s ...string) string { return s[g.IntN(len(s))] }

func (g gen) bool(d int) string {
	if d <= 0 {
		return g.pick("b1", "b2", "true", "m.b3", "(n1 > 1)", `(s1 == "a")`)
	}
	switch g.IntN(12) {
	case 0:
		return "(" + g.bool(d-1) + g.pick(" and ", " or ", " && ", " || ") + g.bool(d-1) + ")"
	case 1:
		return g.pick("not ", "!") + "(" + g.bool(d-1) + ")"
	case 2, 3, 4:
		return "(" + g.num(d-1) + g.pick(" < ", " <= ", " > ", " >= ", " == ", " != ") + g.num(d-1) + ")"
	case 5:
		if g.IntN(2) == 0 { // two fields in an order are numbers
			return "(" + g.str(d-1) + g.pick(" < ", " <= ", " > ", " >= ") + g.pick(`"a"`, `"b"`, `"äö"`, "key") + ")"
		}
		return "(" + g.str(d-1) + g.pick(" == ", " != ", " startsWith ", " endsWith ", " contains ", " not contains ") + g.str(d-1) + ")"
	case 6:
		return "(" + g.str(d-1) + g.pick(" in ", " not in ") + `["a", "b", "äö"])`
	case 7:
		return "(" + g.num(d-1) + g.pick(" in ", " not in ") + `[1, 2.5, -3])`
	case 8:
		return "(" + g.str(d-1) + " matches " + g.pick(`"^a"`, `"a+b?$"`, `"[[:alpha:]]"`) + ")"
	case 9:
		return "(" + g.bool(d-1) + " ? " + g.bool(d-1) + " : " + g.bool(d-1) + ")"
	case 10:
		return "(" + g.bool(d-1) + g.pick(" == ", " != ") + g.bool(d-1) + ")"
	}
	return "(" + g.num(d-1) + " < " + g.num(d-1) + " <= " + g.num(d-1) + ")"
}

func (g gen) num(d int) string {
	leaf := func() string { return g.pick("n1", "n2", "m.n3", "m.o.n4", "3", "2.5", "7", "0.1") }
	if d <= 0 {
		return leaf()
	}
	switch g.IntN(9) {
	case 0, 1:
		return "(" + g.num(d-1) + g.pick(" + ", " - ", " * ") + g.num(d-1) + ")"
	case 2:
		return "(" + g.num(d-1) + " / " + leaf() + ")"
	case 3:
		return "(" + leaf() + g.pick(" ** ", " ^ ") + leaf() + ")"
	case 4:
		return "abs(" + g.num(d-1) + ")"
	case 5:
		return g.pick("min", "max") + "(" + g.num(d-1) + ", " + g.num(d-1) + ", " + leaf() + ")"
	case 6:
		return "len(" + g.str(d-1) + ")"
	case 7:
		return "(" + g.bool(d-1) + " ? " + g.num(d-1) + " : " + g.num(d-1) + ")"
	}
	return "-" + leaf()
}

func (g gen) str(d int) string {
	if d > 0 && g.IntN(4) == 0 {
		return "(" + g.bool(d-1) + " ? " + g.str(d-1) + " : " + g.str(d-1) + ")"
	}
	return g.pick("s1", "s2", "m.s3", `"a"`, `"b"`, `"äö"`, `""`, "key", "stream")
}

func (g gen) env() map[string]any {
	num := func() any {
		switch g.IntN(4) {
		case 0:
			return float64(g.IntN(7) - 3)
		case 1:
			return g.NormFloat64() * 100
		case 2:
			return 2.5
		}
		return math.Ldexp(g.Float64(), g.IntN(80)-40)
	}
	str := func() any { return g.pick("", "a", "b", "ab", "aab", "äö", "x\"\\\n\u2028", "run") }
	b := func() any { return g.IntN(2) == 0 }
	return map[string]any{
		"n1": num(), "n2": num(), "s1": str(), "s2": str(), "b1": b(), "b2": b(),
		"m": map[string]any{"n3": num(), "s3": str(), "b3": b(), "o": map[string]any{"n4": num()}},
	}
}

// differ compares the closures with expr's VM on one random expression; it
// reports whether there was something to compare.
func differ(t *testing.T, seed uint64) bool {
	g := gen{newRand(seed)}
	src := g.bool(1 + g.IntN(4))
	p, err := newPredicate(src)
	if err != nil {
		var e *expr.Error
		if errors.As(err, &e) && (strings.Contains(e.Message, "more than") || strings.Contains(e.Message, "cannot be told")) {
			return false
		}
		t.Fatalf("seed %d: %s: %v", seed, src, err)
	}
	for range 5 {
		env := g.env()
		payload, err := json.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		env["key"], env["stream"] = "a/b", "mqtt"
		prog, err := lang.Compile(src, lang.Env(env), lang.AsBool())
		if err != nil {
			t.Fatalf("seed %d: expr refuses %s: %v", seed, src, err)
		}
		want, err := lang.Run(prog, env)
		if err != nil {
			// expr's own defect: it takes min and max of mixed numbers for int.
			if strings.Contains(err.Error(), "float64, not int") {
				return false
			}
			t.Fatalf("seed %d: expr fails at %s: %v", seed, src, err)
		}
		if !p.Load(&record.Record{Key: "a/b", Data: payload}) {
			t.Fatalf("seed %d: %s is not evaluated on %s", seed, src, payload)
		}
		if got := p.Eval(); got != want {
			t.Fatalf("seed %d: %s on %s is %v, expr says %v", seed, src, payload, got, want)
		}
	}
	return true
}

func TestClosuresAreExprs(t *testing.T) {
	const n = 4000
	compared := 0
	for seed := range uint64(n) {
		if differ(t, seed) {
			compared++
		}
	}
	if compared < n*9/10 {
		t.Errorf("only %d of %d expressions could be compared", compared, n)
	}
}

func FuzzClosuresAreExprs(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { differ(t, seed) })
}

// FuzzExpression: any text is refused with a place, or compiles to something
// that runs.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{
		`temp > 80 and state == "run"`, `a.b.c in [1,2]`, `len(x) > 3 ? y : z`, `1 < x < 3`, `x matches "("`, `$env["a"] == 1`,
		`let x = 1; x`, `if a {1} else {2}`, `all([1], # > 0)`, `x | len() > 3`, `a?.b`, `b"x" == a`, `x[1:2]`, `{"a": 1}`, `a ?? b`, "1..2", `::len(a) == 1`, "\x00", "é = 1",
	} {
		f.Add(s, `{"temp": 1, "x": "y", "a": true}`)
	}
	f.Fuzz(func(t *testing.T, src, payload string) {
		p, err := newPredicate(src)
		if err != nil {
			var e *expr.Error
			if !errors.As(err, &e) || e.Column < 1 || e.Column > len([]rune(src))+2 {
				t.Fatalf("%q: %#v", src, err)
			}
			return
		}
		if p.Load(&record.Record{Key: "k", Data: []byte(payload)}) {
			p.Eval()
		}
	})
}

// FuzzExtract: on valid JSON the scanner finds what encoding/json finds, and it
// takes nothing that encoding/json refuses, but what may be an instrument's
// number.
func FuzzExtract(f *testing.F) {
	for _, s := range []string{
		`{"value": 1}`, `{"a": {"b": 2.5e3}}`, `{"a": {"b": 1}, "a": {"c": 2}}`, `{"\u0061": {"b": "x\ud83d\ude00\ud800y"}}`, `[1, {"value": 2}]`, `"x"`, ` 12 `, `null`,
		`{"value": tru}`, `{"value": 01}`, `{"value": 1,}`, `{"value": 1; "a": 2}`, `[1; 2]`, `{"value": 1`, `[1]]`, "{\"value\": \"\xff\"}", `{"value": "a\/b\t"}`, `{"a": {"b": [1,2,{"b": 3}]}, "value": -0.0}`, `{"value": 1e400}`, `{"":1}`, "\ufeff1", `{"a":1,"a":{"b":2}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		paths := [][]string{{"value"}, {"a", "b"}, {"a"}, {"a", "c"}, {""}}
		got, ok := extract(data, paths...)
		var v any
		err := json.Unmarshal(data, &v)
		if ok && err != nil && strings.ContainsAny(string(data), "{}[]\"") && !strings.Contains(err.Error(), "cannot unmarshal number") {
			t.Fatalf("%q is taken, encoding/json says %v", data, err)
		}
		if !ok {
			if err == nil && strings.Count(string(data), "[")+strings.Count(string(data), "{") < 1000 {
				t.Fatalf("%q is refused", data)
			}
			return
		}
		if err != nil {
			return
		}
		for i, path := range paths {
			if want := lookup(v, path); fmt.Sprintf("%T %v", got[i], got[i]) != fmt.Sprintf("%T %v", want, want) {
				t.Fatalf("%q at %q: %#v, want %#v", data, path, got[i], want)
			}
		}
	})
}

func lookup(v any, path []string) any {
	switch v.(type) {
	case map[string]any, []any, nil:
	default:
		if len(path) == 1 && path[0] == "value" {
			return v
		}
		return nil
	}
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	switch v.(type) {
	case map[string]any, []any:
		return nil
	}
	return v
}
