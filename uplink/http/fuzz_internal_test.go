package http

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/web"
)

// FuzzJudge: whatever answers, a web page, a redirect and an error status are
// never an acknowledgement, and what an operator reads is a printable line.
func FuzzJudge(f *testing.F) {
	f.Add(200, "text/html", "", "<html>", "")
	f.Add(200, "application/json", "", `{"r":{"ok":true}}`, "r.ok")
	f.Add(200, "", "", `[{"ok":"1"}]`, "0.ok")
	f.Add(302, "", "http://[::1", "", "")
	f.Add(503, "a/b;;", "Mon, 23 Nov 2026 08:00:30 GMT", "\xff\n\u2028", "x")
	f.Add(200, "", "", "0", "\n")
	f.Add(429, "", "18446744073709551615", "", "")
	f.Fuzz(func(t *testing.T, status int, kind, value, body, field string) {
		a := &web.Answer{
			Status: status, Body: []byte(body),
			Header: http.Header{"Content-Type": {kind}, "Location": {value}, "Retry-After": {value}},
		}
		c := Config{Expect: Expect{Field: field}}
		v := c.judge(a)
		if v.err == nil {
			if status < 200 || status >= 300 || a.Page() || status == 207 {
				t.Fatalf("HTTP %d with %q acknowledges", status, body)
			}
			if _, ok := lookUp(a.Body, field); field != "" && !ok {
				t.Fatalf("%q has no field %q", body, field)
			}
			return
		}
		if v.err.Class == lane.OK || v.err.Error() == "" || strings.ContainsAny(v.err.Error(), "\r\n\x00\u2028") || len(v.err.Error()) > 2000 {
			t.Fatalf("%q", v.err.Error())
		}
		if d := a.RetryAfter(time.Unix(0, 0)); d < 0 || d > 24*time.Hour {
			t.Fatalf("retry after %s", d)
		}
	})
}
