package opensearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// Probe asks the cluster for its name and version: the cheapest request that
// proves name lookup, connection, TLS, credentials and that it is the product.
func (s *Sink) Probe(ctx context.Context) error {
	a, _, e := s.to.call(ctx, http.MethodGet, "/", nil)
	if e != nil {
		// Who may write need not be allowed to look, and Serverless has
		// nothing here.
		if a != nil && causeOf(a.Body) != nil && (a.Status == http.StatusForbidden || s.to.serverless() && a.Status == http.StatusNotFound) && e.Class != lane.ClockSkew {
			return nil
		}
		if e.Class == lane.Ambiguous {
			e.Class = lane.Offline // nothing was to be committed
		}
		return e
	}
	v, err := product(a.Body)
	if err != nil {
		if s.to.serverless() {
			return nil
		}
		e := a.Portal()
		if !errors.Is(err, errNotProduct) {
			e = &lane.Error{Class: lane.Misconfigured, Text: err.Error()}
		}
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.version != v {
		s.version = v
		s.log.Info("target answers", "target", s.cfg.URL, "version", v)
	}
	return nil
}

var errNotProduct = errors.New("neither OpenSearch nor Elasticsearch")

// product reads what a cluster says of itself: "OpenSearch 2.11.0".
func product(body []byte) (string, error) {
	var in struct {
		Tagline string
		Version struct{ Number, Distribution string }
	}
	if json.Unmarshal(body, &in) != nil {
		return "", errNotProduct
	}
	what := ""
	switch {
	case in.Version.Distribution == "opensearch":
		what = "OpenSearch"
	case strings.Contains(in.Tagline, "for Search"):
		what = "Elasticsearch"
	default:
		return "", errNotProduct
	}
	major, _, _ := strings.Cut(in.Version.Number, ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		return "", errNotProduct
	}
	v := what + " " + web.Short(in.Version.Number)
	if what == "Elasticsearch" && n < 7 {
		return "", fmt.Errorf("the target is %s; 7.8 is the first that this uplink can use", v)
	}
	return v, nil
}

// prepare makes sure, once, that there is an index template for what the
// uplink is about to create. One that is there stays as it is.
func (s *Sink) prepare(ctx context.Context) *lane.Error {
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if ready {
		return nil
	}
	of, _, _ := strings.Cut(s.home.Uplink, "~") // what is sent beside an uplink goes by its template
	path := "/_index_template/forebay-" + of
	a, _, e := s.to.call(ctx, http.MethodGet, path, nil)
	if e != nil && a != nil && a.Status == http.StatusNotFound && json.Valid(a.Body) {
		a, _, e = s.to.call(ctx, http.MethodPut, path, s.template())
	}
	switch {
	case e == nil:
	case a != nil && a.Status == http.StatusForbidden && e.Class == lane.Auth:
		s.log.Warn("the index template cannot be looked after; set template to \"off\" if somebody else does", "error", e)
	case a != nil && e.Class == lane.Misconfigured:
		e.Text = "the index template cannot be created; create one yourself and set template to \"off\": " + e.Text
		return e
	default:
		if e.Class == lane.Ambiguous {
			e.Class = lane.Transient // no record was under way
		}
		return e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = true
	return nil
}

// template is the index template: our own fields with their types, and for
// payloads few surprises. A number is a double whether the first one has
// decimals or not, a text that looks like a date stays a text, and a value that
// does not fit its field is kept and not searched.
func (s *Sink) template() []byte {
	type m = map[string]any
	keyword := m{"type": "keyword", "ignore_above": 8191}
	date := m{"type": "date"}
	body := m{
		"index_patterns": []string{s.name.all()},
		"priority":       120,
		"_meta":          m{"description": "made by the uplink " + s.home.Uplink},
		"template": m{
			"settings": m{"index": m{"mapping": m{"ignore_malformed": true}}},
			"mappings": m{
				"date_detection": false,
				"dynamic_templates": []m{
					{"numbers": m{"path_match": "data.*", "match_mapping_type": "long", "mapping": m{"type": "double"}}},
					{"texts": m{"path_match": "data.*", "match_mapping_type": "string", "mapping": m{"type": "keyword", "ignore_above": 1024}}},
				},
				"properties": m{
					"@timestamp": m{"type": "date", "ignore_malformed": false},
					"at":         date, "arrived": date,
					"id": keyword, "via": keyword, "gateway": keyword, "epoch": keyword,
					"shard": m{"type": "long"}, "seq": m{"type": "long"}, "part": m{"type": "long"},
					"stream": keyword, "key": keyword, "source": keyword, "type": keyword, "attrs": keyword,
					"chunk": m{"type": "long"}, "data": m{"type": "object"}, "value": m{"type": "double"},
					"text":     m{"type": "text", "fields": m{"raw": m{"type": "keyword", "ignore_above": 1024}}},
					"data_b64": m{"type": "binary"},
				},
			},
		},
	}
	if s.cfg.DataStream {
		body["data_stream"] = m{}
	}
	out, err := json.Marshal(body)
	if err != nil { // of texts and numbers
		return []byte("{}")
	}
	return out
}

// pageSize is how many documents ReadBack asks for at a time.
const pageSize = 5000

// ReadBack calls held with the stream's name in the index and the id of every
// record that this gateway has sent and that the target holds now, of each shard
// in the order of its sequence numbers; from and to bound the arrival, zero is no
// bound. It needs the mappings of the uplink's own template.
func (s *Sink) ReadBack(ctx context.Context, from, to time.Time, held func(under, id string) error) error {
	index := "/" + s.name.all()
	const open = "?ignore_unavailable=true&allow_no_indices=true"
	if !s.to.serverless() {
		// What was written lately can be searched only after a refresh. Who may
		// read need not be allowed one.
		if a, _, e := s.to.call(ctx, http.MethodPost, index+"/_refresh"+open, nil); e != nil && (a == nil || a.Status != http.StatusForbidden) {
			return fmt.Errorf("refresh %s: %w", index, e)
		}
	}
	type m = map[string]any
	filter := []m{{"term": m{"via": s.home.ID.Gateway}}}
	if span := (m{}); !from.IsZero() || !to.IsZero() {
		if !from.IsZero() {
			span["gte"] = from.UTC().Format(time.RFC3339Nano)
		}
		if !to.IsZero() {
			span["lt"] = to.UTC().Format(time.RFC3339Nano)
		}
		filter = append(filter, m{"range": m{"arrived": span}})
	}
	var sort []m
	for _, f := range []struct{ name, kind string }{{"gateway", "keyword"}, {"epoch", "keyword"}, {"shard", "long"}, {"seq", "long"}, {"id", "keyword"}} {
		sort = append(sort, m{f.name: m{"order": "asc", "unmapped_type": f.kind}})
	}
	query := m{
		"size": pageSize, "_source": []string{"id", "stream"}, "track_total_hits": false,
		"query": m{"bool": m{"filter": filter}}, "sort": sort,
	}
	for {
		body, err := json.Marshal(query)
		if err != nil {
			return fmt.Errorf("write a query: %w", err)
		}
		a, _, e := s.to.call(ctx, http.MethodPost, index+"/_search"+open, body)
		if e != nil {
			return fmt.Errorf("search %s: %w", index, e)
		}
		hits, err := parseHits(a.Body)
		if err != nil {
			return fmt.Errorf("search %s: %w", index, err)
		}
		for _, h := range hits {
			under, ok := s.name.stream(h.Index)
			if !ok { // an alias, with an index of any name behind it
				under = s.Under(h.Source.Stream)
			}
			if err := held(under, h.Source.ID); err != nil {
				return err
			}
		}
		if len(hits) < pageSize {
			return nil
		}
		query["search_after"] = hits[len(hits)-1].Sort
	}
}

// Under is a stream's name as it stands in the names of indices, empty where
// it does not.
func (s *Sink) Under(stream string) string {
	under, _ := s.name.stream(s.name.of(stream, time.Unix(0, 0)))
	return under
}

// A hit is a document that was found.
type hit struct {
	Index  string `json:"_index"`
	Source struct {
		ID     string `json:"id"`
		Stream string `json:"stream"`
	} `json:"_source"`
	Sort json.RawMessage `json:"sort"`
}

// parseHits reads the answer to a search. One that tells of a part of the
// documents only is an error.
func parseHits(body []byte) ([]hit, error) {
	var in struct {
		TimedOut bool                  `json:"timed_out"`
		Shards   *struct{ Failed int } `json:"_shards"`
		Hits     *struct{ Hits []hit }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("not the answer to a search: %w", err)
	}
	if in.Hits == nil || in.Shards == nil {
		return nil, errors.New("not the answer to a search")
	}
	if in.TimedOut || in.Shards.Failed > 0 {
		return nil, fmt.Errorf("the answer is not whole: timed out %t, %d shards failed", in.TimedOut, in.Shards.Failed)
	}
	for _, h := range in.Hits.Hits {
		if h.Source.ID == "" || len(h.Sort) == 0 {
			return nil, errors.New("a document that was found has no id")
		}
	}
	return in.Hits.Hits, nil
}
