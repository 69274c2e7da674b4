package witness_test

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/witness"
)

// farEnd stands in for a Kinesis service: shards of records, two records an
// answer, so that every reader has to come again.
type farEnd struct {
	mu      sync.Mutex
	streams map[string][]*farShard
	fails   int // so many GetRecords are answered with an expired iterator
	calls   int
	grow    func(f *farEnd) // called once, at the fifth call: what comes late
}

type farShard struct {
	id, parent string
	closed     bool
	recs       []farRecord
}

type farRecord struct {
	key  string
	data []byte
}

func (f *farEnd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls++; f.calls == 5 && f.grow != nil {
		f.grow(f)
	}
	var in struct {
		StreamName, ShardId, ShardIterator, ShardIteratorType, StartingSequenceNumber string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fail := func(kind string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"__type":%q,"message":"no"}`, kind)
	}
	var out any
	switch strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Kinesis_20131202.") {
	case "ListShards":
		shards, ok := f.streams[in.StreamName]
		if !ok {
			fail("ResourceNotFoundException")
			return
		}
		var list []map[string]any
		for _, s := range slices.Backward(shards) { // children before their parents
			m := map[string]any{"ShardId": s.id}
			if s.parent != "" {
				m["ParentShardId"] = s.parent
			}
			list = append(list, m)
		}
		out = map[string]any{"Shards": list}
	case "GetShardIterator":
		from := 0
		if in.ShardIteratorType == "AFTER_SEQUENCE_NUMBER" {
			n, err := strconv.Atoi(in.StartingSequenceNumber)
			if err != nil {
				fail("InvalidArgumentException")
				return
			}
			from = n + 1
		}
		out = map[string]any{"ShardIterator": fmt.Sprintf("%s|%s|%d", in.StreamName, in.ShardId, from)}
	case "GetRecords":
		if f.fails > 0 {
			f.fails--
			fail("ExpiredIteratorException")
			return
		}
		part := strings.Split(in.ShardIterator, "|")
		at, err := strconv.Atoi(part[2])
		if err != nil {
			fail("InvalidArgumentException")
			return
		}
		out = f.records(part[0], part[1], at)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if err := json.NewEncoder(w).Encode(out); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func (f *farEnd) records(stream, shard string, at int) any {
	i := slices.IndexFunc(f.streams[stream], func(s *farShard) bool { return s.id == shard })
	s := f.streams[stream][i]
	end := min(at+2, len(s.recs))
	recs := []map[string]any{}
	for n, r := range s.recs[at:end] {
		recs = append(recs, map[string]any{"Data": r.data, "PartitionKey": r.key, "SequenceNumber": strconv.Itoa(at + n)})
	}
	out := map[string]any{"Records": recs, "MillisBehindLatest": 1000 * (len(s.recs) - end)}
	if end < len(s.recs) || !s.closed {
		out["NextShardIterator"] = fmt.Sprintf("%s|%s|%d", stream, shard, end)
	}
	return out
}

// scene is a ledger and the records that a gateway made of it.
type scene struct {
	t      *testing.T
	path   string
	led    *ledger.Ledger
	far    *farEnd
	number int
}

func newScene(t *testing.T) *scene {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	l, err := ledger.Open(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // verify may have closed it
	return &scene{t: t, path: path, led: l, far: &farEnd{streams: map[string][]*farShard{
		"mqtt":  {{id: "shardId-0"}, {id: "shardId-1"}},
		"video": {{id: "shardId-0"}},
	}}}
}

func (s *scene) payload(device string, seq uint64) []byte {
	return fmt.Appendf(nil, `{"device":%q,"seq":%d,"value":1.50,"run":%q}`, device, seq, s.led.Run())
}

// note writes an event about a record into the ledger.
func (s *scene) note(what, device string, seqs ...uint64) {
	s.t.Helper()
	for _, n := range seqs {
		e := ledger.Event{Event: what, Kind: ledger.MQTT, Device: device, Key: "s/" + device, Seq: n, QoS: 1, Sum: ledger.Sum(s.payload(device, n))}
		if err := s.led.Write(e); err != nil {
			s.t.Fatal(err)
		}
	}
}

// envelope wraps a payload as a gateway does.
func (s *scene) envelope(number int, stream, key string, payload []byte) []byte {
	head := fmt.Sprintf(`{"id":"edge/00000000000000aa/3/%d","stream":%q,"key":%q,"t":1767225600000,"source":"mqtt"`, number, stream, key)
	if json.Valid(payload) {
		return []byte(head + `,"data":` + string(payload) + "}")
	}
	return []byte(head + `,"data_b64":"` + base64.StdEncoding.EncodeToString(payload) + `"}`)
}

// put stores records at the far end, each in an envelope of its own number.
func (s *scene) put(device string, seqs ...uint64) {
	s.t.Helper()
	for _, n := range seqs {
		s.number++
		s.raw("mqtt", 0, "s/"+device, s.envelope(s.number, "mqtt", "s/"+device, s.payload(device, n)))
	}
}

func (s *scene) raw(stream string, shard int, key string, data []byte) {
	sh := s.far.streams[stream][shard]
	sh.recs = append(sh.recs, farRecord{key, data})
}

func (s *scene) verify(wait time.Duration, streams ...string) witness.Report {
	s.t.Helper()
	r, err := s.try(wait, streams...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *scene) try(wait time.Duration, streams ...string) (witness.Report, error) {
	s.t.Helper()
	srv := httptest.NewServer(s.far)
	defer srv.Close()
	if len(streams) == 0 {
		streams = []string{"mqtt"}
	}
	return witness.Verify(s.t.Context(), witness.Options{
		Ledger: s.path, Endpoint: srv.URL, Region: "eu-central-1", Streams: streams, Wait: wait,
	})
}

// line checks the sums of a report.
func line(t *testing.T, r witness.Report, want string, ok bool) {
	t.Helper()
	if r.Line() != want || r.OK() != ok {
		t.Errorf("%q, ok %v; want %q, ok %v\n%+v", r.Line(), r.OK(), want, ok, r)
	}
}

func TestAllThere(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1, 2, 3, 4, 5)
	s.put("a", 1, 2, 3, 4, 5)
	line(t, s.verify(0), "lost 0, out of order 0, duplicated 0", true)
}

// TestNotBlind: whatever goes wrong at the far end is seen.
func TestNotBlind(t *testing.T) {
	for _, c := range []struct {
		name, want string
		ok         bool
		do         func(s *scene)
	}{
		{"one lost", "lost 1, out of order 0, duplicated 0", false, func(s *scene) { s.put("a", 1, 2, 4, 5) }},
		{"the last lost", "lost 1, out of order 0, duplicated 0", false, func(s *scene) { s.put("a", 1, 2, 3, 4) }},
		{"all lost", "lost 5, out of order 0, duplicated 0", false, func(*scene) {}},
		{"swapped", "lost 0, out of order 1, duplicated 0", false, func(s *scene) { s.put("a", 1, 3, 2, 4, 5) }},
		{"reversed", "lost 0, out of order 4, duplicated 0", false, func(s *scene) { s.put("a", 5, 4, 3, 2, 1) }},
		{"one twice", "lost 0, out of order 0, duplicated 1", true, func(s *scene) { s.put("a", 1, 2, 3, 3, 4, 5) }},
		{"one three times", "lost 0, out of order 0, duplicated 1", true, func(s *scene) { s.put("a", 1, 2, 3, 3, 3, 4, 5) }},
		{"a batch again", "lost 0, out of order 0, duplicated 3", true, func(s *scene) { s.put("a", 1, 2, 3, 1, 2, 3, 4, 5) }},
		{"altered", "lost 1, out of order 0, duplicated 0", false, func(s *scene) {
			s.put("a", 1, 2, 3, 4)
			s.raw("mqtt", 0, "s/a", s.envelope(9, "mqtt", "s/a", bytes.Replace(s.payload("a", 5), []byte("1.50"), []byte("1.5"), 1)))
		}},
		{"of another run", "lost 1, out of order 0, duplicated 0", false, func(s *scene) {
			s.put("a", 1, 2, 3, 4)
			s.raw("mqtt", 0, "s/a", s.envelope(9, "mqtt", "s/a", bytes.Replace(s.payload("a", 5), []byte(s.led.Run()), []byte("0123456789abcdef"), 1)))
		}},
		{"in a broken aggregate", "lost 2, out of order 0, duplicated 0", false, func(s *scene) {
			s.put("a", 1, 2, 3)
			agg := aggregate(farRecord{"s/a", s.payload("a", 4)}, farRecord{"s/a", s.payload("a", 5)})
			agg[len(agg)/2] ^= 1
			s.raw("mqtt", 0, "s/a", agg)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			s.note(ledger.Ack, "a", 1, 2, 3, 4, 5)
			c.do(s)
			r := s.verify(0)
			line(t, r, c.want, c.ok)
			if (r.Lost > 0) != (len(r.LostExamples) > 0) || (r.OutOfOrder > 0) != (len(r.DisorderedExamples) > 0) {
				t.Errorf("no example is named: %+v", r)
			}
		})
	}
}

func TestWhoRepeated(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1, 2)
	same := s.envelope(1, "mqtt", "s/a", s.payload("a", 1))
	s.raw("mqtt", 0, "k", same)
	s.raw("mqtt", 0, "k", same)                                            // the uplink
	s.raw("mqtt", 0, "k", s.envelope(7, "mqtt", "s/a", s.payload("a", 1))) // the sender
	s.put("a", 2)
	r := s.verify(0)
	line(t, r, "lost 0, out of order 0, duplicated 1", true)
	if r.RepeatedByUplink != 1 || r.RepeatedBySender != 1 {
		t.Errorf("uplink %d, sender %d", r.RepeatedByUplink, r.RepeatedBySender)
	}
}

func TestNotAcknowledgedButArrived(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1)
	s.note(ledger.Unacked, "a", 2, 3)
	s.note(ledger.Sent, "b", 1, 2)
	s.put("a", 1, 2, 9) // 9: the simulator died before it could say anything
	s.put("b", 2)
	r := s.verify(0)
	line(t, r, "lost 0, out of order 0, duplicated 0", true)
	if r.Acknowledged != 1 || r.Arrived != 1 || r.NotAcknowledged != 3 {
		t.Errorf("acknowledged %d, arrived %d, not acknowledged %d", r.Acknowledged, r.Arrived, r.NotAcknowledged)
	}
	if k := r.Kinds[ledger.MQTT]; k.Sent != 2 {
		t.Errorf("%+v", k)
	}
}

// aggregate is a KPL aggregate, as the format's description says.
func aggregate(recs ...farRecord) []byte {
	field := func(dst []byte, num byte, b []byte) []byte {
		dst = append(dst, num<<3|2)
		dst = binary.AppendUvarint(dst, uint64(len(b)))
		return append(dst, b...)
	}
	var msg []byte
	for _, r := range recs {
		msg = field(msg, 1, []byte(r.key))
	}
	for i, r := range recs {
		inner := binary.AppendUvarint([]byte{1 << 3}, uint64(i))
		msg = field(msg, 3, field(inner, 3, r.data))
	}
	sum := md5.Sum(msg)
	return slices.Concat([]byte("\xF3\x89\x9A\xC2"), msg, sum[:])
}

func TestAggregatesAndRaw(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1, 2, 3, 4, 5)
	s.raw("mqtt", 0, "a", aggregate(
		farRecord{"s/a", s.envelope(1, "mqtt", "s/a", s.payload("a", 1))},
		farRecord{"s/a", s.envelope(2, "mqtt", "s/a", s.payload("a", 2))},
		farRecord{"s/x", []byte("of somebody else")}))
	s.raw("mqtt", 0, "a", aggregate(farRecord{"s/a", s.payload("a", 3)}, farRecord{"s/a", s.payload("a", 4)}))
	s.raw("mqtt", 0, "s/a", s.payload("a", 5))
	r := s.verify(0)
	line(t, r, "lost 0, out of order 0, duplicated 0", true)
	if r.Aggregates != 2 || r.Foreign != 1 || r.Records != 6 || r.WrongKey != 0 {
		t.Errorf("%+v", r)
	}
}

func TestPayloadInBase64(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1)
	wrapped := fmt.Sprintf(`{"id":"e/0/0/1","stream":"mqtt","key":"s/a","arrived":"x","data_b64":%q}`, base64.StdEncoding.EncodeToString(s.payload("a", 1)))
	s.raw("mqtt", 0, "s/a", []byte(wrapped))
	line(t, s.verify(0), "lost 0, out of order 0, duplicated 0", true)
}

// TestOrderIsPerKey: two devices and two keys of one device do not get into
// each other's way; one key spread over parent and child shards is read in
// the right order.
func TestOrderIsPerKey(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1, 2, 3, 4)
	s.note(ledger.Ack, "b", 1, 2)
	s.put("b", 2)
	s.put("a", 1, 2)
	s.raw("mqtt", 0, "s/b", s.envelope(50, "mqtt", "s/other", s.payload("b", 1)))
	s.far.streams["mqtt"][0].closed = true
	s.far.streams["mqtt"] = append(s.far.streams["mqtt"], &farShard{id: "shardId-2", parent: "shardId-0"})
	s.raw("mqtt", 2, "s/a", s.envelope(51, "mqtt", "s/a", s.payload("a", 3)))
	s.raw("mqtt", 2, "s/a", s.envelope(52, "mqtt", "s/a", s.payload("a", 4)))
	r := s.verify(0)
	line(t, r, "lost 0, out of order 0, duplicated 0", true)
	if r.WrongKey != 1 {
		t.Errorf("wrong key %d, want 1", r.WrongKey)
	}
}

func TestChunksAndAlarms(t *testing.T) {
	s := newScene(t)
	chunk := func(n int) (name, sum string, data []byte) {
		name, sum = fmt.Sprintf("chunk-%06d.mp4", n), fmt.Sprintf("%064x", n)
		return name, sum, fmt.Appendf(nil, `{"camera":"cam1","name":%q,"bytes":10,"sha256":%q}`, name, sum)
	}
	for n := 1; n <= 3; n++ {
		name, sum, data := chunk(n)
		if err := s.led.Write(ledger.Event{Event: ledger.Ack, Kind: ledger.Camera, Device: "cam1", Key: "cam1", Name: name, Sum: sum, Bytes: 10, Seq: uint64(n)}); err != nil {
			t.Fatal(err)
		}
		if n != 2 {
			s.raw("video", 0, "cam1", s.envelope(n, "video", "cam1", data))
		}
	}
	s.raw("video", 0, "cam1", s.envelope(9, "video", "cam1", []byte(`{"camera":"cam1","name":"chunk-000002.mp4","sha256":"another"}`)))
	alarm := []byte(`{"id":"hot/s/a/1","rule":"hot","key":"s/a","severity":1,"transition":1,"event":"raised"}`)
	s.raw("mqtt", 1, "hot/s/a", s.envelope(1, "alarms", "hot/s/a", alarm))
	s.raw("mqtt", 1, "hot/s/a", s.envelope(1, "alarms", "hot/s/a", alarm))
	r := s.verify(0, "mqtt", "video")
	line(t, r, "lost 1, out of order 0, duplicated 0", false)
	if k := r.Kinds[ledger.Camera]; k.Acknowledged != 3 || k.Arrived != 2 || r.Foreign != 1 {
		t.Errorf("%+v, foreign %d", k, r.Foreign)
	}
	want := witness.Alarm{ID: "hot/s/a/1", Rule: "hot", Key: "s/a", Event: "raised", Transition: 1, Arrived: 2}
	if len(r.Alarms) != 1 || r.Alarms[0] != want {
		t.Errorf("alarms %+v", r.Alarms)
	}
	var text bytes.Buffer
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"lost 1, out of order 0, duplicated 0\n", "camera", "alarms raised: 1\n", "lost: cam1 chunk-000002.mp4"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, &text)
		}
	}
}

// TestWaits: what arrives while the witness looks is counted once, and an
// iterator that expires costs nothing.
func TestWaits(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1, 2, 3, 4, 5)
	s.put("a", 1, 2, 3)
	s.far.fails = 2
	s.far.grow = func(*farEnd) { s.put("a", 4, 5) }
	line(t, s.verify(time.Minute), "lost 0, out of order 0, duplicated 0", true)
}

func TestStreamThatIsNotThere(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1)
	s.put("a", 1)
	r := s.verify(0, "mqtt", "nowhere")
	line(t, r, "lost 0, out of order 0, duplicated 0", true)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "nowhere") {
		t.Errorf("problems %q", r.Problems)
	}
}

func TestNothingToVerify(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Sent, "a", 1)
	if _, err := s.try(0); !errors.Is(err, witness.ErrNothingAcknowledged) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(s.path, []byte("no ledger\n{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.try(0); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("%v", err)
	}
}

func TestSecondSession(t *testing.T) {
	s := newScene(t)
	s.note(ledger.Ack, "a", 1, 2)
	if err := s.led.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(s.path, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.led = l
	first := l.FirstSeq()
	s.note(ledger.Ack, "a", first, first+1)
	s.put("a", 1, 2, first, first+1)
	r := s.verify(0)
	line(t, r, "lost 0, out of order 0, duplicated 0", true)
	if r.Sessions != 2 || r.Acknowledged != 4 {
		t.Errorf("%+v", r)
	}
}
