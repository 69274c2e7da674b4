package nats_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// A node is one server of a cluster, in a process of its own: only a process can
// be killed.
type node struct {
	Name, Dir    string
	Port, Routes int
	Peers        []int

	cmd *exec.Cmd
	in  io.Closer
}

const nodeEnv = "FOREBAY_TEST_NATS_NODE"

func TestMain(m *testing.M) {
	if v := os.Getenv(nodeEnv); v != "" {
		os.Exit(runNode(v))
	}
	os.Exit(m.Run())
}

// runNode is the process of a node, which ends with its standard input.
func runNode(v string) int {
	var n node
	if err := json.Unmarshal([]byte(v), &n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := options(n.Dir)
	o.ServerName, o.Port = n.Name, n.Port
	o.Cluster = server.ClusterOpts{Name: "site", Host: "127.0.0.1", Port: n.Routes, PoolSize: -1}
	for _, p := range n.Peers {
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", p)})
	}
	srv, err := server.NewServer(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	srv.Start()
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop(srv)
	return 0
}

func (n *node) start(t *testing.T) {
	t.Helper()
	v, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.CommandContext(t.Context(), os.Args[0])
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+string(v))
	n.cmd.Stderr = os.Stderr
	in, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.in = in
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (n *node) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.Port) }

func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait() // it says that it was killed
	_ = n.in.Close()
}

// cluster starts three nodes.
func cluster(t *testing.T) (nodes []*node, urls []string) {
	t.Helper()
	var ports []int
	for range 6 {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	for i := range 3 {
		nodes = append(nodes, &node{Name: fmt.Sprint("n", i), Dir: t.TempDir(), Port: ports[i], Routes: ports[3+i], Peers: ports[3:]})
		urls = append(urls, nodes[i].url())
	}
	return nodes, urls
}

// leader is the node that leads a stream, -1 while there is none.
func leader(nc *natsgo.Conn, stream string) int {
	js, err := nc.JetStream(natsgo.MaxWait(time.Second))
	if err != nil {
		return -1
	}
	info, err := js.StreamInfo(stream)
	if err != nil || info.Cluster == nil {
		return -1
	}
	n := -1
	if _, err := fmt.Sscanf(info.Cluster.Leader, "n%d", &n); err != nil {
		return -1
	}
	return n
}

// The leader of the stream is killed (SIGKILL) while three gateways drain into a
// cluster of three, in batches, by key, and one record at a time; later the
// leadership moves once more. Nothing is lost, nothing comes twice, and the order
// is kept, with a duplicate window of a tenth of a second.
func TestCluster(t *testing.T) {
	t.Parallel() // it mostly waits for elections
	nodes, urls := cluster(t)
	for _, n := range nodes {
		n.start(t)
		t.Cleanup(func() { n.kill() })
	}
	var nc *natsgo.Conn
	until(t, "the cluster does not start", func() bool {
		var err error
		nc, err = natsgo.Connect(urls[0]+","+urls[1]+","+urls[2], natsgo.MaxReconnects(-1), natsgo.ReconnectWait(20*time.Millisecond))
		return err == nil
	})
	t.Cleanup(nc.Close)
	for name, fields := range map[string]string{"TARGET": `"subjects":["forebay.>"],"allow_atomic":true`, "SINGLE": `"subjects":["single.>"]`} {
		request(t, nc, "$JS.API.STREAM.CREATE."+name, fmt.Sprintf(`{"name":%q,"num_replicas":3,"duplicate_window":100000000,%s,%s}`, name, onDisk, fields))
	}
	ids := []record.Identity{identity, {Gateway: "edge-08", Epoch: 0x77}, {Gateway: "edge-09", Epoch: 0x78}}
	drains := []*drain{
		newDrain(t, ids[0], 1, math.MaxUint64/2, 3, urls...),
		newDrain(t, ids[1], 2, 2500, 2, urls...),
		newDrain(t, ids[2], 3, 1500, 2, urls...),
	}
	// The first one goes on until it has drained beside the new leader, however
	// long the machine takes to find that.
	more := make(chan struct{})
	drains[0].more = more
	drains[1].cfg.Subject = "forebay.{gateway}.mqtt.{shard}.{key}"
	drains[2].cfg.Stream, drains[2].cfg.Subject = "SINGLE", "single.{gateway}.{shard}"
	var wg sync.WaitGroup
	for _, d := range drains {
		d.cfg.RequestTimeout = conf.Duration(time.Second)
		wg.Go(func() { d.run(60) })
	}
	until(t, "the drain does not begin", func() bool { return drains[0].moved.Load() > 2000 })
	was := -1
	until(t, "the stream has no leader", func() bool { was = leader(nc, "TARGET"); return was >= 0 })
	nodes[was].kill()
	until(t, "no other leader is found", func() bool { n := leader(nc, "TARGET"); return n >= 0 && n != was })
	at := drains[0].moved.Load()
	until(t, "the drain stands still", func() bool { return drains[0].moved.Load() > at+1000 })
	close(more)
	_, _ = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN.TARGET", nil, time.Second) // it may have moved by itself
	wg.Wait()
	for i, d := range drains {
		for _, shard := range d.lanes {
			filter := fmt.Sprintf("forebay.%s.mqtt.%d", ids[i].Gateway, shard)
			switch i {
			case 1:
				filter += ".>"
			case 2:
				filter = fmt.Sprintf("single.%s.%d", ids[i].Gateway, shard)
			}
			wantExactly(t, readFrom(t, nc, d.cfg.Stream, filter), ids[i], shard, d.n)
		}
		t.Logf("%s: %v", ids[i].Gateway, d.seen)
	}
	if drains[0].seen[lane.Ambiguous]+drains[0].seen[lane.Offline]+drains[0].seen[lane.Transient] == 0 {
		t.Error("the leader's death was not felt at all")
	}
}

// Members of the cluster are learned from the one that is configured.
func TestLearnsTheCluster(t *testing.T) {
	member := func(name string, routes ...*url.URL) *server.Server {
		o := options("")
		o.JetStream, o.ServerName, o.Routes = false, name, routes
		o.Cluster = server.ClusterOpts{Name: "site", Host: "127.0.0.1", Port: -1}
		return start(t, o)
	}
	a := member("a")
	b := member("b", &url.URL{Scheme: "nats", Host: a.ClusterAddr().String()})
	until(t, "the servers do not find each other", func() bool { return a.NumRoutes() > 0 && b.NumRoutes() > 0 })
	s := sink(t, identity, nats.Config{}, a.ClientURL())
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop(a)
	until(t, "the other member is not tried", func() bool { return s.Probe(t.Context()) == nil })
	stop(b)
	if err := s.Probe(t.Context()); err == nil {
		t.Error("a cluster that is gone answers")
	}
}
