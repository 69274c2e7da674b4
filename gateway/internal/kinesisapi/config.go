package kinesisapi

import (
	"fmt"
	"regexp"

	"forebay/gateway/conf"
)

// Config is the table [kinesis] of the config file: the door through which
// AWS SDKs, the AWS CLI and Kinesis outputs write and read. Zero means the
// documented default.
type Config struct {
	// Listen is where clients connect; "off" closes the door. Default
	// 127.0.0.1:4567. An address that other machines can reach needs keys and
	// a certificate.
	Listen conf.Listen `toml:"listen"`
	// Region is what stands in the ARNs of the answers. Default us-east-1.
	// Clients may sign for any region.
	Region string `toml:"region"`
	// Account is the 12-digit account in the ARNs and texts of the answers.
	// Default 000000000000. Clients may use any account in an ARN.
	Account string `toml:"account"`
	// Clock says what to do about the date of a signature while this machine
	// does not know that its own clock is right: "strict", the default, compares
	// it as ever, 5 minutes either way; "unsynced" takes any date until the
	// clock is synchronised, during which a request that somebody recorded can
	// be sent again. Presigned requests are compared in either case.
	Clock string `toml:"clock"`
	// TLSCert is the PEM file with the certificate and its chain; with TLSKey
	// the address speaks TLS only.
	TLSCert string `toml:"tls_cert"`
	// TLSKey is the PEM file with the certificate's key.
	TLSKey string `toml:"tls_key"`
	// Limits is "aws" to hold every shard to what the service gives it: 1 MiB and
	// 1,000 records a second in, 2 MiB and 5 calls of GetRecords a second out.
	// Default "off": the disk is the limit.
	Limits string `toml:"limits"`
	// Keys are the access keys that may call. With at least one every
	// signature is verified; with none the door stays on loopback and takes
	// any well-formed signature.
	Keys []Key `toml:"key"`
}

// A Key is a pair as an AWS client is configured with ([[kinesis.key]]).
type Key struct {
	// AccessKey is the public half, 1 to 128 of A-Z, a-z, 0-9, _ and -.
	AccessKey string `toml:"access_key"`
	// SecretKey is the secret half; a text, "file:PATH" or "env:NAME".
	// What is written to its file or variable takes effect within a second.
	SecretKey conf.Secret `toml:"secret_key"`
	// Read names the streams that the key may read records from: names, or
	// patterns like "line-*" and "*". Any of read, write and admin allows a
	// stream to be described. A key for which all three are empty may do
	// everything; any other may do what its lists name and no more.
	Read []string `toml:"read"`
	// Write names the streams that records may be put into.
	Write []string `toml:"write"`
	// Admin names the streams that may be created, changed and deleted.
	Admin []string `toml:"admin"`
}

const (
	// DefaultListen is where the endpoint is found when nothing is configured.
	DefaultListen  = "127.0.0.1:4567"
	defaultRegion  = "us-east-1"
	defaultAccount = "000000000000"
	limitsOff      = "off"
)

var (
	regionRE    = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	accountRE   = regexp.MustCompile(`^[0-9]{12}$`)
	accessKeyRE = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Clock == "" {
		c.Clock = clockStrict
	}
	if c.Region == "" {
		c.Region = defaultRegion
	}
	if c.Account == "" {
		c.Account = defaultAccount
	}
	if c.Limits == "" {
		c.Limits = limitsOff
	}
	return c
}

// Check says what is wrong with the configuration; the error begins with the
// field's name. Secrets that lie in files are not read.
func (c Config) Check() error {
	c = c.WithDefaults()
	switch {
	case c.Clock != clockStrict && c.Clock != clockUnsynced:
		return fmt.Errorf("clock: %q is not \"strict\" or \"unsynced\"", c.Clock)
	case !regionRE.MatchString(c.Region):
		return fmt.Errorf("region: %q is not a region; write for example \"us-east-1\"", c.Region)
	case !accountRE.MatchString(c.Account):
		return fmt.Errorf("account: %q is not an account; write 12 digits, for example \"000000000000\"", c.Account)
	case c.Limits != limitsOff && c.Limits != LimitsAWS:
		return fmt.Errorf("limits: %q is not a kind of limits; write \"off\" or \"aws\"", c.Limits)
	case c.TLSCert != "" && c.TLSKey == "":
		return fmt.Errorf("tls_key: is missing; tls_cert %q needs its key", c.TLSCert)
	case c.TLSKey != "" && c.TLSCert == "":
		return fmt.Errorf("tls_cert: is missing; tls_key %q needs its certificate", c.TLSKey)
	}
	seen := make(map[string]bool, len(c.Keys))
	for _, k := range c.Keys {
		switch {
		case !accessKeyRE.MatchString(k.AccessKey):
			return fmt.Errorf("access_key: %q is not an access key; use 1 to 128 of A-Z, a-z, 0-9, _ and -", k.AccessKey)
		case seen[k.AccessKey]:
			return fmt.Errorf("access_key: %q stands twice", k.AccessKey)
		case !k.SecretKey.IsSet():
			return fmt.Errorf("secret_key: is missing for the access key %q", k.AccessKey)
		}
		if err := k.checkPolicy(); err != nil {
			return err
		}
		seen[k.AccessKey] = true
	}
	if c.Listen.Off() || c.Listen.Loopback() {
		return nil
	}
	if len(c.Keys) == 0 {
		return fmt.Errorf("listen: %q can be reached from other machines, which needs at least one [[kinesis.key]]; add one, or listen on %s", c.Listen, DefaultListen)
	}
	if c.TLSCert == "" {
		return fmt.Errorf("listen: %q can be reached from other machines, which needs tls_cert and tls_key; set them, or listen on %s", c.Listen, DefaultListen)
	}
	return nil
}
