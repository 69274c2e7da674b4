package s3_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// inFront answers requests before the bucket sees them; false leaves one to it.
func (f *far) inFront(answer func(w http.ResponseWriter, r *http.Request) bool) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			f.ServeHTTP(w, r)
		}
	}))
	f.t.Cleanup(srv.Close)
	return srv.URL
}

// An answer to HEAD has no body to tell the bucket's from a portal's. What has
// no mark of S3 is believed only where a list says the same.
func TestAPortalThatAnswersHead(t *testing.T) {
	page := func(w http.ResponseWriter, status int) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		fmt.Fprint(w, "<html>Welcome</html>")
	}
	for _, c := range []struct {
		name string
		head func(w http.ResponseWriter)
	}{
		{"404", func(w http.ResponseWriter) { w.WriteHeader(404) }},
		{"404 of a page", func(w http.ResponseWriter) { page(w, 404) }},
		{"200", func(w http.ResponseWriter) { w.Header().Set("ETag", `"x"`); w.WriteHeader(200) }},
		{"200 of a page", func(w http.ResponseWriter) { w.Header().Set("ETag", `"x"`); page(w, 200) }},
		{"200 without a word", func(w http.ResponseWriter) { w.WriteHeader(200) }},
		{"403 of a page", func(w http.ResponseWriter) { page(w, 403) }},
		{"301 of a page", func(w http.ResponseWriter) { w.Header().Set("Location", "http://login.test/"); page(w, 301) }},
		{"302", func(w http.ResponseWriter) { w.Header().Set("Location", "http://login.test/"); w.WriteHeader(302) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFar(t)
			sendAll(t, f.open(s3.Config{}), batchOf(laneOf(1), 1, 3))
			portal := false
			url := f.inFront(func(w http.ResponseWriter, r *http.Request) bool {
				// It comes up behind the list, which finds the object.
				if portal = portal || r.Method == http.MethodHead; !portal {
					return false
				}
				if r.Method == http.MethodHead {
					c.head(w)
				} else {
					page(w, 200)
				}
				return true
			})
			s := f.open(s3.Config{Access: aws.Access{Endpoint: url}})
			for range 2 {
				portal = false
				o := s.Send(t.Context(), []lane.Batch{batchOf(laneOf(1), 1, 5)})[0]
				if o.Done != 0 || o.Class != lane.Offline || !strings.Contains(o.Err.Error(), "not S3") {
					t.Errorf("%+v", o)
				}
			}
			if n := len(f.keys()); n != 2 {
				t.Errorf("%d objects", n)
			}
			sendAll(t, f.open(s3.Config{}), batchOf(laneOf(1), 1, 5))
			f.exactly(laneOf(1), 5)
		})
	}
}

// A store that sets none of S3's headers is one all the same.
func TestAStoreWithoutMarks(t *testing.T) {
	f := newFar(t)
	url := f.inFront(func(w http.ResponseWriter, r *http.Request) bool {
		rec := httptest.NewRecorder()
		f.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			if k != "X-Amz-Request-Id" {
				w.Header()[k] = v
			}
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()) // the client may have gone
		return true
	})
	b := batchOf(laneOf(1), 1, 5)
	b.Recs[2].Blob, b.Recs[2].Type = []byte("a picture"), "image/jpeg"
	for range 2 {
		sendAll(t, f.open(s3.Config{Access: aws.Access{Endpoint: url}}), b)
	}
	f.exactly(laneOf(1), 5)
	if n := len(f.keys()); n != 3 {
		t.Errorf("objects %q", f.keys())
	}
}

// A log is one whose records arrived as recordOf makes them, up to, and not
// with, end; late is how much later they did in truth.
type log struct {
	end  uint64
	late time.Duration
}

func (l log) Began() uint64 { return 1 }
func (l log) Again() bool   { return false }
func (l log) Since() uint64 { return l.Began() }
func (l log) End() uint64   { return l.end }
func (l log) Arrived(seq uint64) (time.Time, bool, error) {
	return noon.Add(time.Duration(seq)*time.Second + l.late), seq < l.end, nil
}

// An object that another log has made, or another shape, is not taken for what
// is to be sent.
func TestAnObjectSpeaksOfWhatWasSent(t *testing.T) {
	whole := log{1000, 0}
	for _, c := range []struct {
		name, shape, other string
		log                log
		origin             *record.Origin
		words              string
	}{
		{name: "the same", log: whole, shape: "aa", other: "aa"},
		{name: "an older copy", log: log{15, 0}, words: "the newest that is here is 14"},
		{name: "an older copy that has grown", log: log{1000, 1}, words: "arrived at"},
		{name: "another shape", log: whole, shape: "aa", other: "bb", words: "another shape"},
		{name: "restored", log: log{15, 0}, origin: &record.Origin{Gateway: identity.Gateway, Epoch: 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFar(t)
			b := batchOf(laneOf(1), 1, 20)
			for i := range b.Recs {
				b.Recs[i].Origin = c.origin
			}
			b.Place = whole
			sendAll(t, f.open(s3.Config{}, lane.Home{ID: identity, Shape: c.shape}), b)
			b.Recs, b.Place = b.Recs[:10], c.log
			s := f.open(s3.Config{}, lane.Home{ID: identity, Shape: c.other})
			if c.words == "" {
				sendAll(t, s, b)
				return
			}
			for range 2 {
				if o := s.Send(t.Context(), []lane.Batch{b})[0]; o.Done != 0 || o.Class != lane.Misconfigured || !strings.Contains(o.Err.Error(), c.words) {
					t.Errorf("%+v", o)
				}
			}
			sendAll(t, f.open(s3.Config{Prefix: "again"}, lane.Home{ID: identity, Shape: c.other}), b)
		})
	}
}
