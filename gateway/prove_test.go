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
	near := startGateway(t, "near", strings.ReplaceAll(verifyNear, "FAR", cloud))
	before, err := near.client.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program(t, "forebay"), "prove", "--config", near.config, "--target", "cloud", "--out", out, "--minutes", "0.2", "--records", "3000", "--quick", "--json")
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
		t.Errorf("the data directory still has %v (%v)", left, err)
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
