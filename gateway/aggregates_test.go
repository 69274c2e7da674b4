package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/firehose"
	"github.com/aws/aws-sdk-go-v2/service/firehose/types"

	"forebay/uplink/kpl"
)

// A Firehose producer puts an aggregate; a reader at the gateway gets what is
// in it, or the aggregate, and the gateway counts it.
func TestTailOpensAggregates(t *testing.T) {
	g := startGateway(t, "alone", aloneConfig)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	cl := firehose.New(firehose.Options{
		BaseEndpoint: aws.String("http://" + g.kinesis), Region: "us-east-1", HTTPClient: &http.Client{Transport: tr}, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("any", "any", ""),
	})
	var enc kpl.Encoder
	enc.Add("oven/1", "", []byte("hot"))
	enc.Add("oven/2", "7", []byte("cold"))
	out, err := cl.PutRecord(t.Context(), &firehose.PutRecordInput{DeliveryStreamName: aws.String("mqtt"), Record: &types.Record{Data: enc.AppendTo(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	tail := func(args ...string) []string {
		t.Helper()
		code, out, errs := forebay(t, "", append([]string{"tail", "mqtt", "--api", g.api}, args...)...)
		if code != exitOK {
			t.Fatalf("tail %v: exit code %d: %s", args, code, errs)
		}
		return strings.Split(strings.TrimSpace(out), "\n")
	}
	if got := tail(); len(got) != 2 || !strings.HasSuffix(got[0], "/1/1  oven/1  hot") || !strings.HasSuffix(got[1], "/1/2  oven/2  cold") {
		t.Errorf("tail prints %q", got)
	}
	if got := tail("--json"); len(got) != 2 || !strings.Contains(got[1], `"id":"`+*out.RecordId+`/2"`) || !strings.Contains(got[1], `"hash_key":"7"`) || !strings.Contains(got[1], `"sub":2`) {
		t.Errorf("tail --json prints %q", got)
	}
	if got := tail("--json", "--no-deaggregate"); len(got) != 1 || !strings.Contains(got[0], `"id":"`+*out.RecordId+`"`) || !strings.Contains(got[0], `"key":"mqtt"`) || strings.Contains(got[0], `"sub"`) {
		t.Errorf("tail --json --no-deaggregate prints %q", got)
	}
	if n, err := g.client.Metric(t.Context(), "forebay_source_aggregates_total"); err != nil || n != 1 {
		t.Errorf("%v aggregates counted, %v", n, err)
	}
}
