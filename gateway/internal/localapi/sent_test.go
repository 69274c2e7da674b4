package localapi_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
)

func TestSent(t *testing.T) {
	w := serve(t, localapi.Config{})
	from := time.Date(2026, 11, 5, 14, 0, 0, 1000, time.UTC)
	s, err := w.client.Sent(t.Context(), "cloud", api.SentAsk{From: from})
	if err != nil || s.Gateway != "edge-07" || s.Uplink != "cloud" || !s.At.Equal(from) {
		t.Errorf("%+v, %v", s, err)
	}
	var e *api.Error
	if _, err := w.client.Sent(t.Context(), "none", api.SentAsk{}); !errors.As(err, &e) || e.Status != http.StatusNotFound {
		t.Errorf("an uplink that is not there: %v", err)
	}
}
