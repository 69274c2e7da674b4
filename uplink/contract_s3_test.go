package uplink_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	"forebay/gateway/conf"
	"forebay/uplink"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// s3Far is a sink before a store that others wrote, through a link of ours
// that fails as it is told.
func s3Far(t *testing.T, cfg s3.Config) (uplink.Sink, *far) {
	store := s3mem.New()
	if err := store.CreateBucket("lake"); err != nil {
		t.Fatal(err)
	}
	link := &s3Link{store: gofakes3.New(store, gofakes3.WithTimeSkewLimit(0)).Server()}
	srv := httptest.NewServer(link)
	t.Cleanup(srv.Close)
	cfg.Bucket, cfg.Endpoint, cfg.Region = "lake", srv.URL, "eu-central-1"
	cfg.AccessKey, cfg.SecretKey = "AKIDTEST", conf.NewSecret("secret")
	s, err := uplink.New(uplink.Config{ID: "x", S3: &cfg}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, &far{
		payloads: func(l lane.Lane) (out []string) {
			// Names turn their numbers around: the newest object comes first.
			prefix := fmt.Sprintf("forebay/%s/dt=0001-01-01/hr=00/%s.%s.%d.", l.Stream, identity.Gateway, identity.Epoch, l.Shard)
			list, err := store.ListBucket("lake", &gofakes3.Prefix{HasPrefix: true, Prefix: prefix}, gofakes3.ListBucketPage{})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range list.Contents {
				o, err := store.GetObject("lake", c.Key, nil)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(o.Contents)
				if err != nil {
					t.Fatal(err)
				}
				out = append(s3Payloads(t, c.Key, b), out...)
			}
			return out
		},
		flaky: func(on bool) {
			faults := []string{"", "", "", "500 after", "cut after", "cut before", "503", "html", "slow down"}
			rng := rand.New(rand.NewPCG(3, 4))
			link.misbehave(func() string {
				if !on {
					return ""
				}
				return faults[rng.IntN(len(faults))]
			})
		},
		gone:     srv.Close,
		largest:  1 << 20,
		tooLarge: 10<<20 + 1,
	}
}

// s3Payloads are an object's payloads.
func s3Payloads(t *testing.T, name string, b []byte) (out []string) {
	if strings.HasSuffix(name, ".parquet") {
		rows, err := parquet.Read[struct {
			Data  *string `parquet:"data,optional"`
			Bytes []byte  `parquet:"data_bytes,optional"`
		}](bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Data != nil {
				out = append(out, *r.Data)
			} else {
				out = append(out, string(r.Bytes))
			}
		}
		return out
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if b, err = z.DecodeAll(b, nil); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		o, err := envelope.Open(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, string(o.Data))
	}
	return out
}

// s3Link is the way to a store.
type s3Link struct {
	store http.Handler

	mu    sync.Mutex
	fault func() string
}

func (l *s3Link) misbehave(f func() string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
}

func (l *s3Link) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	fault := ""
	if l.fault != nil {
		fault = l.fault()
	}
	l.mu.Unlock()
	switch fault {
	case "":
		l.store.ServeHTTP(w, r)
	case "500 after", "cut after":
		l.store.ServeHTTP(httptest.NewRecorder(), r)
		if fault == "cut after" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(500)
		fmt.Fprint(w, `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>again</Message></Error>`)
	case "cut before":
		panic(http.ErrAbortHandler)
	case "503":
		w.WriteHeader(503)
	case "slow down":
		w.WriteHeader(503)
		fmt.Fprint(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
	case "html":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><body>Welcome! Please accept the terms.</body></html>")
	}
}

// S3 knows repeated records by the range of each object, in whatever order
// they come.
func TestS3MayGoLiveFirst(t *testing.T) {
	cfg := uplink.Config{ID: "x", Order: uplink.OrderLive, S3: &s3.Config{Bucket: "lake", Access: aws.Access{Region: "eu-central-1"}}}
	if err := cfg.Check(); err != nil {
		t.Error(err)
	}
}
