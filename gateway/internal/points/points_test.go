package points_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pelletier/go-toml/v2"

	"forebay/gateway/api"
	"forebay/gateway/internal/points"
	"forebay/spool/record"
)

// memLog is a log in memory, one shard a stream.
type memLog struct {
	mu      sync.Mutex
	streams []string // shard i+1 is stream i
	recs    map[string][]record.Record
	more    chan struct{}
	fail    []error // of the next reads
}

func newLog(streams ...string) *memLog {
	return &memLog{streams: streams, recs: map[string][]record.Record{}, more: make(chan struct{})}
}

func (l *memLog) Shards(_ context.Context, stream string) ([]points.Shard, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, s := range l.streams {
		if s == stream {
			return []points.Shard{{ID: record.ShardID(i + 1)}}, nil
		}
	}
	return nil, record.ErrNoStream
}

func (l *memLog) Follow(_ context.Context, stream string, _ record.ShardID, since time.Time) (points.Reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := 0
	for at < len(l.recs[stream]) && l.recs[stream][at].Arrived.Before(since) {
		at++
	}
	return &memReader{l, stream, at}, nil
}

type memReader struct {
	log    *memLog
	stream string
	at     int
}

func (r *memReader) Next(ctx context.Context, limit int) (record.Batch, error) {
	for {
		r.log.mu.Lock()
		recs, more := r.log.recs[r.stream], r.log.more
		if len(r.log.fail) > 0 {
			err := r.log.fail[0]
			r.log.fail = r.log.fail[1:]
			r.log.mu.Unlock()
			return record.Batch{}, err
		}
		r.log.mu.Unlock()
		if r.at < len(recs) {
			out := recs[r.at:min(len(recs), r.at+limit)]
			r.at += len(out)
			return record.Batch{Recs: append([]record.Record(nil), out...)}, nil
		}
		select {
		case <-ctx.Done():
			return record.Batch{}, ctx.Err()
		case <-more:
		}
	}
}

func (*memReader) Close() error { return nil }

func (l *memLog) put(stream string, recs ...record.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range recs {
		r.Pos = record.Pos{Shard: 1, Seq: uint64(len(l.recs[stream]) + 1)}
		l.recs[stream] = append(l.recs[stream], r)
	}
	close(l.more)
	l.more = make(chan struct{})
}

func rec(key, payload string, ago time.Duration) record.Record {
	return record.Record{Key: key, Arrived: time.Now().Add(-ago), Data: []byte(payload)}
}

// TestSameWords: what a keeper says is what the API says, name for name.
func TestSameWords(t *testing.T) {
	same := func(ours, theirs any) {
		tags := func(v any) map[string]string {
			m := map[string]string{}
			for f := range reflect.TypeOf(v).Fields() {
				if tag := f.Tag.Get("json"); tag != "-" {
					m[tag] = f.Name + " " + strings.TrimPrefix(strings.TrimPrefix(f.Type.String(), "[]points."), "[]api.")
				}
			}
			return m
		}
		want := tags(theirs)
		delete(want, "alarm_severity") // the gateway fills it in
		if got := tags(ours); !reflect.DeepEqual(got, want) {
			t.Errorf("%T:\n%v\n%v", ours, got, want)
		}
	}
	same(points.Point{}, api.Point{})
	same(points.Sample{}, api.Sample{})
	same(points.Camera{}, api.Camera{})
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog("mqtt")
		k, err := points.NewKeeper([]points.Config{
			{ID: "temp", Label: "Temperature", Place: "site/hall/line1", Key: "plant/+/temp", Low: 0, High: 120, NormalHigh: new(80.0)},
			{ID: "rpm", Key: "plant/line1/motor", Field: "motor.rpm", Unit: "1/min"},
			{ID: "port", Stream: "serial", Key: "#"},
		}, log, points.Options{})
		if err != nil {
			t.Fatal(err)
		}
		log.put("mqtt",
			rec("plant/line1/temp", "5", 11*time.Minute), // too old to be read
			rec("plant/line1/temp", `{"value": 70, "unit": "Cel"}`, 9*time.Minute),
			rec("plant/line1/temp", `{"value": 90}`, 2500*time.Millisecond),
			rec("plant/line1/temp", `{"value": 60}`, 2500*time.Millisecond),
			rec("plant/line1/motor", `{"motor": {"rpm": 1450}}`, time.Second),
			rec("other", `{"value": 1}`, 0),
		)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		s := k.Snapshot(true)
		if p := s[0]; *p.Value != 60 || p.Unit != "Cel" || p.Quality != "good" || p.Key != "plant/line1/temp" || p.Label != "Temperature" || p.High != 120 || *p.NormHi != 80 {
			t.Errorf("%+v", p)
		}
		if tr := s[0].Trend; len(tr) != 2 || tr[0].Min != 70 || tr[1].Min != 60 || tr[1].Max != 90 || !tr[0].At.Before(tr[1].At) {
			t.Errorf("%+v", tr)
		}
		if p := s[1]; *p.Value != 1450 || p.Unit != "1/min" || p.Label != "rpm" {
			t.Errorf("%+v", p)
		}
		if p := s[2]; p.Value != nil || p.At != nil || p.Trend != nil {
			t.Errorf("%+v", p)
		}

		// A stream that appears later; a reader that fails, and one that has
		// lost records.
		log.mu.Lock()
		log.streams = append(log.streams, "serial")
		log.fail = []error{&record.TrimmedError{From: 1, To: 2}, errors.New("broken")}
		log.mu.Unlock()
		log.put("serial", rec("ttyS0", "+023.50\r\n", 0), rec("ttyS0", "garbage", 0))
		log.put("mqtt", rec("plant/line1/temp", `{"value": null, "quality": "bad"}`, 0))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		s = k.Snapshot(false)
		if p := s[2]; p.Value == nil || *p.Value != 23.5 || p.Trend != nil {
			t.Errorf("%+v", p)
		}
		if p := s[0]; *p.Value != 60 || p.Quality != "bad" {
			t.Errorf("%+v", p)
		}
		if n := k.Unread(); n == 0 {
			t.Error("garbage was not counted")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestRing: a value a second for an hour keeps the last ten minutes.
func TestRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog("mqtt")
		k, err := points.NewKeeper([]points.Config{{ID: "a", Key: "a"}}, log, points.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		for i := range 3600 {
			log.put("mqtt", rec("a", fmt.Sprint(i), 0))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		tr := k.Snapshot(true)[0].Trend
		if len(tr) != points.Columns-1 || tr[len(tr)-1].Max != 3599 || tr[0].Min != 3001 {
			t.Errorf("%d columns, %v to %v", len(tr), tr[0], tr[len(tr)-1])
		}
		// The sender's time counts if it can be believed: a late value is drawn
		// where it belongs and does not become the newest.
		late := rec("a", "-5", 0)
		late.At = time.Now().Add(-100 * time.Second)
		mad := rec("a", "7777", 0)
		mad.At = time.Now().Add(100 * time.Hour)
		log.put("mqtt", mad, late)
		synctest.Wait()
		p := k.Snapshot(true)[0]
		if *p.Value != 7777 || p.At.After(time.Now()) || p.Trend[len(p.Trend)-101].Min != -5 {
			t.Errorf("value %v at %v", *p.Value, p.At)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPayloads(t *testing.T) {
	files, err := filepath.Glob("testdata/payloads/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// field | payload | value, unit, quality
		for l := range strings.Lines(string(b)) {
			f := strings.Split(strings.TrimSpace(l), " | ")
			if len(f) != 3 {
				t.Fatalf("%s: %q", file, l)
			}
			synctest.Test(t, func(t *testing.T) {
				log := newLog("mqtt")
				k, err := points.NewKeeper([]points.Config{{ID: "a", Key: "a", Field: f[0]}}, log, points.Options{})
				if err != nil {
					t.Fatal(err)
				}
				log.put("mqtt", rec("a", f[1], 0))
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- k.Run(ctx) }()
				synctest.Wait()
				p := k.Snapshot(false)[0]
				got := "none"
				if p.Value != nil {
					got = fmt.Sprint(*p.Value)
				}
				if got += " " + p.Unit; p.Unit == "" {
					got += "-"
				}
				if got += " " + p.Quality; got != f[2] {
					t.Errorf("%s of %s is %q, want %q", f[0], f[1], got, f[2])
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		`key = "a"`:                      "id:",
		`id = "a"`:                       "key:",
		`id = "a"` + "\nkey = \"a/#/b\"": "key:",
		`id = "a"` + "\nkey = \"a/b+\"":  "key:",
		`id = "a"` + "\nkey = \"a\"\nfield = \"a..b\"":                     "field:",
		`id = "a"` + "\nkey = \"a\"\nlow = 5.0":                            "low:",
		`id = "a"` + "\nkey = \"a\"\nnormal_low = 5.0\nnormal_high = 4.0":  "normal_low:",
		`id = "a"` + "\nkey = \"a/+/b/#\"\nlow = 1\nhigh = 2\nlimit = 1.5": "",
	} {
		var c points.Config
		if err := toml.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(text, err)
		}
		err := c.Check()
		if (want == "") != (err == nil) || (err != nil && !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := points.NewKeeper([]points.Config{{ID: "a", Key: "a"}, {ID: "a", Key: "b"}}, newLog(), points.Options{}); err == nil {
		t.Error("an id is taken twice")
	}
}

func TestCameras(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLog("video")
		c := points.NewCameras([]points.CameraConfig{{ID: "press", Label: "Press 1", StaleAfter: 5 * time.Second}, {ID: "dark"}}, log, points.Options{})
		chunk := func(cam, typ string, seq int, extra string) record.Record {
			r := rec(cam, fmt.Sprintf(`{"camera": %q, "codec": "h264", "bytes": 1000, "sequence": %d%s}`, cam, seq, extra), 0)
			r.Type, r.Chunk = typ, record.ChunkRef{Segment: 1, Off: int64(seq), Len: 1000}
			return r
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		for i := range 40 {
			log.put("video", chunk("press", "image/jpeg", i, ""))
			time.Sleep(500 * time.Millisecond)
		}
		log.put("video", chunk("press", "video/mp4", 1, ""), chunk("press", "video/mp4", 4, ""), chunk("press", "video/mp4", 9, `, "discontinuity": true`), chunk("press", "video/mp4", 2, ""), chunk("press", "video/mp4", 3, ""))
		synctest.Wait()
		s := c.Snapshot()
		if p := s[0]; p.ID != "press" || p.Label != "Press 1" || p.Chunks != 45 || p.Bytes != 45000 || p.Gaps != 2 || p.FPS != 2 || p.Frame.Off != 39 || p.FrameType != "image/jpeg" ||
			p.Codec != "h264" || p.LastChunk == nil || p.FrameURL != "/v1/cameras/press/frame.jpg" || p.StaleAfter != 5 || p.Stale {
			t.Errorf("%+v", p)
		}
		if p := s[1]; p.LastChunk != nil || p.LastFrame != nil || p.FrameURL != "" || p.Stale {
			t.Errorf("%+v", p)
		}
		for i := range 100 {
			log.put("video", chunk(fmt.Sprintf("seen-%03d", i), "video/mp4", 1, ""))
		}
		r := rec("press", "no json", 0)
		r.Chunk.Len = 7
		log.put("video", r)
		time.Sleep(6 * time.Second)
		s = c.Snapshot()
		if len(s) != 2+points.MaxSeen || s[2].ID != "seen-000" || c.Unlisted() != 36 {
			t.Errorf("%d cameras, %d not listed", len(s), c.Unlisted())
		}
		if p, ok := c.Camera("press"); !ok || !p.Stale || p.Bytes != 45007 {
			t.Errorf("%+v", p)
		}
		if _, ok := c.Camera("nobody"); ok {
			t.Error("a camera that is not there")
		}
		if b, err := json.Marshal(s[0]); err != nil || strings.Contains(string(b), "Segment") {
			t.Errorf("%s %v", b, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func FuzzPayload(f *testing.F) {
	for _, s := range []string{`{"value": 1, "unit": "Cel", "quality": 2147483648}`, `+1.5`, `{"a": {"b": 2}}`, `{`, "1e999", `{"value": "x"}`, `{"quality": {}}`} {
		f.Add([]byte(s), "a.b")
	}
	f.Fuzz(func(t *testing.T, data []byte, field string) {
		k, err := points.NewKeeper([]points.Config{{ID: "a", Key: "#", Field: field}}, newLog(), points.Options{})
		if err != nil {
			return
		}
		k.Take("mqtt", []record.Record{{Key: "k", Arrived: time.Now(), Data: data}})
		if _, err := json.Marshal(k.Snapshot(true)); err != nil {
			t.Fatal(err)
		}
	})
}
