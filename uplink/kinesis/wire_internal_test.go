package kinesis

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// A target that has taken CBOR and then does not, for once, gets that request
// as JSON, and CBOR again after some minutes; one that never took it does not.
func TestCBORAgain(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	for name, c := range map[string]struct {
		refuses func(request int) bool // in CBOR
		want    []string
	}{
		"a hiccup": {func(n int) bool { return n == 2 }, []string{"cbor", "cbor", "json", "json", "cbor", "cbor"}},
		"changed":  {func(n int) bool { return n >= 2 }, []string{"cbor", "cbor", "json", "json", "cbor", "json", "json"}},
		"never":    {func(int) bool { return true }, []string{"cbor", "json", "json", "json", "json", "json"}},
	} {
		t.Run(name, func(t *testing.T) {
			var forms []string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`
				if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".PutRecords") {
					form := "json"
					answer = `{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1"}]}`
					if r.Header.Get("Content-Type") == cborMedia {
						form = "cbor"
						answer = "\xa1\x67Records\x81\xa1\x6eSequenceNumber\x611"
					}
					forms = append(forms, form)
					if form == "cbor" && c.refuses(len(forms)) {
						w.WriteHeader(http.StatusUnsupportedMediaType)
						return
					}
				}
				if _, err := io.WriteString(w, answer); err != nil {
					t.Error(err)
				}
			}))
			defer srv.Close()
			cfg := Config{Access: aws.Access{Endpoint: srv.URL, Region: "eu-central-1"}, Stream: "s"}
			s, err := New(cfg, lane.Home{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			send := func() {
				t.Helper()
				b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: 1}, Recs: []record.Record{{Key: "k", Data: []byte("1")}}}
				if o := s.Send(t.Context(), []lane.Batch{b})[0]; o.Done != 1 || o.Class != lane.OK {
					t.Fatalf("%+v", o)
				}
			}
			for range 3 {
				send()
			}
			s.born = s.born.Add(-retryCBOR) // as if it were so much later
			for range 2 {
				send()
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(forms, c.want) {
				t.Errorf("requests %v, want %v", forms, c.want)
			}
		})
	}
}
