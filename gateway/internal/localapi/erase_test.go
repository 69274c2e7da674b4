package localapi_test

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
)

func TestAStreamIsErasedOnlyWhenItIsMeant(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte(hex.EncodeToString(make([]byte, 32))), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(t.Context(), filepath.Join(dir, "spool"), spool.Config{KeyFile: key}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := sp.Ensure(t.Context(), spool.StreamConfig{Name: "secret", Encrypt: true})
	if err == nil {
		_, err = sp.Ensure(t.Context(), spool.StreamConfig{Name: "plain"})
	}
	if err == nil {
		_, err = secret.Put(t.Context(), []record.Record{{Key: "k"}, {Key: "k"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	server, err := localapi.New(localapi.Config{Listen: "127.0.0.1:0"}, sp, &stage{changed: make(chan struct{}, 1)}, straight{sp}, nil, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	client, err := api.NewClient(server.Addr(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := errors.Join(<-ended, sp.Close()); err != nil {
			t.Error(err)
		}
	})
	for _, body := range []string{"", "{}", `{"confirm":"plain","by":"anna"}`, `{"confirm":"secret"}`, `{"confirm":"secret","by":"anna","x":1}`} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+server.Addr()+"/v1/streams/secret/erase", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%q is answered with %d", body, resp.StatusCode)
		}
	}
	for stream, status := range map[string]int{"plain": http.StatusConflict, "nothing": http.StatusNotFound} {
		_, err := client.Erase(t.Context(), stream, "anna")
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Status != status {
			t.Errorf("%s: %v", stream, err)
		}
	}
	if sh := secret.Shards()[0]; sh.Next != 3 {
		t.Fatalf("%+v", sh)
	}
	res, err := client.Erase(t.Context(), "secret", "anna")
	if err != nil || res.Stream != "secret" || res.Records != 2 || res.At.IsZero() {
		t.Errorf("%+v, %v", res, err)
	}
	for _, err := range client.Records(t.Context(), api.Tail{Stream: "secret"}) {
		if err == nil {
			t.Error("a record is there still")
		}
	}
}
