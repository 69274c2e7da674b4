package aws_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"

	"forebay/uplink/aws"
)

// Where a server answers before it has the body, the transport may still read
// that; its buffer is not another request's meanwhile. What arrives whole is
// what was signed.
func TestEarlyAnswers(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		name := "HTTP/1.1"
		if h2 {
			name = "HTTP/2.0"
		}
		t.Run(name, func(t *testing.T) {
			bare(t)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Proto != name {
					t.Errorf("%s", r.Proto)
				}
				if r.Header.Get("X-Early") != "" {
					if r.Header.Get("X-Early") == "some" {
						if _, err := io.CopyN(io.Discard, r.Body, 1000); err != nil {
							t.Errorf("the first bytes: %v", err)
						}
					}
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				sum := sha256.New()
				if _, err := io.Copy(sum, r.Body); err != nil {
					t.Errorf("body: %v", err)
				} else if hex.EncodeToString(sum.Sum(nil)) != r.Header.Get("X-Sum") {
					t.Error("the body is not what was handed over")
				}
			}))
			a := static("")
			if srv.EnableHTTP2 = h2; h2 {
				srv.StartTLS()
				cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
				a.CA = write(t, filepath.Join(t.TempDir(), "ca.pem"), string(cert))
			} else {
				srv.Start()
			}
			defer srv.Close()
			a.Endpoint = srv.URL
			c := open(t, a, nil)
			var wg sync.WaitGroup
			for g := range 6 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(1, uint64(g)))
					for i := range 20 {
						buf := c.Buffer()
						buf.B = append(buf.B, bytes.Repeat([]byte{byte(g*20 + i)}, 1000+rng.IntN(1<<20))...)
						sum := sha256.Sum256(buf.B)
						h := http.Header{"X-Sum": {hex.EncodeToString(sum[:])}}
						early := rng.IntN(2) == 0
						if early {
							h.Set("X-Early", []string{"none", "some"}[rng.IntN(2)])
						}
						a, err := c.Send(t.Context(), &aws.Request{Header: h, Body: buf})
						if !early && err != nil {
							t.Errorf("Send: %v", err)
						}
						a.Release()
						buf.Release()
					}
				})
			}
			wg.Wait()
		})
	}
}
