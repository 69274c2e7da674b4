package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"forebay/gateway/api"
)

var (
	// ErrNoUplink is what a Plant answers to the id of an uplink that it does
	// not have.
	ErrNoUplink = errors.New("no such uplink")
	// ErrPaused is what it answers to a retry of one that is paused.
	ErrPaused = errors.New("the uplink is paused")
)

const maxVerbBody = 4096

// uplinkVerb answers when what was asked for is done and on disk.
func (s *Server) uplinkVerb(verb string, do func(ctx context.Context, id, by string) (api.Uplink, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req api.UplinkRequest
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxVerbBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			s.fail(w, http.StatusBadRequest, "the request is not one to "+verb+" an uplink: "+err.Error(), `send {"by":"name"}`)
			return
		}
		if req.By == "" {
			s.fail(w, http.StatusBadRequest, "by is empty", "say who asks")
			return
		}
		u, err := do(r.Context(), r.PathValue("uplink"), req.By)
		switch {
		case errors.Is(err, ErrNoUplink):
			s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/uplinks lists what there is")
		case errors.Is(err, ErrPaused):
			s.fail(w, http.StatusConflict, err.Error(), "resume it first")
		case err != nil:
			s.failWith(w, err)
		default:
			s.answer(w, http.StatusOK, u)
		}
	}
}

// uplinkMetrics tells of an uplink what the first ones left out.
func uplinkMetrics(gauge, count func(name, help string, v float64, labels ...string), u api.Uplink) {
	gauge("forebay_uplink_paused", "1 while an operator has paused the uplink.", flag(u.State == "paused"), "uplink", u.ID)
	gauge("forebay_uplink_waiting_bytes", "Bytes not yet delivered, estimate.", float64(u.WaitBytes), "uplink", u.ID)
	age := 0.0
	if u.Oldest != nil {
		age = time.Since(*u.Oldest).Seconds()
	}
	gauge("forebay_uplink_oldest_seconds", "Age of the oldest record not yet delivered; 0 where nothing waits.", age, "uplink", u.ID)
	if u.ETA != nil {
		gauge("forebay_uplink_eta_seconds", "Time until nothing waits, at what drains less what arrives; absent where unknown.", *u.ETA, "uplink", u.ID)
	}
	gauge("forebay_uplink_drain_bytes_per_second", "Bytes of keys and data that were acknowledged a second, the last time it moved.", u.DrainBps, "uplink", u.ID)
	gauge("forebay_uplink_limit_kbit", "What the uplink may send now, in kilobits a second; 0 is no limit.", float64(u.LimitKbit), "uplink", u.ID)
	gauge("forebay_uplink_capped", "1 while that limit holds records back.", flag(u.Capped), "uplink", u.ID)
	count("forebay_uplink_payload_bytes_total", "Keys and data acknowledged by the far side.", float64(u.Used.PayloadBytes), "uplink", u.ID)
	count("forebay_uplink_requests_total", "Requests sent.", float64(u.Used.Requests), "uplink", u.ID)
	count("forebay_uplink_units_total", "What the target's price list counts (PUT payload units).", float64(u.Used.Units), "uplink", u.ID)
	count("forebay_uplink_plain_units_total", "What it would count without aggregation.", float64(u.Used.PlainUnits), "uplink", u.ID)
	count("forebay_uplink_plain_wire_bytes_total", "Bytes that would have been sent over the link without aggregation.", float64(u.Used.PlainWire), "uplink", u.ID)
	if u.ClockOff != nil {
		gauge("forebay_uplink_clock_offset_seconds", "How far the target's clock is ahead of ours; absent where its answers do not tell.", *u.ClockOff/1000, "uplink", u.ID)
	}
	if u.CommandsRefused != nil {
		count("forebay_uplink_commands_refused_total", "Commands of Sparkplug hosts that were not obeyed, since the process started.", float64(*u.CommandsRefused), "uplink", u.ID)
	}
	count("forebay_uplink_billed_bytes_total", "Bytes as they are billed on demand.", float64(u.Used.BilledBytes), "uplink", u.ID)
	for _, m := range []struct {
		bill  *api.UplinkBill
		basis string
		agg   string
	}{{u.Cost.Month, "hour", "on"}, {u.Cost.MonthPlain, "hour", "off"}, {u.Cost.MonthByDay, "day", "on"}, {u.Cost.MonthByDayPlain, "day", "off"}} {
		if m.bill != nil {
			gauge("forebay_uplink_month_cost", "What a month costs if records go on arriving as in the last hour or day, with aggregation and without; absent where nothing has a price, and while it is not yet known.", m.bill.Sum,
				"uplink", u.ID, "currency", u.Cost.Currency, "basis", m.basis, "aggregation", m.agg)
		}
	}
}
