//go:build peers

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

// versitygw, which knows nothing of us, is the far end of two uplinks, one of
// NDJSON and one of Parquet. The gateway is killed again and again, and the
// store too. The AWS CLI fetches what is there, Python reads the lines and
// hyparquet the tables: every record once, in each.
//
//	FOREBAY_VERSITYGW     the program
//	FOREBAY_S3_MODULES    where hyparquet and hyparquet-compressors are
func TestPeerS3Versitygw(t *testing.T) {
	addr, dir := freePort(t), t.TempDir()
	store := func() *child {
		c := spawn(t, "versitygw", os.Getenv("FOREBAY_VERSITYGW"), "--port", addr, "--access", "any", "--secret", "any", "--region", "us-east-1", "posix", dir)
		eventually(t, 20*time.Second, "versitygw listens", func() bool {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
			return err == nil && c.Close() == nil
		})
		return c
	}
	s := store()
	tool(t, nil, "aws", "--endpoint-url", "http://"+addr, "s3api", "create-bucket", "--bucket", "lake")
	target := `
bucket = "lake"
endpoint = "http://` + addr + `"
region = "us-east-1"
access_key = "any"
secret_key = "any"
`
	g := startGateway(t, "edge", plainConfig+`
[[stream]]
name = "press"
shards = 2
[[uplink]]
id = "lines"
streams = ["press", "video"]
[uplink.s3]
prefix = "lines"
max_age = "50ms"
object_size = "64KiB"
compression = "gzip"`+target+`
[[uplink]]
id = "tables"
streams = ["press"]
[uplink.s3]
prefix = "tables"
max_age = "50ms"
object_size = "64KiB"
objects = "parquet"`+target)

	const batches, each = 24, 500
	for i := range batches {
		var lines bytes.Buffer
		for k := range each {
			fmt.Fprintf(&lines, "{\"device\":\"press-%d\",\"value\":%d.5}\n", k%7, i*each+k)
		}
		send(t, http.MethodPost, "http://"+g.kinesis+"/ingest/press?format=ndjson&key_field=device", &lines)
		switch i % 6 {
		case 1, 4: // whatever is under way is cut
			g.kill()
			g.start(t, "edge")
		case 2:
			s.kill()
		case 3:
			s = store()
		}
	}
	chunk := bytes.Repeat([]byte("moof"), 100_000)
	send(t, http.MethodPut, "http://"+g.api+"/video/gate/0001.mp4", bytes.NewReader(chunk))
	eventually(t, 120*time.Second, "everything is delivered", func() bool {
		u, err := g.client.Uplinks(context.Background())
		return err == nil && len(u) == 2 && !slices.ContainsFunc(u, func(u api.Uplink) bool { return u.Waiting > 0 || u.Delivered == 0 })
	})
	want := make(map[string]bool)
	for _, r := range records(t, g, "press") {
		want[r.ID] = true
	}
	if len(want) != batches*each {
		t.Fatalf("%d records are stored, want %d", len(want), batches*each)
	}
	g.sound(t)

	local := t.TempDir()
	tool(t, nil, "aws", "--endpoint-url", "http://"+addr, "s3", "sync", "--quiet", "s3://lake", local)
	once(t, "lines", want, tool(t, nil, "python3", "-c", `
import glob, gzip, sys
for name in glob.glob(sys.argv[1] + "/lines/press/dt=*/hr=*/*.ndjson.gz"):
    sys.stdout.write(gzip.open(name, "rt").read())`, local))
	tables, err := filepath.Glob(local + "/tables/press/dt=*/hr=*/*.parquet")
	if err != nil {
		t.Fatal(err)
	}
	rows := tool(t, nil, "node", append([]string{"testdata/peers/parquet.mjs", os.Getenv("FOREBAY_S3_MODULES")}, tables...)...)
	once(t, "tables", want, rows)
	for line := range bytes.Lines(rows) {
		var r struct {
			Gateway, Stream, Key, Data string
			Seq                        int
			Value                      float64
			Arrived                    time.Time
			Attrs                      map[string]string
		}
		var data struct {
			Device string
			Value  float64
		}
		if err := json.Unmarshal(line, &r); err != nil || json.Unmarshal([]byte(r.Data), &data) != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if r.Gateway != "edge" || r.Stream != "press" || r.Seq == 0 || r.Key != data.Device || r.Value != data.Value || time.Since(r.Arrived) > time.Hour {
			t.Fatalf("row %s", line)
		}
	}
	t.Logf("%d records in %d tables", len(want), len(tables))

	var video []string
	if err := filepath.WalkDir(filepath.Join(local, "lines", "_chunks", "video"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			video = append(video, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(video) != 1 || !strings.HasSuffix(video[0], ".mp4") {
		t.Fatalf("chunks %v", video)
	}
	if b, err := os.ReadFile(video[0]); err != nil || !bytes.Equal(b, chunk) {
		t.Errorf("the chunk has %d bytes, want %d: %v", len(b), len(chunk), err)
	}
}

// once checks that the rows hold each id once, and no others.
func once(t *testing.T, what string, want map[string]bool, rows []byte) {
	t.Helper()
	seen := make(map[string]bool)
	for line := range bytes.Lines(rows) {
		var r struct{ ID string }
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %s: %v", what, line, err)
		}
		if seen[r.ID] || !want[r.ID] {
			t.Fatalf("%s: %s is there again, or was never stored", what, r.ID)
		}
		seen[r.ID] = true
	}
	if len(seen) != len(want) {
		t.Errorf("%s: %d records of %d", what, len(seen), len(want))
	}
}

// send makes a request that must succeed.
func send(t *testing.T, method, url string, body io.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: HTTP %d %s %v", method, url, resp.StatusCode, b, err)
	}
}
