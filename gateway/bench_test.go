package main

import (
	"encoding/json"
	"strings"
	"testing"

	"forebay/gateway/internal/bench"
)

func TestBenchSpool(t *testing.T) {
	dir := t.TempDir()
	args := []string{"bench", "spool", "--dir", dir, "--only", "lone", "--warm"}
	code, out, errs := forebay(t, "", args...)
	if code != exitOK || !strings.Contains(out, "lone record") || !strings.Contains(out, "WRITTEN/RECORD") || !strings.Contains(errs, "lone records") {
		t.Errorf("exit code %d, prints %q, says %q", code, out, errs)
	}
	code, out, errs = forebay(t, "", append(args, "--json")...)
	var rep bench.Report
	if err := json.Unmarshal([]byte(out), &rep); err != nil || code != exitOK || len(rep.Lines) != 2 || rep.Lines[1].Rival == nil {
		t.Errorf("exit code %d, %v, prints %q, says %q", code, err, out, errs)
	}
	code, _, errs = forebay(t, "", "bench", "spool", "--only", "speed")
	if code != exitUsage || !strings.Contains(errs, "--only") {
		t.Errorf("exit code %d, says %q", code, errs)
	}
}
