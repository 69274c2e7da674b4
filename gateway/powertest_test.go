package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"forebay/gateway/internal/powertest"
)

func TestPowertest(t *testing.T) {
	dir := t.TempDir()
	quick := []string{"powertest", dir, "--slice", "30ms", "--sustain", "200ms", "--bytes", "64MiB"}
	g := startGateway(t, "edge", backedUpConfig)
	for range 20 {
		if _, err := g.client.Put(t.Context(), "sensors", "k", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errs := forebay(t, "", append(quick, "--json", "--api", g.api)...)
	var rep struct {
		powertest.Facts
		Findings []powertest.Finding
	}
	if err := json.Unmarshal([]byte(out), &rep); err != nil || (code != exitOK && code != exitProblems) {
		t.Fatalf("exit code %d, %s: %v", code, errs, err)
	}
	if rep.Load.From != "The gateway edge" || rep.Load.BytesPerDay <= 0 || rep.Commit.N == 0 || len(rep.Findings) == 0 {
		t.Errorf("%+v", rep)
	}
	code, out, _ = forebay(t, "", append(quick, "--rate", "100")...)
	if (code != exitOK && code != exitProblems) || !strings.Contains(out, "100 records/s of 100 B") || !strings.Contains(out, "a lone record of 100 bytes, acknowledged") {
		t.Errorf("exit code %d: %s", code, out)
	}
	code, out, _ = forebay(t, "", append(quick, "--api", freePort(t))...)
	if (code != exitOK && code != exitProblems) || !strings.Contains(out, "no load of a running gateway") {
		t.Errorf("exit code %d: %s", code, out)
	}
	for _, args := range [][]string{{"powertest", dir + "/none"}, {"powertest", dir, "--rate=-1"}} {
		if code, _, errs := forebay(t, "", args...); code != exitUsage {
			t.Errorf("%v: exit code %d, %s", args, code, errs)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}
