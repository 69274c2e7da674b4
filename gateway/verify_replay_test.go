package main

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/proof"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// replayed sends the stream line again, and waits until that is done.
func replayed(t *testing.T, g *gw, uplink string) {
	t.Helper()
	if code, out, errs := forebay(t, "", "uplink", "replay", uplink, "--stream", "line", "--api", g.api); code != exitOK {
		t.Fatalf("replay: exit code %d: %s%s", code, out, errs)
	}
	eventually(t, time.Minute, "the replay is done", func() bool { return len(cloud(t, g).Errands) == 0 })
}

// TestVerifyAfterAReplayToKinesis: the copies of a replay have the ids of the
// records. They are no duplicates, and where the stream itself is deleted or
// thinned out, they do not stand in for it.
func TestVerifyAfterAReplayToKinesis(t *testing.T) {
	far := startGateway(t, "far", verifyFar)
	config := strings.NewReplacer("FAR", far.kinesis, `stream = "press-shop"`, `stream = "plant-{stream}"`).Replace(verifyNear)
	near := startGateway(t, "near", config)
	put(t, near.kinesis, 1000)
	eventually(t, time.Minute, "the backlog is drained", func() bool { return waiting(t, near) == 0 })
	replayed(t, near, "cloud")
	args := []string{"--config", near.config, "--target", "cloud", "--api", near.api}
	if v := verified(t, 0, args...); v.Result != proof.NoGap || v.Found != 1000 || v.Again != 0 || v.Disorder != 0 || v.Elsewhere != 1000 || !slices.Equal(v.Names, []proof.Name{{Name: "plant-replay-1-line", Records: 1000}}) {
		t.Errorf("all is there, and again: %+v", v)
	}

	// One is taken out, another is there three times: one gap, one doubled.
	all := envelopes(t, far.kinesis, "plant-line")
	gone := all[100]
	thin := append(slices.Delete(slices.Clone(all), 100, 101), all[7], all[7])
	remake(t, far.kinesis, "plant-line", thin)
	v := verified(t, 1, args...)
	if v.Missing != 1 || v.Found != 999 || v.Again != 1 || v.Elsewhere != 1000 || len(v.Gaps) != 1 || v.Gaps[0].First != gone.id {
		t.Errorf("without %s: %+v", gone.id, v)
	}

	if _, err := kinesisAt(far.kinesis).DeleteStream(t.Context(), &kinesis.DeleteStreamInput{StreamName: aws.String("plant-line")}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the stream is deleted", func() bool {
		out, err := kinesisAt(far.kinesis).ListStreams(t.Context(), &kinesis.ListStreamsInput{})
		return err == nil && !slices.Contains(out.StreamNames, "plant-line")
	})
	if v := verified(t, 1, args...); v.Result != proof.HasGap || v.Missing != 1000 || v.Found != 0 || v.Elsewhere != 1000 || len(v.Gaps) != 4 {
		t.Errorf("the stream is deleted, and its replay is there: %+v", v)
	}
	near.sound(t)
	if v := verified(t, 1, "--config", near.config, "--target", "cloud", "--spool", near.data); v.Missing != 1000 || v.Elsewhere != 1000 {
		t.Errorf("the spool says: %+v", v)
	}
	far.stop()
}

// TestVerifyAfterAReplayToS3: as above, by folders. What waits is told beside
// the result, and so is that there was nothing to compare.
func TestVerifyAfterAReplayToS3(t *testing.T) {
	store := s3mem.New()
	if err := store.CreateBucket("lake"); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(gofakes3.New(store, gofakes3.WithTimeSkewLimit(0)).Server())
	t.Cleanup(srv.Close)
	before := time.Now().Add(-time.Hour)
	near := startGateway(t, "near", verifyFar+"[[stream]]\nname = \"line\"\nshards = 2\n"+strings.ReplaceAll(s3Target, "S3", srv.URL))
	args := []string{"verify", "--config", near.config, "--target", "lake"} // at the address of the config
	says := func(want int, words string, more ...string) {
		t.Helper()
		code, out, errs := forebay(t, "", slices.Concat(args, more)...)
		if code != want || !strings.Contains(out+errs, words) {
			t.Errorf("verify %v: exit code %d, want %d and %q:\n%s%s", more, code, want, words, out, errs)
		}
	}
	says(0, "nothing to compare")
	put(t, near.kinesis, 1000)
	eventually(t, time.Minute, "the backlog is drained", func() bool { return waiting(t, near) == 0 })
	replayed(t, near, "lake")
	says(0, "no gap: 1000 of 1000 records found, 0 explained by the ledger; 0 records twice or more, 1000 more under other names\nno record waits to be handed on\n")

	at := func(x time.Time) string { return x.UTC().Format(time.RFC3339) }
	says(0, "nothing to compare: ", "--to", at(before))
	says(2, "--from "+at(before)+" is not before --to "+at(before.Add(-time.Hour)), "--from", at(before), "--to", at(before.Add(-time.Hour)))
	says(2, "is not before", "--from", at(before), "--to", at(before))
	tomorrow := at(time.Now().Add(24 * time.Hour))
	says(2, "--from: "+tomorrow+" has not come yet", "--from", tomorrow)
	says(2, "--to: "+tomorrow+" has not come yet", "--to", tomorrow)

	if code, out, errs := forebay(t, "", "uplink", "pause", "lake", "--api", near.api); code != exitOK {
		t.Fatalf("pause: %s%s", out, errs)
	}
	put(t, near.kinesis, 3)
	says(0, "3 records still wait to be handed on and were not compared\n")
	list, err := store.ListBucket("lake", &gofakes3.Prefix{HasPrefix: true, Prefix: "forebay/line/"}, gofakes3.ListBucketPage{})
	if err != nil || len(list.Contents) < 2 {
		t.Fatalf("%d objects, %v", len(list.Contents), err)
	}
	for _, o := range list.Contents {
		if _, err := store.DeleteObject("lake", o.Key); err != nil {
			t.Fatal(err)
		}
	}
	says(1, "GAP: 1000 records of 1000 missing at the target; 0 records twice or more, 1000 more under other names\n3 records still wait")
	says(1, "replay-1-line: 1000 records")
	near.sound(t)
}
