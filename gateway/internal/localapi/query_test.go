package localapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/localapi"
	"forebay/spool/record"
)

// table keeps what a query yields.
type table struct {
	columns  []string
	rows     [][]any
	progress int
	row      func() error
}

func (r *table) Columns(names []string) error { r.columns = names; return nil }
func (r *table) Progress(api.QueryProgress)   { r.progress++ }
func (r *table) Row(row []any) error {
	r.rows = append(r.rows, row)
	if r.row != nil {
		return r.row()
	}
	return nil
}

func TestQuery(t *testing.T) {
	w := serve(t, localapi.Config{})
	st, err := w.sp.Stream("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC)
	if _, err := st.Put(t.Context(), []record.Record{
		{Key: "line1/press/temp", Arrived: at, Data: []byte(`{"temp": 20.5, "n": 1}`)},
		{Key: "line1/press/temp", Arrived: at, Data: []byte(`{"temp": 21.5, "text": "a\u009b\"b"}`)},
		{Key: "line2/x", Arrived: at, Data: []byte{0, 0xff}},
	}); err != nil {
		t.Fatal(err)
	}
	var got table
	end, err := w.client.Query(t.Context(), api.QueryRequest{SQL: "SELECT device, avg(temp), count(n), max(text) FROM mqtt GROUP BY device ORDER BY 1"}, &got)
	want := [][]any{{"line1/press", 21.0, int64(1), "a\u009b\"b"}, {"line2", nil, int64(0), nil}}
	if err != nil || !end.Done || end.Rows != 2 || end.Scanned != 3 || !reflect.DeepEqual(got.rows, want) || got.columns[1] != "avg(temp)" {
		t.Errorf("%v, %+v, %#v, %v", got.columns, end, got.rows, err)
	}
	got = table{}
	if _, err := w.client.Query(t.Context(), api.QueryRequest{SQL: "SELECT 1, 1.0, -0.5, 1e300, 9e999, -9e999, NULL, '', 'é', x'', data, 9223372036854775807, 2e15 FROM mqtt WHERE key = 'line2/x'"}, &got); err != nil {
		t.Error(err)
	}
	want = [][]any{{int64(1), 1.0, -0.5, 1e300, math.Inf(1), math.Inf(-1), nil, "", "é", []byte{}, []byte{0, 0xff}, int64(math.MaxInt64), 2e15}}
	if !reflect.DeepEqual(got.rows, want) {
		t.Errorf("values are %#v, want %#v", got.rows, want)
	}
}

func TestQueryLimitsAndErrors(t *testing.T) {
	w := serve(t, localapi.Config{})
	const numbers = "WITH RECURSIVE g(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM g) SELECT x FROM g"
	for _, c := range []struct {
		r      api.QueryRequest
		status int
		says   string
	}{
		{api.QueryRequest{SQL: "DROP TABLE mqtt"}, http.StatusBadRequest, "only reads"},
		{api.QueryRequest{SQL: "SELECT * FROM nowhere"}, http.StatusBadRequest, "no stream nowhere"},
		{api.QueryRequest{}, http.StatusBadRequest, "empty"},
		{api.QueryRequest{SQL: "SELECT 1", MaxRows: -1}, http.StatusBadRequest, "max_rows"},
		{api.QueryRequest{SQL: "SELECT 1", TimeoutMS: 1 << 40}, http.StatusBadRequest, "timeout_ms"},
		{api.QueryRequest{SQL: numbers + " WHERE x < 3", TimeoutMS: 200}, http.StatusUnprocessableEntity, "longer than 200ms"},
	} {
		var got table
		_, err := w.client.Query(t.Context(), c.r, &got)
		var told *api.Error
		if !errors.As(err, &told) || told.Status != c.status || !strings.Contains(told.Message, c.says) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	var got table
	end, err := w.client.Query(t.Context(), api.QueryRequest{SQL: numbers, MaxRows: 20_000, Progress: true}, &got)
	if err != nil || len(got.rows) != 20_000 || !end.Truncated {
		t.Errorf("%d rows, %+v, %v", len(got.rows), end, err)
	}
	stop := errors.New("that is enough")
	got = table{row: func() error { return stop }}
	if _, err := w.client.Query(t.Context(), api.QueryRequest{SQL: numbers}, &got); !errors.Is(err, stop) {
		t.Errorf("a result that stops: %v", err)
	}
	// A client that goes leaves its place free, and so does one that is done.
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		got = table{row: func() error { cancel(); return nil }}
		if _, err := w.client.Query(ctx, api.QueryRequest{SQL: numbers, MaxRows: 5_000_000}, &got); err == nil {
			t.Error("a client that goes got all of it")
		}
		cancel()
		for until := time.Now().Add(20 * time.Second); ; {
			_, err := w.client.Query(t.Context(), api.QueryRequest{SQL: "SELECT 1"}, &table{})
			if err == nil {
				break
			}
			if time.Now().After(until) {
				t.Fatalf("no place comes free: %v", err)
			}
		}
	}
}

// The lines as they go over the wire, and the token's guard before them.
func TestQueryOnTheWire(t *testing.T) {
	w := serve(t, localapi.Config{Token: conf.NewSecret("secret")})
	ask := func(token, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.server.Addr()+"/v1/query", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if status, _ := ask("", `{"sql":"SELECT 1"}`); status != http.StatusUnauthorized {
		t.Errorf("without the token: %d", status)
	}
	status, body := ask("secret", fmt.Sprintf(`{"sql":%q}`, "SELECT 1 AS a, 2.0 AS b, x'00ff' AS c, char(27) || '[2J' AS d"))
	if lines := strings.Split(body, "\n"); status != http.StatusOK || lines[0] != `{"columns":["a","b","c","d"]}` ||
		lines[1] != `[1,2.0,{"base64":"AP8="},"\u001b[2J"]` || !strings.HasPrefix(lines[2], `{"done":true,"scanned":0,"blocks":0,"skipped":0,"share":0,"rows":1,"elapsed_ms":`) {
		t.Errorf("%d %s", status, body)
	}
	for _, bad := range []string{"", "{", `{"sql":1}`, `{"sql":"SELECT 1","rows":5}`, `{"sql":"` + strings.Repeat("x", 600_000) + `"}`} {
		if status, body := ask("secret", bad); status != http.StatusBadRequest {
			t.Errorf("%.40s: %d %s", bad, status, body)
		}
	}
}

// A reader may begin by the senders' times instead of the arrival, and says
// which.
func TestRecordsFromAnEventTime(t *testing.T) {
	w := serve(t, localapi.Config{})
	st, err := w.sp.Stream("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC)
	var recs []record.Record
	for i, own := range []time.Duration{0, -time.Hour, time.Hour, -2 * time.Hour, 3 * time.Hour} {
		recs = append(recs, record.Record{Key: "k", Arrived: at.Add(time.Duration(i) * time.Minute), At: at.Add(own), Data: []byte("1")})
	}
	if _, err := st.Put(t.Context(), recs); err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]uint64{
		"event:2026-11-05T14:30:00Z": 3, "2026-11-05T14:00:30Z": 2, "event:2026-11-05T12:00:00Z": 1, "event:2026-11-05T16:00:00+01:00": 3,
	} {
		var first uint64
		for r, err := range w.client.Records(t.Context(), api.Tail{Stream: "mqtt", From: from, Limit: 1}) {
			if err != nil {
				t.Errorf("%s: %v", from, err)
			}
			first = r.Seq
		}
		if first != want {
			t.Errorf("from %s begins at %d, want %d", from, first, want)
		}
	}
}
