package kinesisapi_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// signedAs is a request that asks for a target, signed with a key.
func (b *box) signedAs(who aws.Credentials, target, body string) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, b.url()+"/", strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", target)
	service := "kinesis"
	if strings.HasPrefix(target, "Firehose") {
		service = "firehose"
	}
	if err := v4.NewSigner().SignHTTP(b.t.Context(), who, r, hexSum(body), service, "eu-north-1", b.clock.Now()); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// TestKeysAreReplaced: two keys work side by side, and a secret's file may be
// written anew while the endpoint runs.
func TestKeysAreReplaced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	b := start(t, kinesisapi.Config{Keys: []kinesisapi.Key{
		{AccessKey: "OLD", SecretKey: conf.NewSecret("old")},
		{AccessKey: "FILE", SecretKey: conf.NewSecret("file:" + file)},
	}}, spool.Config{})
	ask := func(key, secret string) string {
		t.Helper()
		resp, answer := b.do(&http.Transport{}, b.signedAs(aws.Credentials{AccessKeyID: key, SecretAccessKey: secret}, "Kinesis_20131202.ListStreams", "{}"))
		if resp.StatusCode == http.StatusOK {
			return ""
		}
		return resp.Status + " " + answer
	}
	expect := func(key, secret, code string) {
		t.Helper()
		if got := ask(key, secret); (got == "") != (code == "") || !strings.Contains(got, code) {
			t.Errorf("%s with %q is answered %q, want %q", key, secret, got, code)
		}
	}
	const wrong, ours = "InvalidSignatureException", "InternalFailureException"
	expect("OLD", "old", "")
	expect("FILE", "first", "")
	write("second")
	b.clock.Move(2 * time.Second)
	expect("FILE", "first", wrong)
	expect("FILE", "second", "")
	expect("OLD", "old", "")
	write("\n") // a file that is being written is no secret that everybody knows
	b.clock.Move(2 * time.Second)
	expect("FILE", "second", ours)
	expect("FILE", "", ours)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.clock.Move(2 * time.Second)
	expect("FILE", "second", ours)
	expect("OLD", "old", "")
	write("third")
	b.clock.Move(-time.Hour) // the clock is put right
	expect("FILE", "third", "")
	if b.srv.Errors() != 3 {
		t.Errorf("%d errors counted, want 3", b.srv.Errors())
	}
}

// TestClientsCorrectTheirClocks: the SDK learns the time from a refusal's Date
// and signs again, in the same call.
func TestClientsCorrectTheirClocks(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour, 9 * 365 * 24 * time.Hour} {
		b := start(t, kinesisapi.Config{Keys: testKeys()}, spool.Config{})
		b.create("s", 1)
		b.clock.Move(off)
		if _, err := b.client().PutRecord(t.Context(), putRecord("s", "k", "x")); code(err) != mismatch {
			t.Errorf("a client that is %s off and does not try again: %v", off, err)
		}
		cl := b.client(func(o *kinesis.Options) { o.RetryMaxAttempts = 2 })
		if _, err := cl.PutRecord(t.Context(), putRecord("s", "k", "x")); err != nil {
			t.Errorf("a client that is %s off: %v", off, err)
		}
	}
}

// TestChunkedPayload: a body in aws-chunked is what its chunks hold.
func TestChunkedPayload(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: testKeys()}, spool.Config{})
	b.create("s", 1)
	payload := `{"StreamName":"s","PartitionKey":"k","Data":"aGk="}`
	for _, c := range []struct{ name, checksum, code string }{
		{"as it is", "rMiHmg==", ""},
		{"with another checksum", "rMiHmw==", "BadDigest"},
	} {
		r := b.request("PutRecord", payload, b.clock.Now(), func(r *http.Request) {
			r.Header.Set("X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
			r.Header.Set("X-Amz-Decoded-Content-Length", strconv.Itoa(len(payload)))
			r.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
			r.Header.Set("Content-Encoding", "aws-chunked")
			r.ContentLength = -1 // so that it is not signed
		})
		setBody(r, "10\r\n"+payload[:16]+"\r\n"+strconv.FormatInt(int64(len(payload)-16), 16)+"\r\n"+payload[16:]+"\r\n0\r\nx-amz-checksum-crc32:"+c.checksum+"\r\n\r\n")
		resp, answer := b.do(&http.Transport{}, r)
		if ok := resp.StatusCode == 200; ok != (c.code == "") || !strings.Contains(answer, c.code) {
			t.Errorf("%s: answered %s %s, want %q", c.name, resp.Status, answer, c.code)
		}
	}
}

// TestUnsyncedClock: a box that does not know the time may take any date,
// which the log says once.
func TestUnsyncedClock(t *testing.T) {
	var log bytes.Buffer
	synced := false
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	ask := func(srv *kinesisapi.Server, at time.Time, secret string) int {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://box/", strings.NewReader("{"))
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", "Kinesis_20131202.DescribeStream")
		who := aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: secret}
		if err := v4.NewSigner().SignHTTP(t.Context(), who, r, hexSum("{"), "kinesis", "eu-north-1", at); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		srv.ServeHTTP(w, r)
		switch body := w.Body.String(); {
		case strings.Contains(body, "SerializationException"): // it was let in, and no further
		case strings.Contains(body, mismatch):
			return 0
		default:
			t.Errorf("answered %s", body)
		}
		return 1
	}
	right := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, clock string
		opts        []kinesisapi.Option
		taken       int
	}{
		{"strict", "", []kinesisapi.Option{kinesisapi.ClockSynced(func() bool { return false })}, 0},
		{"nobody knows", "unsynced", nil, 0},
		{"unsynced", "unsynced", []kinesisapi.Option{kinesisapi.ClockSynced(func() bool { return synced })}, 1},
	} {
		log.Reset()
		cfg := kinesisapi.Config{Listen: "off", Clock: c.clock, Keys: testKeys()}
		srv, err := kinesisapi.New(cfg, nil, nil, func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)), c.opts...)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := ask(srv, right, "secret"); got != c.taken {
				t.Errorf("%s: taken %d, want %d", c.name, got, c.taken)
			}
		}
		if ask(srv, right, "wrong") != 0 {
			t.Errorf("%s: a wrong signature is taken", c.name)
		}
		if ask(srv, now, "secret") != 1 {
			t.Errorf("%s: a signature of the box's own time is not taken", c.name)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != c.taken {
			t.Errorf("%s: %d warnings, want %d: %s", c.name, n, c.taken, log.String())
		}
		if c.taken == 0 {
			continue
		}
		synced = true
		if ask(srv, right, "secret") != 0 {
			t.Error("a date off is taken though the clock is right")
		}
		synced = false
		if ask(srv, right, "secret") != 1 || strings.Count(log.String(), "level=WARN") != 2 {
			t.Errorf("the clock lost again: %s", log.String())
		}
	}
}
