package uplink_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/firehose"
	"forebay/uplink/lane"
)

// hose is a Firehose that misbehaves as it is told, and holds its client to
// the service's limits and to ours: one record of a lane per request.
type hose struct {
	t    *testing.T
	srv  *httptest.Server
	gzip bool

	mu    sync.Mutex
	fault func() string
	got   []envelope.Opened
}

func firehoseFar(t *testing.T, cfg firehose.Config) (uplink.Sink, *far) {
	h := &hose{t: t, gzip: cfg.Compression == "gzip", fault: func() string { return "" }}
	h.srv = httptest.NewServer(h)
	t.Cleanup(h.srv.Close)
	cfg.Stream, cfg.Access = "target", aws.Access{Endpoint: h.srv.URL, Region: "eu-central-1", AccessKey: "AKIDTEST", SecretKey: conf.NewSecret("secret")}
	s, err := uplink.New(uplink.Config{ID: "x", Firehose: &cfg}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, &far{
		payloads: func(l lane.Lane) (out []string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			for _, r := range h.got {
				if r.Stream == l.Stream && strings.Contains(r.ID, fmt.Sprintf("/%d/", l.Shard)) {
					out = append(out, string(r.Data))
				}
			}
			return out
		},
		flaky: func(on bool) {
			faults := []string{"", "", "", "entries", "500 after", "cut after", "cut before", "throttle", "503", "html", "short answer", "slow down"}
			rng := rand.New(rand.NewPCG(5, 6))
			h.mu.Lock()
			defer h.mu.Unlock()
			h.fault = func() string {
				if !on {
					return ""
				}
				return faults[rng.IntN(len(faults))]
			}
		},
		gone:     h.srv.Close,
		largest:  700 << 10, // as base64 in the envelope
		tooLarge: 1 << 20,
	}
}

func (h *hose) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	fault := h.fault()
	switch fault {
	case "throttle":
		fail(w, 500, "ServiceUnavailableException", "Slow down.")
		return
	case "503":
		w.WriteHeader(503)
		return
	case "html":
		fmt.Fprint(w, "<html>Welcome!</html>")
		return
	case "cut before":
		panic(http.ErrAbortHandler)
	}
	switch r.Header.Get("X-Amz-Target") {
	case "Firehose_20150804.DescribeDeliveryStream":
		fmt.Fprint(w, `{"DeliveryStreamDescription":{"DeliveryStreamName":"target","DeliveryStreamStatus":"ACTIVE","DeliveryStreamType":"DirectPut"}}`)
	case "Firehose_20150804.PutRecordBatch":
		h.put(w, body, fault)
	default:
		fail(w, 400, "UnknownOperationException", "")
	}
}

func (h *hose) put(w http.ResponseWriter, body []byte, fault string) {
	var in struct {
		DeliveryStreamName string
		Records            []struct{ Data []byte }
	}
	if err := json.Unmarshal(body, &in); err != nil || in.DeliveryStreamName != "target" {
		h.t.Errorf("request for %q: %v", in.DeliveryStreamName, err)
	}
	if n := len(in.Records); n < 1 || n > 500 || len(body) > 4<<20 {
		h.t.Errorf("%d records in a request of %d bytes", n, len(body))
	}
	out, failed, seen := make([]map[string]string, len(in.Records)), 0, map[string]bool{}
	for i, e := range in.Records {
		if len(e.Data) > 1000<<10 {
			fail(w, 400, "ValidationException", fmt.Sprintf("1 validation error detected: Value at 'records.%d.member.data' failed to satisfy constraint", i+1))
			return
		}
		if fault == "entries" && i%2 == 0 || fault == "slow down" {
			out[i] = map[string]string{"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
			failed++
			continue
		}
		recs := h.open(e.Data)
		shard := recs[0].ID[:strings.LastIndexByte(recs[0].ID, '/')]
		if seen[shard] {
			h.t.Errorf("two records of lane %s in a request", shard)
		}
		seen[shard] = true
		h.got = append(h.got, recs...)
		out[i] = map[string]string{"RecordId": fmt.Sprint("r", len(h.got))}
	}
	switch fault {
	case "500 after":
		fail(w, 500, "InternalFailure", "")
		return
	case "cut after":
		panic(http.ErrAbortHandler)
	case "short answer":
		out = out[1:]
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"FailedPutCount": failed, "Encrypted": false, "RequestResponses": out}) // the client may have gone
}

// open reads a Firehose record as who reads its destination does.
func (h *hose) open(data []byte) []envelope.Opened {
	if h.gzip {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			h.t.Fatalf("not gzip: %v", err)
		}
		if data, err = io.ReadAll(z); err != nil {
			h.t.Fatalf("gzip: %v", err)
		}
	}
	var out []envelope.Opened
	for line := range bytes.Lines(data) {
		o, err := envelope.Open(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil || !bytes.HasSuffix(line, []byte("\n")) {
			h.t.Errorf("line %.80q: %v", line, err)
		}
		out = append(out, o)
	}
	return out
}
