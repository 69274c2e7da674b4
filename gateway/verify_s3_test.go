package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/proof"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

const s3Target = `
[[uplink]]
id = "lake"
streams = ["line"]
retry_max = "1s"
[uplink.s3]
endpoint = "S3"
region = "eu-central-1"
bucket = "lake"
max_age = "1s"
access_key = "any"
secret_key = "any"
`

// TestVerifyS3: objects of a store that others wrote are read back; one that
// was deleted is named, record by record. The acceptance test leaves its
// objects below a prefix of its own.
func TestVerifyS3(t *testing.T) {
	store := s3mem.New()
	if err := store.CreateBucket("lake"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(store, gofakes3.WithTimeSkewLimit(0)).Server())
	t.Cleanup(srv.Close)
	near := startGateway(t, "near", verifyFar+"[[stream]]\nname = \"line\"\nshards = 2\n"+strings.ReplaceAll(s3Target, "S3", srv.URL))
	put(t, near.kinesis, 1000)
	eventually(t, time.Minute, "the backlog is drained", func() bool { return waiting(t, near) == 0 })
	args := []string{"--config", near.config, "--target", "lake", "--api", near.api}
	if v := verified(t, 0, args...); v.Compared != 1000 || v.Found != 1000 || v.Disorder != -1 {
		t.Errorf("%+v", v)
	}
	list, err := store.ListBucket("lake", &gofakes3.Prefix{HasPrefix: true, Prefix: "forebay/line/"}, gofakes3.ListBucketPage{})
	if err != nil || len(list.Contents) < 2 {
		t.Fatalf("%d objects, %v", len(list.Contents), err)
	}
	if _, err := store.DeleteObject("lake", list.Contents[0].Key); err != nil {
		t.Fatal(err)
	}
	v := verified(t, 1, args...)
	if v.Result != proof.HasGap || v.Missing == 0 || v.Found+v.Missing != 1000 || len(v.Gaps) != 1 || v.Gaps[0].Records != v.Missing {
		t.Errorf("without an object: %+v", v)
	}
	near.sound(t)
}
