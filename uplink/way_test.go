package uplink_test

import (
	"testing"

	"forebay/uplink"
	"forebay/uplink/kafka"
	"forebay/uplink/nats"
)

// A far side is another one where its name, account or domain is; not where the
// same addresses stand in another order.
func TestWay(t *testing.T) {
	way := func(c uplink.Config) string {
		t.Helper()
		c.ID = "cloud"
		w, err := c.Way()
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	plain := nats.Config{Servers: []string{"nats://a", "nats://b"}, Stream: "S"}
	to := func(change func(*nats.Config)) uplink.Config {
		c := plain
		change(&c)
		return uplink.Config{NATS: &c}
	}
	was := way(to(func(*nats.Config) {}))
	if way(to(func(c *nats.Config) { c.Servers = []string{"nats://b", "nats://a"} })) != was {
		t.Error("servers in another order are another way")
	}
	for name, c := range map[string]uplink.Config{
		"server":  to(func(c *nats.Config) { c.Servers = []string{"nats://c"} }),
		"stream":  to(func(c *nats.Config) { c.Stream = "T" }),
		"subject": to(func(c *nats.Config) { c.Subject = "x.{stream}" }),
		"domain":  to(func(c *nats.Config) { c.Domain = "hub" }),
		"user":    to(func(c *nats.Config) { c.User = "other" }),
		"creds":   to(func(c *nats.Config) { c.Creds = "other.creds" }),
		"kind":    {Kafka: &kafka.Config{Brokers: plain.Servers, Topic: "S"}},
	} {
		if way(c) == was {
			t.Errorf("another %s is the same way", name)
		}
	}
}
