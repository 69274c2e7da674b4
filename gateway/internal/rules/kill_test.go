package rules_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

// The test of kill -9: a child process runs a Loop over a log of files, is
// killed at random moments and started again; in the end the alarm stream must
// be what a pure engine makes of the records.

const (
	childVar    = "FOREBAY_RULES_TEST_CHILD"
	killShards  = 2
	killRecords = 1500 // per shard
)

const killRules = `
[[rule]]
id = "now"
when = "value > 80"
clear = "value < 60"
ack = "none"
[[rule]]
id = "slow"
when = "value > 50"
for = "20ms"
off_delay = "10ms"
ack = "none"
[[rule]]
id = "seen"
when = "value > 90"
`

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fileLog keeps what a log keeps when its process is killed: whole lines.
type fileLog struct {
	*memLog
	alarms *os.File
	mu     sync.Mutex
}

type line struct {
	Key   string            `json:"key"`
	At    time.Time         `json:"at"`
	Attrs map[string]string `json:"attrs,omitempty"`
	Data  json.RawMessage   `json:"data"`
}

// openLines reads the whole lines of a file and cuts off a torn one.
func openLines(path string) (*os.File, []line, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, nil, err
	}
	whole := bytes.LastIndexByte(b, '\n') + 1
	var lines []line
	for l := range bytes.Lines(b[:whole]) {
		var x line
		if err := json.Unmarshal(l, &x); err != nil {
			return nil, nil, fmt.Errorf("%s: %q: %w", path, l, err)
		}
		lines = append(lines, x)
	}
	if err := f.Truncate(int64(whole)); err != nil {
		return nil, nil, err
	}
	_, err = f.Seek(int64(whole), io.SeekStart)
	return f, lines, err
}

func (x line) record() record.Record {
	return record.Record{Key: x.Key, Arrived: x.At, Attrs: x.Attrs, Data: x.Data}
}

func writeLine(f *os.File, x line) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return err
}

func (l *fileLog) Append(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range recs {
		if err := writeLine(l.alarms, line{Key: r.Key, At: r.At, Attrs: r.Attrs, Data: r.Data}); err != nil {
			return err
		}
	}
	return l.memLog.Append(ctx, stream, recs, done)
}

func shardFile(dir string, i int) string { return filepath.Join(dir, fmt.Sprintf("mqtt-%d", i)) }

// child produces and evaluates until everything is done.
func child(dir string) error {
	log := &fileLog{memLog: newMemLog("alarms")}
	log.create("mqtt", 101, 102)
	var err error
	var lines []line
	if log.alarms, lines, err = openLines(filepath.Join(dir, "alarms")); err != nil {
		return err
	}
	for _, x := range lines {
		log.put("alarms", 1, x.record())
	}
	var shards [killShards]*os.File
	var have [killShards]int
	for i := range shards {
		if shards[i], lines, err = openLines(shardFile(dir, i)); err != nil {
			return err
		}
		have[i] = len(lines)
		for _, x := range lines {
			log.put("mqtt", record.ShardID(101+i), x.record())
		}
	}
	var file struct {
		Rule []rules.Rule `toml:"rule"`
	}
	if err := toml.Unmarshal([]byte(killRules), &file); err != nil {
		return err
	}
	e, err := rules.Compile(file.Rule)
	if err != nil {
		return err
	}
	l, err := rules.NewLoop(filepath.Join(dir, "rules.db"), e, log, rules.Options{FromOldest: true})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	errs := make(chan error, killShards+1)
	wg.Go(func() { errs <- l.Run(ctx) })
	var producers sync.WaitGroup
	for i := range shards {
		producers.Go(func() { errs <- produce(log, shards[i], i, have[i]) })
	}
	produced := make(chan struct{})
	go func() { producers.Wait(); close(produced) }()
	for {
		var ids []string
		for _, a := range l.Alarms() {
			if a.Waiting() && rand.IntN(3) == 0 {
				ids = append(ids, a.ID)
			}
		}
		if _, _, err := l.Ack(ctx, ids, "child", ""); err != nil {
			cancel()
			return err
		}
		s := l.Stats()
		select {
		case <-produced:
			if len(l.Alarms()) == 0 && s.Outbox == 0 && log.readTo(101) > killRecords && log.readTo(102) > killRecords {
				cancel()
				wg.Wait()
				close(errs)
				for err := range errs {
					if err != nil {
						return err
					}
				}
				return l.Close()
			}
		default:
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// produce writes the records of a shard that are not there yet. The last ones
// bring every key back to normal.
func produce(log *fileLog, f *os.File, shard, from int) error {
	for i := from; i < killRecords; i++ {
		g := rand.New(rand.NewPCG(uint64(shard), uint64(i)))
		key, value := fmt.Sprintf("s%d-k%d", shard, i%5), g.IntN(110)
		if i >= killRecords-25 {
			value = 0
			time.Sleep(15 * time.Millisecond)
		} else if i%8 == 0 {
			time.Sleep(time.Duration(g.IntN(8)) * time.Millisecond)
		}
		x := line{Key: key, At: time.Now().UTC(), Data: json.RawMessage(strconv.Itoa(value))}
		if err := writeLine(f, x); err != nil {
			return err
		}
		log.put("mqtt", record.ShardID(101+shard), x.record())
	}
	return nil
}

func TestKill(t *testing.T) {
	dir := t.TempDir()
	g := newRand(uint64(time.Now().UnixNano()))
	kills := 0
	for run := 0; ; run++ {
		if run > 200 {
			t.Fatal("the child never ends")
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if s, err := bufio.NewReader(out).ReadString('\n'); err != nil || s != "ready\n" {
			t.Fatal(s, err, stderr.String())
		}
		var timer *time.Timer
		if kills < 25 {
			timer = time.AfterFunc(time.Duration(g.IntN(120_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		}
		err = cmd.Wait()
		if timer != nil {
			timer.Stop()
		}
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || stderr.Len() > 0 {
			t.Fatal(err, stderr.String())
		}
		kills++
	}
	if kills < 10 {
		t.Fatalf("only %d kills", kills)
	}
	compareKilled(t, dir)
}

func compareKilled(t *testing.T, dir string) {
	want := map[string][]string{}
	e := load(t, killRules)
	at := time.Time{}
	add := func(as []rules.Alarm) {
		for _, a := range as {
			want[a.RecordKey()] = append(want[a.RecordKey()], fmt.Sprintf("%s %s #%d %s %v %q", a.Event, a.ID, a.Transition, a.Changed, *a.Value, a.Text))
		}
	}
	for i := range killShards {
		f, lines, err := openLines(shardFile(dir, i))
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		if len(lines) != killRecords {
			t.Fatalf("shard %d has %d records", i, len(lines))
		}
		for _, x := range lines {
			r := x.record()
			at = x.At
			add(e.Step(at, "mqtt", &r))
		}
	}
	add(e.Tick(at.Add(time.Minute)))

	f, lines, err := openLines(filepath.Join(dir, "alarms"))
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	got := map[string][]string{}
	last := map[string]uint64{}
	for _, x := range lines {
		var a rules.Alarm
		if err := json.Unmarshal(x.Data, &a); err != nil {
			t.Fatal(err)
		}
		if a.Transition != last[x.Key]+1 {
			t.Errorf("%s: transition %d after %d", x.Key, a.Transition, last[x.Key])
		}
		last[x.Key] = a.Transition
		got[x.Key] = append(got[x.Key], fmt.Sprintf("%s %s #%d %s %v %q", a.Event, a.ID, a.Transition, a.Changed, *a.Value, a.Text))
	}
	total := 0
	for key, w := range want {
		if strings.HasPrefix(key, "seen/") {
			continue // somebody acknowledged these: only the numbers are compared
		}
		total += len(w)
		if !reflect.DeepEqual(got[key], w) {
			for i := range max(len(w), len(got[key])) {
				if i >= len(w) || i >= len(got[key]) || w[i] != got[key][i] {
					t.Errorf("%s: transition %d of %d (%d wanted) differs:\n%v\n%v", key, i, len(got[key]), len(w), got[key][i:min(i+2, len(got[key]))], w[i:min(i+2, len(w))])
					break
				}
			}
		}
	}
	if total < 100 {
		t.Errorf("only %d transitions: the test sees nothing", total)
	}
}
