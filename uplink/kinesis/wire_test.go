package kinesis_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"forebay/uplink/kinesis"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A picky target takes JSON, and does with CBOR what answer says. It may be
// asked by one Send at a time.
type picky struct {
	answer func(w http.ResponseWriter, in put) (taken bool)
	plain  func(w http.ResponseWriter, in put) (taken bool) // of JSON; nil: it takes it
	forms  []string                                         // of the PutRecords requests
	taken  []string                                         // payloads
}

func (p *picky) serve(t *testing.T) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".PutRecords") {
			fmt.Fprint(w, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("request: %v", err)
		}
		var in put
		form, unmarshal := "json", json.Unmarshal
		if r.Header.Get("Content-Type") == cborMedia {
			form, unmarshal = "cbor", cbor.Unmarshal
		}
		if err := unmarshal(body, &in); err != nil {
			t.Errorf("request: %v", err)
		}
		p.forms = append(p.forms, form)
		if form == "cbor" && !p.answer(w, in) || form == "json" && p.plain != nil && !p.plain(w, in) {
			return
		}
		for _, rec := range in.Records {
			a, err := kpl.Decode(rec.Data)
			if err != nil {
				p.taken = append(p.taken, string(rec.Data))
				continue
			}
			for _, u := range a.All() {
				p.taken = append(p.taken, string(u.Data))
			}
		}
		if form == "json" {
			accept(w, in)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

func answering(status int, kind, text string) func(http.ResponseWriter, put) bool {
	return func(w http.ResponseWriter, _ put) bool {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, text)
		return false
	}
}

// A target that does not understand CBOR gets JSON from then on: every record
// once, in order, no class but OK, and a line in the log.
func TestFallsBackToJSON(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, in put) bool{
		"404 unknown operation": answering(404, "application/json", `{"__type":"UnknownOperationException"}`),
		"400 serialization":     answering(400, "application/json", `{"__type":"com.amazon.coral.service#SerializationException"}`),
		"415 of a server":       answering(415, "text/plain", "unsupported media type"),
		"400 of a server":       answering(400, "text/html", "<h1>Bad Request</h1>"),
		"501 of a server":       answering(501, "text/plain", "not implemented"),
		"501 with a code":       answering(501, "application/json", `{"__type":"NotImplementedException"}`),
		"403 of a firewall":     answering(403, "text/html", "<html>Request content type is not allowed by policy</html>"),
		"403 with a message":    answering(403, "application/json", `{"message":"Forbidden"}`),
		"nothing in the body":   answering(400, "application/json", `{"__type":"ValidationException","message":"1 validation error detected: Value null at 'records' failed to satisfy constraint"}`),
		"in CBOR all the same":  answering(400, cborMedia, "\xa1\x66__type\x76SerializationException"),
		"taken, said in JSON":   func(w http.ResponseWriter, in put) bool { accept(w, in); return true },
	} {
		t.Run(name, func(t *testing.T) {
			target := &picky{answer: answer}
			var logged bytes.Buffer
			cfg := config(target.serve(t).URL)
			cfg.Format = "raw"
			s, err := kinesis.New(cfg, lane.Home{ID: identity, Log: slog.New(slog.NewTextHandler(&logged, nil))})
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for i := range 3 {
				payloads := []string{fmt.Sprint("a", i), fmt.Sprint("b", i)}
				want = append(want, payloads...)
				if o := s.Send(t.Context(), []lane.Batch{batch(1, payloads...)})[0]; o.Done != 2 || o.Class != lane.OK {
					t.Fatalf("%+v", o)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(target.taken, want) {
				t.Errorf("taken %v, want %v", target.taken, want)
			}
			if n := len(target.forms); target.forms[0] != "cbor" || slices.Contains(target.forms[1:], "cbor") || n > 4 {
				t.Errorf("requests %v", target.forms)
			}
			if n := strings.Count(logged.String(), "does not speak CBOR"); n != 1 {
				t.Errorf("logged %d times: %s", n, logged.String())
			}
		})
	}
}

// What says nothing of the form does not change it: the class is as ever, and
// the next request is CBOR again.
func TestStaysWithCBOR(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, in put) bool
		class  lane.Class
	}{
		"portal":       {answering(200, "text/html", "<html>Welcome</html>"), lane.Offline},
		"forbidden":    {answering(403, "application/json", `{"__type":"AccessDeniedException"}`), lane.Auth}, // without a code it may be a firewall that minds the media type
		"busy":         {answering(503, "", ""), lane.Transient},
		"failure":      {answering(500, "application/json", `{"__type":"InternalFailure"}`), lane.Ambiguous},
		"throttles":    {answering(400, cborMedia, "\xbf\x66__type\x76LimitExceededException\x67Message\x7f\x62no\xff\xff"), lane.Throttled},
		"credentials":  {answering(400, cborMedia, "\xa1\x66__type\x75ExpiredTokenException"), lane.Auth},
		"tagged":       {answering(400, cborMedia, "\xd9\xd9\xf7\xa1\x66__type\x75ExpiredTokenException"), lane.Auth},
		"no stream":    {answering(400, cborMedia, "\xa1\x66__type\x78\x19ResourceNotFoundException"), lane.Misconfigured},
		"too large":    {answering(413, "", ""), lane.Poison},
		"cut CBOR":     {answering(200, cborMedia, "\xbf\x67Records\x9f\xa1\x6eSequenceNumber\x611"), lane.Offline},
		"too few":      {answering(200, cborMedia, "\xa1\x67Records\x80"), lane.Offline},
		"too many":     {answering(200, cborMedia, "\xa1\x67Records\x82\xa1\x6eSequenceNumber\x611\xa1\x6eSequenceNumber\x611"), lane.Offline},
		"two lists":    {answering(200, cborMedia, "\xa2\x67Records\x80\x67Records\x81\xa1\x6eSequenceNumber\x611"), lane.Offline},
		"says nothing": {answering(200, cborMedia, "\xa1\x67Records\x81\xa1\x6eSequenceNumber\xf6"), lane.Ambiguous},
		"code, none":   {answering(200, cborMedia, "\xa1\x67Records\x81\xa3\x69ErrorCode\x6fInternalFailure\x69ErrorCode\xf6\x6eSequenceNumber\x611"), lane.Offline},
		"none, number": {answering(200, cborMedia, "\xa1\x67Records\x81\xa2\x6eSequenceNumber\xf6\x6eSequenceNumber\x611"), lane.Offline},
		"no UTF-8":     {answering(200, cborMedia, "\xa1\x67Records\x81\xa1\x6eSequenceNumber\x61\xff"), lane.Offline},
		"one failed":   {answering(200, cborMedia, "\xa2\x71FailedRecordCount\x01\x67Records\x81\xa1\x6eSequenceNumber\x611"), lane.Ambiguous},
		"and is named": {answering(200, cborMedia, "\xa2\x67Records\x81\xa1\x69ErrorCode\x6fInternalFailure\x71FailedRecordCount\x01"), lane.Transient},
		"an entry":     {answering(200, cborMedia, "\xa1\x67Records\x81\xa2\x6eSequenceNumber\xf6\x69ErrorCode\x6fInternalFailure"), lane.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			target := &picky{answer: c.answer}
			s := open(t, config(target.serve(t).URL))
			for range 2 {
				if o := s.Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 0 || o.Class != c.class {
					t.Fatalf("%+v, want %v", o, c.class)
				}
			}
			if slices.Contains(target.forms, "json") {
				t.Errorf("requests %v", target.forms)
			}
		})
	}
}

// What forbids JSON as well is no firewall that minds the form: what it says of
// JSON counts, and CBOR is tried first the next time.
func TestForbiddenInBothForms(t *testing.T) {
	no := answering(403, "text/html", "<html>No</html>")
	target := &picky{answer: no, plain: no}
	s := open(t, config(target.serve(t).URL))
	for range 2 {
		if o := s.Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 0 || o.Class != lane.Offline {
			t.Fatalf("%+v", o)
		}
	}
	if want := []string{"cbor", "json", "cbor", "json"}; !slices.Equal(target.forms, want) {
		t.Errorf("requests %v, want %v", target.forms, want)
	}
}

// One that understood CBOR is judged by what it said then, not by what stood in
// front of it once.
func TestForbiddenLater(t *testing.T) {
	var target *picky
	target = &picky{answer: func(w http.ResponseWriter, in put) bool {
		switch len(target.forms) {
		case 2:
			return answering(403, "text/html", "<html>No</html>")(w, in)
		case 3:
			accept(w, in) // in JSON, of what came as CBOR
			return true
		}
		accept(inCBOR{w}, in)
		return true
	}}
	s := open(t, config(target.serve(t).URL))
	for i, want := range []lane.Class{lane.OK, lane.Offline, lane.OK, lane.OK} {
		if o := s.Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Class != want {
			t.Fatalf("%d: %+v", i, o)
		}
	}
	if slices.Contains(target.forms, "json") {
		t.Errorf("requests %v", target.forms)
	}
}

// Once CBOR was understood, what a target calls invalid is a record.
func TestPoisonIsNoReasonForJSON(t *testing.T) {
	var target *picky
	target = &picky{answer: func(w http.ResponseWriter, in put) bool {
		if len(target.forms) > 1 {
			return answering(400, cborMedia, "\xa1\x66__type\x73ValidationException")(w, in)
		}
		fmt.Fprint(w, "\xd9\xd9\xf7\xbf\x71FailedRecordCount\x00\x67Records\x9f\xbf\x6eSequenceNumber\x7f\x611\xff\xff\xff\x63new\xc1\x01\xff")
		return true
	}}
	s := open(t, config(target.serve(t).URL))
	if o := s.Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 1 {
		t.Fatalf("%+v", o)
	}
	if o := s.Send(t.Context(), []lane.Batch{batch(1, "2")})[0]; o.Class != lane.Poison {
		t.Fatalf("%+v", o)
	}
	if slices.Contains(target.forms, "json") {
		t.Errorf("requests %v", target.forms)
	}
}

// Requests as JSON alone, as it is asked for.
func TestWireJSON(t *testing.T) {
	target := &picky{answer: answering(500, "", "")}
	cfg := config(target.serve(t).URL)
	cfg.Wire = "json"
	if o := open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "1")})[0]; o.Done != 1 || !slices.Equal(target.forms, []string{"json"}) {
		t.Errorf("%+v, %v", o, target.forms)
	}
}
