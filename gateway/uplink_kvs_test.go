package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/firmware-sim/camera"
	"forebay/gateway/api"
)

// A screening is a Kinesis Video that persists what it is sent, and keeps it.
// It looks at nothing: uplink/kvs tests against one that does.
type screening struct {
	*httptest.Server
	mu    sync.Mutex
	films map[string][]byte // by stream, all that came
	cut   int               // requests that are cut off after they were taken
}

func newScreening(t *testing.T) *screening {
	s := &screening{films: map[string][]byte{}, cut: 2}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *screening) film(stream string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.films[stream])
}

func (s *screening) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the gateway was killed
	}
	switch r.URL.Path {
	case "/describeStream":
		fmt.Fprint(w, `{"StreamInfo":{"Status":"ACTIVE","DataRetentionInHours":24}}`)
	case "/getDataEndpoint":
		fmt.Fprintf(w, `{"DataEndpoint":%q}`, s.URL)
	case "/putMedia":
		s.mu.Lock()
		defer s.mu.Unlock()
		stream := r.Header.Get("X-Amzn-Stream-Name")
		s.films[stream] = append(s.films[stream], body...)
		if s.cut--; s.cut >= 0 {
			panic(http.ErrAbortHandler)
		}
		// A cluster, its size in three bytes or so, and its time.
		for _, c := range bytes.Split(body, []byte{0x1f, 0x43, 0xb6, 0x75})[1:] {
			if i := bytes.Index(c[:min(16, len(c))], []byte{0xe7, 0x86}); i >= 0 {
				ms := binary.BigEndian.Uint64(append([]byte{0, 0}, c[i+2:i+8]...))
				fmt.Fprintf(w, `{"EventType":"PERSISTED","FragmentTimecode":%d,"FragmentNumber":"1"}`, ms)
			}
		}
	}
}

// Chunks that a camera pushes to a stream of class evidence arrive at Kinesis
// Video, each picture as it was pushed and in order, whatever is cut off and
// however the gateway ends; the stills beside them are filtered.
func TestEvidenceGoesToKinesisVideo(t *testing.T) {
	far := newScreening(t)
	g := startGateway(t, "cell", strings.NewReplacer("NAME", "cell", "STREAM", "sensors").Replace(hopConfig)+`
[[stream]]
name = "evidence"
class = "evidence"
[video]
stream = "evidence"
[[uplink]]
id = "clips"
streams = ["evidence"]
[[uplink.shape]]
when = 'codec != "jpeg"'
[uplink.kvs]
endpoint = "`+far.URL+`"
region = "eu-central-1"
access_key = "any"
secret_key = "any"
`)
	scene, at := camera.NewScene(1), time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	var enc camera.Encoder
	var pictures [][]byte
	const chunks, fps, each = 8, 2, 4
	for n := range chunks {
		c := camera.Chunk{Number: uint32(n + 1), Frame: uint64(n * each), FPS: fps}
		for i := range each {
			var p camera.Picture
			scene.Draw(&p, uint64(n*each+i), at)
			nal, key := enc.Encode(&p, i == 0)
			c.Samples = append(c.Samples, camera.Sample{NAL: nal, Key: key})
			pictures = append(pictures, nal)
		}
		pushVideo(t, g, fmt.Sprintf("chunk-%d.mp4", n), at, c.MP4())
		pushVideo(t, g, fmt.Sprintf("still-%d.jpg", n), at, []byte("\xff\xd8\xff\xe0 a still"))
		at = at.Add(each * time.Second / fps)
		if n == 3 {
			g.kill()
			g.start(t, "cell")
		}
	}
	eventually(t, 60*time.Second, "everything is delivered", func() bool {
		u, err := g.client.Uplinks(context.Background())
		return err == nil && len(u) == 1 && u[0].Waiting == 0
	})
	film := far.film("cell-cam1")
	place := 0
	for i, p := range pictures {
		// What came twice stands behind what came first.
		k := bytes.Index(film[place:], p)
		if k < 0 {
			t.Fatalf("picture %d did not arrive, or not in order", i)
		}
		place += k
	}
	ids := 0
	for r, err := range g.client.Records(t.Context(), api.Tail{Stream: "evidence"}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Type == "video/mp4" {
			ids++
			if !bytes.Contains(film, []byte(r.ID)) {
				t.Errorf("%s is not with its fragment", r.ID)
			}
		}
	}
	if ids != chunks {
		t.Errorf("%d chunks are stored", ids)
	}
	g.sound(t)
}

func pushVideo(t *testing.T, g *gw, name string, at time.Time, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+g.api+"/video/cam1/"+name, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Forebay-Start", at.Format(time.RFC3339Nano))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s %s %v", name, resp.Status, text, err)
	}
	resp.Body.Close()
}
