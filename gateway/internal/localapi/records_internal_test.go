package localapi

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

type unbounded struct{ *httptest.ResponseRecorder }

func (unbounded) SetWriteDeadline(time.Time) error { return nil }

// A record that cannot be written as JSON is a fault of ours, not a client that
// went: it is logged, and told to the client.
func TestRecordThatIsNotJSONIsTold(t *testing.T) {
	var text bytes.Buffer
	w := unbounded{httptest.NewRecorder()}
	out := &lines{log: slog.New(slog.NewTextHandler(&text, nil)), w: w, rc: http.NewResponseController(w), stream: "mqtt"}
	good := record.Record{Key: "k", Arrived: time.Unix(1, 0), Data: []byte("1"), Pos: record.Pos{Seq: 6}}
	bad := good
	bad.Pos.Seq, bad.At = 7, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // RFC 3339 ends a year before
	if out.batch(spool.Shard{}, record.Batch{Recs: []record.Record{good, bad, good}}, nil) || out.flush() {
		t.Error("the answer goes on")
	}
	got := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	if len(got) != 2 || !strings.Contains(got[0], `"seq":6`) || !strings.Contains(got[1], `"error":{"status":500`) {
		t.Errorf("answer is %q", got)
	}
	if line := text.String(); !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "stream=mqtt shard=shardId-000000000000 sequence=7") {
		t.Errorf("logged %q", line)
	}
}
