package s3_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// An alarm does not wait until large objects are through.
func TestAnAlarmPassesObjectsUnderWay(t *testing.T) {
	f := newFar(t)
	alarm := make(chan struct{})
	f.srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "press") {
			select {
			case <-alarm: // bulk gets nowhere before the alarm is there
			case <-r.Context().Done():
			}
		}
		f.ServeHTTP(w, r)
	})
	s := f.open(s3.Config{})
	var bulk sync.WaitGroup
	for n := range 8 {
		bulk.Go(func() {
			b := batchOf(laneOf(n+1), 1, 10)
			if o := s.Send(t.Context(), []lane.Batch{b}); o[0].Class != lane.OK || o[0].Done != 10 {
				t.Errorf("bulk: %+v", o[0])
			}
		})
	}
	b := batchOf(lane.Lane{Stream: "alarms", Shard: 99}, 1, 1)
	b.Urgent = true
	if o := s.Send(t.Context(), []lane.Batch{b}); o[0].Class != lane.OK || o[0].Done != 1 {
		t.Errorf("alarm: %+v", o[0])
	}
	close(alarm)
	bulk.Wait()
}
