package ingest

import (
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

// The formats, by the names that ?format= takes.
const (
	formatNDJSON = "ndjson"
	formatJSON   = "json"
	formatCSV    = "csv"
	formatLine   = "line"
	formatRaw    = "raw"
)

// formats maps media types to formats.
func formatOf(media string) string {
	switch media {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl", "application/jsonlines", "application/x-jsonlines":
		return formatNDJSON
	case "application/json", "text/json":
		return formatJSON
	case "text/csv":
		return formatCSV
	case "text/plain", "application/vnd.influx", "application/vnd.influx.lp", "application/vnd.influxdb.lp":
		return formatLine
	case "application/octet-stream":
		return formatRaw
	}
	return ""
}

const formatHint = "name it by Content-Type or ?format=: ndjson (application/x-ndjson), json (application/json), csv (text/csv), " +
	"line (text/plain: InfluxDB line protocol), raw (application/octet-stream: the body is one record)"

// An ask is what a request asks for.
type ask struct {
	stream    string
	maxRecord int // bytes, data and key
	format    string
	gzip      bool
	media     string // of a raw record, "" if it does not say
	key       string // of every record; "" where each has its own
	keyField  string
	timeField string
	unit      time.Duration // of a time that is a number
	delimiter rune
	atomic    bool
}

// A refusal is the answer to a request of which nothing is stored.
type refusal struct {
	status  int
	code    string
	message string
	hint    string
	retry   int      // seconds, 0: no Retry-After
	header  []string // name, value
	close   bool     // what is left of the body is not worth reading
}

func badParameter(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "parameter", message: fmt.Sprintf(format, args...)}
}

// ask reads everything but the body.
func (h *Handler) ask(r *http.Request) (*ask, *refusal) {
	name, ok := Stream(r.URL.Path)
	if !ok {
		return nil, &refusal{status: http.StatusNotFound, code: "path", message: "there is nothing at " + brief(r.URL.Path), hint: "POST " + Prefix + "{stream}"}
	}
	if r.Method != http.MethodPost {
		return nil, &refusal{
			status: http.StatusMethodNotAllowed, code: "method", message: "only POST is taken here, not " + brief(r.Method),
			header: []string{"Allow", http.MethodPost},
		}
	}
	limit, err := h.opt.MaxRecord(name)
	if err != nil {
		return nil, h.noStream(name, err)
	}
	a := &ask{stream: name, maxRecord: limit}
	q, no := query(r.URL.RawQuery)
	if no != nil {
		return nil, no
	}
	for _, step := range []func(http.Header, url.Values) *refusal{a.readFormat, a.readKey, a.readTime, a.readRest} {
		if no := step(r.Header, q); no != nil {
			return nil, no
		}
	}
	return a, nil
}

// noStream answers for a stream that is not there.
func (h *Handler) noStream(name string, err error) *refusal {
	if !errors.Is(err, record.ErrNoStream) {
		h.failures.Add(1)
		h.log.Error("stream cannot be looked up", "stream", name, "error", err)
		return &refusal{status: http.StatusInternalServerError, code: "failed", message: "the stream could not be looked up"}
	}
	return &refusal{
		status: http.StatusNotFound, code: "stream", message: "there is no stream " + brief(name),
		hint: streamHint,
	}
}

const streamHint = "a request never creates a stream: name it in the config file ([[stream]]) or make it with CreateStream"

// parameters are the names that a query may have.
var parameters = [...]string{"atomic", "delimiter", "format", "key", "key_field", "precision", "time_field"}

// query reads the query string. A raw ";" is a character like any other, so
// that delimiter=; can be written. Names are checked, because a misspelt
// key_field would change what is stored; those of a presigned request belong
// to the server.
func query(raw string) (url.Values, *refusal) {
	q, err := url.ParseQuery(strings.ReplaceAll(raw, ";", "%3B"))
	if err != nil {
		return nil, badParameter("the query string cannot be read: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		switch {
		case strings.HasPrefix(name, "X-Amz-"):
			delete(q, name)
		case !slices.Contains(parameters[:], name):
			return nil, badParameter("there is no parameter %s; there are %s", brief(name), strings.Join(parameters[:], ", "))
		case len(q[name]) > 1:
			return nil, badParameter("%s is given more than once", name)
		}
	}
	return q, nil
}

func (a *ask) readFormat(h http.Header, q url.Values) *refusal {
	given := h.Get("Content-Type")
	media, _, err := mime.ParseMediaType(given)
	if err != nil {
		media = ""
	}
	switch f := q.Get("format"); f {
	case formatNDJSON, formatJSON, formatCSV, formatLine, formatRaw:
		a.format = f
	case "":
		a.format = formatOf(media)
	default:
		return &refusal{status: http.StatusUnsupportedMediaType, code: "format", message: "there is no format " + brief(f), hint: formatHint}
	}
	if a.format == "" {
		text := "the request does not say which format it has"
		if given != "" {
			text = "no format belongs to the Content-Type " + brief(given)
		}
		return &refusal{status: http.StatusUnsupportedMediaType, code: "format", message: text, hint: formatHint}
	}
	if a.format == formatRaw && media != "application/octet-stream" && media != "application/x-www-form-urlencoded" {
		a.media = media
	}
	coding := strings.Join(h.Values("Content-Encoding"), ",")
	switch strings.ToLower(strings.TrimSpace(coding)) {
	case "", "identity":
	case "gzip", "x-gzip":
		a.gzip = true
	default:
		return &refusal{
			status: http.StatusUnsupportedMediaType, code: "encoding", message: "the Content-Encoding " + brief(coding) + " is not taken",
			hint: "gzip, or none", header: []string{"Accept-Encoding", "gzip"},
		}
	}
	return nil
}

// readKey reads where the keys come from. A format that has a key of its own
// (the series of line protocol) leaves both empty.
func (a *ask) readKey(h http.Header, q url.Values) *refusal {
	given := 0
	for _, k := range [][]string{q["key"], h.Values("X-Forebay-Key"), h.Values("X-Partition-Key")} {
		given += len(k)
		if len(k) > 0 {
			a.key = k[0]
		}
	}
	if given > 0 {
		if fault := checkKey(a.key); fault != "" {
			return badParameter("the key %s", fault)
		}
	}
	if f, ok := q["key_field"]; ok {
		given++
		a.keyField = f[0]
		if no := a.checkPath("key_field", a.keyField); no != nil {
			return no
		}
	}
	if given > 1 {
		return badParameter("the key is given more than once: write one of key, key_field, the header X-Forebay-Key and the header X-Partition-Key")
	}
	if given == 0 && a.format != formatLine {
		a.key = a.stream
	}
	return nil
}

// maxPath bounds the names of a path: each costs a walk through the record.
const maxPath = 32

func (a *ask) checkPath(name, path string) *refusal {
	switch {
	case a.format == formatRaw:
		return badParameter("%s: a raw record is not looked into", name)
	case path == "" || len(path) > 1024 || !utf8.ValidString(path):
		return badParameter("%s: %s is no name of a field", name, brief(path))
	case strings.Count(path, ".") >= maxPath:
		return badParameter("%s: a path has at most %d names", name, maxPath)
	}
	return nil
}

func (a *ask) readTime(_ http.Header, q url.Values) *refusal {
	if f, ok := q["time_field"]; ok {
		if a.format == formatLine {
			return badParameter("time_field: line protocol has a timestamp of its own")
		}
		a.timeField = f[0]
		if no := a.checkPath("time_field", a.timeField); no != nil {
			return no
		}
	}
	a.unit = time.Second
	if a.format == formatLine {
		a.unit = time.Nanosecond
	}
	if p, ok := q["precision"]; ok {
		if a.unit, ok = map[string]time.Duration{"ns": time.Nanosecond, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second}[p[0]]; !ok {
			return badParameter("precision: %s is not one of ns, us, ms, s", brief(p[0]))
		}
	}
	return nil
}

func (a *ask) readRest(_ http.Header, q url.Values) *refusal {
	a.delimiter = ','
	if d, ok := q["delimiter"]; ok {
		if a.format != formatCSV {
			return badParameter("delimiter: only csv has one, the format here is %s", a.format)
		}
		text := d[0]
		if text == "tab" {
			text = "\t"
		}
		c, size := utf8.DecodeRuneInString(text)
		if size == 0 || size != len(text) || c == '"' || c == '\r' || c == '\n' || c == 0 || c == utf8.RuneError {
			return badParameter("delimiter: %s is not one character (\"tab\" is), or one that CSV needs itself", brief(d[0]))
		}
		a.delimiter = c
	}
	if v, ok := q["atomic"]; ok {
		var err error
		if a.atomic, err = strconv.ParseBool(v[0]); err != nil {
			return badParameter("atomic: %s is not true or false", brief(v[0]))
		}
	}
	return nil
}

// checkKey says what is wrong with a partition key, "" if nothing is.
func checkKey(key string) string {
	switch {
	case key == "":
		return "is empty"
	case !utf8.ValidString(key):
		return "is not valid UTF-8"
	case len(key) > record.MaxKey && utf8.RuneCountInString(key) > record.MaxKey:
		return fmt.Sprintf("has %d characters; at most %d are allowed", utf8.RuneCountInString(key), record.MaxKey)
	}
	return ""
}

// brief quotes what a client sent, cut to what fits into a message.
func brief(s string) string {
	const most = 60
	if len(s) <= most {
		return strconv.Quote(s)
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "..."
}
