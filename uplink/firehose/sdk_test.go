package firehose_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	independent "github.com/aws/aws-sdk-go-v2/service/firehose"
	"github.com/aws/aws-sdk-go-v2/service/firehose/types"

	"forebay/uplink/lane"
)

// What we send is what AWS's own client sends.
func TestAsTheSDK(t *testing.T) {
	type request struct {
		path, target, kind, scope string
		body                      map[string]any
	}
	var got []request
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		scope, _, _ := strings.Cut(r.Header.Get("Authorization"), ", ")
		q := request{path: r.Method + " " + r.URL.Path, target: r.Header.Get("X-Amz-Target"), kind: r.Header.Get("Content-Type"), scope: scope[strings.LastIndex(scope, "/20"):]}
		if err := json.Unmarshal(b, &q.body); err != nil {
			t.Error(err)
		}
		got = append(got, q)
		if strings.HasSuffix(q.target, ".PutRecordBatch") {
			fmt.Fprint(w, `{"FailedPutCount":0,"RequestResponses":[{"RecordId":"1"},{"RecordId":"2"}]}`)
			return
		}
		fmt.Fprint(w, active)
	}))
	t.Cleanup(srv.Close)
	client := independent.New(independent.Options{
		BaseEndpoint: sdk.String(srv.URL), Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", secret, ""),
	})
	if _, err := client.DescribeDeliveryStream(t.Context(), &independent.DescribeDeliveryStreamInput{DeliveryStreamName: sdk.String("target")}); err != nil {
		t.Fatal(err)
	}
	_, err := client.PutRecordBatch(t.Context(), &independent.PutRecordBatchInput{
		DeliveryStreamName: sdk.String("target"), Records: []types.Record{{Data: []byte("a\nb\n")}, {Data: []byte("c\xff\n")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := got
	got = nil
	cfg := config(srv.URL)
	cfg.Format = "raw"
	for _, o := range open(t, cfg).Send(t.Context(), []lane.Batch{batch(1, "a", "b"), batch(2, "c\xff")}) {
		if o.Class != lane.OK {
			t.Fatalf("%+v", o)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nthe SDK sends %v", got, want)
	}
}
