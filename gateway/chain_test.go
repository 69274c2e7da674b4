package main

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const hopConfig = `
[gateway]
name = "NAME"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "STREAM"
shards = 4
`

const hopUplink = `
[[uplink]]
id = "up"
streams = ["FROM"]
[uplink.kinesis]
endpoint = "http://LINK"
region = "us-east-1"
stream = "TO"
access_key = "any"
secret_key = "any"
`

const hopReaders = `
[[rule]]
id = "inside"
from = "cell"
match = "+/+/+/press1/temperature"
when = "value > -1000"
severity = 2
text = "a value arrived: {value}"
[[point]]
id = "press1-temp"
stream = "cell"
key = "northfield/press-shop/line1/press1/temperature"
`

// TestChain: cell, site, cloud. What a factory hears acknowledged at the first
// gateway is at the third, readable, once and in order; rules and points of
// the second see the values inside.
func TestChain(t *testing.T) {
	sim := program(t, "forebay-sim")
	hop := func(name, stream, more string, pairs ...string) *gw {
		t.Helper()
		return startGateway(t, name, strings.NewReplacer(append(pairs, "NAME", name, "STREAM", stream)...).Replace(hopConfig+more))
	}
	top := hop("cloud", "site", "")
	far := hop("site", "cell", hopReaders+hopUplink, "FROM", "cell", "LINK", top.kinesis, "TO", "site")
	near := hop("edge", "unused", hopUplink, "FROM", "mqtt", "LINK", far.kinesis, "TO", "cell", `listen = "off"`, `listen = "MQTT"`)

	ledger := filepath.Join(t.TempDir(), "ledger.jsonl")
	factory := spawn(t, "factory", sim, "run", "--plant", "builtin", "--mqtt", near.mqtt,
		"--ledger", ledger, "--duration", "5s", "--devices", "6", "--qos", "1", "--seed", "11", "--grace", "2s")
	factory.wait(20 * time.Second)
	if factory.err != nil {
		t.Fatalf("the factory ended with %v", factory.err)
	}
	verify := spawn(t, "verify", sim, "verify", "--ledger", ledger, "--endpoint", "http://"+top.kinesis, "--stream", "site", "--wait", "20s")
	verify.wait(30 * time.Second)
	t.Logf("the witness says:\n%s", verify.out)
	if verify.err != nil || !regexp.MustCompile(`(?m)^lost 0, out of order 0, duplicated 0`).MatchString(verify.out.String()) {
		t.Errorf("verify: %v", verify.err)
	}
	ctx := context.Background()
	eventually(t, 10*time.Second, "the site's rule fires on a value inside", func() bool {
		alarms, err := far.client.Alarms(ctx)
		if err != nil {
			return false
		}
		for _, a := range alarms {
			if a.Rule == "inside" && strings.HasSuffix(a.Key, "/press1/temperature") {
				return true
			}
		}
		return false
	})
	eventually(t, 10*time.Second, "the site's tile shows a value inside", func() bool {
		points, err := far.client.Points(ctx)
		return err == nil && len(points) == 1 && points[0].Value != nil
	})
	for _, g := range []*gw{near, far, top} {
		g.sound(t)
	}
}
