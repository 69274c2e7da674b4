package kvs_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"forebay/firmware-sim/camera"
	"forebay/spool/record"
	"forebay/uplink/kvs"
)

// A chunk goes from disk to the link as it is read: memory does not grow with
// it.
func TestMemory(t *testing.T) {
	c := camera.Chunk{Number: 1, FPS: 2}
	nal := bytes.Repeat([]byte{0x65}, 2<<20)
	for range 28 { // 14 s, 56 MiB: two fragments
		c.Samples = append(c.Samples, camera.Sample{NAL: nal, Key: true})
	}
	starts := []int64{began.UnixMilli(), began.UnixMilli() + 9500}
	far := httptest.NewUnstartedServer(nil)
	far.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		switch {
		case err != nil:
			t.Error(err)
		case r.URL.Path == "/describeStream":
			fmt.Fprint(w, `{"StreamInfo":{"Status":"ACTIVE","DataRetentionInHours":1}}`)
		case r.URL.Path == "/getDataEndpoint":
			fmt.Fprintf(w, `{"DataEndpoint":%q}`, far.URL)
		default:
			for _, ms := range starts {
				fmt.Fprintf(w, `{"EventType":"PERSISTED","FragmentTimecode":%d}`, ms)
			}
			if n < 56<<20 {
				t.Errorf("%d bytes arrived", n)
			}
		}
	})
	far.Start()
	defer far.Close()
	r := newRig(t, func(c *kvs.Config) { c.Endpoint = far.URL })
	r.Hurry()
	recs := []record.Record{r.put("cam1", "video/mp4", began, c.MP4())}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o := r.send(t, recs)
	runtime.ReadMemStats(&after)
	if o.Done != 1 {
		t.Fatalf("%+v", o)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes were allocated for a chunk of %d", grown, recs[0].Chunk.Len)
	}
}
