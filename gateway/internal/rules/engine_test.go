package rules_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"forebay/gateway/conf"
	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func load(t *testing.T, text string) *rules.Engine {
	t.Helper()
	var file struct {
		Rule []rules.Rule `toml:"rule"`
	}
	if err := toml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	e, err := rules.Compile(file.Rule)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestScenarios plays every file of testdata/scenario: rules, then "---", then
// input lines, then "---", then the transitions that they make. A rules section
// after a third "---" is what "restart changed" loads.
//
//	TIME[@DEVICE-TIME] STREAM KEY PAYLOAD    a record
//	TIME tick                                the clock
//	TIME ack ID NOTE                         by "op"
//	TIME report SOURCE NAME SEVERITY on|off TEXT
//	TIME rebase DURATION                     the wall clock jumped
//	TIME restart [changed]                   a new engine with the stored state
//	list                                     the alarms now
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenario/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(string(b), "---\n")
			if len(parts) < 3 {
				t.Fatal("a scenario has rules, input and transitions")
			}
			s := scenario{t: t, rules: parts[0], e: load(t, parts[0])}
			if len(parts) > 3 {
				s.changed = parts[3]
			}
			for line := range strings.Lines(parts[1]) {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					s.line(line)
				}
			}
			parts[2] = s.out.String()
			golden(t, file, string(b), strings.Join(parts, "---\n"))
		})
	}
}

type scenario struct {
	t              *testing.T
	rules, changed string
	e              *rules.Engine
	out            strings.Builder
}

func (s *scenario) at(d string) time.Time {
	v, err := time.ParseDuration(d)
	if err != nil {
		s.t.Fatal(err)
	}
	return t0.Add(v)
}

func (s *scenario) line(line string) {
	when, rest, _ := strings.Cut(line, " ")
	if when == "list" {
		for _, a := range s.e.Alarms() {
			fmt.Fprintf(&s.out, "  %s %s severity %d\n", a.ID, a.State, a.Severity)
		}
		return
	}
	when, device, hasDevice := strings.Cut(when, "@")
	at := s.at(when)
	f := strings.SplitN(rest, " ", 3)
	switch f[0] {
	case "tick":
		s.print(s.e.Tick(at))
	case "ack":
		changes, _, unknown := s.e.Ack([]string{f[1]}, "op", f[2], at)
		s.print(changes)
		for _, id := range unknown {
			fmt.Fprintf(&s.out, "%s unknown %s\n", at.Sub(t0), id)
		}
	case "report":
		g := strings.SplitN(rest, " ", 6)
		s.print(s.e.Report(at, rules.Condition{Source: g[1], Name: g[2], Severity: int(g[3][0] - '0'), Active: g[4] == "on", Text: g[5]}))
	case "rebase":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.e.Rebase(d)
	case "restart":
		text := s.rules
		if len(f) > 1 {
			text = s.changed
		}
		next := load(s.t, text)
		as, err := rules.Restart(s.e, next, at)
		if err != nil {
			s.t.Fatal(err)
		}
		s.e = next
		s.print(as)
	default:
		r := record.Record{Key: f[1], Source: "broker", Arrived: at, Data: []byte(f[2])}
		if hasDevice {
			r.At = s.at(device)
		}
		s.print(s.e.Step(at, f[0], &r))
	}
}

func (s *scenario) print(as []rules.Alarm) {
	for _, a := range as {
		fmt.Fprintf(&s.out, "%s %s %s -> %s #%d %q", a.Changed.Sub(t0), a.Event, a.ID, a.State, a.Transition, a.Text)
		if a.AckedBy != "" {
			fmt.Fprintf(&s.out, " by %s: %s", a.AckedBy, a.Note)
		}
		s.out.WriteString("\n")
	}
}

// TestLifeCycle is the whole table: every state and phase, with every event.
func TestLifeCycle(t *testing.T) {
	const (
		on, off, band = `{"value": 90}`, `{"value": 10}`, `{"value": 50}`
		late          = 20 * time.Second // after the delay
		soon          = time.Second
	)
	record90 := func(payload string, after time.Duration) func(*rules.Engine) []rules.Alarm {
		return func(e *rules.Engine) []rules.Alarm {
			r := record.Record{Key: "k", Arrived: t0.Add(after), Data: []byte(payload)}
			return e.Step(r.Arrived, "mqtt", &r)
		}
	}
	events := []struct {
		name string
		do   func(*rules.Engine) []rules.Alarm
	}{
		{"on, soon", record90(on, soon)},
		{"band, soon", record90(band, soon)},
		{"off, soon", record90(off, soon)},
		{"on, late", record90(on, late)},
		{"band, late", record90(band, late)},
		{"off, late", record90(off, late)},
		{"tick, soon", func(e *rules.Engine) []rules.Alarm { return e.Tick(t0.Add(soon)) }},
		{"tick, late", func(e *rules.Engine) []rules.Alarm { return e.Tick(t0.Add(late)) }},
		{"ack", func(e *rules.Engine) []rules.Alarm { a, _, _ := e.Ack([]string{"r/k/1"}, "op", "", t0); return a }},
	}
	// For each state: what each event above makes of it, and the transitions.
	table := map[string][]string{
		// with delays of 10 s both ways
		"normal":             {"normal rising", "", "", "normal rising", "", "", "", "", ""},
		"normal rising":      {"normal rising", "", "", "unacked: raised", "unacked: raised", "unacked falling: raised", "normal rising", "unacked: raised", "normal rising"},
		"unacked":            {"unacked", "unacked", "unacked falling", "unacked", "unacked", "unacked falling", "unacked", "unacked", "acked: acked"},
		"unacked falling":    {"unacked", "unacked", "unacked falling", "rtn-unacked rising: cleared", "rtn-unacked: cleared", "rtn-unacked: cleared", "unacked falling", "rtn-unacked: cleared", "acked falling: acked"},
		"acked":              {"acked", "acked", "acked falling", "acked", "acked", "acked falling", "acked", "acked", "acked"},
		"acked falling":      {"acked", "acked", "acked falling", "normal rising: cleared", "normal: cleared", "normal: cleared", "acked falling", "normal: cleared", "acked falling"},
		"rtn-unacked":        {"rtn-unacked rising", "rtn-unacked", "rtn-unacked", "rtn-unacked rising", "rtn-unacked", "rtn-unacked", "rtn-unacked", "rtn-unacked", "normal: acked"},
		"rtn-unacked rising": {"rtn-unacked rising", "rtn-unacked", "rtn-unacked", "unacked: raised", "unacked: raised", "unacked falling: raised", "rtn-unacked rising", "unacked: raised", "normal rising: acked"},
		"normal/0":           {"unacked: raised", "", "", "unacked: raised", "", "", "", "", ""},
		"unacked/0":          {"unacked", "unacked", "rtn-unacked: cleared", "unacked", "unacked", "rtn-unacked: cleared", "unacked", "unacked", "acked: acked"},
		"acked/0":            {"acked", "acked", "normal: cleared", "acked", "acked", "normal: cleared", "acked", "acked", "acked"},
		"rtn-unacked/0":      {"unacked: raised", "rtn-unacked", "rtn-unacked", "unacked: raised", "rtn-unacked", "rtn-unacked", "rtn-unacked", "rtn-unacked", "normal: acked"},
		"normal/0 ack none":  {"acked: raised", "", "", "acked: raised", "", "", "", "", ""},
		"acked/0 ack none":   {"acked", "acked", "normal: cleared", "acked", "acked", "normal: cleared", "acked", "acked", "acked"},
	}
	for from, wants := range table {
		for i, ev := range events {
			r := rules.Rule{ID: "r", When: "value > 80", Clear: "value < 20", For: conf.Duration(10 * time.Second), OffDelay: conf.Duration(10 * time.Second)}
			start, none := strings.CutSuffix(from, " ack none")
			if none {
				r.Ack = "none"
			}
			start, instant := strings.CutSuffix(start, "/0")
			if instant {
				r.For, r.OffDelay = 0, 0
			}
			e, err := rules.Compile([]rules.Rule{r})
			if err != nil {
				t.Fatal(err)
			}
			st, phase, _ := strings.Cut(start, " ")
			if start != "normal" {
				e.Put("r", "k", st, phase, t0)
			}
			var names []string
			for _, a := range ev.do(e) {
				names = append(names, a.Event)
			}
			got := e.PhaseOf("r", "k")
			if len(names) > 0 {
				got += ": " + strings.Join(names, " ")
			}
			if got != wants[i] {
				t.Errorf("%s, %s: %q, want %q", from, ev.name, got, wants[i])
			}
		}
	}
}

func TestBound(t *testing.T) {
	e := load(t, "[[rule]]\nid = \"r\"\nwhen = \"value > 80\"\nack = \"none\"\n")
	e.Limit(100)
	step := func(i int, payload string) []rules.Alarm {
		r := record.Record{Key: fmt.Sprint("k", i), Arrived: t0, Data: []byte(payload)}
		return e.Step(t0, "mqtt", &r)
	}
	for i := range 150 {
		step(i, "90")
	}
	if e.Instances() != 100 || e.Counts().Overflow != 50 || len(e.Alarms()) != 100 {
		t.Fatalf("%d instances, %d left out", e.Instances(), e.Counts().Overflow)
	}
	step(7, "10") // makes room
	if as := step(120, "90"); len(as) != 1 || as[0].ID != "r/k120/3" {
		t.Fatalf("%+v", as)
	}
	// The numbers go on, so that an evicted key's are not given again.
	step(8, "10")
	if as := step(7, "90"); len(as) != 1 || as[0].Transition != 3 {
		t.Fatalf("%+v", as)
	}
}

func TestCompileErrors(t *testing.T) {
	_, err := rules.Compile([]rules.Rule{{ID: "a", When: "x > 1"}, {ID: "a", When: "x > 2"}})
	var re *rules.RuleError
	if err == nil || !strings.Contains(err.Error(), "used by two rules") {
		t.Error(err)
	}
	_, err = rules.Compile([]rules.Rule{{ID: "a", When: "x >", Disabled: true}})
	if !errors.As(err, &re) || re.Rule != "a" || !strings.Contains(err.Error(), `rule "a": when:`) {
		t.Error(err)
	}
	for _, r := range []rules.Rule{{ID: "a"}, {ID: "a", Clear: "x > 1", NoData: conf.Duration(time.Minute)}, {ID: "a", When: "x > 1", Severity: 5}, {ID: "a", NoData: 1}, {When: "x > 1"}} {
		if err := r.Check(); err == nil {
			t.Errorf("taken: %+v", r)
		}
	}
}

func TestSeverity(t *testing.T) {
	var file struct {
		Rule []rules.Rule `toml:"rule"`
	}
	if err := toml.Unmarshal([]byte("[[rule]]\nseverity = 2\n[[rule]]\nseverity = \"low\"\n"), &file); err != nil {
		t.Fatal(err)
	}
	if file.Rule[0].Severity != 2 || file.Rule[1].Severity != 4 {
		t.Errorf("%+v", file.Rule)
	}
	err := toml.Unmarshal([]byte("[[rule]]\nseverity = \"hihg\"\n"), &file)
	if err == nil || !strings.Contains(err.Error(), `did you mean "high"`) {
		t.Error(err)
	}
}

// TestDeterminism: the same records give the same transitions, whether ticks
// come between them, or a restart, or neither.
func TestDeterminism(t *testing.T) {
	const base = `
[[rule]]
id = "a"
when = "value > 80"
clear = "value < 60"
for = "3s"
off_delay = "2s"
[[rule]]
id = "b"
when = "value > 90"
ack = "none"
[[rule]]
id = "c"
key = "{g}"
when = "value > 50"
for = "5s"
`
	for seed := range uint64(60) {
		// A restart forgets when a deadman heard last: with deadmen, ticks only.
		text, deadmen := base, seed%2 == 0
		if deadmen {
			text += "no_data = \"7s\"\n"
		}
		play := func(disturb bool) []rules.Alarm {
			g := newRand(seed)
			h := newRand(seed + 1000)
			e := load(t, text)
			var all []rules.Alarm
			at := t0
			for range 400 {
				at = at.Add(time.Duration(g.IntN(3000)) * time.Millisecond)
				if disturb {
					switch h.IntN(4) {
					case 0:
						all = append(all, e.Tick(at)...)
					case 1:
						if deadmen {
							break
						}
						next := load(t, text)
						as, err := rules.Restart(e, next, at)
						if err != nil || len(as) > 0 {
							t.Fatal(err, as)
						}
						e = next
					}
				}
				r := record.Record{Key: fmt.Sprint("k", g.IntN(4)), Arrived: at, Data: fmt.Appendf(nil, `{"value": %d, "g": "g%d"}`, g.IntN(110), g.IntN(2))}
				all = append(all, e.Step(at, "mqtt", &r)...)
			}
			return append(all, e.Tick(at.Add(time.Minute))...)
		}
		byKey := func(as []rules.Alarm) map[string][]rules.Alarm {
			m := map[string][]rules.Alarm{}
			for _, a := range as {
				m[a.RecordKey()] = append(m[a.RecordKey()], a)
			}
			return m
		}
		if plain, disturbed := byKey(play(false)), byKey(play(true)); !reflect.DeepEqual(plain, disturbed) {
			t.Fatalf("seed %d: the transitions differ:\n%+v\n%+v", seed, plain, disturbed)
		}
	}
}
