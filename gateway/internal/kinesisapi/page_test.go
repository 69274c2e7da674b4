package kinesisapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// Without keys any signature passes, so that a web page whose name has been
// pointed at this machine could sign as well as anybody: what a browser sends
// under another name than this machine's is refused. Programs send neither of
// the headers that tell a page.
func TestWebPagesMaySignNothingWithoutKeys(t *testing.T) {
	page := map[string]string{"Origin": "http://evil.example:4567", "Sec-Fetch-Site": "same-origin"}
	for name, c := range map[string]struct {
		keys   []kinesisapi.Key
		host   string
		header map[string]string
		want   string // the error's name, "" is none
	}{
		"a program":              {},
		"a program, by a name":   {host: "box.example:4567"},
		"a page":                 {host: "evil.example:4567", header: page, want: "AccessDeniedException"},
		"a page, of old":         {host: "evil.example:4567", header: map[string]string{"Origin": "http://evil.example:4567"}, want: "AccessDeniedException"},
		"a page of elsewhere":    {header: map[string]string{"Origin": "http://evil.example"}, want: "AccessDeniedException"},
		"a page of this machine": {host: "localhost:4567", header: map[string]string{"Origin": "http://localhost:4567", "Sec-Fetch-Site": "same-origin"}},
		"a page, keys":           {keys: []kinesisapi.Key{{AccessKey: "A", SecretKey: conf.NewSecret("B")}}, host: "evil.example:4567", header: page, want: "InvalidSignatureException"},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{Keys: c.keys}, spool.Config{})
			b.create("plant", 1)
			for _, form := range []string{"header", "query"} {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url()+"/", strings.NewReader(`{"StreamName":"plant"}`))
				if err != nil {
					t.Fatal(err)
				}
				r.Host = c.host
				for k, v := range c.header {
					r.Header.Set(k, v)
				}
				now := time.Now().UTC()
				scope := "A/" + now.Format("20060102") + "/us-east-1/kinesis/aws4_request"
				r.Header.Set("Content-Type", "application/x-amz-json-1.1")
				if form == "header" {
					r.Header.Set("X-Amz-Target", "Kinesis_20131202.DescribeStreamSummary")
					r.Header.Set("X-Amz-Date", now.Format("20060102T150405Z"))
					r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+scope+", SignedHeaders=host;x-amz-date;x-amz-target, Signature="+strings.Repeat("0", 64))
				} else {
					q := r.URL.Query()
					for k, v := range map[string]string{
						"X-Amz-Target": "Kinesis_20131202.DescribeStreamSummary", "X-Amz-Date": now.Format("20060102T150405Z"), "X-Amz-Credential": scope,
						"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-SignedHeaders": "host", "X-Amz-Signature": strings.Repeat("0", 64),
					} {
						q.Set(k, v)
					}
					r.URL.RawQuery = q.Encode()
				}
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if got := resp.Header.Get("X-Amzn-Errortype"); got != c.want {
					t.Errorf("%s: %d %q, want %q", form, resp.StatusCode, got, c.want)
				}
			}
		})
	}
}
