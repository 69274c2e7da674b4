package localapi_test

import (
	"errors"
	"net/http"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
)

func TestUplinkVerbs(t *testing.T) {
	w := serve(t, localapi.Config{})
	if u, err := w.client.PauseUplink(t.Context(), "cloud", "op"); err != nil || u.ID != "cloud" || u.State != "paused" {
		t.Errorf("pause: %+v, %v", u, err)
	}
	if u, err := w.client.ResumeUplink(t.Context(), "cloud", "op"); err != nil || u.State != "up" {
		t.Errorf("resume: %+v, %v", u, err)
	}
	var e *api.Error
	if _, err := w.client.PauseUplink(t.Context(), "none", "op"); !errors.As(err, &e) || e.Status != http.StatusNotFound {
		t.Errorf("pause of none: %v", err)
	}
	if _, err := w.client.PauseUplink(t.Context(), "cloud", ""); !errors.As(err, &e) || e.Status != http.StatusBadRequest {
		t.Errorf("pause by nobody: %v", err)
	}
	if _, err := w.client.RetryUplink(t.Context(), "cloud", "op"); !errors.As(err, &e) || e.Status != http.StatusConflict {
		t.Errorf("retry of a paused one: %v", err)
	}
}
