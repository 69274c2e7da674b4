package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/proof"

	"github.com/aws/aws-sdk-go-v2/service/kinesis"
)

// TestProve: the acceptance test of a running gateway's uplink, over a link
// that loses answers, to a cloud that another Forebay is. It passes, and leaves
// the running gateway, its spool and its stream alone.
func TestProve(t *testing.T) {
	far := startGateway(t, "far", verifyFar)
	cloud, control := freePort(t), freePort(t)
	spawn(t, "cloud", program(t, "forebay-sim"), "cloud", "--listen", cloud, "--to", "http://"+far.kinesis, "--control", control,
		"--entry-fails", "0.05", "--cut-after", "0.05", "--fail-after", "0.05")
	// Held to so many bits a second the backlog takes its time to drain.
	near := startGateway(t, "near", strings.ReplaceAll(verifyNear, "FAR", cloud)+"[bandwidth]\nlimit_kbit = 1200\n")
	before, err := near.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out, data := filepath.Join(t.TempDir(), "not", "there"), filepath.Join(t.TempDir(), "nor", "this")
	cmd := exec.CommandContext(t.Context(), program(t, "forebay"), "prove", "--config", near.config, "--target", "cloud", "--out", out, "--data", data, "--minutes", "0.2", "--records", "3000", "--quick", "--json")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("prove: %v\n%s%s", err, text, errs.String())
	}
	var rep proof.Report
	if err := json.Unmarshal(text, &rep); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	f := rep.Figures
	t.Logf("%s %v: %+v\n%s", rep.Result, rep.Why, f, errs.String())
	if rep.Result == proof.Failed || f.Acknowledged != 3000 || f.Written != 3000 || f.LostHere != 0 || f.LostThere != 0 || f.Undelivered != 0 ||
		f.Kills != 3 || f.Cuts != 1 || !f.Balanced || f.Problems != 0 || f.AckP50 <= 0 || f.CutFor <= 0 {
		t.Errorf("%s: %v, %+v", rep.Result, rep.Why, f)
	}
	// It was killed in the middle of the drain, which counts from the link's return.
	if k := f.DrainKill; k == nil || !k.Shown || k.Why != "" || k.Waited == 0 || k.Before == 0 || k.Waiting == 0 || k.Rest < k.Waiting || k.After <= 0 || !f.Drained || f.Drain < k.After || f.Rest < 0 {
		t.Errorf("the kill in the drain: %+v, drained in %v s", k, f.Drain)
	}
	if v := rep.Verdict; v == nil || v.Result != proof.NoGap || v.Compared < 3000 || v.Found != v.Compared {
		t.Errorf("verdict: %+v", v)
	}

	// The report is in its two files, and one names the other.
	file, err := os.ReadFile(filepath.Join(out, rep.Name+".json"))
	if err != nil || !bytes.Equal(file, text) {
		t.Errorf("the JSON file is not what was printed (%v)", err)
	}
	page, err := os.ReadFile(filepath.Join(out, rep.Name+".html"))
	if sum := fmt.Sprintf("%x", sha256.Sum256(file)); err != nil || !bytes.Contains(page, []byte(sum)) {
		t.Errorf("the page does not name the JSON's digest %s (%v)", sum, err)
	}
	if bytes.Contains(page, []byte("secret_key")) || bytes.Contains(text, []byte("access_key")) {
		t.Error("the report has credentials in it")
	}

	// What is not its own it left alone.
	after, err := near.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Streams) != len(before.Streams) || after.Chain.Steps != before.Chain.Steps {
		t.Errorf("the running gateway's ledger changed:\n%+v\n%+v", before, after)
	}
	left, err := filepath.Glob(filepath.Join(near.data, "prove-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("the data directory has %v (%v)", left, err)
	}
	if _, err := os.Stat(filepath.Dir(data)); !os.IsNotExist(err) {
		t.Errorf("what was made for the test's data is there still (%v)", err)
	}
	list, err := kinesisAt(far.kinesis).ListStreams(t.Context(), &kinesis.ListStreamsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list.StreamNames {
		if name == "press-shop" {
			t.Error("the uplink's own target stream was made")
		}
	}
	near.sound(t)
	far.sound(t)
}

// TestProveThatFails: what is not delivered in time fails the test, whose data
// is kept then, without the config that has secrets in it.
func TestProveThatFails(t *testing.T) {
	far := startGateway(t, "far", verifyFar)
	near := startGateway(t, "near", strings.ReplaceAll(verifyNear, "FAR", far.kinesis)+"[bandwidth]\nlimit_kbit = 16\n")
	out := filepath.Join(t.TempDir(), "reports")
	cmd := exec.CommandContext(t.Context(), program(t, "forebay"), "prove", "--config", near.config, "--target", "cloud", "--out", out, "--minutes", "0.05", "--records", "1000", "--drain", "1s", "--quick")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	said, err := cmd.Output()
	text := string(said)
	if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(text, "failed\n") {
		t.Fatalf("%v: %s%s", err, text, errs.String())
	}
	_, kept, ok := strings.Cut(text, "data of the test: ")
	kept, _, _ = strings.Cut(kept, "\n")
	if fi, err := os.Stat(kept); !ok || err != nil || !fi.IsDir() {
		t.Errorf("the data is not kept (%v): %s", err, text)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(kept), testConfig)); !os.IsNotExist(err) {
		t.Errorf("the test's config is kept too (%v)", err)
	}
}

// TestProveNeedsAPlaceForItsReport: it says so before it has done anything.
func TestProveNeedsAPlaceForItsReport(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "forebay.toml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(provable, "[bandwidth]", "[gateway]\ndata = '"+filepath.ToSlash(filepath.Join(dir, "data"))+"'\n[bandwidth]")), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, place := range map[string]string{"--out": file, "--out ": filepath.Join(file, "below"), "--data": file} {
		args := []string{"prove", "--config", file, "--target", "s3", "--out", dir, "--minutes", "0.05"}
		code, _, errs := forebay(t, "", append(args, strings.TrimSpace(flag), place)...)
		if code != exitUsage || !strings.Contains(errs, strings.TrimSpace(flag)) {
			t.Errorf("%s %s: exit code %d, %s", flag, place, code, errs)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("it left %v (%v)", left, err)
	}
}

// TestOutage: a backlog drains when some of what the link's return found
// waiting has gone and some has not, whatever comes meanwhile.
func TestOutage(t *testing.T) {
	o := outage{before: passage{in: 1000, pending: 400, delivered: 600}, in: 1000}
	for _, c := range []struct {
		now    passage
		drains bool
		left   uint64
	}{
		{passage{1000, 400, 600}, false, 400},
		{passage{1500, 900, 600}, false, 400}, // more came
		{passage{1500, 899, 601}, true, 399},
		{passage{1500, 501, 990}, true, 1}, // some was filtered
		{passage{1500, 500, 1000}, false, 0},
		{passage{1000, 0, 1000}, false, 0},
		{passage{600, 50, 550}, false, 450}, // a start found an older place
		{passage{}, false, 0},
	} {
		if o.waited() != 400 || o.drains(c.now) != c.drains || o.left(c.now) != c.left {
			t.Errorf("%+v: drains %v, %d left of %d; want %v, %d", c.now, o.drains(c.now), o.left(c.now), o.waited(), c.drains, c.left)
		}
	}
	for _, c := range []struct {
		now    passage
		waited uint64
		shown  bool
		says   string
	}{
		{passage{1500, 800, 690}, 400, true, "the backlog drains, 0.25 s"},
		{passage{1500, 2, 1498}, 400, false, "the backlog of 400 records had gone 0.25 s"},
		{passage{1500, 2, 1498}, 0, false, "none had waited"},
	} {
		k := proof.DrainKill{Waited: c.waited}
		while := o.atKill(c.now, 250*time.Millisecond, &k)
		if !strings.Contains(while, c.says) || k.Shown != c.shown || (k.Why == "") != c.shown || k.Waiting != c.now.pending || k.Before != c.now.delivered-600 || k.After != .25 {
			t.Errorf("%+v: killed while %s: %+v", c.now, while, k)
		}
	}
	if none := (outage{before: passage{in: 7, delivered: 7}, in: 7}); none.waited() != 0 || none.drains(passage{9, 1, 8}) || none.left(passage{9, 1, 8}) != 0 {
		t.Error("where nothing waited there is something to drain")
	}
}
