package rules_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/gateway/conf"
	"forebay/gateway/internal/rules"
)

var update = flag.Bool("update", false, "write the golden files")

// TestRefused compares the message of every bad rule in testdata/bad with the
// golden beside it. A case is a line "setting: text".
func TestRefused(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for line := range strings.Lines(string(b)) {
			line = strings.TrimRight(line, "\n")
			if line == "" || strings.HasPrefix(line, "    ") {
				continue
			}
			name, text, _ := strings.Cut(line, ": ")
			r := rules.Rule{ID: "r", When: "value > 80"}
			switch name {
			case "id":
				r.ID = conf.Name(text)
			case "when":
				r.When = text
			case "clear":
				r.Clear = text
			case "value":
				r.Value = text
			case "text":
				r.Text = text
			case "key":
				r.Match, r.Key = "plant/+/+/#", text
			case "match":
				r.Match = text
			case "ack":
				r.Ack = text
			case "from":
				r.From = conf.Stream(text)
			default:
				t.Fatalf("%s: no setting %q", file, name)
			}
			err := r.Check()
			if err == nil {
				t.Errorf("%s: taken: %s", file, line)
				continue
			}
			if !strings.HasPrefix(err.Error(), name+":") {
				t.Errorf("%s: the message does not begin with the setting: %v", line, err)
			}
			out.WriteString(line + "\n")
			for l := range strings.Lines(err.Error()) {
				out.WriteString("    " + strings.TrimRight(l, "\n") + "\n")
			}
		}
		golden(t, file, string(b), out.String())
	}
}

func golden(t *testing.T, file, have, got string) {
	t.Helper()
	if have == got {
		return
	}
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s differs (go test -update writes it). Got:\n%s", file, got)
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
