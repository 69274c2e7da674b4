//go:build peers

package kafka_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kcat, and librdkafka with it, reads what is committed, and nothing else; it
// has the same keys in the same partitions.
func TestKcat(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(4, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target", Format: "raw"})
	defer closes(t, s)
	for i := range 5 {
		want(t, send(t, s, batchOf(laneOf(1), i*100+1, 100)), 100, lane.OK, "")
	}
	other, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := other.ProduceSync(t.Context(), &kgo.Record{Topic: "target", Key: []byte("k"), Value: []byte("aborted")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := other.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	in := exec.CommandContext(t.Context(), "kcat", "-P", "-b", c.ListenAddrs()[0], "-t", "target", "-K", "=", "-X", "partitioner=murmur2")
	for i := range 3 {
		in.Args = append(in.Args, "-H", fmt.Sprintf("h%d=x", i))
	}
	in.Stdin = strings.NewReader("lane 1 key 0=kcat\nlane 1 key 1=kcat\nlane 1 key 2=kcat\n")
	if out, err := in.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "kcat", "-C", "-e", "-q", "-b", c.ListenAddrs()[0], "-t", "target",
		"-X", "isolation.level=read_committed", "-f", `%p|%k|%s|%h\n`)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	where, last, n := make(map[string]string), make(map[string]int), 0
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 4)
		if len(f) != 4 {
			t.Fatalf("%q", line)
		}
		if p, ok := where[f[1]]; ok && p != f[0] {
			t.Errorf("key %q lies in partitions %s and %s", f[1], p, f[0])
		}
		where[f[1]] = f[0]
		if f[2] == "kcat" {
			continue
		}
		var l, k int
		if _, err := fmt.Sscanf(f[2], `{"lane":%d,"n":%d}`, &l, &k); err != nil || k <= last[f[1]] || !strings.Contains(f[3], fmt.Sprintf("id=%s/1/%d,", "edge-07/0000000000001234", k)) {
			t.Fatalf("%q after %d: %v", line, last[f[1]], err)
		}
		last[f[1]] = k
		n++
	}
	if n != 500 || len(where) != 3 {
		t.Errorf("%d records of 500, %d keys", n, len(where))
	}
}
