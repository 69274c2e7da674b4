package localapi_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
)

func TestErrands(t *testing.T) {
	w := serve(t, localapi.Config{})
	from := time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC)
	e, err := w.client.Replay(t.Context(), "cloud", api.ReplayRequest{By: "op", Stream: "mqtt", From: from})
	if err != nil || e.ID != "cloud~replay-1" || e.Stream != "mqtt" || !e.From.Equal(from) {
		t.Errorf("replay: %+v, %v", e, err)
	}
	status := func(err error) int {
		var e *api.Error
		if !errors.As(err, &e) {
			return 0
		}
		return e.Status
	}
	for _, c := range []struct {
		id   string
		req  api.ReplayRequest
		want int
	}{{"none", api.ReplayRequest{By: "op"}, 404}, {"cloud", api.ReplayRequest{By: "op", As: "mqtt"}, 400}, {"cloud", api.ReplayRequest{}, 400}} {
		if _, err := w.client.Replay(t.Context(), c.id, c.req); status(err) != c.want {
			t.Errorf("%s, %+v: %v", c.id, c.req, err)
		}
	}
	if _, err := w.client.Redrive(t.Context(), "cloud", api.RedriveRequest{By: "op", All: true}); status(err) != http.StatusConflict {
		t.Errorf("redrive of nothing: %v", err)
	}
	if e, err := w.client.CancelErrand(t.Context(), "cloud~replay-1", "op"); err != nil || e.By != "op" {
		t.Errorf("cancel: %+v, %v", e, err)
	}
	if _, err := w.client.CancelErrand(t.Context(), "cloud", "op"); status(err) != http.StatusNotFound {
		t.Errorf("cancel of none: %v", err)
	}
	if l, err := w.client.Refused(t.Context(), "cloud", 0); err != nil || l.Total != 100 {
		t.Errorf("refused: %+v, %v", l, err)
	}
	if _, err := w.client.Refused(t.Context(), "cloud", -1); status(err) != http.StatusBadRequest {
		t.Errorf("refused, limit -1: %v", err)
	}
}
