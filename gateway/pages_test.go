package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// inPages is a Kinesis endpoint with one shard on each page of a list, as one
// that has thousands of them has a thousand. Whoever reads it up to the test's
// end must have asked for a further page.
func inPages(t *testing.T, kinesis string) (addr string) {
	t.Helper()
	var further atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: kinesis})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The body is taken whole: one that is still being passed on when the
		// answer comes is closed under the transport's hands, and the answer with it.
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client has gone
		}
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".ListShards") {
			var in map[string]any
			if err := json.Unmarshal(b, &in); err != nil {
				t.Errorf("ListShards: %v", err)
			}
			if in["NextToken"] != nil {
				further.Add(1)
			}
			in["MaxResults"] = 1
			if b, err = json.Marshal(in); err != nil {
				t.Error(err)
			}
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		srv.Close()
		if further.Load() == 0 {
			t.Error("nobody asked for a further page of shards")
		}
	})
	return srv.Listener.Addr().String()
}
