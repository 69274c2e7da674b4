package broker

import (
	"crypto/tls"
	"errors"
	"fmt"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// Defaults and bounds of Config.
const (
	// DefaultListen is where the broker is found when nothing is configured.
	DefaultListen     = conf.Listen("127.0.0.1:1883")
	defaultMaxPacket  = 1<<20 + 64<<10
	largestMaxPacket  = record.MaxData + 128<<10
	smallestMaxPacket = 1 << 10
	defaultMaxConns   = 1000
	largestMaxConns   = 100_000
	defaultPending    = 1000
	largestPending    = 65535
	defaultPendingB   = 4 << 20
)

// Config is the table [mqtt] of the config file. Zero means the default.
type Config struct {
	// Listen is the address of the broker; default "127.0.0.1:1883", "off"
	// closes the door. An address that other machines can reach is refused
	// unless users and TLS are set.
	Listen conf.Listen `toml:"listen"`
	// TLSCert and TLSKey are PEM files; both or neither. With them the door
	// speaks TLS 1.2 or newer only.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`
	// Users may connect; without any, everybody on this machine may.
	Users []User `toml:"user"`
	// MaxPacket is the largest MQTT packet, in bytes, with header, topic and
	// properties; default 1088KiB: 1 MiB of payload and room for the rest.
	MaxPacket conf.Size `toml:"max_packet"`
	// MaxConnections is how many clients may be connected at a time; default 1000.
	MaxConnections int `toml:"max_connections"`
	// MaxPending is how many records of one client may wait for the commit;
	// default 1000. Then its connection is not read until some are on disk.
	// MQTT 5 clients are told it as the Receive Maximum.
	MaxPending int `toml:"max_pending"`
	// MaxPendingBytes is the same in bytes; default 4MiB. One record larger
	// than that still passes, alone.
	MaxPendingBytes conf.Size `toml:"max_pending_bytes"`
}

// A User may connect with his name and password.
type User struct {
	// Name is the MQTT user name.
	Name string `toml:"name"`
	// Password is the text itself, "file:PATH" or "env:NAME".
	Password conf.Secret `toml:"password"`
	// Publish lists the topic filters that the user may publish to; not given,
	// all topics; an empty list, none.
	Publish []string `toml:"publish"`
	// Subscribe lists the topic filters that the user may subscribe within;
	// not given, none.
	Subscribe []string `toml:"subscribe"`
}

func (c *Config) listen() conf.Listen {
	if c.Listen == "" {
		return DefaultListen
	}
	return c.Listen
}

func orInt(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func (c *Config) maxPacket() int       { return int(c.MaxPacket.Or(defaultMaxPacket)) }
func (c *Config) maxConnections() int  { return orInt(c.MaxConnections, defaultMaxConns) }
func (c *Config) maxPending() int      { return orInt(c.MaxPending, defaultPending) }
func (c *Config) maxPendingBytes() int { return int(c.MaxPendingBytes.Or(defaultPendingB)) }

// Check says whether the values make sense together; the error names the
// field. It reads no file.
func (c *Config) Check() error {
	if !c.listen().Off() && !c.listen().Loopback() {
		if len(c.Users) == 0 {
			return fmt.Errorf("listen: %q can be reached from other machines; set [[mqtt.user]] with name and password, and tls_cert and tls_key, first", c.Listen)
		}
		if c.TLSCert == "" {
			return fmt.Errorf("listen: %q can be reached from other machines; set tls_cert and tls_key first", c.Listen)
		}
	}
	switch {
	case c.TLSCert != "" && c.TLSKey == "":
		return errors.New("tls_cert: tls_key is missing; both are needed")
	case c.TLSKey != "" && c.TLSCert == "":
		return errors.New("tls_key: tls_cert is missing; both are needed")
	case c.MaxPacket != 0 && (c.MaxPacket < smallestMaxPacket || c.MaxPacket > largestMaxPacket):
		return fmt.Errorf("max_packet: %s is not between %s and %s", c.MaxPacket, conf.Size(smallestMaxPacket), conf.Size(largestMaxPacket))
	case c.MaxConnections < 0 || c.MaxConnections > largestMaxConns:
		return fmt.Errorf("max_connections: %d is not between 1 and %d", c.MaxConnections, largestMaxConns)
	case c.MaxPending < 0 || c.MaxPending > largestPending:
		return fmt.Errorf("max_pending: %d is not between 1 and %d", c.MaxPending, largestPending)
	case c.MaxPendingBytes < 0 || c.MaxPendingBytes > 1<<30:
		return fmt.Errorf("max_pending_bytes: %s is not between 1 byte and 1GiB", c.MaxPendingBytes)
	}
	return c.checkUsers()
}

func (c *Config) checkUsers() error {
	seen := map[string]bool{}
	for _, u := range c.Users {
		switch {
		case u.Name == "":
			return errors.New("name: a user has none")
		case seen[u.Name]:
			return fmt.Errorf("name: user %q is there twice", u.Name)
		case !u.Password.IsSet():
			return fmt.Errorf("password: user %q has none", u.Name)
		}
		seen[u.Name] = true
	}
	_, err := accounts(c.Users)
	return err
}

// tls is nil where the door speaks plain TCP.
func (c *Config) tls() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls_cert: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}, nil
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	c.Listen = c.listen()
	c.MaxPacket = conf.Size(c.maxPacket())
	c.MaxConnections, c.MaxPending = c.maxConnections(), c.maxPending()
	c.MaxPendingBytes = conf.Size(c.maxPendingBytes())
	return c
}

// WithDefaults fills in what was left out: a user may publish everywhere.
func (u User) WithDefaults() User {
	if u.Publish == nil {
		u.Publish = []string{"#"}
	}
	return u
}
