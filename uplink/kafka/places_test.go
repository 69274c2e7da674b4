package kafka_test

import (
	"net"
	"strconv"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func count(t *testing.T, c *kfake.Cluster) (n int) {
	t.Helper()
	for _, msgs := range read(t, c.ListenAddrs(), "target") {
		n += len(msgs)
	}
	return n
}

// After a restart records that the topic holds are done without being sent,
// even when the topic of places was compacted meanwhile.
func TestPlacesAreReadBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	// The records are old, and compaction applies retention as well.
	if err := c.CreateTopic("target", 2, map[string]string{"retention.ms": "-1"}); err != nil {
		t.Fatal(err)
	}
	s := newSink(t, c, kafka.Config{Topic: "target"})
	for i := range 20 {
		want(t, send(t, s, batchOf(laneOf(1), i*5+1, 5)), 5, lane.OK, "")
		want(t, send(t, s, batchOf(laneOf(2), i*5+1, 5)), 5, lane.OK, "")
	}
	closes(t, s)
	c.Compact()
	if n := len(read(t, c.ListenAddrs(), "forebay-cursors")[0]); n > 3 {
		t.Fatalf("%d places after compaction", n)
	}
	s = newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 120)), 120, lane.OK, "")
	want(t, send(t, s, batchOf(laneOf(2), 90, 31)), 31, lane.OK, "")
	balance(t, c.ListenAddrs(), "target", 2, 120)
	if n := count(t, c); n != 240 {
		t.Errorf("%d records", n)
	}
}

// A new epoch counts from 1, and is never taken for the old one; records that
// say that they are of the old one still count with that.
func TestEpochs(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(2, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	fresh := batchOf(laneOf(1), 1, 10)
	for i := range fresh.Recs {
		fresh.Recs[i].Origin = &record.Origin{Gateway: "edge-07", Epoch: 0x9999}
	}
	want(t, send(t, s, fresh), 10, lane.OK, "")
	if n := count(t, c); n != 20 {
		t.Errorf("%d records of 20", n)
	}
	mixed := batchOf(laneOf(1), 6, 10) // 6 to 10 of the old one, then 11 to 15 of the new
	for i := range mixed.Recs {
		if mixed.Recs[i].Pos.Seq > 10 {
			mixed.Recs[i].Origin = fresh.Recs[0].Origin
		}
	}
	want(t, send(t, s, mixed), 10, lane.OK, "")
	want(t, send(t, s, mixed), 10, lane.OK, "")
	if n := count(t, c); n != 25 {
		t.Errorf("%d records of 25", n)
	}
}

// A topic that was deleted and created again holds nothing.
func TestTopicCreatedAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(2, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target"})
	want(t, send(t, s, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	closes(t, s)
	if err := c.DeleteTopic("target"); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateTopic("target", 2, nil); err != nil {
		t.Fatal(err)
	}
	s = newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	if n := count(t, c); n != 10 {
		t.Errorf("%d records of 10", n)
	}
}

// A gateway that died in the middle of a transaction, which its cluster still
// waits for, does not keep another from starting.
func TestOthersTransactions(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(2, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target"})
	want(t, send(t, s, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	other, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("forebay.other.site-0"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := other.ProduceSync(t.Context(), &kgo.Record{Topic: "forebay-cursors", Key: []byte("forebay.other.site target other/0000000000000001/1"), Value: []byte(`{"seq":99}`)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	want(t, send(t, s, batchOf(laneOf(1), 11, 10)), 10, lane.OK, "")
	closes(t, s)
	s = newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 25)), 25, lane.OK, "")
	if err := other.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	balance(t, c.ListenAddrs(), "target", 1, 25)
}

func TestCursorTopicThatForgets(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(2, "target", "places"))
	s := newSink(t, c, kafka.Config{Topic: "target", CursorTopic: "places"})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 10)), 0, lane.Misconfigured, "cleanup.policy")
}

// The cluster is shut down and comes back with what it had on disk.
func TestClusterRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "target"), kfake.DataDir(dir), kfake.SyncWrites())
	if err != nil {
		t.Fatal(err)
	}
	s := newSink(t, c, kafka.Config{Topic: "target", RequestTimeout: conf.Duration(time.Second)})
	defer closes(t, s)
	_, port, err := net.SplitHostPort(c.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	want(t, send(t, s, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	for i := range 2 {
		c.Close()
		o := send(t, s, batchOf(laneOf(1), 10*i+11, 10))
		want(t, o, 0, lane.Offline, "")
		if err := s.Probe(t.Context()); err == nil {
			t.Error("Probe finds it")
		}
		if c, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(n), kfake.DataDir(dir), kfake.SyncWrites()); err != nil {
			t.Fatal(err)
		}
		if err := s.Probe(t.Context()); err != nil {
			t.Error(err)
		}
		want(t, send(t, s, batchOf(laneOf(1), 10*i+1, 20)), 20, lane.OK, "")
	}
	balance(t, c.ListenAddrs(), "target", 1, 30)
	c.Close()
}

func TestConfig(t *testing.T) {
	t.Parallel()
	sound := kafka.Config{Brokers: []string{"10.0.0.5:9092"}, Topic: "plant-{stream}"}
	if err := sound.Check(); err != nil {
		t.Fatal(err)
	}
	if err := sound.WithDefaults().Check(); err != nil {
		t.Fatal(err)
	}
	if got := sound.Target(); got != "Kafka 10.0.0.5:9092, topic plant-{stream}" {
		t.Error(got)
	}
	for want, bad := range map[string]func(c *kafka.Config){
		"brokers:":            func(c *kafka.Config) { c.Brokers = []string{"kafka"} },
		"topic:":              func(c *kafka.Config) { c.Topic = "a b" },
		"cursor_topic:":       func(c *kafka.Config) { c.CursorTopic = c.Topic; c.Topic = "x"; c.CursorTopic = "x" },
		"create_partitions:":  func(c *kafka.Config) { c.CreatePartitions = -1 },
		"create_replication:": func(c *kafka.Config) { c.CreateReplication = -1 },
		"format:":             func(c *kafka.Config) { c.Format = "avro" },
		"transactions:":       func(c *kafka.Config) { c.Transactions = "yes" },
		"transactional_id:":   func(c *kafka.Config) { c.TransactionalID = "a b" },
		"compression:":        func(c *kafka.Config) { c.Compression = "brotli" },
		"tls:":                func(c *kafka.Config) { c.TLS = "maybe" },
		"ca:":                 func(c *kafka.Config) { c.CA = "/no/such/file" },
		"cert:":               func(c *kafka.Config) { c.Cert = "/no/such/file" },
		"key:":                func(c *kafka.Config) { c.Key = "/no/such/file" },
		"sasl:":               func(c *kafka.Config) { c.SASL = "gssapi" },
		"username:":           func(c *kafka.Config) { c.SASL = "plain" },
		"password:":           func(c *kafka.Config) { c.SASL, c.Username = "plain", "u" },
		"max_message:":        func(c *kafka.Config) { c.MaxMessage = 1 },
		"request_timeout:":    func(c *kafka.Config) { c.RequestTimeout = 1 },
	} {
		c := sound
		bad(&c)
		if err := c.Check(); err == nil || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
