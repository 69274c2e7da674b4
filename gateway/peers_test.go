//go:build peers

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

// The tests of this file need programs of others: `make test-peers` installs
// what it can and says what it leaves out.

const plainConfig = `
[gateway]
name = "edge"
data = "DATA"
[mqtt]
listen = "MQTT"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
`

// tool runs a program of others and returns what it prints.
func tool(t *testing.T, in []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=")
	cmd.Stdin = bytes.NewReader(in)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return out
}

func records(t *testing.T, g *gw, stream string) []api.Record {
	t.Helper()
	var out []api.Record
	for r, err := range g.client.Records(context.Background(), api.Tail{Stream: stream}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func port(t *testing.T, addr string) (host, p string) {
	t.Helper()
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, p
}

// mosquitto_pub publishes with every QoS and both protocol versions; after a
// kill -9 all that it saw acknowledged is there.
func TestPeerMosquittoPub(t *testing.T) {
	g := startGateway(t, "edge", plainConfig)
	_, p := port(t, g.mqtt)
	var lines bytes.Buffer
	for i := range 500 {
		fmt.Fprintf(&lines, "{\"value\": %d}\n", i)
	}
	n := 0
	for _, version := range []string{"mqttv311", "mqttv5"} {
		for _, qos := range []string{"1", "2"} {
			tool(t, lines.Bytes(), "mosquitto_pub", "-h", "127.0.0.1", "-p", p, "-V", version, "-q", qos, "-t", "plant/"+version+"/"+qos, "-l")
			n += 500
		}
	}
	g.kill()
	g.start(t, "edge")
	got := map[string][]string{}
	for _, r := range records(t, g, "mqtt") {
		got[r.Key] = append(got[r.Key], string(r.Data))
	}
	for _, key := range []string{"plant/mqttv311/1", "plant/mqttv311/2", "plant/mqttv5/1", "plant/mqttv5/2"} {
		if len(got[key]) != 500 || got[key][0] != `{"value": 0}` || got[key][499] != `{"value": 499}` {
			t.Errorf("%s: %d records of 500", key, len(got[key]))
		}
	}
	t.Logf("%d messages of mosquitto_pub acknowledged, then kill -9: all kept, in order", n)
	g.sound(t)
}

// A mosquitto broker that stands already is read with manual acknowledgements;
// what it holds while the gateway is away arrives later.
func TestPeerOuterMosquitto(t *testing.T) {
	outer := freePort(t)
	_, p := port(t, outer)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n", p), 0o600); err != nil {
		t.Fatal(err)
	}
	program := "mosquitto"
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/mosquitto"
	}
	spawn(t, "mosquitto", program, "-c", conf)
	eventually(t, 10*time.Second, "mosquitto listens", func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", outer)
		return err == nil && c.Close() == nil
	})
	g := startGateway(t, "edge", plainConfig+"\n[[mqtt_client]]\nid = \"hall2\"\nbroker = \"tcp://"+outer+"\"\ntopics = [\"hall2/#\"]\n")
	pub := func(from, n int) {
		var lines bytes.Buffer
		for i := range n {
			fmt.Fprintf(&lines, "%d\n", from+i)
		}
		tool(t, lines.Bytes(), "mosquitto_pub", "-h", "127.0.0.1", "-p", p, "-q", "1", "-t", "hall2/temp", "-l")
	}
	eventually(t, 15*time.Second, "the source is up", func() bool {
		devices, err := g.client.Devices(context.Background())
		return err == nil && slices.ContainsFunc(devices, func(d api.Device) bool { return d.ID == "hall2" && d.State == "up" })
	})
	pub(0, 300)
	eventually(t, 15*time.Second, "300 records", func() bool { return len(records(t, g, "mqtt")) >= 300 })
	g.kill()
	pub(300, 300)
	g.start(t, "edge")
	eventually(t, 30*time.Second, "600 records", func() bool { return len(records(t, g, "mqtt")) >= 600 })
	want := 0
	for _, r := range records(t, g, "mqtt") {
		if v := string(r.Data); v == fmt.Sprint(want) {
			want++
		}
	}
	if want != 600 {
		t.Errorf("in order are %d of 600", want)
	}
	g.sound(t)
}

// The AWS CLI writes and reads, AT_TIMESTAMP included.
func TestPeerAWSCLI(t *testing.T) {
	g := startGateway(t, "edge", plainConfig)
	var raw []string // version 2 has to be told that --data is not base64
	if !bytes.HasPrefix(tool(t, nil, "aws", "--version"), []byte("aws-cli/1.")) {
		raw = []string{"--cli-binary-format", "raw-in-base64-out"}
	}
	aws := func(args ...string) map[string]any {
		t.Helper()
		out := tool(t, nil, "aws", append(slices.Concat([]string{"--endpoint-url", "http://" + g.kinesis, "--output", "json"}, raw, []string{"kinesis"}), args...)...)
		v := map[string]any{}
		if len(bytes.TrimSpace(out)) > 0 && json.Unmarshal(out, &v) != nil {
			t.Fatalf("aws %v prints %s", args, out)
		}
		return v
	}
	aws("create-stream", "--stream-name", "cli", "--shard-count", "1")
	aws("put-record", "--stream-name", "cli", "--partition-key", "a", "--data", "first")
	middle := time.Now()
	tick := time.NewTicker(1100 * time.Millisecond) // the CLI sends whole seconds
	defer tick.Stop()
	<-tick.C
	res := aws("put-records", "--stream-name", "cli", "--records", `[{"Data":"second","PartitionKey":"a"},{"Data":"third","PartitionKey":"b"}]`)
	if res["FailedRecordCount"] != 0.0 {
		t.Errorf("put-records: %v", res)
	}
	read := func(args ...string) string {
		t.Helper()
		it := aws(append([]string{"get-shard-iterator", "--stream-name", "cli", "--shard-id", "shardId-000000000000"}, args...)...)["ShardIterator"].(string)
		out := []string{}
		for _, r := range aws("get-records", "--shard-iterator", it)["Records"].([]any) {
			out = append(out, r.(map[string]any)["Data"].(string))
		}
		return strings.Join(out, " ")
	}
	if got := read("--shard-iterator-type", "TRIM_HORIZON"); got != "Zmlyc3Q= c2Vjb25k dGhpcmQ=" {
		t.Errorf("TRIM_HORIZON: %s", got)
	}
	if got := read("--shard-iterator-type", "AT_TIMESTAMP", "--timestamp", middle.Add(time.Second).UTC().Format("2006-01-02T15:04:05Z")); got != "c2Vjb25k dGhpcmQ=" {
		t.Errorf("AT_TIMESTAMP: %s", got)
	}
	g.sound(t)
}

// kinesalite and kinesis-local, which know nothing of us, are the far ends of
// uplinks; and aws-kinesis-agg opens what arrived there.
func TestPeerKinesaliteAndAggregates(t *testing.T) {
	modules := os.Getenv("FOREBAY_NODE_MODULES")
	t.Run("kinesalite", func(t *testing.T) {
		cloud := freePort(t)
		_, p := port(t, cloud)
		startNode(t, "kinesalite", p, filepath.Join(modules, "kinesalite"), nil, "cli.js", "--port", p, "--createStreamMs", "10")
		uplinkTo(t, cloud, modules)
	})
	t.Run("kinesis-local", func(t *testing.T) {
		cloud, tls := freePort(t), freePort(t)
		_, p := port(t, cloud)
		_, q := port(t, tls)
		startNode(t, "kinesis-local", p, filepath.Join(modules, "kinesis-local"), []string{
			"KINESIS_MOCK_PLAIN_PORT=" + p, "KINESIS_MOCK_TLS_PORT=" + q, "LOG_LEVEL=ERROR", "SHARD_LIMIT=100", "CREATE_STREAM_DURATION=10ms",
		}, "main.js")
		uplinkTo(t, cloud, modules)
	})
}

// uplinkTo hands records on to an endpoint, and reads them there.
func uplinkTo(t *testing.T, cloud, modules string) {
	t.Helper()
	g := startGateway(t, "edge", plainConfig+`
[[uplink]]
id = "cloud"
streams = ["mqtt"]
[uplink.kinesis]
endpoint = "http://`+cloud+`"
region = "us-east-1"
stream = "plant"
create_shards = 2
access_key = "any"
secret_key = "any"
`)
	_, mp := port(t, g.mqtt)
	const keys, each = 5, 400
	for k := range keys {
		var lines bytes.Buffer
		for i := range each {
			fmt.Fprintf(&lines, "{\"n\": %d}\n", i)
		}
		tool(t, lines.Bytes(), "mosquitto_pub", "-h", "127.0.0.1", "-p", mp, "-q", "1", "-t", fmt.Sprint("line/", k), "-l")
	}
	eventually(t, 60*time.Second, "everything is delivered", func() bool {
		u, err := g.client.Uplinks(context.Background())
		return err == nil && len(u) == 1 && u[0].Delivered >= keys*each && u[0].Waiting == 0
	})
	var all []any
	for shard := range 2 {
		out := tool(t, nil, "aws", "--endpoint-url", "http://"+cloud, "--output", "text", "kinesis", "get-shard-iterator", "--stream-name", "plant",
			"--shard-id", fmt.Sprintf("shardId-%012d", shard), "--shard-iterator-type", "TRIM_HORIZON", "--query", "ShardIterator")
		var res struct{ Records []any }
		if err := json.Unmarshal(tool(t, nil, "aws", "--endpoint-url", "http://"+cloud, "--output", "json", "kinesis", "get-records", "--shard-iterator", strings.TrimSpace(string(out))), &res); err != nil {
			t.Fatal(err)
		}
		all = append(all, res.Records...)
	}
	in, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_PATH", modules)
	next, n, hashed := map[string]int{}, 0, 0
	for line := range bytes.Lines(tool(t, in, "node", "testdata/deaggregate.js")) {
		var user struct{ Key, Hash, Data string }
		var env struct {
			ID   string
			Data struct{ N int }
		}
		if json.Unmarshal(line, &user) != nil || json.Unmarshal([]byte(user.Data), &env) != nil || env.ID == "" {
			t.Fatalf("not an envelope: %s", line)
		}
		if user.Key == "" {
			t.Errorf("no key around %q", env.ID)
		}
		if user.Hash != "" { // a lone record travels as it is, without one inside
			hashed++
		}
		if env.Data.N != next[user.Key] {
			t.Fatalf("%s: record %d after %d", user.Key, env.Data.N, next[user.Key]-1)
		}
		next[user.Key]++
		n++
	}
	t.Logf("%d Kinesis records at the far end hold %d records, in order", len(all), n)
	if n != keys*each {
		t.Errorf("arrived %d of %d", n, keys*each)
	}
	if hashed == 0 {
		t.Error("no hash key inside of any aggregate")
	}
	if strings.Contains(g.out.String(), "does not speak CBOR") {
		t.Error("it was sent JSON")
	}
	g.sound(t)
}
