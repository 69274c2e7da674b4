package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

// forebay runs a command in this process.
func forebay(t *testing.T, in string, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(args, strings.NewReader(in), &o, &e)
	return code, o.String(), e.String()
}

func TestHelpNamesEveryCommand(t *testing.T) {
	code, out, _ := forebay(t, "", "--help")
	if code != exitOK {
		t.Errorf("exit code %d", code)
	}
	out = strings.Join(strings.Fields(out), " ")
	for _, want := range []string{"run", "status", "streams", "tail", "put", "alarms", "uplinks", "uplink pause", "uplink resume", "uplink retry", "ledger", "cursor list", "cursor drop", "check", "config print", "spool check", "bench spool", "version", "Exit codes: 0 done; 1 failed; 2 wrong usage or config; 3 no gateway answers; 4 a check found problems."} {
		if !strings.Contains(out, want) {
			t.Errorf("--help does not say %q:\n%s", want, out)
		}
	}
	for _, args := range [][]string{{"run", "--help"}, {"tail", "--help"}, {"config", "print", "--help"}} {
		if code, out, _ := forebay(t, "", args...); code != exitOK || len(out) < 100 {
			t.Errorf("%v: exit code %d, %q", args, code, out)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.toml")
	data := filepath.Join(dir, "data")
	if err := os.WriteFile(bad, []byte("[gateway]\nname = \"edge\"\ntitel = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"fly"}, exitUsage, "forebay --help"},
		{[]string{"run", "--mqtt", "here"}, exitUsage, "127.0.0.1:1883"},
		{[]string{"run", "--data", data, "--config", bad}, exitUsage, "bad.toml:3:1: unknown key \"gateway.titel\""},
		{[]string{"check", bad}, exitUsage, "~~~~~"},
		{[]string{"run", "--data", data, "--api", "0.0.0.0:8480"}, exitUsage, "can be reached from other machines"},
		{[]string{"run", "--data", data, "--mqtt", "0.0.0.0:1883"}, exitUsage, "--mqtt"},
		{[]string{"check", filepath.Join(dir, "none.toml")}, exitUsage, "none.toml"},
		{[]string{"run", "--config", filepath.Join(dir, "none.toml")}, exitUsage, "none.toml"},
		{[]string{"spool", "chek"}, exitUsage, "forebay spool --help"},
		{[]string{"query", "--timeout", "2", "SELECT 1"}, exitUsage, "forebay query --help"},
		{[]string{"query", "--key-file", bad, "SELECT 1"}, exitUsage, "--spool"},
		{[]string{"status", "--api", freePort(t)}, exitUnreachable, "connection refused"},
		{[]string{"status", "--api", freePort(t)}, exitUnreachable, "FOREBAY_API"},
		{[]string{"spool", "check", dir}, exitFailed, "spool"},
		{[]string{"bench", "spool", "--payload", "0"}, exitUsage, "--payload"},
	} {
		code, _, errs := forebay(t, "", c.args...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%v: exit code %d, says %q; want %d and %q", c.args, code, errs, c.code, c.says)
		}
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}

const aloneConfig = `
[gateway]
name = "alone"
data = "DATA"
[mqtt]
listen = "MQTT"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[route]]
match = "strict/#"
decode = "json"
[[rule]]
id = "hot"
from = "mqtt"
match = "oven/+"
when = "value > 200"
text = "Oven {key} at {value}"
severity = 2
`

// The documented commands against a running gateway, across a kill -9.
func TestCommandsAgainstAGateway(t *testing.T) {
	g := startGateway(t, "alone", aloneConfig)
	do := func(in string, args ...string) string {
		t.Helper()
		code, out, errs := forebay(t, in, append(args, "--api", g.api)...)
		if code != exitOK {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
		}
		return out
	}
	if out := do(`{"value": 1.0}`, "put", "mqtt", "line1/press"); !strings.HasPrefix(out, "mqtt shardId-") || !strings.HasSuffix(out, " 1\n") {
		t.Errorf("put prints %q", out)
	}
	do("not json", "put", "mqtt", "strict/line1")
	if out := do("", "tail", "quarantine", "--json"); !strings.Contains(out, "not JSON") || !strings.Contains(out, `"text":"not json"`) {
		t.Errorf("quarantine holds %q", out)
	}
	g.kill()
	g.start(t, "alone")
	if out := do("", "tail", "mqtt"); !strings.Contains(out, `line1/press  {"value": 1.0}`) {
		t.Errorf("tail prints %q", out)
	}
	if out := do("", "tail", "mqtt", "--json", "--from", "1", "-n", "1"); !strings.Contains(out, `"data":{"value": 1.0}`) {
		t.Errorf("tail --json prints %q", out)
	}
	var st api.Status
	if err := json.Unmarshal([]byte(do("", "status", "--json")), &st); err != nil || st.Gateway != "alone" || len(st.Listening) != 3 || st.Rules != 1 {
		t.Errorf("status is %+v, %v", st, err)
	}
	if out := do("", "streams"); !strings.Contains(out, "quarantine") {
		t.Errorf("streams prints %q", out)
	}
	do(`{"value": 250}`, "put", "mqtt", "oven/1")
	var alarms []api.Alarm
	eventually(t, 10*time.Second, "the alarm is raised", func() bool {
		return json.Unmarshal([]byte(do("", "alarms", "--json")), &alarms) == nil && len(alarms) == 1
	})
	if a := alarms[0]; a.Text != "Oven oven/1 at 250" || a.State != "unacked" || a.Severity != 2 {
		t.Errorf("alarm is %+v", a)
	}
	if out := do("", "alarms", "--ack", "all", "--by", "anna"); !strings.HasPrefix(out, "acknowledged hot/oven/1/") {
		t.Errorf("ack prints %q", out)
	}
	g.kill()
	g.start(t, "alone")
	if err := json.Unmarshal([]byte(do("", "alarms", "--json")), &alarms); err != nil || len(alarms) != 1 || alarms[0].State != "acked" || alarms[0].AckedBy != "anna" {
		t.Errorf("after a kill the alarms are %+v, %v", alarms, err)
	}
	if out := do("", "ledger"); !strings.Contains(out, "the ledger balances") {
		t.Errorf("ledger prints %q", out)
	}
	if out := do("", "ledger", "--steps"); !strings.Contains(out, "the spool was created") || !strings.Contains(out, "its chain of ") {
		t.Errorf("ledger --steps prints %q", out)
	}
	if out := do("", "cursor", "list"); !strings.HasPrefix(out, "STREAM") {
		t.Errorf("cursor list prints %q", out)
	}
	if code, _, errs := forebay(t, "", "cursor", "drop", "mqtt", "none", "--api", g.api); code != exitFailed || !strings.Contains(errs, "no such cursor") {
		t.Errorf("drop of no cursor: %d, %q", code, errs)
	}
	if code, _, errs := forebay(t, "", "ledger", "--spool", g.data); code != exitFailed || !strings.Contains(errs, "in use by process") {
		t.Errorf("the ledger of a spool in use: %d, %q", code, errs)
	}
	if code, _, errs := forebay(t, "x", "put", "nowhere", "k", "--api", g.api); code != exitFailed || !strings.Contains(errs, "no such stream") {
		t.Errorf("put to no stream: %d, %q", code, errs)
	}
	if code, _, errs := forebay(t, "", "tail", "mqtt", "--from", "yesterday", "--api", g.api); code != exitUsage || !strings.Contains(errs, "2026-11-05T14:00:00Z") {
		t.Errorf("tail --from yesterday: %d, %q", code, errs)
	}
	do("\x1b[2Jx\ny", "put", "mqtt", "k\x1b[31m")
	if out := do("", "tail", "mqtt"); strings.Contains(out, "\x1b") || !strings.Contains(out, `k\x1b[31m  \x1b[2Jx\x0ay`) {
		t.Errorf("control characters reach the terminal: %q", out)
	}
	if code, _, errs := forebay(t, "", "spool", "check", g.data); code != exitFailed || !strings.Contains(errs, "in use by process") {
		t.Errorf("a check of a spool in use: %d, %q", code, errs)
	}
	g.sound(t)
	if code, out, _ := forebay(t, "", "spool", "check", g.data); code != exitOK || !strings.Contains(out, "no problems") {
		t.Errorf("check: %d, %q", code, out)
	}
	var l api.Ledger
	code, out, _ := forebay(t, "", "ledger", "--spool", g.data, "--steps", "--last", "1", "--json")
	if err := json.Unmarshal([]byte(out), &l); err != nil || code != exitOK || !l.Balance || !l.Chain.Holds || len(l.Steps) != 1 || l.Steps[0].Hash != l.Chain.Head {
		t.Errorf("ledger --spool: %d, %v, %q", code, err, out)
	}
}

// A second gateway on the same data is refused with the first one's pid, and
// an address that is taken is said at start.
func TestTwoGateways(t *testing.T) {
	g := startGateway(t, "alone", aloneConfig)
	second := spawn(t, "second", program(t, "forebay"), "run", "--data", g.data, "--mqtt", "off", "--kinesis", "off", "--api", freePort(t))
	second.wait(20 * time.Second)
	if second.err == nil || !strings.Contains(second.out.String(), "in use by process") {
		t.Errorf("a second gateway on the same data: %v, %s", second.err, second.out)
	}
	third := spawn(t, "third", program(t, "forebay"), "run", "--data", filepath.Join(t.TempDir(), "d"), "--mqtt", g.mqtt, "--kinesis", "off", "--api", "off")
	third.wait(20 * time.Second)
	if third.err == nil || !strings.Contains(third.out.String(), "address already in use") {
		t.Errorf("a taken address: %v, %s", third.err, third.out)
	}
	g.sound(t)
}
