package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

// These benchmarks run whole processes; `make bench` runs them once each. They
// print lines rather than figures of Go's own.

const drainConfig = `
[gateway]
name = "edge-07"
data = "DATA"
[mqtt]
listen = "MQTT"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[uplink]]
id = "cloud"
streams = ["mqtt", "alarms", "line"]
retry_max = "1s"
`

// sized is a number of the environment, for the sizes that the targets name.
func sized(b *testing.B, name string, short int) int {
	b.Helper()
	s := os.Getenv(name)
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		b.Fatalf("%s: %q is not a number", name, s)
	}
	return n
}

// resident is what a process holds now, and what it held at most, in MB.
func resident(b *testing.B, g *gw) (now, most float64) {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(g.cmd.Process.Pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	field := func(name string) float64 {
		m := regexp.MustCompile(`(?m)^` + name + `:\s+(\d+) kB`).FindSubmatch(text)
		if m == nil {
			return 0
		}
		n, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			b.Fatal(err)
		}
		return n / 1024
	}
	return field("VmRSS"), field("VmHWM")
}

// fill publishes n payloads of size bytes, each acknowledged; each publisher
// has a topic, and so a partition key, of its own.
func fill(b *testing.B, g *gw, n, size, publishers int) {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), program(b, "forebay-sim"), "bench", "mqtt", "--addr", g.mqtt, "--count", strconv.Itoa(n), "--size", strconv.Itoa(size), "--publishers", strconv.Itoa(publishers), "--fill", "random").CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

// fillEvenly puts n payloads of size bytes into the stream line by the Kinesis
// door, under keys that spread evenly over its shards.
func fillEvenly(b *testing.B, g *gw, n, size int) {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), program(b, "forebay-sim"), "bench", "kinesis", "put", "--endpoint", "http://"+g.kinesis, "--stream", "line", "--keys", "64000", "--count", strconv.Itoa(n), "--size", strconv.Itoa(size)).CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
}

// drained waits until nothing waits and gives how long it took from when the
// first record was acknowledged.
func drained(b *testing.B, g *gw, n uint64) time.Duration {
	b.Helper()
	var began time.Time
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); <-tick.C {
		ups, err := g.client.Uplinks(b.Context())
		if err != nil || len(ups) != 1 {
			continue
		}
		if began.IsZero() && ups[0].Delivered > 0 {
			began = time.Now()
		}
		if ups[0].Delivered >= n && ups[0].Waiting == 0 {
			return time.Since(began)
		}
	}
	b.Fatal("the backlog is not drained")
	return 0
}

// BenchmarkDrainFromDisk: records that were stored while the far side was away
// go from the disk to an endpoint that keeps nothing. FOREBAY_DRAIN is how many
// of 100 bytes.
func BenchmarkDrainFromDisk(b *testing.B) {
	n := sized(b, "FOREBAY_DRAIN", 1_000_000)
	for _, c := range []struct {
		name, format, aggregate string
		shards, keys            int // no keys: evenly over the shards
	}{
		{"aggregates, envelope", "envelope", "on", 4, 64},
		{"aggregates, raw", "raw", "on", 4, 64},
		{"one by one, raw, 512 shards", "raw", "off", 512, 0},
		{"the same, 500 keys that leave 190 shards without any", "raw", "off", 512, 500},
	} {
		var rates []float64
		var most float64
		var u api.Uplink
		into := "mqtt"
		if c.keys == 0 {
			into = "line"
		}
		for range 3 {
			cloud := freePort(b)
			g := startGateway(b, "near", drainConfig+fmt.Sprintf("[uplink.kinesis]\nendpoint = \"http://%s\"\nregion = \"us-east-1\"\nstream = \"x\"\naccess_key = \"any\"\nsecret_key = \"any\"\nformat = %q\naggregate = %q\n[[stream]]\nname = %q\nshards = %d\n",
				cloud, c.format, c.aggregate, into, c.shards))
			if c.keys == 0 {
				fillEvenly(b, g, n, 100)
			} else {
				fill(b, g, n, 100, c.keys)
			}
			far := spawn(b, "cloud", program(b, "forebay-sim"), "cloud", "--listen", cloud, "--to", "none")
			d := drained(b, g, uint64(n))
			rates = append(rates, float64(n)/d.Seconds())
			_, m := resident(b, g)
			most = max(most, m)
			ups, err := g.client.Uplinks(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			u = ups[0]
			g.kill()
			far.kill()
		}
		slices.Sort(rates)
		b.Logf("%-52s %9.0f records/s [%.0f-%.0f], RSS at most %.0f MB, %.2f bytes on the wire a byte of payload", c.name, rates[1], rates[0], rates[2], most, float64(u.WireBytes)/float64(100*n))
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkDrainMemory: what the gateway holds while a large backlog drains.
// FOREBAY_BACKLOG_MB is its size.
func BenchmarkDrainMemory(b *testing.B) {
	mb := sized(b, "FOREBAY_BACKLOG_MB", 1000)
	cloud := freePort(b)
	g := startGateway(b, "near", drainConfig+fmt.Sprintf("[uplink.kinesis]\nendpoint = \"http://%s\"\nregion = \"us-east-1\"\nstream = \"x\"\naccess_key = \"any\"\nsecret_key = \"any\"\n[spool]\nquota = \"40GB\"\n", cloud))
	const size = 2000
	n := mb * 1_000_000 / size
	fill(b, g, n, size, 8)
	g.kill()
	g.start(b, "near")
	idle, _ := resident(b, g)
	spawn(b, "cloud", program(b, "forebay-sim"), "cloud", "--listen", cloud, "--to", "none")
	d := drained(b, g, uint64(n))
	_, most := resident(b, g)
	b.Logf("%d MB drained at %.0f MB/s; RSS %.0f MB before, at most %.0f MB", mb, float64(mb)/d.Seconds(), idle, most)
	b.ReportMetric(0, "ns/op")
}

// linkStats is what a link says of itself.
func linkStats(b *testing.B, control string) (in uint64) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+control+"/", nil)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	var s struct {
		In uint64 `json:"bytes_in"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		b.Fatal(err)
	}
	return s.In
}

// alarm puts a record into the stream alarms, at the near end.
func alarm(b *testing.B, g *gw, i int) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+g.api+"/v1/streams/alarms/records?key=press", strings.NewReader(fmt.Sprintf(`{"n":%d,"at":%d}`, i, time.Now().UnixMilli())))
	if err != nil {
		b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err != nil || resp.Body.Close() != nil || resp.StatusCode/100 != 2 {
		b.Fatalf("%s %v", resp.Status, err)
	}
}

// lateness is how late the alarms came to the far end, sorted.
func lateness(b *testing.B, far *gw, n int) []time.Duration {
	b.Helper()
	var late []time.Duration
	for r, err := range far.client.Records(b.Context(), api.Tail{Stream: "far-alarms"}) {
		if err != nil {
			b.Fatal(err)
		}
		m := regexp.MustCompile(`"at":(\d{13})`).FindSubmatch(r.Data)
		if m == nil {
			continue // a record that the gateway itself wrote
		}
		at, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		late = append(late, r.Arrived.Sub(time.UnixMilli(at)))
	}
	if len(late) < n {
		b.Errorf("%d of %d alarms arrived", len(late), n)
	}
	slices.Sort(late)
	return late
}

// BenchmarkSlowLink: a backlog and a second's alarm over a link of 2 Mbit/s
// with 100 ms each way, and over one of no limit with the gateway's own cap of
// 8 Mbit/s. FOREBAY_LINK_SECONDS is how long each is looked at.
func BenchmarkSlowLink(b *testing.B) {
	seconds := sized(b, "FOREBAY_LINK_SECONDS", 30)
	for _, c := range []struct {
		name, slow, config string
		bytes              float64 // a second
	}{
		{"2 Mbit/s, 200 ms there and back", "/slow?bps=250000&delay=100ms", "", 250_000},
		{"cap of 8 Mbit/s", "", "[bandwidth]\nlimit_kbit = 8000\n", 1_000_000},
	} {
		far := startGateway(b, "far", farConfig)
		link, control := freePort(b), freePort(b)
		spawn(b, "link", program(b, "forebay-sim"), "link", "--listen", link, "--to", far.kinesis, "--control", control)
		eventually(b, 20*time.Second, "the link's control answers", func() bool {
			c, err := new(net.Dialer).DialContext(b.Context(), "tcp", control)
			return err == nil && c.Close() == nil
		})
		order(b, control, "cut")
		g := startGateway(b, "near", c.config+drainConfig+fmt.Sprintf("[uplink.kinesis]\nendpoint = \"http://%s\"\nregion = \"us-east-1\"\nstream = \"far-{stream}\"\ncreate_shards = 4\naccess_key = \"any\"\nsecret_key = \"any\"\n", link))
		fill(b, g, 200_000*max(seconds/30, 1)*int(c.bytes/250_000), 100, 8)
		order(b, control, "up")
		if c.slow != "" {
			order(b, control, c.slow[1:])
		}
		tick := time.NewTicker(time.Second)
		var from uint64
		var began time.Time
		for i := range seconds + 10 {
			<-tick.C
			if i == 10 { // it has found its pace
				from, began = linkStats(b, control), time.Now()
			}
			if i >= 10 {
				alarm(b, g, i)
			}
		}
		used := float64(linkStats(b, control)-from) / time.Since(began).Seconds()
		tick.Stop()
		still := waiting(b, g)
		order(b, control, "up")
		eventually(b, 3*time.Minute, "the alarms arrive", func() bool { return waiting(b, g) == 0 || c.slow == "" })
		late := lateness(b, far, seconds-3)
		b.Logf("%-32s %3.0f %% of it used; %d still waited; alarms p50 %v, p99 %v of %d", c.name, 100*used/c.bytes, still,
			late[len(late)/2].Round(time.Millisecond), late[len(late)*99/100].Round(time.Millisecond), len(late))
		g.kill()
		far.kill()
	}
	b.ReportMetric(0, "ns/op")
}
