package localapi_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
)

// pricedUplink is one of which all is known that not every uplink tells.
func pricedUplink() api.Uplink {
	off, refused := -7_200_000.0, uint64(4)
	return api.Uplink{
		ID: "scada", State: "up", ClockOff: &off, CommandsRefused: &refused, Used: api.UplinkUsage{PlainWire: 33},
		Cost: api.UplinkCost{Model: "none", Currency: "EUR", Month: &api.UplinkBill{Link: 5, Sum: 5}},
	}
}

// What an uplink knows stands in the metrics; what it does not know is not
// there, so that nobody takes it for 0.
func TestUplinkMetrics(t *testing.T) {
	w := serve(t, localapi.Config{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.server.Addr()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`forebay_uplink_clock_offset_seconds{uplink="scada"} -7200`,
		`forebay_uplink_commands_refused_total{uplink="scada"} 4`,
		`forebay_uplink_plain_wire_bytes_total{uplink="scada"} 33`,
		`forebay_uplink_plain_wire_bytes_total{uplink="cloud"} 0`,
		`forebay_uplink_month_cost{aggregation="on",basis="hour",currency="EUR",uplink="scada"} 5`,
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("metrics do not hold %s", want)
		}
	}
	for _, no := range []string{`clock_offset_seconds{uplink="cloud"`, `commands_refused_total{uplink="cloud"`, `uplink="cloud"} 5`} {
		if strings.Contains(string(text), no) {
			t.Errorf("metrics hold %s", no)
		}
	}
}

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
