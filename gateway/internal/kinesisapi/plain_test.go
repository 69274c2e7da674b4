package kinesisapi_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"forebay/gateway/conf"
	"forebay/gateway/internal/ingest"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

// lateInlet is the box's inlet, which is there only when the server is.
type lateInlet struct{ to *inlet }

func (l *lateInlet) PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	return l.to.PutTo(ctx, stream, recs, done)
}

func TestPlainDoor(t *testing.T) {
	key := func(name string, write ...string) kinesisapi.Key {
		return kinesisapi.Key{AccessKey: name, SecretKey: conf.NewSecret("secret of " + name), Write: write}
	}
	late := &lateInlet{}
	door := ingest.New(late, ingest.Options{}, slog.New(slog.DiscardHandler))
	b := start(t, kinesisapi.Config{Keys: []kinesisapi.Key{key("ALL"), key("LINE", "line-*")}}, spool.Config{}, kinesisapi.Plain(door))
	late.to = b.in
	b.create("plant", 1)
	b.create("line-1", 1)
	for _, c := range []struct {
		name, user, password, path, body string
		status, stored                   int
		code                             string
	}{
		{name: "nobody", path: "plant?format=ndjson", body: "{}\n", status: 401, code: "key"},
		{name: "a wrong secret", user: "ALL", password: "x", path: "plant?format=ndjson", body: "{}\n", status: 401, code: "key"},
		{name: "an unknown key", user: "NONE", password: "x", path: "plant?format=ndjson", body: "{}\n", status: 401, code: "key"},
		{name: "another's stream", user: "LINE", password: "secret of LINE", path: "plant?format=ndjson", body: "{}\n", status: 403, code: "denied"},
		{name: "no stream at all", user: "LINE", password: "secret of LINE", path: "", body: "{}\n", status: 403, code: "denied"},
		{name: "its own", user: "LINE", password: "secret of LINE", path: "line-1?format=ndjson", body: "{}\n{}\n", status: 200, stored: 2},
		{name: "all", user: "ALL", password: "secret of ALL", path: "plant?format=ndjson", body: "{}\nx\n", status: 200, stored: 1},
		{name: "too much", user: "ALL", password: "secret of ALL", path: "plant?format=raw", body: strings.Repeat("x", 17<<20), status: 413, code: "too_large"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url()+"/ingest/"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			r.SetBasicAuth(c.user, c.password)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		var a struct {
			Code   string
			Stored int
		}
		if err := json.Unmarshal(text, &a); err != nil {
			t.Errorf("%s: %q is not JSON: %v", c.name, text, err)
		}
		if resp.StatusCode != c.status || a.Code != c.code || a.Stored != c.stored {
			t.Errorf("%s: answered %d %s, want %d %q and %d stored", c.name, resp.StatusCode, text, c.status, c.code, c.stored)
		}
		if (resp.Header.Get("Www-Authenticate") != "") != (c.status == 401) {
			t.Errorf("%s: Www-Authenticate is %q", c.name, resp.Header.Get("Www-Authenticate"))
		}
	}
	for name, want := range map[string]uint64{"plant": 1, "line-1": 2} {
		st, err := b.sp.Stream(name)
		if err != nil {
			t.Fatal(err)
		}
		if n := st.Shards()[0].Next - 1; n != want {
			t.Errorf("%s holds %d records, want %d", name, n, want)
		}
	}
}
