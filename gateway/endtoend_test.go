package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

const farConfig = `
[gateway]
name = "site"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "press-shop"
shards = 4
`

const nearConfig = `
[gateway]
name = "edge-07"
title = "Press shop"
data = "DATA"
[mqtt]
listen = "MQTT"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[serial]]
id = "scale1"
port = "TTY/scale1"
query = 'READ\r\n'
interval = "100ms"
[[serial]]
id = "gauge1"
port = "TTY/gauge1"
[[camera]]
id = "cam1"
label = "Press 1"
[[uplink]]
id = "cloud"
streams = ["mqtt", "serial", "video", "alarms", "gaps"]
retry_max = "2s"
[uplink.kinesis]
endpoint = "http://LINK"
region = "us-east-1"
stream = "press-shop"
access_key = "any"
secret_key = "any"
[[rule]]
id = "press-hot"
match = "+/+/+/press1/temperature"
when = "value > 85"
clear = "value < 80"
severity = 1
text = "Temperature high {value} {unit} (limit 85)"
[[point]]
id = "press1-temp"
label = "Line 1 temp"
key = "northfield/press-shop/line1/press1/temperature"
unit = "Cel"
low = 0
high = 120
`

// TestEndToEnd is the main job as four processes: a simulated factory, a
// gateway, a link, and a second gateway as the cloud. The link is cut for the
// middle third, the gateway is killed with SIGKILL in each third, a machine
// overheats while the link is down. Afterwards the simulator, which imports
// nothing of ours, compares what was acknowledged with what arrived.
func TestEndToEnd(t *testing.T) {
	length := time.Minute
	if s := os.Getenv("FOREBAY_E2E"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatalf("FOREBAY_E2E: %v", err)
		}
	} else if testing.Short() {
		length = 21 * time.Second
	}
	dir := t.TempDir()
	tty, ledger := filepath.Join(dir, "tty"), filepath.Join(dir, "ledger.jsonl")
	sim := program(t, "forebay-sim")

	far := startGateway(t, "far", farConfig)
	link, control := freePort(t), freePort(t)
	spawn(t, "link", sim, "link", "--listen", link, "--to", far.kinesis, "--control", control)
	near := startGateway(t, "near", strings.NewReplacer("TTY", filepath.ToSlash(tty), "LINK", link).Replace(nearConfig))
	third := length / 3
	ramp := fmt.Sprintf("ramp:press1/temperature@%ds+%ds=60", int(third.Seconds())+1, int(third.Seconds()))
	began := time.Now()
	factory := spawn(t, "factory", sim, "run", "--plant", "builtin", "--mqtt", near.mqtt, "--api", "http://"+near.api,
		"--serial", tty, "--ledger", ledger, "--duration", length.String(), "--devices", "20", "--qos", "mix", "--seed", "7", "--fault", ramp)

	until := func(d time.Duration) {
		t.Helper()
		select {
		case <-factory.done:
			t.Fatalf("the factory ended early: %v\n%s", factory.err, factory.out)
		case <-time.After(time.Until(began.Add(d))):
		}
	}
	crash := func() {
		t.Helper()
		near.kill()
		near.start(t, "near")
	}
	until(third / 2)
	crash()
	until(third)
	order(t, control, "cut")
	var alarm api.Alarm
	eventually(t, third, "the alarm is raised while the link is down", func() bool {
		alarms, err := near.client.Alarms(context.Background())
		if err != nil {
			return false
		}
		for _, a := range alarms {
			if a.Rule == "press-hot" && a.State == "unacked" {
				alarm = a
			}
		}
		return alarm.ID != ""
	})
	until(3 * third / 2)
	crash()
	res, err := near.client.Ack(context.Background(), api.AckRequest{IDs: []string{alarm.ID}, By: "night shift", Note: "seen"})
	if err != nil || len(res.Acked) != 1 {
		t.Errorf("acknowledge %s: %+v, %v", alarm.ID, res, err)
	}
	st, err := near.client.Status(context.Background())
	if err != nil || len(st.Uplinks) != 1 || st.Uplinks[0].Waiting == 0 {
		t.Errorf("with the link cut nothing waits: %+v, %v", st.Uplinks, err)
	}
	until(2 * third)
	order(t, control, "up")
	until(5 * third / 2)
	crash()
	factory.wait(length + 30*time.Second)
	if factory.err != nil {
		t.Errorf("the factory ended with %v", factory.err)
	}

	verify := spawn(t, "verify", sim, "verify", "--ledger", ledger, "--endpoint", "http://"+far.kinesis, "--stream", "press-shop", "--wait", "120s")
	verify.wait(150 * time.Second)
	t.Logf("the witness says:\n%s", verify.out)
	if verify.err != nil || !regexp.MustCompile(`(?m)^lost 0, out of order 0, duplicated \d+`).MatchString(verify.out.String()) {
		t.Errorf("verify: %v", verify.err)
	}
	alarmArrived(t, far, alarm)
	near.sound(t)
	far.sound(t)
}

// order tells the link what to do.
func order(t testing.TB, control, what string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+control+"/"+what, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("link: %s: %v", what, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("link: %s: %s %s %v", what, resp.Status, b, err)
	}
}

// alarmArrived finds the alarm's raise and its acknowledgement at the far end,
// once each and in that order.
func alarmArrived(t *testing.T, far *gw, alarm api.Alarm) {
	t.Helper()
	events := []string{}
	for r, err := range far.client.Records(context.Background(), api.Tail{Stream: "press-shop"}) {
		if err != nil {
			t.Fatalf("read the far end: %v", err)
		}
		var env struct {
			ID     string
			Stream string
			Data   struct{ ID, Event, By string }
		}
		if json.Unmarshal(r.Data, &env) != nil || env.Stream != "alarms" || env.Data.ID != alarm.ID {
			continue
		}
		events = append(events, env.Data.Event)
	}
	if got := strings.Join(events, " "); !strings.HasPrefix(got, "raised ") || !strings.Contains(got, "acked") {
		t.Errorf("of alarm %s there arrived %q; want it raised, then acknowledged", alarm.ID, got)
	}
}
