package uplink_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	nethttp "net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"sync"
	"testing"

	"forebay/uplink"
	"forebay/uplink/lane"
	"forebay/uplink/opensearch"
)

// cluster takes bulk requests as OpenSearch does: each document by itself,
// under the id it comes with, and misbehaves as it is told.
type cluster struct {
	t    *testing.T
	cfg  opensearch.Config
	srv  *httptest.Server
	mu   sync.Mutex
	flaw func() string
	docs map[string]clusterDoc // by index and id
}

type clusterDoc struct {
	ID     string `json:"id"`
	Stream string `json:"stream"`
	Shard  uint32 `json:"shard"`
	Seq    uint64 `json:"seq"`
	Data   map[string]json.RawMessage
	Value  json.RawMessage
	Text   *string
	Base64 []byte `json:"data_b64"`
}

// payload is what the record held.
func (d clusterDoc) payload() string {
	switch {
	case d.Data != nil:
		return string(d.Data[d.Stream])
	case d.Value != nil:
		return string(d.Value)
	case d.Text != nil:
		return *d.Text
	}
	return string(d.Base64)
}

const clusterLimit = 1 << 20

// newCluster starts one, and completes a config that leads to it.
func newCluster(t *testing.T, cfg *opensearch.Config) *cluster {
	c := &cluster{t: t, docs: map[string]clusterDoc{}}
	c.srv = httptest.NewServer(c)
	t.Cleanup(c.srv.Close)
	cfg.URL = c.srv.URL
	c.cfg = cfg.WithDefaults()
	return c
}

// misbehave makes it fail in the ways that f names.
func (c *cluster) misbehave(f func() string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flaw = f
}

var clusterFlaws = []string{
	"500 after", "cut after", "cut before", "429", "503", "html", "html after", "redirect", "items 429", "items 503", "items 500", "short answer", "other json",
}

func opensearchFar(t *testing.T, cfg opensearch.Config) (uplink.Sink, *far) {
	c := newCluster(t, &cfg)
	s, err := uplink.New(uplink.Config{ID: "x", OpenSearch: &cfg}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, &far{
		payloads: func(l lane.Lane) (out []string) {
			for _, d := range c.lane(l) {
				out = append(out, d.payload())
			}
			return out
		},
		flaky: func(on bool) {
			rng := rand.New(rand.NewPCG(7, 8))
			c.misbehave(func() string {
				if !on || rng.IntN(5) == 0 {
					return ""
				}
				return clusterFlaws[rng.IntN(len(clusterFlaws))]
			})
		},
		gone:     c.srv.Close,
		largest:  700 << 10,
		tooLarge: clusterLimit,
	}
}

// lane gives a lane's documents as a query sorts them: an index has no order
// but that.
func (c *cluster) lane(l lane.Lane) (of []clusterDoc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.docs {
		if d.Stream == l.Stream && d.Shard == uint32(l.Shard) {
			of = append(of, d)
		}
	}
	slices.SortFunc(of, func(a, b clusterDoc) int { return cmp.Compare(a.Seq, b.Seq) })
	for i, d := range of {
		if i > 0 && of[i-1].Seq == d.Seq {
			c.t.Errorf("%s is there twice", d.ID)
		}
	}
	return of
}

func (c *cluster) ServeHTTP(w nethttp.ResponseWriter, r *nethttp.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	flaw := ""
	if c.flaw != nil {
		flaw = c.flaw()
	}
	switch flaw {
	case "cut before":
		panic(nethttp.ErrAbortHandler)
	case "429":
		clusterError(w, 429, "es_rejected_execution_exception", "rejected execution of coordinating operation")
		return
	case "503":
		clusterError(w, 503, "master_not_discovered_exception", "")
		return
	case "redirect":
		nethttp.Redirect(w, r, "http://portal.invalid/login", nethttp.StatusFound)
		return
	case "html":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>Welcome</html>")
		return
	case "other json":
		fmt.Fprint(w, `{"status":"ok"}`)
		return
	}
	switch {
	case r.URL.Path == "/_bulk" && r.Method == nethttp.MethodPost:
		c.bulk(w, r, body, flaw)
	case r.URL.Path == "/_index_template/forebay-x" && r.Method == nethttp.MethodGet:
		clusterError(w, 404, "resource_not_found_exception", "index template matching [forebay-x] not found")
	case r.URL.Path == "/_index_template/forebay-x" && r.Method == nethttp.MethodPut:
		fmt.Fprint(w, `{"acknowledged":true}`)
	case r.URL.Path == "/" && r.Method == nethttp.MethodGet:
		fmt.Fprint(w, `{"name":"n","cluster_name":"c","version":{"distribution":"opensearch","number":"2.11.0"},"tagline":"The OpenSearch Project: https://opensearch.org/"}`)
	default:
		c.t.Errorf("%s %s", r.Method, r.URL)
		clusterError(w, 400, "illegal_argument_exception", "no handler found")
	}
}

func clusterError(w nethttp.ResponseWriter, status int, kind, reason string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "error": map[string]any{"type": kind, "reason": reason}}) // the client may have gone
}

var clusterIndexRE = regexp.MustCompile(`^forebay-(s|mqtt|alarms)-\d{4}\.\d\d\.\d\d$`)

func (c *cluster) bulk(w nethttp.ResponseWriter, r *nethttp.Request, body []byte, flaw string) {
	text, err := decoded(r.Header.Get("Content-Encoding"), body)
	if err != nil || r.Header.Get("Content-Type") != "application/x-ndjson" {
		c.t.Errorf("body of %s: %v", r.Header.Get("Content-Type"), err)
	}
	if len(text) > clusterLimit {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(413)
		return
	}
	lines := bytes.Split(text, []byte("\n"))
	if len(lines)%2 != 1 || len(lines[len(lines)-1]) != 0 {
		c.t.Errorf("%d lines", len(lines))
		clusterError(w, 400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
		return
	}
	var items []map[string]any
	for i := 0; i+1 < len(lines); i += 2 {
		status, kind := c.put(lines[i], lines[i+1], flaw, i/2)
		it := map[string]any{"status": status}
		if status >= 300 {
			it["error"] = map[string]any{"type": kind, "reason": "[x]: " + kind}
		}
		items = append(items, map[string]any{c.cfg.Op: it})
	}
	switch flaw {
	case "500 after":
		clusterError(w, 500, "null_pointer_exception", "")
		return
	case "cut after":
		panic(nethttp.ErrAbortHandler)
	case "html after":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>gateway</html>")
		return
	case "short answer":
		items = items[:len(items)-1]
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": true, "items": items}) // the client may have gone
}

// put stores one document.
func (c *cluster) put(action, source []byte, flaw string, n int) (status int, kind string) {
	var a map[string]struct {
		Index string `json:"_index"`
		ID    string `json:"_id"`
	}
	var d clusterDoc
	if err := json.Unmarshal(action, &a); err != nil || len(a) != 1 {
		c.t.Errorf("action %q: %v", action, err)
	}
	if err := json.Unmarshal(source, &d); err != nil {
		c.t.Errorf("source %.200q: %v", source, err)
	}
	to, ok := a[c.cfg.Op]
	if !ok || !clusterIndexRE.MatchString(to.Index) || to.ID != d.ID || to.ID == "" {
		c.t.Errorf("action %q of %s", action, d.ID)
	}
	switch {
	case bytes.Contains(source, []byte("<<invalid>>")):
		return 400, "mapper_parsing_exception"
	case flaw == "items 429" && n%3 == 1:
		return 429, "es_rejected_execution_exception"
	case flaw == "items 503" && n%4 == 0:
		return 503, "unavailable_shards_exception"
	case flaw == "items 500" && n%4 == 1:
		c.docs[to.Index+" "+to.ID] = d
		return 500, "exception"
	}
	if _, there := c.docs[to.Index+" "+to.ID]; there {
		if c.cfg.Op == "create" {
			return 409, "version_conflict_engine_exception"
		}
		status--
	}
	c.docs[to.Index+" "+to.ID] = d
	return status + 201, ""
}
