package kvs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/firmware-sim/camera"
	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/kvs"
	"forebay/uplink/lane"
)

var (
	identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}
	began    = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func config(s *stand) kvs.Config {
	return kvs.Config{Access: aws.Access{
		Endpoint: s.URL, Region: "eu-central-1", AccessKey: "AKIDTEST", SecretKey: conf.NewSecret(secretKey),
	}}
}

// disk is where chunks lie beside the records.
type disk struct {
	mu     sync.Mutex
	chunks map[int64][]byte
	bad    map[int64]error
	fault  func(off int64, opened int) string // of the nth time that a chunk is opened
	opened map[int64]int
}

type opened struct {
	*bytes.Reader
	err error
}

func (opened) Close() error { return nil }

func (o opened) Read(b []byte) (int, error) {
	n, err := o.Reader.Read(b)
	if err != nil && o.err != nil {
		err = o.err
	}
	return n, err
}

func (d *disk) open(_ string, ref record.ChunkRef) (io.ReadSeekCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.chunks[ref.Off]
	d.opened[ref.Off]++
	how := d.fault(ref.Off, d.opened[ref.Off])
	if !ok || how == "gone" {
		return nil, fmt.Errorf("open a chunk: %w", fs.ErrNotExist)
	}
	if how == "breaks" {
		return opened{bytes.NewReader(b[:len(b)/2]), errors.New("I/O error")}, nil
	}
	return opened{bytes.NewReader(b), d.bad[ref.Off]}, nil
}

// A rig is a sink, its far side, and a disk.
type rig struct {
	*stand
	*kvs.Sink
	disk *disk
	next uint64
}

func newRig(t *testing.T, change func(*kvs.Config)) *rig {
	t.Helper()
	r := &rig{stand: newStand(t), disk: &disk{
		chunks: map[int64][]byte{}, bad: map[int64]error{}, opened: map[int64]int{}, fault: func(int64, int) string { return "" },
	}}
	cfg := config(r.stand)
	if change != nil {
		change(&cfg)
	}
	s, err := kvs.New(cfg, lane.Home{Uplink: "video", ID: identity, Chunk: r.disk.open, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	r.Sink = s
	return r
}

// lax makes the rig fast: rates are not held.
func (r *rig) slack() *rig {
	r.Hurry()
	r.lax = true
	return r
}

// A film is a camera's pictures.
type film struct {
	id    string
	scene *camera.Scene
	enc   camera.Encoder
	fps   int
	frame uint64
	n     uint32
	at    time.Time
}

func newFilm(id string) *film {
	return &film{id: id, scene: camera.NewScene(1), fps: 2, at: began}
}

// shoot gives a chunk of so many pictures, a key frame every so many.
func (f *film) shoot(pictures, key int) []byte {
	f.n++
	c := camera.Chunk{Number: f.n, Frame: f.frame, FPS: f.fps}
	for i := range pictures {
		var p camera.Picture
		f.scene.Draw(&p, f.frame, f.at)
		nal, isKey := f.enc.Encode(&p, i%key == 0)
		c.Samples = append(c.Samples, camera.Sample{NAL: nal, Key: isKey})
		f.frame++
	}
	return c.MP4()
}

// lane is the lane of these tests.
var evidence = lane.Lane{Stream: "evidence", Shard: 3}

// put stores a chunk, and gives the record beside which it lies.
func (r *rig) put(cam, kind string, start time.Time, body []byte) record.Record {
	r.next++
	data, err := json.Marshal(map[string]any{"camera": cam, "name": fmt.Sprintf("chunk-%d", r.next), "start": start, "bytes": len(body), "codec": "avc1.42C01E"})
	if err != nil {
		panic(err)
	}
	off := int64(r.next)
	r.disk.chunks[off] = body
	return record.Record{
		Key: cam, Type: kind, At: start, Arrived: start.Add(time.Second), Data: data,
		Pos: record.Pos{Shard: evidence.Shard, Seq: r.next}, Chunk: record.ChunkRef{Log: 1, Segment: 1, Off: off, Len: int64(len(body))},
	}
}

// clip stores n chunks of two seconds that follow on each other.
func (r *rig) clip(f *film, n int) []record.Record {
	var recs []record.Record
	for range n {
		recs = append(recs, r.film(f, 4, 4))
	}
	return recs
}

func (r *rig) film(f *film, pictures, key int) record.Record {
	at := f.at
	body := f.shoot(pictures, key)
	f.at = f.at.Add(time.Duration(pictures) * time.Second / time.Duration(f.fps))
	return r.put(f.id, "video/mp4", at, body)
}

func (r *rig) send(t *testing.T, recs []record.Record) lane.Outcome {
	t.Helper()
	out := r.Send(t.Context(), []lane.Batch{{Lane: evidence, Recs: recs}})
	if len(out) != 1 {
		t.Fatalf("%d outcomes", len(out))
	}
	o := out[0]
	if o.Done < 0 || o.Done > len(recs) || (o.Done == len(recs)) != (o.Class == lane.OK) || (o.Err == nil) != (o.Class == lane.OK) {
		t.Fatalf("%+v for %d records", o, len(recs))
	}
	return o
}

// drain sends as the pump does until nothing is left, and gives what was
// refused.
func (r *rig) drain(t *testing.T, recs []record.Record) (refused []string) {
	t.Helper()
	for tries := 0; len(recs) > 0; tries++ {
		if tries > 200 {
			t.Fatalf("%d records are left", len(recs))
		}
		o := r.send(t, recs)
		recs = recs[o.Done:]
		if o.Class == lane.Poison {
			refused = append(refused, o.Err.Error())
			recs = recs[1:]
		}
	}
	return refused
}

// ids are the records that a stream's fragments hold, in order.
func (r *rig) ids(stream string) (ids []string) {
	for _, f := range r.fragments(stream) {
		ids = append(ids, f.tags["FOREBAY_ID"])
		for i := 2; f.tags[fmt.Sprintf("FOREBAY_ID_%d", i)] != ""; i++ {
			ids = append(ids, f.tags[fmt.Sprintf("FOREBAY_ID_%d", i)])
		}
	}
	return ids
}

func idsOf(recs []record.Record) (ids []string) {
	for i := range recs {
		ids = append(ids, identity.Of(&recs[i]))
	}
	return ids
}

// pictures are the pictures of a chunk that the simulator made: what its mdat
// holds.
func pictures(chunk []byte) []byte {
	_, media, _ := bytes.Cut(chunk, []byte("mdat"))
	return media
}

// Every picture arrives as it was, at its time, one fragment a chunk, with the
// codec's parameters and the record's id; all limits on rates are kept.
func TestAClip(t *testing.T) {
	r := newRig(t, nil)
	f := newFilm("cam1")
	recs := r.clip(f, 7)
	o := r.send(t, recs)
	if o.Done != 7 || o.Requests != 1 {
		t.Fatalf("%+v", o)
	}
	got := r.fragments("edge-07-cam1")
	if len(got) != 7 {
		t.Fatalf("%d fragments", len(got))
	}
	size := 0
	for i, g := range got {
		start := began.Add(2 * time.Duration(i) * time.Second).UnixMilli()
		var all []byte
		for k, b := range g.blocks {
			if want := start + int64(k)*500; b.ms != want {
				t.Errorf("fragment %d, picture %d: at %d, want %d", i, k, b.ms, want)
			}
			all = append(all, b.data...)
		}
		if g.ms != start || len(g.blocks) != 4 || !bytes.Equal(all, pictures(r.disk.chunks[int64(i+1)])) {
			t.Errorf("fragment %d: at %d, %d pictures of %d bytes", i, g.ms, len(g.blocks), len(all))
		}
		size += len(all)
	}
	if o.Bytes < size || o.Bytes > size+7*1000 {
		t.Errorf("%d bytes on the wire for %d of pictures", o.Bytes, size)
	}
	if ids := r.ids("edge-07-cam1"); !slices.Equal(ids, idsOf(recs)) {
		t.Errorf("ids: %q", ids)
	}
	if p := r.private["edge-07-cam1"]; !bytes.Contains(p, camera.SPS()) || !bytes.Contains(p, camera.PPS()) {
		t.Errorf("codec parameters: %x", p)
	}
	if n := r.count("getDataEndpoint", "edge-07-cam1"); n != 1 {
		t.Errorf("%d GetDataEndpoint", n)
	}
	if o := r.send(t, r.clip(f, 1)); o.Done != 1 {
		t.Errorf("the next: %+v", o)
	}
	if n := r.count("getDataEndpoint", "edge-07-cam1"); n != 1 {
		t.Errorf("%d GetDataEndpoint", n)
	}
}

// Cameras go side by side, each to a stream of its own and in order, also
// where they share a lane.
func TestCamerasOfOneLane(t *testing.T) {
	r := newRig(t, func(c *kvs.Config) { c.Stream = "{stream}.{camera}" }).slack()
	films := []*film{newFilm("a"), newFilm("b"), newFilm("c")}
	var recs []record.Record
	for i := range 12 {
		recs = append(recs, r.film(films[i%3], 4, 4))
	}
	if o := r.send(t, recs); o.Done != 12 || o.Requests != 3 {
		t.Fatalf("%+v", o)
	}
	for i, f := range films {
		var want []string
		for k := i; k < 12; k += 3 {
			want = append(want, identity.Of(&recs[k]))
		}
		if got := r.ids("evidence." + f.id); !slices.Equal(got, want) {
			t.Errorf("camera %s: %q", f.id, got)
		}
	}
}

// A chunk that is longer than a fragment may be is cut at key frames; a rest of
// less than a second goes with the last piece.
func TestLongChunks(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	recs := []record.Record{r.film(f, 101, 4), r.film(f, 4, 4)} // 50.5 s, and 2 s
	if o := r.send(t, recs); o.Done != 2 || o.Requests != 1 {
		t.Fatalf("%+v", o)
	}
	got := r.fragments("edge-07-cam1")
	n := 0
	for i, g := range got {
		n += len(g.blocks)
		if g.length() > 20_000 || g.length() < 1000 {
			t.Errorf("fragment %d: %d ms", i, g.length())
		}
	}
	if n != 105 || len(got) != 4 {
		t.Fatalf("%d pictures in %d fragments", n, len(got))
	}
	id := identity.Of(&recs[0])
	if ids := r.ids("edge-07-cam1"); !slices.Equal(ids, []string{id + "/1", id + "/2", id + "/3", identity.Of(&recs[1])}) || got[0].tags["FOREBAY_PIECES"] != "3" {
		t.Errorf("%q, %v", ids, got[0].tags)
	}
	o := r.send(t, []record.Record{r.film(f, 60, 60)}) // 30 s and one key frame
	if o.Class != lane.Poison || !strings.Contains(o.Err.Error(), "key frame") {
		t.Errorf("%+v", o)
	}
}

// What was persisted of a long chunk is not sent again.
func TestALongChunkGoesOn(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	r.misbehave(func(op, _ string, n int) string {
		if op == "fragment" && n == 2 {
			return "cut"
		}
		return ""
	})
	recs := []record.Record{r.film(f, 100, 4)}
	if o := r.send(t, recs); o.Done != 0 || o.Class != lane.Ambiguous {
		t.Fatalf("%+v", o)
	}
	if o := r.send(t, recs); o.Done != 1 {
		t.Fatalf("%+v", o)
	}
	id := identity.Of(&recs[0])
	if ids := r.ids("edge-07-cam1"); !slices.Equal(ids, []string{id + "/1", id + "/2", id + "/3"}) {
		t.Errorf("%q", ids)
	}
}

// Chunks of less than a second share a fragment with their neighbours.
func TestShortChunks(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	f.fps = 10
	recs := []record.Record{r.film(f, 4, 4), r.film(f, 4, 4), r.film(f, 4, 4), r.film(f, 20, 20), r.film(f, 3, 3)}
	if o := r.send(t, recs); o.Done != 5 {
		t.Fatalf("%+v", o)
	}
	if ids := r.ids("edge-07-cam1"); !slices.Equal(ids, idsOf(recs)) {
		t.Errorf("%q", ids)
	}
	n := 0
	for _, g := range r.fragments("edge-07-cam1") {
		n += len(g.blocks)
	}
	if n != 35 {
		t.Errorf("%d pictures", n)
	}
	// Alone it is the service's to judge.
	f.at = f.at.Add(time.Hour)
	if o := r.send(t, []record.Record{r.film(f, 5, 5)}); o.Class != lane.Poison || !strings.Contains(o.Err.Error(), "MIN_FRAGMENT_DURATION_REACHED") {
		t.Errorf("%+v", o)
	}
}

// Time that goes back, or stands still, is for another connection; so are
// other codec parameters.
func TestTimeGoesBack(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	recs := r.clip(f, 2)
	f.at = f.at.Add(-3 * time.Second)
	recs = append(recs, r.clip(f, 2)...)
	f.at = f.at.Add(-500 * time.Millisecond) // where the last picture was
	recs = append(recs, r.clip(f, 1)...)
	if o := r.send(t, recs); o.Done != 5 || o.Requests != 3 {
		t.Fatalf("%+v", o)
	}
	if ids := r.ids("edge-07-cam1"); !slices.Equal(ids, idsOf(recs)) {
		t.Errorf("%q", ids)
	}
}

// Several lanes that hold video of one camera share its one connection, the
// oldest first.
func TestLanesOfOneCamera(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	first, second := r.clip(f, 3), r.clip(f, 3)
	other := lane.Lane{Stream: "video", Shard: 9}
	out := r.Send(t.Context(), []lane.Batch{{Lane: other, Recs: second}, {Lane: evidence, Recs: first}})
	if out[0].Done != 3 || out[1].Done != 3 || out[0].Requests+out[1].Requests != 1 {
		t.Fatalf("%+v", out)
	}
	if ids := r.ids("edge-07-cam1"); !slices.Equal(ids, idsOf(append(first, second...))) {
		t.Errorf("%q", ids)
	}
}

// What is no video that Kinesis Video takes is set aside, in words; the rest
// goes on.
func TestWhatIsNoVideo(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	good := r.clip(f, 2)
	mp4 := f.shoot(4, 4)
	moof := bytes.Index(mp4, []byte("moof")) - 4
	vp9 := bytes.Replace(bytes.Clone(mp4), []byte("avc1\x00\x00\x00\x00\x00\x00\x00\x01"), []byte("vp09\x00\x00\x00\x00\x00\x00\x00\x01"), 1)
	gone := r.put("cam1", "video/mp4", f.at, mp4)
	delete(r.disk.chunks, gone.Chunk.Off)
	damaged := r.put("cam1", "video/mp4", f.at, mp4)
	r.disk.bad[damaged.Chunk.Off] = &record.CorruptError{Err: errors.New("checksum")}
	bare := record.Record{Key: "x", Data: []byte(`{"name":"temperature"}`), Pos: record.Pos{Shard: 3, Seq: 1000}}
	nameless := r.put("cam1", "video/mp4", f.at, mp4)
	nameless.Data = []byte("{}")
	for _, c := range []struct {
		rec  record.Record
		want string
	}{
		{r.put("cam1", "image/jpeg", f.at, []byte("\xff\xd8\xff\xe0")), "a picture (jpeg)"},
		{r.put("cam1", "video/mp2t", f.at, []byte("G")), "transport stream"},
		{r.put("cam1", "application/octet-stream", f.at, []byte("something else altogether")), "not an MP4 file"},
		{r.put("cam2", "video/mp4", f.at, mp4[moof:]), "init segment was not seen"},
		{r.put("cam1", "video/mp4", f.at, mp4[:len(mp4)-5]), "damaged"},
		{r.put("cam1", "video/mp4", f.at, vp9), `"vp09"; only H.264 and H.265`},
		{r.put("Cam 1/x", "video/mp4", f.at, mp4), "cannot be the name"},
		{gone, "kept no longer"},
		{damaged, "damaged"},
		{bare, "no video"},
		{nameless, "which camera"},
	} {
		o := r.send(t, []record.Record{good[0], c.rec, good[1]})
		if o.Done != 1 || o.Class != lane.Poison || !strings.Contains(o.Err.Error(), c.want) {
			t.Errorf("%s: %+v", c.want, o)
		}
	}
}

// An init segment is not sent; its parameters go with the fragments behind it.
func TestInitSegments(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	mp4 := f.shoot(4, 4)
	moof := bytes.Index(mp4, []byte("moof")) - 4
	recs := []record.Record{r.put("cam1", "video/mp4", began, mp4[:moof]), r.put("cam1", "video/mp4", began, mp4[moof:])}
	if o := r.send(t, recs); o.Done != 2 {
		t.Fatalf("%+v", o)
	}
	got := r.fragments("edge-07-cam1")
	if len(got) != 1 || !bytes.Contains(r.private["edge-07-cam1"], camera.SPS()) {
		t.Errorf("%d fragments, parameters %x", len(got), r.private["edge-07-cam1"])
	}
}
