package aws_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/uplink/aws"
)

// Where to send is said by the endpoint, by the region, or by the environment
// and its files.
func TestCheckWhere(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "credentials"))
	if err := (aws.Access{}).CheckWhere(); err == nil || !strings.HasPrefix(err.Error(), "region: is missing") {
		t.Errorf("nothing is said: %v", err)
	}
	for _, a := range []aws.Access{{Region: "eu-central-1"}, {Endpoint: "http://127.0.0.1:4567"}} {
		if err := a.CheckWhere(); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[profile plant]\nregion = eu-north-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (aws.Access{Profile: "plant"}).CheckWhere(); err != nil {
		t.Errorf("the profile says it: %v", err)
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	if err := (aws.Access{}).CheckWhere(); err != nil {
		t.Errorf("the environment says it: %v", err)
	}
}
