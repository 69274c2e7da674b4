//go:build peers

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/fxamacker/cbor/v2"
)

const cborType = "application/x-amz-cbor-1.1"

// A rawCBOR sends what the AWS SDK for Java sends: CBOR with byte strings for
// blobs, and times as tag 1 around whole milliseconds.
type rawCBOR struct {
	endpoint string
	http     *http.Client
}

var cborTargets = map[string]string{"kinesis": "Kinesis_20131202.", "firehose": "Firehose_20150804."}

func (c rawCBOR) do(t *testing.T, k call) answer {
	t.Helper()
	body, err := cbor.Marshal(toCBOR(t, "", k.In))
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.endpoint+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", cborType)
	req.Header.Set("X-Amz-Target", cborTargets[k.Service]+k.Op)
	secret := peerSecretKey
	if k.Secret != "" {
		secret = k.Secret
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: peerAccessKey, SecretAccessKey: secret}, req, hex.EncodeToString(sum[:]), k.Service, "us-east-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{Code: "transport", Message: err.Error()}
	}
	defer resp.Body.Close()
	if k.Op == "SubscribeToShard" && resp.StatusCode == http.StatusOK {
		return cborSubscription(t, resp, k)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{Code: "transport", Message: err.Error()}
	}
	if got := resp.Header.Get("Content-Type"); got != cborType && len(b) > 0 {
		return answer{Code: "content type " + got, Message: string(b)}
	}
	if resp.StatusCode == http.StatusOK {
		return answer{Out: fromCBOR(t, b)}
	}
	return cborError(fromCBOR(t, b))
}

func cborError(e obj) answer {
	code, _ := e["__type"].(string)
	message, _ := e["message"].(string)
	_, after, ok := strings.Cut(code, "#")
	if ok {
		code = after
	}
	return answer{Code: code, Typed: code != "", Message: message}
}

// toCBOR gives members their types.
func toCBOR(t *testing.T, key string, v any) any {
	t.Helper()
	switch v := v.(type) {
	case obj:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = toCBOR(t, k, x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = toCBOR(t, "", x)
		}
		return out
	case string:
		switch {
		case key == "Data":
			b, err := base64.StdEncoding.DecodeString(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		case strings.HasSuffix(key, "Timestamp"):
			at, err := time.Parse(time.RFC3339Nano, v)
			if err != nil {
				t.Fatal(err)
			}
			return cbor.RawTag{Number: 1, Content: mustCBOR(t, at.UnixMilli())}
		}
	}
	return v
}

func mustCBOR(t *testing.T, v any) cbor.RawMessage {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fromCBOR undoes it; a blob that is no byte string and a time that is no
// whole number of milliseconds under tag 1 fail the test.
func fromCBOR(t *testing.T, b []byte) obj {
	t.Helper()
	if len(b) == 0 {
		return obj{}
	}
	var raw map[string]cbor.RawMessage
	if err := cbor.Unmarshal(b, &raw); err != nil {
		t.Fatalf("not a CBOR map with names: %v: % x", err, b)
	}
	out := obj{}
	for k, r := range raw {
		out[k] = member(t, k, r)
	}
	return out
}

func member(t *testing.T, key string, r cbor.RawMessage) any {
	t.Helper()
	var tag cbor.RawTag
	var list []cbor.RawMessage
	var v any
	var err error
	switch major := r[0] >> 5; {
	case strings.HasSuffix(key, "Timestamp") && major != 6:
		t.Fatalf("%s is no time: % x", key, []byte(r))
	case key == "Data" && major != 2:
		t.Fatalf("Data is no byte string: % x", []byte(r))
	case major == 2:
		var blob []byte
		err = cbor.Unmarshal(r, &blob)
		v = base64.StdEncoding.EncodeToString(blob)
	case major == 4:
		err = cbor.Unmarshal(r, &list)
		items := []any{}
		for _, x := range list {
			items = append(items, member(t, "", x))
		}
		v = items
	case major == 5:
		v = fromCBOR(t, r)
	case major == 6:
		var ms int64
		if err = cbor.Unmarshal(r, &tag); err == nil && tag.Number != 1 {
			err = fmt.Errorf("tag %d", tag.Number)
		}
		if err == nil {
			err = cbor.Unmarshal(tag.Content, &ms)
		}
		v = time.UnixMilli(ms).UTC().Format(time.RFC3339Nano)
	default:
		if err = cbor.Unmarshal(r, &v); err == nil {
			switch n := v.(type) {
			case uint64:
				v = float64(n)
			case int64:
				v = float64(n)
			}
		}
	}
	if err != nil {
		t.Fatalf("%s: %v: % x", key, err, []byte(r))
	}
	return v
}

// cborSubscription reads frames: the first must be the initial response.
func cborSubscription(t *testing.T, resp *http.Response, k call) answer {
	t.Helper()
	if got := resp.Header.Get("Content-Type"); got != "application/vnd.amazon.eventstream" {
		return answer{Code: "content type " + got}
	}
	dec, events, n := eventstream.NewDecoder(), []any{}, 0
	for first := true; ; first = false {
		m, err := dec.Decode(resp.Body, nil)
		if errors.Is(err, io.EOF) || n >= k.Records && !first {
			return answer{Out: obj{"Events": events}}
		}
		if err != nil {
			return answer{Code: "transport", Message: err.Error()}
		}
		kind, event := header(m, ":message-type"), header(m, ":event-type")
		switch {
		case first && (kind != "event" || event != "initial-response"):
			return answer{Code: "first frame", Message: fmt.Sprint(m.Headers)}
		case first:
			if k.ready != nil {
				k.ready()
			}
		case kind == "exception":
			e := cborError(fromCBOR(t, m.Payload))
			e.Code = header(m, ":exception-type")
			return e
		case event != "SubscribeToShardEvent" || header(m, ":content-type") != cborType:
			return answer{Code: "frame", Message: fmt.Sprint(m.Headers)}
		default:
			e := fromCBOR(t, m.Payload)
			events = append(events, e)
			n += len(list(e, "Records"))
		}
		if n >= k.Records {
			return answer{Out: obj{"Events": events}}
		}
	}
}

func header(m eventstream.Message, name string) string {
	if v := m.Headers.Get(name); v != nil {
		return v.String()
	}
	return ""
}
