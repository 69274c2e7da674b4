package load

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// KinesisConfig is what every measurement of a Kinesis endpoint needs.
type KinesisConfig struct {
	Endpoint  string // http://host:port
	Region    string
	AccessKey string
	SecretKey string
	Stream    string
	Shards    int  // of the stream, if it has to be made
	CBOR      bool // PutRecords and GetRecords speak CBOR and not JSON
}

// Check says what is impossible.
func (c KinesisConfig) Check() error {
	switch {
	case !strings.HasPrefix(c.Endpoint, "http://") && !strings.HasPrefix(c.Endpoint, "https://"):
		return fmt.Errorf("endpoint: %q is not a URL", c.Endpoint)
	case c.Stream == "":
		return errors.New("stream: it is empty")
	case c.Shards < 1:
		return fmt.Errorf("shards: %d is not a number of shards", c.Shards)
	}
	return nil
}

// A kinesisClient calls an endpoint as directly as net/http allows.
type kinesisClient struct {
	cfg    KinesisConfig
	http   *http.Client
	signer *v4.Signer
}

func newKinesisClient(c KinesisConfig, conns int) *kinesisClient {
	return &kinesisClient{
		cfg: c, signer: v4.NewSigner(),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns, DisableCompression: true, WriteBufferSize: 128 << 10, ReadBufferSize: 128 << 10}},
	}
}

func (k *kinesisClient) close() { k.http.CloseIdleConnections() }

// A kinesisBody is a request's body with its digest, made before the clock
// runs.
type kinesisBody struct {
	b    []byte
	sum  string // SHA-256, hex
	cbor bool
}

func newKinesisBody(b []byte, cbor bool) kinesisBody {
	sum := sha256.Sum256(b)
	return kinesisBody{b, hex.EncodeToString(sum[:]), cbor}
}

// send makes a signed request; the caller closes the body of the answer.
func (k *kinesisClient) send(ctx context.Context, op string, body kinesisBody) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.cfg.Endpoint+"/", bytes.NewReader(body.b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	if body.cbor {
		req.Header.Set("Content-Type", "application/x-amz-cbor-1.1")
	}
	req.Header.Set("X-Amz-Target", "Kinesis_20131202."+op)
	key := aws.Credentials{AccessKeyID: k.cfg.AccessKey, SecretAccessKey: k.cfg.SecretKey}
	if err := k.signer.SignHTTP(ctx, key, req, body.sum, "kinesis", k.cfg.Region, time.Now()); err != nil {
		return nil, err
	}
	resp, err := k.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return resp, nil
}

// call sends a body and reads the answer into buf, which it returns grown.
func (k *kinesisClient) call(ctx context.Context, op string, body kinesisBody, buf []byte) ([]byte, error) {
	resp, err := k.send(ctx, op, body)
	if err != nil {
		return buf, err
	}
	defer resp.Body.Close()
	buf = buf[:0]
	if n := resp.ContentLength; n > int64(cap(buf)) {
		buf = make([]byte, 0, n+512)
	}
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := resp.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return buf, fmt.Errorf("%s: %w", op, err)
		}
	}
	if resp.StatusCode != http.StatusOK {
		return buf, &kinesisError{op: op, status: resp.StatusCode, text: string(buf[:min(len(buf), 400)])}
	}
	return buf, nil
}

// A kinesisError is a refusal.
type kinesisError struct {
	op     string
	status int
	text   string
}

func (e *kinesisError) Error() string { return fmt.Sprintf("%s: %d: %s", e.op, e.status, e.text) }

// ask makes a call of small members.
func (k *kinesisClient) ask(ctx context.Context, op string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := k.call(ctx, op, newKinesisBody(b, false), nil)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer, out)
}

// make makes the stream, if it is not there, and waits until it may be used.
func (k *kinesisClient) make(ctx context.Context) error {
	err := k.ask(ctx, "CreateStream", map[string]any{"StreamName": k.cfg.Stream, "ShardCount": k.cfg.Shards}, nil)
	if refused, ok := errors.AsType[*kinesisError](err); ok && strings.Contains(refused.text, "ResourceInUseException") {
		err = nil
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for err == nil {
		var d struct {
			Summary struct {
				Status string `json:"StreamStatus"`
				ARN    string `json:"StreamARN"`
			} `json:"StreamDescriptionSummary"`
		}
		if err = k.ask(ctx, "DescribeStreamSummary", map[string]any{"StreamName": k.cfg.Stream}, &d); err == nil && d.Summary.Status == "ACTIVE" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// shards lists the shards of the stream.
func (k *kinesisClient) shards(ctx context.Context) ([]string, error) {
	var l struct {
		Shards []struct {
			ID string `json:"ShardId"`
		} `json:"Shards"`
	}
	if err := k.ask(ctx, "ListShards", map[string]any{"StreamName": k.cfg.Stream}, &l); err != nil {
		return nil, err
	}
	ids := make([]string, len(l.Shards))
	for i, s := range l.Shards {
		ids[i] = s.ID
	}
	return ids, nil
}
