package nats_test

import (
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/nats"
)

func TestCheckNamesTheField(t *testing.T) {
	good := func() nats.Config { return nats.Config{Servers: []string{"nats://10.0.0.5:4222"}, Stream: "PLANT"} }
	for _, c := range []struct {
		change func(c *nats.Config)
		field  string // "" means: right
	}{
		{func(*nats.Config) {}, ""},
		{func(c *nats.Config) { c.Servers = append(c.Servers, "tls://nats.example.com") }, ""},
		{func(c *nats.Config) { c.Subject = "plant.{gateway}.line-7.{shard}.{key}" }, ""},
		{func(c *nats.Config) { c.Subject = "{gateway}.{shard}" }, ""},
		{func(c *nats.Config) { c.CreateStream, c.Replicas, c.MaxAge, c.MaxBytes = true, 3, 1, 1 }, ""},
		{func(c *nats.Config) { c.InboxPrefix, c.Domain = "answers.edge", "hub" }, ""},
		{func(c *nats.Config) { c.Servers = nil }, "servers"},
		{func(c *nats.Config) { c.Servers[0] = "10.0.0.5:4222" }, "servers"},
		{func(c *nats.Config) { c.Servers[0] = "http://10.0.0.5:4222" }, "servers"},
		{func(c *nats.Config) { c.Servers[0] = "nats://u:hunter2@10.0.0.5:4222" }, "servers"},
		{func(c *nats.Config) { c.Servers[0] = "nats://10.0.0.5:4222/x" }, "servers"},
		{func(c *nats.Config) { c.Stream = "" }, "stream"},
		{func(c *nats.Config) { c.Stream = "a.b" }, "stream"},
		{func(c *nats.Config) { c.Subject = "forebay.{stream}.{shard}" }, "subject"},
		{func(c *nats.Config) { c.Subject = "forebay.{gateway}.{stream}" }, "subject"},
		{func(c *nats.Config) { c.Subject = "forebay.{gateway}{shard}" }, "subject"},
		{func(c *nats.Config) { c.Subject = "forebay.{gateway}.{shard}.{key}.x" }, "subject"},
		{func(c *nats.Config) { c.Subject = "forebay.{gateway}.{shard}.*" }, "subject"},
		{func(c *nats.Config) { c.Subject = "forebay..{gateway}.{shard}" }, "subject"},
		{func(c *nats.Config) { c.Subject = "$JS.{gateway}.{shard}" }, "subject"},
		{func(c *nats.Config) { c.Replicas = 3 }, "replicas"},
		{func(c *nats.Config) { c.CreateStream, c.Replicas = true, 6 }, "replicas"},
		{func(c *nats.Config) { c.MaxBytes = 1 }, "max_bytes"},
		{func(c *nats.Config) { c.MaxAge = 1 }, "max_age"},
		{func(c *nats.Config) { c.Format = "json" }, "format"},
		{func(c *nats.Config) { c.User = "u" }, "user"},
		{func(c *nats.Config) { c.Password = conf.NewSecret("hunter2") }, "password"},
		{func(c *nats.Config) {
			c.User, c.Password, c.Token = "u", conf.NewSecret("hunter2"), conf.NewSecret("hunter2")
		}, "user"},
		{func(c *nats.Config) { c.Creds = "/no/such/file" }, "creds"},
		{func(c *nats.Config) { c.NKey = "/no/such/file" }, "nkey"},
		{func(c *nats.Config) { c.CA = "/no/such/file" }, "ca"},
		{func(c *nats.Config) { c.Cert = "config_test.go" }, "cert"},
		{func(c *nats.Config) { c.Key = "config_test.go" }, "key"},
		{func(c *nats.Config) { c.Domain = "a b" }, "domain"},
		{func(c *nats.Config) { c.InboxPrefix = "a.>" }, "inbox_prefix"},
		{func(c *nats.Config) { c.RequestTimeout = conf.Duration(time.Millisecond) }, "request_timeout"},
	} {
		cfg := good()
		c.change(&cfg)
		err := cfg.Check()
		if c.field == "" && err != nil || c.field != "" && (err == nil || !strings.HasPrefix(err.Error(), c.field+": ")) {
			t.Errorf("%v, want the field %q", err, c.field)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the secret: %v", err)
		}
		if c.field == "" {
			if err := cfg.WithDefaults().Check(); err != nil {
				t.Errorf("with defaults: %v", err)
			}
		}
	}
	if got := good().Target(); got != "nats://10.0.0.5:4222, stream PLANT" {
		t.Errorf("target %q", got)
	}
}
