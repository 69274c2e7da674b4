package kafka_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kafka"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"
)

// sent sends one record to a topic of its own and gives what arrives.
func sent(t *testing.T, cfg kafka.Config, partitions int32, r record.Record) (out []*sarama.ConsumerMessage) {
	t.Helper()
	c := newCluster(t, kfake.SeedTopics(partitions, "target"))
	cfg.Topic, cfg.Transactions = "target", "off"
	s := newSink(t, c, cfg)
	defer closes(t, s)
	r.Pos = record.Pos{Shard: 7, Seq: 42}
	want(t, send(t, s, lane.Batch{Lane: laneOf(7), Recs: []record.Record{r}}), 1, lane.OK, "")
	for _, msgs := range read(t, c.ListenAddrs(), "target") {
		out = append(out, msgs...)
	}
	return out
}

func headers(m *sarama.ConsumerMessage) map[string]string {
	out := make(map[string]string)
	for _, h := range m.Headers {
		out[string(h.Key)] = string(h.Value)
	}
	return out
}

const recordID = "edge-07/0000000000001234/7/42"

func TestRaw(t *testing.T) {
	t.Parallel()
	at, arrived := time.UnixMilli(1_700_000_000_000), time.Unix(1_700_000_001, 123456789)
	m := sent(t, kafka.Config{Format: "raw"}, 1, record.Record{
		Key: "k", Source: "plc-1", Type: "application/json", At: at, Arrived: arrived,
		Attrs: map[string]string{"topic": "a/b", "n": "1"}, Data: []byte("\x00any bytes"),
	})[0]
	if string(m.Key) != "k" || string(m.Value) != "\x00any bytes" || !m.Timestamp.Equal(at) {
		t.Errorf("%q %q %s", m.Key, m.Value, m.Timestamp)
	}
	if got, want := headers(m), map[string]string{
		"id": recordID, "stream": "mqtt", "source": "plc-1", "type": "application/json",
		"at": "2023-11-14T22:13:20Z", "arrived": "2023-11-14T22:13:21.123456789Z", "attr.topic": "a/b", "attr.n": "1",
	}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	m := sent(t, kafka.Config{}, 1, record.Record{Key: "k", Source: "plc-1", Arrived: time.UnixMilli(1_700_000_000_123), Data: []byte(`{"a":1}`)})[0]
	o, err := envelope.Open(m.Value)
	if err != nil || o.ID != recordID || string(o.Data) != `{"a":1}` || o.Source != "plc-1" {
		t.Errorf("%q: %+v, %v", m.Value, o, err)
	}
	if got := headers(m); !maps.Equal(got, map[string]string{"id": recordID}) || string(m.Key) != "k" || m.Timestamp.UnixMilli() != 1_700_000_000_123 {
		t.Errorf("%v %q %s", got, m.Key, m.Timestamp)
	}
}

// A clock that runs far ahead would make the broker refuse the record, or keep
// its segment for ever.
func TestTimesThatCannotBe(t *testing.T) {
	t.Parallel()
	arrived := time.UnixMilli(1_700_000_000_000)
	for _, at := range []time.Time{arrived.Add(2 * time.Hour), arrived.AddDate(50, 0, 0), time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)} {
		m := sent(t, kafka.Config{}, 1, record.Record{Key: "k", At: at, Arrived: arrived})[0]
		if !m.Timestamp.Equal(arrived) {
			t.Errorf("%s: %s", at, m.Timestamp)
		}
	}
}

// What came in another gateway's envelope keeps it, and says what it is here.
func TestForwarded(t *testing.T) {
	t.Parallel()
	far := envelope.NewBeside(record.Identity{Gateway: "cell-1", Epoch: 9}).Append(nil, "mqtt", &record.Record{
		Key: "k", Arrived: time.UnixMilli(1_700_000_000_000), Pos: record.Pos{Shard: 1, Seq: 5}, Data: []byte("1"),
	})
	m := sent(t, kafka.Config{}, 1, record.Record{Key: "k", Arrived: time.UnixMilli(1_700_000_000_000), Data: far})[0]
	if string(m.Value) != string(far) {
		t.Errorf("%q", m.Value)
	}
	if got := headers(m); !maps.Equal(got, map[string]string{"id": "cell-1/0000000000000009/1/5", "via": recordID}) {
		t.Errorf("%v", got)
	}
}

// An aggregate that was stored as one record is opened.
func TestAggregate(t *testing.T) {
	t.Parallel()
	var e kpl.Encoder
	for i := range 3 {
		e.Add(fmt.Sprintf("k%d", i), "1", fmt.Appendf(nil, "%d", i))
	}
	msgs := sent(t, kafka.Config{Format: "raw"}, 1, record.Record{Key: "k0", Data: e.AppendTo(nil)})
	if len(msgs) != 3 {
		t.Fatalf("%d records", len(msgs))
	}
	for i, m := range msgs {
		if string(m.Key) != fmt.Sprintf("k%d", i) || string(m.Value) != fmt.Sprint(i) || headers(m)["id"] != fmt.Sprintf("%s/%d", recordID, i+1) {
			t.Errorf("%d: %q %q %v", i, m.Key, m.Value, headers(m))
		}
	}
}

// Partitions are those that Kafka's own clients pick: the vectors are those of
// their tests of murmur2.
func TestPartitions(t *testing.T) {
	t.Parallel()
	const n = 7
	c := newCluster(t, kfake.SeedTopics(n, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	hashes := map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	}
	b := lane.Batch{Lane: laneOf(1)}
	for key := range hashes {
		b.Recs = append(b.Recs, record.Record{Key: key, Pos: record.Pos{Shard: 1, Seq: uint64(len(b.Recs) + 1)}})
	}
	want(t, send(t, s, b), len(b.Recs), lane.OK, "")
	for part, msgs := range read(t, c.ListenAddrs(), "target") {
		for _, m := range msgs {
			if want := hashes[string(m.Key)] & 0x7fffffff % n; part != want {
				t.Errorf("%q: partition %d, want %d", m.Key, part, want)
			}
			delete(hashes, string(m.Key))
		}
	}
	if len(hashes) > 0 {
		t.Errorf("not there: %v", hashes)
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for name, codec := range map[string]string{"": "zstd", "lz4": "lz4", "snappy": "snappy", "gzip": "gzip", "none": "none"} {
		topic := "topic" + name
		s := newSink(t, c, kafka.Config{Topic: topic, CreatePartitions: 1, Compression: name, Transactions: "off"})
		o := send(t, s, batchOf(laneOf(1), 1, 500))
		want(t, o, 500, lane.OK, "")
		if squeezed := o.Bytes < 500*60; squeezed != (codec != "none") {
			t.Errorf("%q: %d bytes for 500 records", name, o.Bytes)
		}
		balance(t, c.ListenAddrs(), topic, 1, 500)
		closes(t, s)
	}
}

func TestReadBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(3, "t-mqtt", "t-serial", "other"))
	ids := func(s *kafka.Sink, from, to time.Time) (ids []string) {
		if err := s.ReadBack(t.Context(), from, to, func(under, id string) error {
			if stream := map[bool]string{true: "mqtt", false: "serial"}[strings.Contains(id, "1234/1/")]; under != "t-"+stream || under != s.Under(stream) {
				t.Errorf("%s lies under %s", id, under)
			}
			ids = append(ids, id)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(ids)
		return ids
	}
	for _, format := range []string{"envelope", "raw"} {
		s := newSink(t, c, kafka.Config{Topic: "t-{stream}", Format: format, TransactionalID: format})
		var all, some []string
		base := map[string]int{"envelope": 0, "raw": 100}[format]
		for i, stream := range []string{"mqtt", "serial"} {
			b := batchOf(laneOf(i+1), base+1, 50)
			b.Lane.Stream = stream
			want(t, send(t, s, b), 50, lane.OK, "")
		}
		for i := range 2 {
			for n := 1; n <= base+50; n++ {
				if n > 50 && n <= 100 {
					continue
				}
				id := fmt.Sprintf("edge-07/0000000000001234/%d/%d", i+1, n)
				if all = append(all, id); n > 10 && n <= 20 {
					some = append(some, id)
				}
			}
		}
		slices.Sort(all)
		slices.Sort(some)
		if got := ids(s, time.Time{}, time.Time{}); !slices.Equal(got, all) {
			t.Errorf("%s: %d of %d ids: %v", format, len(got), len(all), got)
		}
		first := time.Unix(1_700_000_000, 0)
		if got := ids(s, first.Add(11*time.Millisecond), first.Add(21*time.Millisecond)); !slices.Equal(got, some) {
			t.Errorf("%s: of a time: %v, want %v", format, got, some)
		}
		closes(t, s)
	}
}

// What a consumer sees of a place is JSON that says what it is.
func TestPlaces(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(1, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(3), 1, 5)), 5, lane.OK, "")
	msgs := read(t, c.ListenAddrs(), "forebay-cursors")[0]
	var v struct {
		Seq     int    `json:"seq"`
		TopicID string `json:"topic_id"`
	}
	if err := json.Unmarshal(msgs[0].Value, &v); err != nil || len(msgs) != 1 {
		t.Fatal(err)
	}
	if string(msgs[0].Key) != "forebay.edge-07.site target edge-07/0000000000001234/3" || v.Seq != 5 || len(v.TopicID) != 32 {
		t.Errorf("%q %q", msgs[0].Key, msgs[0].Value)
	}
}
