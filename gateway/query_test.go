package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// A spool that no gateway has open is asked in every format.
func TestQueryOfAClosedSpool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	if code, _, errs := forebay(t, "", "query", "SELECT 1", "--spool", t.TempDir()); code == exitOK || !strings.Contains(errs, "is not a spool") {
		t.Errorf("no spool: %d, %q", code, errs)
	}
	sp, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := sp.Ensure(t.Context(), spool.StreamConfig{Name: "sensors"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Put(t.Context(), []record.Record{
		{Key: "line1/press/temp", Arrived: time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC), Data: []byte(`{"temp": 20.5, "note": "\u001b[2Jx,\"y\"\n"}`)},
		{Key: "line1/oven/temp", Arrived: time.Date(2026, 11, 5, 14, 0, 1, 0, time.UTC), Data: []byte{0xff, 0}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	const sql = "SELECT device, temp, note, data AS device, seq FROM sensors ORDER BY seq"
	for format, want := range map[string]string{
		"table": "device       temp  note              device                                        seq\n" +
			"line1/press  20.5  \\x1b[2Jx,\"y\"\\x0a  {\"temp\": 20.5, \"note\": \"\\u001b[2Jx,\\\"y\\\"\\n\"}    1\n" +
			"line1/oven   NULL  NULL              x'ff00'                                         2\n",
		"csv": "device,temp,note,device,seq\n" +
			"line1/press,20.5,\"\x1b[2Jx,\"\"y\"\"\n\",\"{\"\"temp\"\": 20.5, \"\"note\"\": \"\"\\u001b[2Jx,\\\"\"y\\\"\"\\n\"\"}\",1\n" +
			"line1/oven,,,x'ff00',2\n",
		"ndjson": `{"device":"line1/press","temp":20.5,"note":"\u001b[2Jx,\"y\"\n","device_2":"{\"temp\": 20.5, \"note\": \"\\u001b[2Jx,\\\"y\\\"\\n\"}","seq":1}` + "\n" +
			`{"device":"line1/oven","temp":null,"note":null,"device_2":{"base64":"/wA="},"seq":2}` + "\n",
	} {
		if code, out, errs := forebay(t, "", "query", sql, "--spool", dir, "--format", format); code != exitOK || out != want || errs != "" {
			t.Errorf("%s: %d, %q\n%s\nwant\n%s", format, code, errs, out, want)
		}
	}
	code, out, errs := forebay(t, "SELECT count(*) AS n FROM sensors", "query", "-", "--spool", dir, "--format", "json")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); code != exitOK || err != nil || len(rows) != 1 || rows[0]["n"] != 2.0 {
		t.Errorf("json: %d, %q, %q", code, out, errs)
	}
	if code, out, _ := forebay(t, "", "query", "SELECT seq FROM sensors WHERE seq > 5", "--spool", dir, "--format", "json"); code != exitOK || out != "[\n]\n" {
		t.Errorf("no rows: %d, %q", code, out)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"DELETE FROM sensors"}, exitUsage, "only reads"},
		{[]string{"SELECT tmep FROM sensors"}, exitOK, `no record that was read has a field "tmep"`},
		{[]string{"SELECT seq FROM sensors", "--max-rows", "1"}, exitOK, "--max-rows 1 ended the result"},
		{[]string{"WITH RECURSIVE g(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM g) SELECT max(x) FROM g", "--timeout", "100ms"}, exitFailed, "longer than 100ms"},
		{[]string{"SELECT 1", "--timeout", "1h"}, exitUsage, "--timeout"},
		{[]string{"SELECT 1", "--format", "xml"}, exitUsage, "--format"},
	} {
		code, _, errs := forebay(t, "", append([]string{"query", "--spool", dir}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%v: exit code %d, says %q; want %d and %q", c.args, code, errs, c.code, c.says)
		}
	}
	if rep, err := spool.Check(t.Context(), dir); err != nil || len(rep.Problems) > 0 || rep.Records != 2 {
		t.Errorf("afterwards: %+v, %v", rep, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "state.db")); err != nil {
		t.Error(err)
	}
}

// The same command through the API of a gateway that runs.
func TestQueryOfAGateway(t *testing.T) {
	g := startGateway(t, "alone", aloneConfig)
	for _, v := range []string{"20.5", "21.5"} {
		if code, _, errs := forebay(t, `{"temp": `+v+`}`, "put", "mqtt", "line1/press/temp", "--api", g.api); code != exitOK {
			t.Fatalf("put: %s", errs)
		}
	}
	code, out, errs := forebay(t, "", "query", "SELECT device, avg(temp) FROM mqtt WHERE ts > now()-3600 GROUP BY device", "--format", "csv", "--api", g.api)
	if code != exitOK || out != "device,avg(temp)\nline1/press,21.0\n" || errs != "" {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if code, _, errs := forebay(t, "", "query", "SELECT count(*) FROM nowhere", "--api", g.api); code != exitUsage || !strings.Contains(errs, "no stream nowhere") {
		t.Errorf("no stream: %d, %q", code, errs)
	}
	if code, _, errs := forebay(t, "", "query", "SELECT 1", "--spool", g.data); code != exitFailed || !strings.Contains(errs, "in use by process") {
		t.Errorf("--spool of a running gateway: %d, %q", code, errs)
	}
	g.sound(t)
}
