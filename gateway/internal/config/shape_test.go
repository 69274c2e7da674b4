package config_test

import (
	"strings"
	"testing"

	"forebay/gateway/internal/config"
)

// What an uplink does to records prints and reads back like the rest.
func TestShapePrints(t *testing.T) {
	c, err := config.Parse("f.toml", []byte(`
[[uplink]]
id = "cloud"
[uplink.kinesis]
stream = "x"
region = "eu-west-1"
[[uplink.shape]]
keys = ["plant/+/temp"]
when = 'quality == "good"'
deadband = { value = 0.5, "motor.rpm" = "2%" }
rename = { value = "v" }
[[uplink.shape]]
set = { site = "graz", line = 3 }
`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.Print()
	if err != nil {
		t.Fatal(err)
	}
	again, err := config.Parse("printed", out)
	if err != nil {
		t.Fatalf("does not read back: %v\n%s", err, out)
	}
	twice, err := again.Print()
	if err != nil || string(twice) != string(out) || len(again.Uplinks[0].Shape) != 2 {
		t.Errorf("printed twice differs (%v):\n%s\n---\n%s", err, out, twice)
	}
	def, err := config.Default().Print()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"# [[uplink.shape]]", "# when = ''", "# max_silence = '1h'", "# [uplink.shape.deadband]", "# [uplink.shape.set]"} {
		if !strings.Contains(string(def), key+"\n") {
			t.Errorf("the defaults do not show %q", key)
		}
	}
	if strings.Contains(string(out), "\nshape = []") {
		t.Error("an uplink without a shape shows it as a list")
	}
}
