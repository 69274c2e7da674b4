package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

const badCloudConfig = `
[gateway]
name = "edge-07"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "line"
shards = 4
[[uplink]]
id = "cloud"
streams = ["line"]
retry_max = "1s"
[uplink.kinesis]
endpoint = "http://CLOUD"
region = "us-east-1"
stream = "press-shop"
access_key = "any"
secret_key = "any"
request_timeout = "4s"
max_record = "32KiB"
wire = "WIRE"
`

// fromEnv is a number for the long form of a test.
func fromEnv(t *testing.T, name string, short int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s: %q is not a number", name, s)
	}
	return n
}

// TestACloudThatMisbehaves: a cloud refuses a tenth of the records, cuts
// connections and answers 500 after it has stored, throttles by shard, changes
// its shards twice, and is away three times, each time otherwise; the gateway
// is killed again and again, and its stream is split meanwhile. Afterwards
// every record that the gateway took is there, each key in order, and nothing
// twice behind a watermark as the consumers' samples keep it.
func TestACloudThatMisbehaves(t *testing.T) {
	if again := misbehave(t, "cbor", fromEnv(t, "FOREBAY_CLOUD_RECORDS", inShort(60_000, 20_000)), fromEnv(t, "FOREBAY_CLOUD_KILLS", 6)); again == 0 {
		t.Error("nothing came twice: the cloud did not misbehave")
	}
}

// TestAGatewayBehindABadLink is the same with another gateway that knows what
// is in front of it: it stores nothing twice.
func TestAGatewayBehindABadLink(t *testing.T) {
	for _, wire := range []string{"cbor", "json"} {
		t.Run(wire, func(t *testing.T) {
			if again := misbehave(t, wire, fromEnv(t, "FOREBAY_CLOUD_RECORDS", inShort(20_000, 10_000)), fromEnv(t, "FOREBAY_CLOUD_KILLS", 6), "--header", "X-Forebay-Lanes"); again != 0 {
				t.Errorf("%d records are stored twice", again)
			}
		})
	}
}

// inShort is short in the short form of the tests, else long.
func inShort(long, short int) int {
	if testing.Short() {
		return short
	}
	return long
}

// misbehave gives how many records came twice.
func misbehave(t *testing.T, wire string, records, kills int, flags ...string) (again int) {
	ambiguous := "0.05" // in the short form, so that it happens at all
	if records >= 1_000_000 {
		ambiguous = "0.01"
	}
	far := startGateway(t, "far", farConfig)
	cloud, control := freePort(t), freePort(t)
	spawn(t, "cloud", program(t, "forebay-sim"), append([]string{
		"cloud", "--listen", cloud, "--to", "http://" + far.kinesis, "--control", control,
		"--entry-fails", "0.1", "--cut-after", ambiguous, "--fail-after", ambiguous, "--cut-before", "0.005", "--throttle",
	}, flags...)...)
	near := startGateway(t, "near", strings.NewReplacer("CLOUD", cloud, "WIRE", wire).Replace(badCloudConfig))

	var put atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		feed(ctx, t, near.kinesis, records, &put)
	}()

	rng := rand.New(rand.NewPCG(11, uint64(kills)))
	for i := range kills {
		at := int64(records) * int64(i+1) / int64(kills+1)
		eventually(t, 10*time.Minute, "the uplink gets on", func() bool { return put.Load()-int64(waiting(t, near)) >= at })
		switch i {
		case kills / 6, kills / 3, kills / 2:
			mode := map[int]string{kills / 6: "down", kills / 3: "portal", kills / 2: "half-open"}[i]
			tell(t, control, "/faults", `{"mode":"`+mode+`"}`)
			eventually(t, time.Minute, "the uplink sees that the cloud is "+mode, func() bool { return isDown(t, near) })
			tell(t, control, "/faults", `{"mode":""}`)
		case 2 * kills / 3:
			reshardAt(t, near.kinesis, "line", 5)
			tell(t, control, "/reshard?stream=press-shop&shards=6", "")
		case 5 * kills / 6:
			tell(t, control, "/reshard?stream=press-shop&shards=3", "")
		}
		<-time.After(time.Duration(rng.IntN(200)) * time.Millisecond) // a kill at a random moment
		near.kill()
		near.start(t, "near")
		if len(flags) > 0 && i%2 == 0 { // the other gateway forgets nothing either
			far.kill()
			far.start(t, "far")
		}
	}
	<-fed
	eventually(t, 10*time.Minute, "the backlog is drained", func() bool { return waiting(t, near) == 0 })
	tell(t, control, "/faults", `{"entry_fails":0,"cut_after":0,"fail_after":0,"cut_before":0,"throttle":false}`)

	taken := map[string]string{} // id to key
	for r, err := range near.client.Records(t.Context(), api.Tail{Stream: "line"}) {
		if err != nil {
			t.Fatalf("read the near end: %v", err)
		}
		taken[r.ID] = r.Key
	}
	again = compare(t, far, taken)
	sample(t, far, taken)
	t.Logf("taken %d records, %d kills; the cloud says %s", len(taken), kills, tell(t, control, "/", ""))
	if strings.Contains(near.out.String(), "does not speak CBOR") {
		t.Error("what the cloud does is taken for a lack of CBOR")
	}
	near.sound(t)
	far.sound(t)
	return again
}

// compare reads the far end as a consumer does and holds it against what was
// taken.
func compare(t *testing.T, far *gw, taken map[string]string) (again int) {
	t.Helper()
	type lane struct {
		high         uint64
		again, count int
	}
	lanes := map[string]*lane{}
	last := map[string]uint64{} // by key
	lost, disorder, strange := len(taken), 0, 0
	consume(t, far.kinesis, "press-shop", func(key string, data []byte) {
		in, err := envelope.Open(data)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		cut := strings.LastIndexByte(in.ID, '/')
		seq, err := strconv.ParseUint(in.ID[cut+1:], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		l := lanes[in.ID[:cut]]
		if l == nil {
			l = &lane{}
			lanes[in.ID[:cut]] = l
		}
		if seq <= l.high {
			l.again++
			return
		}
		l.high = seq
		l.count++
		lost--
		if taken[in.ID] != key {
			strange++
		}
		// A key changes its shard when its stream is split, and the number of a
		// shard rises from parent to child.
		shard, err := strconv.ParseUint(in.ID[strings.LastIndexByte(in.ID[:cut], '/')+1:cut], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		place := shard<<40 | seq
		if place <= last[key] {
			disorder++
		}
		last[key] = place
	})
	for _, l := range lanes {
		again += l.again
	}
	t.Logf("lost %d, out of order %d, strange %d; %d came twice and were dropped by the watermark", lost, disorder, strange, again)
	if lost != 0 || disorder != 0 || strange != 0 {
		t.Errorf("lost %d, out of order %d, strange %d", lost, disorder, strange)
	}
	return again
}

// sample holds what the sample of a consumer prints against what was taken.
func sample(t *testing.T, far *gw, taken map[string]string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./uplink/samples/consumer", "press-shop")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "AWS_ENDPOINT_URL=http://"+inPages(t, far.kinesis), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any")
	out, err := cmd.Output()
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("the sample: %v\n%s", err, e.Stderr)
	}
	if err != nil {
		t.Fatalf("the sample: %v", err)
	}
	printed(t, out, taken)
}

// printed holds a sample's output against what was taken.
func printed(t *testing.T, out []byte, taken map[string]string) {
	t.Helper()
	n, bad := 0, 0
	got := map[string]bool{}
	for line := range bytes.Lines(out) {
		key, data, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), "\t")
		in, err := envelope.Open([]byte(data))
		if err != nil || taken[in.ID] != key || got[in.ID] {
			bad++
		}
		got[in.ID] = true
		n++
	}
	if n != len(taken) || bad > 0 {
		t.Errorf("the sample printed %d records, %d of them wrong or again; taken were %d", n, bad, len(taken))
	}
}

func waiting(t testing.TB, g *gw) uint64 {
	t.Helper()
	ups, err := g.client.Uplinks(t.Context())
	if err != nil || len(ups) != 1 {
		return 1 // it is just starting
	}
	return ups[0].Waiting
}

func isDown(t testing.TB, g *gw) bool {
	t.Helper()
	ups, err := g.client.Uplinks(t.Context())
	return err == nil && len(ups) == 1 && ups[0].State == "down"
}

// tell speaks with the cloud's control.
func tell(t *testing.T, control, path, body string) string {
	t.Helper()
	method := http.MethodPost
	if path == "/" {
		method = http.MethodGet
	}
	var text string
	eventually(t, 10*time.Second, "the cloud's control answers", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+control+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		b, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s %v", path, resp.Status, b, err)
		}
		text = strings.TrimSpace(string(b))
		return true
	})
	return text
}

// kinesisAt speaks HTTP/2: over HTTP/1.1 the SDK now and then closes a
// connection under an answer that it is still reading (aws-sdk-go-v2 #1825).
func kinesisAt(addr string) *kinesis.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return kinesis.New(kinesis.Options{
		BaseEndpoint: aws.String("http://" + addr), Region: "us-east-1", RetryMaxAttempts: 1, HTTPClient: &http.Client{Transport: tr},
		Credentials: credentials.NewStaticCredentialsProvider("any", "any", ""),
	})
}

func reshardAt(t *testing.T, addr, stream string, shards int32) {
	t.Helper()
	eventually(t, 20*time.Second, "the stream is resharded", func() bool {
		_, err := kinesisAt(addr).UpdateShardCount(t.Context(), &kinesis.UpdateShardCountInput{
			StreamName: &stream, TargetShardCount: &shards, ScalingType: types.ScalingTypeUniformScaling,
		})
		return err == nil
	})
}

// feed puts n records of 50 keys, and what was not answered again.
func feed(ctx context.Context, t *testing.T, addr string, n int, done *atomic.Int64) {
	cl := kinesisAt(addr)
	for at := 0; at < n && ctx.Err() == nil; {
		in := &kinesis.PutRecordsInput{StreamName: aws.String("line")}
		for i := at; i < min(at+500, n); i++ {
			in.Records = append(in.Records, types.PutRecordsRequestEntry{
				PartitionKey: aws.String(fmt.Sprintf("press-%d", i%50)),
				Data:         fmt.Appendf(nil, `{"device":"press-%d","n":%d,"value":21.53,"unit":"Cel","quality":"good","state":"run"}`, i%50, i),
			})
		}
		out, err := cl.PutRecords(ctx, in)
		if err != nil || *out.FailedRecordCount > 0 {
			select {
			case <-time.After(20 * time.Millisecond): // it was killed
			case <-ctx.Done():
			}
			continue
		}
		at += len(in.Records)
		done.Store(int64(at))
	}
	if ctx.Err() != nil {
		t.Log("the producer was stopped")
	}
}

// consume reads a stream as a consumer does, parents before their children,
// and takes aggregates apart.
func consume(t *testing.T, addr, stream string, each func(key string, data []byte)) {
	t.Helper()
	cl, ctx := kinesisAt(addr), t.Context()
	list, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: &stream})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list.Shards, func(a, b types.Shard) int { return strings.Compare(*a.ShardId, *b.ShardId) }) // numbers rise from parent to child
	for _, sh := range list.Shards {
		it, err := cl.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{StreamName: &stream, ShardId: sh.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		if err != nil {
			t.Fatal(err)
		}
		for next := it.ShardIterator; next != nil; {
			out, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: next})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range out.Records {
				if !kpl.IsAggregate(r.Data) {
					each(*r.PartitionKey, r.Data)
					continue
				}
				a, err := kpl.Decode(r.Data)
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range a.All() {
					each(u.Key, u.Data)
				}
			}
			if next = out.NextShardIterator; len(out.Records) == 0 && *out.MillisBehindLatest == 0 {
				break
			}
		}
	}
}
