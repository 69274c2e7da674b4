package aws

import (
	"net/http"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Whatever the short signer signs, it signs as the SDK does.
func TestSignsAsTheSDK(t *testing.T) {
	at := time.Date(2026, 11, 22, 23, 59, 59, 0, time.UTC)
	short, long := &shortSigner{service: "kinesis", region: "eu-central-1"}, v4.NewSigner()
	keys := []sdk.Credentials{
		{AccessKeyID: "AKID", SecretAccessKey: "secret"}, {AccessKeyID: "AKID2", SecretAccessKey: "other", SessionToken: "to/ken=="},
	}
	signed := 0
	for i, change := range []func(r *http.Request){
		func(*http.Request) {},
		func(r *http.Request) { r.ContentLength = 0 },
		func(r *http.Request) { r.ContentLength = 12345 },
		func(r *http.Request) { r.Header.Set("X-Forebay-Lanes", "rising 0123 aa.1,-,bb.7") },
		func(r *http.Request) { r.Header.Set("Accept", "application/x-amz-cbor-1.1") },
		func(r *http.Request) {
			r.URL.Host, r.Host = "kinesis.eu-central-1.amazonaws.com", "kinesis.eu-central-1.amazonaws.com"
		},
		func(r *http.Request) { r.URL.Scheme = "https" },
		func(r *http.Request) { r.Method = http.MethodPut },
		func(r *http.Request) { r.URL.Host, r.Host = "h:80", "h:80" },
		func(r *http.Request) { r.URL.Host, r.Host = "h:443", "h:443"; r.URL.Scheme = "https" },
		func(r *http.Request) { r.URL.Path = "/a b" },
		func(r *http.Request) { r.URL.RawQuery = "a=b" },
		func(r *http.Request) { r.Header.Set("X-Two", " a  b ") },
		func(r *http.Request) { r.Header.Add("X-Amz-Target", "another") },
	} {
		for _, k := range keys {
			for _, when := range []time.Time{at, at.Add(time.Second), at} {
				var auth [2]string
				plain := true
				for n := range auth {
					r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://10.0.0.5:4567/", nil)
					if err != nil {
						t.Fatal(err)
					}
					r.Header = http.Header{"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"Kinesis_20131202.PutRecords"}, "User-Agent": {"forebay"}}
					r.ContentLength = 7
					change(r)
					if n == 1 {
						if plain = short.plain(r); plain {
							short.sign(k, r, emptySum, when)
							signed++
						}
					} else if err := long.SignHTTP(t.Context(), k, r, emptySum, "kinesis", "eu-central-1", when); err != nil {
						t.Fatal(err)
					}
					auth[n] = r.Header.Get("Authorization")
				}
				if plain && auth[0] != auth[1] || auth[0] == "" || strings.Contains(auth[1], k.SecretAccessKey) {
					t.Errorf("case %d:\n%s, the SDK has\n%s", i, auth[1], auth[0])
				}
			}
		}
	}
	if signed != 8*2*3 {
		t.Errorf("%d requests were signed", signed)
	}
}
