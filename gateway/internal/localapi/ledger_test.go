package localapi_test

import (
	"errors"
	"net/http"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
)

func TestLedgerSteps(t *testing.T) {
	w := serve(t, localapi.Config{})
	l, err := w.client.Ledger(t.Context())
	if err != nil || !l.Balance || len(l.Steps) != 0 {
		t.Errorf("without steps: %+v, %v", l, err)
	}
	l, err = w.client.LedgerSteps(t.Context(), 7)
	if err != nil || len(l.Steps) != 1 || l.Steps[0].ID != 7 {
		t.Errorf("with steps: %+v, %v", l, err)
	}
	var e *api.Error
	if _, err = w.client.LedgerSteps(t.Context(), -1); !errors.As(err, &e) || e.Status != http.StatusBadRequest {
		t.Errorf("-1 steps: %v", err)
	}
}

func TestDropCursor(t *testing.T) {
	w := serve(t, localapi.Config{})
	if res, err := w.client.DropCursor(t.Context(), "mqtt", "old uplink", "op"); err != nil || res.Stream != "mqtt" || res.Cursor != "old uplink" {
		t.Errorf("%+v, %v", res, err)
	}
	for _, c := range []struct {
		stream, cursor, by string
		status             int
	}{
		{"mqtt", "old uplink", "", http.StatusBadRequest},
		{"mqtt", "none", "op", http.StatusNotFound},
		{"none", "old uplink", "op", http.StatusNotFound},
		{"mqtt", "busy", "op", http.StatusConflict},
	} {
		var e *api.Error
		if _, err := w.client.DropCursor(t.Context(), c.stream, c.cursor, c.by); !errors.As(err, &e) || e.Status != c.status {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
