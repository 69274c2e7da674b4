package uplink_test

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"forebay/uplink"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
	"forebay/uplink/nats"
	"forebay/uplink/sparkplug"
)

// A target that speaks another protocol is told as such by the first try, also
// where it says nothing to what it does not understand.
func TestATargetThatSpeaksAnotherProtocol(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(new(strings.Builder), "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	shell, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shell.Close() })
	go func() {
		for {
			c, err := shell.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
			defer c.Close()
		}
	}()
	for kind, c := range map[string]struct {
		cfg   func(addr string) uplink.Config
		meant string
		field string
	}{
		"mqtt": {func(addr string) uplink.Config {
			return uplink.Config{MQTT: &mqtt.Config{Link: mqtt.Link{Broker: "tcp://" + addr}, Topic: "x/{stream}"}}
		}, "an MQTT broker", "broker"},
		"sparkplug": {func(addr string) uplink.Config {
			return uplink.Config{Sparkplug: &sparkplug.Config{Link: mqtt.Link{Broker: "tcp://" + addr}, Group: "g"}}
		}, "an MQTT broker", "broker"},
		"kafka": {func(addr string) uplink.Config {
			return uplink.Config{Kafka: &kafka.Config{Brokers: []string{addr}, Topic: "t"}}
		}, "a Kafka broker", "brokers"},
		"nats": {func(addr string) uplink.Config {
			return uplink.Config{NATS: &nats.Config{Servers: []string{"nats://" + addr}, Stream: "S"}}
		}, "a NATS server", "servers"},
	} {
		for addr, seen := range map[string]string{
			web.Listener.Addr().String():    `the first bytes were "HTTP/1.1 400 Bad Request"`,
			secure.Listener.Addr().String(): "",
			shell.Addr().String():           `the first bytes were "SSH-2.0-OpenSSH_9.9"`,
		} {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				cfg := c.cfg(addr)
				cfg.ID = "far"
				if err := cfg.Check(); err != nil {
					t.Fatal(err)
				}
				sink, err := uplink.New(cfg, lane.Home{ID: identity, Log: quiet})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := sink.Close(); err != nil {
						t.Error(err)
					}
				}()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				err = sink.(uplink.Prober).Probe(ctx)
				var e *lane.Error
				if seen == "" {
					if !errors.As(err, &e) || e.Class != lane.Offline || !strings.Contains(err.Error(), "TLS") {
						t.Errorf("of TLS: %v", err)
					}
					return
				}
				if !errors.As(err, &e) || e.Class != lane.Offline || !strings.HasPrefix(err.Error(), "it does not answer as "+c.meant+": "+seen) || !strings.HasSuffix(err.Error(), "; look at "+c.field) {
					t.Errorf("%s: %v", addr, err)
				}
			})
		}
	}
}
