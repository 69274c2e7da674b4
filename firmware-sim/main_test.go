package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUsage runs the program's command line as a person would.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.jsonl")
	if err := os.WriteFile(empty, []byte(`{"e":"begin","run":"r","version":1}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	plant := filepath.Join(dir, "plant.toml")
	if err := os.WriteFile(plant, []byte("colour = \"red\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ledger := filepath.Join(dir, "l.jsonl")
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--help", exitOK, "bench mqtt"},
		{"run --help", exitOK, "--fault"},
		{"verify --help", exitOK, "--ledger"},
		{"--version", exitOK, version},
		{"fly", exitFailed, "--help"},
		{"run", exitFailed, "--ledger"},
		{"run --ledger " + ledger + " --fault melt:a/b@1s+1s", exitFailed, "melt"},
		{"run --ledger " + ledger + " --fault stuck:nobody/x@1s+1s", exitFailed, "nobody/x"},
		{"run --ledger " + ledger + " --plant " + plant, exitFailed, "colour"},
		{"run --ledger " + ledger + " --qos 3", exitFailed, "qos"},
		{"verify --ledger " + empty + " --endpoint http://127.0.0.1:1 --stream s", exitFailed, "nothing was verified"},
		{"verify --ledger " + filepath.Join(dir, "none") + " --endpoint http://127.0.0.1:1 --stream s", exitFailed, "none"},
		{"bench mqtt --count 0", exitFailed, "count"},
		{"demo --gateway " + filepath.Join(dir, "nothing"), exitFailed, "nothing"},
		{"wan --to 127.0.0.1:1 --listen 10.0.0.1:1", exitFailed, "wan: "},
		{"link --listen nowhere:x --to 127.0.0.1:1", exitFailed, "link"},
	} {
		var out, errs bytes.Buffer
		code := run(strings.Fields(c.args), &out, &errs)
		if text := out.String() + errs.String(); code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s: code %d, want %d, with %q in:\n%s", c.args, code, c.code, c.want, text)
		}
	}
}
