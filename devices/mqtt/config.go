package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"

	"forebay/gateway/conf"
)

// Config is one table [[mqtt_client]] of the config file: a broker that
// already stands. Zero means the default.
//
// What the broker must do for nothing to be lost: keep what it has queued on
// disk, and drop nothing (mosquitto: persistence true, max_queued_messages 0).
type Config struct {
	// ID names the source.
	ID conf.Name `toml:"id"`
	// Broker is its address: "tcp://host:1883", or "ssl://host:8883" for TLS
	// ("mqtt" and "mqtts" mean the same).
	Broker string `toml:"broker"`
	// Topics are the topic filters to subscribe to; default ["#"].
	Topics []string `toml:"topics"`
	// ClientID names our session at the broker; default "forebay-" and ID.
	// The session is persistent: the broker queues while we are away.
	ClientID string `toml:"client_id"`
	// Username and Password are sent if they are set.
	Username string      `toml:"username"`
	Password conf.Secret `toml:"password"`
	// QoS is 1 or 2, of the subscriptions; default 1. (With 0 the broker would
	// not wait for our acknowledgement.)
	QoS int `toml:"qos"`
	// CA is a PEM file with the certificates that may have signed the broker's;
	// default are those of the system.
	CA string `toml:"ca"`
	// Stream takes the records; default "mqtt". Routes go before it.
	Stream conf.Stream `toml:"stream"`
	// WatchDropped reads $SYS/broker/publish/messages/dropped, which mosquitto
	// and others keep: the number of messages that the broker lost before
	// they reached a subscriber. Default false.
	WatchDropped bool `toml:"watch_dropped"`
}

func (c *Config) topics() []string {
	if len(c.Topics) == 0 {
		return []string{"#"}
	}
	return c.Topics
}

func (c *Config) clientID() string {
	if c.ClientID == "" {
		return "forebay-" + string(c.ID)
	}
	return c.ClientID
}

func (c *Config) qos() byte {
	if c.QoS == 0 {
		return 1
	}
	return byte(c.QoS)
}

// StreamName is the stream that takes the records.
func (c *Config) StreamName() string {
	if c.Stream == "" {
		return "mqtt"
	}
	return string(c.Stream)
}

// Check says whether the values make sense; the error names the field. It
// reads no file.
func (c *Config) Check() error {
	if c.ID == "" {
		return errors.New("id: is missing")
	}
	if _, _, err := c.address(); err != nil {
		return err
	}
	for _, t := range c.Topics {
		if _, err := conf.ParseFilter(t); err != nil {
			return fmt.Errorf("topics: %w", err)
		}
	}
	if c.QoS < 0 || c.QoS > 2 {
		return fmt.Errorf("qos: %d is not 1 or 2", c.QoS)
	}
	if len(c.ClientID) > 65535 {
		return errors.New("client_id: is too long")
	}
	if c.Password.IsSet() && c.Username == "" {
		return errors.New("password: needs a username") // [MQTT-3.1.2-22] of 3.1.1
	}
	return nil
}

// address is where to connect to, and whether with TLS.
func (c *Config) address() (hostport string, secure bool, err error) {
	u, err := url.Parse(c.Broker)
	if err != nil || u.Hostname() == "" {
		return "", false, fmt.Errorf("broker: %q is not an address; write for example \"tcp://10.0.0.5:1883\" or \"ssl://broker:8883\"", c.Broker)
	}
	port := u.Port()
	switch u.Scheme {
	case "tcp", "mqtt":
		if port == "" {
			port = "1883"
		}
	case "ssl", "tls", "mqtts":
		secure = true
		if port == "" {
			port = "8883"
		}
	default:
		return "", false, fmt.Errorf("broker: %q starts with none of tcp, mqtt, ssl, tls, mqtts", c.Broker)
	}
	return net.JoinHostPort(u.Hostname(), port), secure, nil
}

func (c *Config) tls() (*tls.Config, error) {
	hostport, secure, err := c.address()
	if err != nil || !secure {
		return nil, err
	}
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if c.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca: %s holds no certificate", c.CA)
	}
	return t, nil
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	c.Topics, c.ClientID, c.QoS, c.Stream = c.topics(), c.clientID(), int(c.qos()), conf.Stream(c.StreamName())
	return c
}
