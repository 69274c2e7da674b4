//go:build peers

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kinesis"
)

// Kinesis outputs that people run, as they are.
//
//	FOREBAY_TELEGRAF    a telegraf with inputs.file and outputs.kinesis
//	FOREBAY_FLUENT_BIT  a fluent-bit with the inputs stdin and the outputs kinesis_streams and kinesis_firehose

// makeStream makes one with the SDK.
func makeStream(t *testing.T, client *kinesis.Client, name string, shards int32) {
	t.Helper()
	if _, err := client.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &name, ShardCount: &shards}); err != nil {
		t.Fatal(err)
	}
}

// Telegraf writes lines of the InfluxDB protocol, the key from a tag.
func TestPeerTelegraf(t *testing.T) {
	g := startGateway(t, "edge", kinesisConfig)
	makeStream(t, kinesis.NewFromConfig(h2cConfig(t, g)), "telegraf", 2)
	dir := t.TempDir()
	const machines, each = 7, 300
	var lines bytes.Buffer
	for i := range each {
		for m := range machines {
			fmt.Fprintf(&lines, "press,machine=m%d temperature=%d.5,running=true %d\n", m, i, 1_700_000_000_000_000_000+int64(i)*1_000_000)
		}
	}
	in, conf := filepath.Join(dir, "lines.txt"), filepath.Join(dir, "telegraf.conf")
	text := `
[agent]
  omit_hostname = true
  metric_batch_size = 1000
  metric_buffer_limit = 10000
[[inputs.file]]
  files = ["` + filepath.ToSlash(in) + `"]
  data_format = "influx"
[[outputs.kinesis]]
  region = "us-east-1"
  endpoint_url = "http://` + g.kinesis + `"
  access_key = "` + peerAccessKey + `"
  secret_key = "` + peerSecretKey + `"
  streamname = "telegraf"
  data_format = "influx"
  [outputs.kinesis.partition]
    method = "tag"
    key = "machine"
`
	for file, b := range map[string][]byte{in: lines.Bytes(), conf: []byte(text)} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s", tool(t, nil, os.Getenv("FOREBAY_TELEGRAF"), "--config", conf, "--once"))
	next := map[string]int{}
	for _, r := range records(t, g, "telegraf") {
		i := next[r.Key]
		next[r.Key]++
		line := ""
		if r.Text != nil {
			line = strings.TrimSpace(*r.Text)
		}
		if !strings.HasPrefix(line, "press,machine="+r.Key+" ") || !strings.Contains(line, fmt.Sprintf("temperature=%d.5", i)) {
			t.Fatalf("%s: record %d is %q", r.Key, i, line)
		}
	}
	if len(next) != machines {
		t.Errorf("keys: %v", next)
	}
	for k, n := range next {
		if n != each {
			t.Errorf("%s: %d records of %d", k, n, each)
		}
	}
	t.Logf("%d lines of telegraf, in order by key", machines*each)
	g.sound(t)
}

// Fluent Bit speaks TLS only, to Kinesis and to Firehose.
func TestPeerFluentBit(t *testing.T) {
	g, cert, pool := startTLSGateway(t)
	makeStream(t, kinesis.NewFromConfig(peerConfig("https://"+g.kinesis, peerSecretKey, h2Client(t, trusting(pool)))), "fluent", 2)
	host, p := port(t, g.kinesis)
	for _, output := range fluentOutputs {
		t.Run(output[0], func(t *testing.T) { fluentBit(t, g, cert, host, p, output) })
	}
	g.sound(t)
}

// fluentOutputs are outputs and how they call their stream.
var fluentOutputs = [][2]string{{"kinesis_streams", "stream=fluent"}, {"kinesis_firehose", "delivery_stream=fluent"}}

func fluentBit(t *testing.T, g *gw, cert, host, port string, output [2]string) {
	t.Helper()
	const n = 1000
	var lines bytes.Buffer
	for i := range n {
		fmt.Fprintf(&lines, "{\"output\":%q,\"n\":%d}\n", output[0], i)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv("FOREBAY_FLUENT_BIT"), "-f", "1", "-i", "stdin", "-o", output[0], "-m", "*",
		"-p", "region=us-east-1", "-p", output[1], "-p", "endpoint="+host, "-p", "port="+port, "-p", "tls.ca_file="+cert, "-p", "tls.verify=on")
	cmd.Env = append(os.Environ(), peerEnv("SSL_CERT_FILE="+cert)...)
	cmd.Stdin = &lines
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("fluent-bit: %v", err)
	}
	seen := map[int]int{}
	for _, r := range records(t, g, "fluent") {
		var v struct {
			Output string
			N      *int
		}
		if json.Unmarshal(r.Data, &v) != nil || v.N == nil {
			t.Fatalf("record %q", r.Data)
		}
		if v.Output == output[0] {
			seen[*v.N]++
		}
	}
	if len(seen) != n {
		t.Errorf("%d lines of %d are there\n%s", len(seen), n, out)
	}
	for i, times := range seen {
		if times != 1 {
			t.Errorf("line %d is there %d times", i, times)
		}
	}
	t.Logf("%s: %d lines of fluent-bit, each once", output[0], len(seen))
}
