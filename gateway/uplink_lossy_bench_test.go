package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"forebay/gateway/api"
)

// wanCounts is what `forebay-sim wan` answers on its control.
type wanCounts struct {
	Device string
	There  struct{ Packets, Bytes, Lost, Full uint64 }
	err    error
}

// A wanPath is a narrow and lossy path of real packets to an address.
type wanPath struct {
	*child
	listen, control string
}

// path makes one with 100 ms and 1 % loss each way, with the kernel's
// algorithm of that name for what the gateway sends; nil where it cannot be
// made, which is printed.
func path(b *testing.B, to, congestion string, flags ...string) *wanPath {
	b.Helper()
	_, port, err := net.SplitHostPort(freePort(b))
	if err != nil {
		b.Fatal(err)
	}
	p := &wanPath{listen: "198.18.0.2:" + port, control: freePort(b)}
	p.child = spawn(b, "wan", program(b, "forebay-sim"), append([]string{"wan", "--listen", p.listen, "--to", to, "--control", p.control}, flags...)...)
	var c wanCounts
	eventually(b, 10*time.Second, "the path stands, or cannot", func() bool {
		select {
		case <-p.done:
			return true
		default:
			c = p.counts(b)
			return c.err == nil
		}
	})
	if c.err != nil || c.Device == "" {
		b.Logf("not measured: no path can be made here: %s", strings.TrimSpace(p.out.String()))
		return nil
	}
	out, err := exec.CommandContext(b.Context(), "ip", "route", "change", "198.18.0.0/30", "dev", c.Device, "src", "198.18.0.1", "congctl", congestion).CombinedOutput()
	if err != nil {
		b.Logf("not measured: %s cannot be chosen here: %v %s", congestion, err, out)
		p.kill()
		return nil
	}
	return p
}

func (p *wanPath) counts(b *testing.B) (c wanCounts) {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+p.control+"/", nil)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.err = err
		return c
	}
	defer resp.Body.Close()
	c.err = json.NewDecoder(resp.Body).Decode(&c)
	return c
}

// fillJSON publishes n measurements of about 100 bytes, as instruments send
// them: the same names, other values.
func fillJSON(b *testing.B, g *gw, n int) {
	b.Helper()
	const batch = 5000
	for at := 0; at < n; at += batch {
		var body strings.Builder
		for i := at; i < min(at+batch, n); i++ {
			fmt.Fprintf(&body, `{"name":"press%d/temperature","value":%.3f,"unit":"Cel","quality":"good","time":"2026-11-23T10:%02d:%02d.%03dZ"}`+"\n",
				i%8, 20+float64(i*7919%100_003)/1000, i/60_000%60, i/1000%60, i%1000)
		}
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, fmt.Sprintf("http://%s/ingest/mqtt?format=ndjson&key=press%d", g.kinesis, at/batch%8), strings.NewReader(body.String()))
		if err != nil {
			b.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.Body.Close() != nil || resp.StatusCode/100 != 2 {
			b.Fatalf("%s %s %v", resp.Status, text, err)
		}
	}
}

// A farKafka is Kafka in this process, behind a path.
type farKafka struct {
	at   string // where it really listens
	mu   sync.Mutex
	late []raised // as a consumer of committed records sees them
	wait sync.WaitGroup
}

// A named listener says that it has another address.
type named struct {
	net.Listener
	addr string
}

func (n named) Addr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", n.addr)
	if err != nil {
		return n.Listener.Addr()
	}
	return a
}

// kafkaAt makes a broker at an address that clients are told to find at another.
func kafkaAt(b *testing.B, at, told string) *farKafka {
	b.Helper()
	f := &farKafka{at: at}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "far-mqtt", "far-alarms"), kfake.ListenFn(func(network, _ string) (net.Listener, error) {
		l, err := new(net.ListenConfig).Listen(b.Context(), network, at)
		return named{l, told}, err
	}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return f
}

// watch notes how late alarms come, until the benchmark ends.
func (f *farKafka) watch(b *testing.B) {
	b.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.at), kgo.ConsumeTopics("far-alarms"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(50*time.Millisecond),
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, f.at)
		}))
	if err != nil {
		b.Fatal(err)
	}
	f.wait.Go(func() {
		for {
			fetched := cl.PollFetches(b.Context())
			if fetched.IsClientClosed() || b.Context().Err() != nil {
				return
			}
			fetched.EachRecord(func(r *kgo.Record) {
				if at, ok := sentAt(r.Value); ok {
					f.mu.Lock()
					f.late = append(f.late, raised{at, time.Since(at)})
					f.mu.Unlock()
				}
			})
		}
	})
	b.Cleanup(func() { cl.Close(); f.wait.Wait() })
}

func (f *farKafka) alarms() []raised {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.late)
}

// raised is an alarm, and how late it came.
type raised struct {
	at   time.Time
	late time.Duration
}

var atRE = regexp.MustCompile(`"at":(\d{13})`)

// sentAt is when an alarm of this file was raised.
func sentAt(data []byte) (time.Time, bool) {
	m := atRE.FindSubmatch(data)
	if m == nil {
		return time.Time{}, false // a record that the gateway itself wrote
	}
	ms, err := strconv.ParseInt(string(m[1]), 10, 64)
	return time.UnixMilli(ms), err == nil
}

// alarmsAt are the alarms that came to a far gateway.
func alarmsAt(b *testing.B, far *gw) (late []raised) {
	b.Helper()
	for r, err := range far.client.Records(b.Context(), api.Tail{Stream: "far-alarms"}) {
		if err != nil {
			return nil // not there yet
		}
		if at, ok := sentAt(r.Data); ok {
			late = append(late, raised{at, r.Arrived.Sub(at)})
		}
	}
	return late
}

const (
	toKinesis = "[uplink.kinesis]\nendpoint = \"http://%s\"\nregion = \"us-east-1\"\nstream = \"far-{stream}\"\ncreate_shards = 4\naccess_key = \"any\"\nsecret_key = \"any\"\n"
	toKafka   = "[uplink.kafka]\nbrokers = [\"%s\"]\ntopic = \"far-{stream}\"\n"
)

// BenchmarkLossyLink: a backlog and a second's alarm over 2 Mbit/s with 100 ms
// and 1 % loss of packets each way, to the kernel's TCP. FOREBAY_LINK_SECONDS
// is how long each is looked at. It needs Linux and root.
func BenchmarkLossyLink(b *testing.B) {
	seconds := sized(b, "FOREBAY_LINK_SECONDS", 30)
	for _, target := range []string{"kinesis", "kafka"} {
		for _, congestion := range []string{"bbr", "cubic"} {
			b.Run(target+"/"+congestion, func(b *testing.B) {
				at := freePort(b)
				p := path(b, at, congestion)
				if p == nil {
					return
				}
				var alarms func() []raised
				to := toKafka
				if target == "kafka" {
					far := kafkaAt(b, at, p.listen)
					far.watch(b)
					alarms = far.alarms
				} else {
					far := startGateway(b, "far", strings.ReplaceAll(farConfig, "KINESIS", at))
					alarms = func() []raised { return alarmsAt(b, far) }
					to = toKinesis
				}
				measureLossy(b, p, target+", "+congestion, fmt.Sprintf(to, p.listen), seconds, alarms)
			})
		}
	}
}

func measureLossy(b *testing.B, p *wanPath, name, to string, seconds int, alarms func() []raised) {
	b.Helper()
	const rate, settle = 250_000, 10
	g := startGateway(b, "near", drainConfig+to)
	fillJSON(b, g, (seconds+2*settle)*rate/12)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var from wanCounts
	var before api.Uplink
	var began time.Time
	n := 0
	for i := range seconds + settle {
		<-tick.C
		if i == settle { // it has found its pace
			from, began, before = p.counts(b), time.Now(), only(b, g)
		}
		alarm(b, g, i)
		n++
	}
	until := p.counts(b)
	took, after := time.Since(began).Seconds(), only(b, g)
	if from.err != nil || until.err != nil {
		b.Fatal(from.err, until.err)
	}
	eventually(b, 30*time.Second, "the alarms arrive", func() bool { return len(alarms()) >= n })
	var late []time.Duration
	for _, a := range alarms() {
		if a.at.After(began) {
			late = append(late, a.late)
		}
	}
	slices.Sort(late)
	packets := until.There.Packets - from.There.Packets
	b.Logf("%-16s %3.0f %% of 2 Mbit/s used, %3.0f %% with what was acknowledged; %.1f %% of packets lost, %d dropped at a full queue; %.1f bytes on the wire a record, %.0f records/s; %d still waited; alarms p50 %v, p99 %v of %d",
		name, 100*float64(until.There.Bytes-from.There.Bytes)/took/rate, 100*float64(after.WireBytes-before.WireBytes)/took/rate,
		100*float64(until.There.Lost-from.There.Lost)/float64(max(packets, 1)), until.There.Full-from.There.Full,
		float64(after.WireBytes-before.WireBytes)/float64(max(after.Delivered-before.Delivered, 1)), float64(after.Delivered-before.Delivered)/took, after.Waiting,
		late[len(late)/2].Round(time.Millisecond), late[len(late)*99/100].Round(time.Millisecond), len(late))
	b.ReportMetric(0, "ns/op")
	g.kill()
	p.kill()
}

// only is the gateway's one uplink.
func only(b *testing.B, g *gw) api.Uplink {
	b.Helper()
	ups, err := g.client.Uplinks(b.Context())
	if err != nil || len(ups) != 1 {
		b.Fatal(len(ups), err)
	}
	return ups[0]
}
