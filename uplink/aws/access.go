// Package aws is what every uplink to an AWS service needs and what is not the
// service's own: whom to ask for credentials, a client that signs with the
// service's time and tells a service from a captive portal, and what the
// services' errors mean.
//
// Nothing here repeats a request. A key, a token or a file that was replaced
// is taken without a restart, and no secret is ever in an error or a log.
package aws

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"forebay/gateway/conf"
)

// Access is the part of a target's table that says where an AWS service is
// and who we are there. Targets embed it. Zero means the documented default.
type Access struct {
	// Endpoint is where to send, "https://HOST" or "http://HOST:PORT".
	// Default: the service's AWS endpoint in the region.
	Endpoint string `toml:"endpoint"`
	// Region is the AWS region, and what requests are signed for. Default:
	// what the AWS environment and profile say; "us-east-1" where an endpoint
	// is given and they say nothing.
	Region string `toml:"region"`
	// AccessKey, SecretKey and, for temporary ones, SessionToken are static
	// credentials. Each may be "file:PATH" or "env:NAME"; files are read anew
	// when they are used. Default: the AWS chain (environment, shared files,
	// credential_process, SSO, web identity, container, IMDS).
	AccessKey    string      `toml:"access_key"`
	SecretKey    conf.Secret `toml:"secret_key"`
	SessionToken conf.Secret `toml:"session_token"`
	// Profile picks a profile of the shared AWS files.
	Profile string `toml:"profile"`
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// Proxy is the way out, "http://HOST:PORT", "https://HOST:PORT" or
	// "socks5://HOST:PORT", for the service and for credentials. Default: what
	// HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
	Proxy string `toml:"proxy"`
	// ProxyUser and ProxyPassword are for a proxy that asks for them.
	ProxyUser     string      `toml:"proxy_user"`
	ProxyPassword conf.Secret `toml:"proxy_password"`
	// IoT is the AWS IoT credentials provider: temporary credentials against
	// the device's certificate. Default: none.
	IoT *IoT `toml:"iot"`
}

// IoT is the table iot of a target: where a device's certificate is exchanged
// for temporary credentials.
type IoT struct {
	// Endpoint is the account's host for it, as `aws iot describe-endpoint
	// --endpoint-type iot:CredentialProvider` tells. Required.
	Endpoint string `toml:"endpoint"`
	// RoleAlias names the role that the device takes on. Required.
	RoleAlias string `toml:"role_alias"`
	// Cert and Key are the device's certificate and key, files in PEM. They
	// are read anew each time credentials are fetched. Required.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// Thing is the device's thing name, for policies that speak of it.
	Thing string `toml:"thing"`
}

var (
	regionRE = regexp.MustCompile(`^[a-z]{2,8}(-[a-z0-9]+)+$`)
	aliasRE  = regexp.MustCompile(`^[\w=,@-]{1,128}$`)
	thingRE  = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)
	hostRE   = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]{1,5})?$`)
)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (a Access) Check() error {
	if a.Endpoint != "" {
		u, err := url.Parse(a.Endpoint)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("endpoint: this is not an endpoint; write for example \"https://kinesis.eu-central-1.amazonaws.com\" or \"http://10.0.0.5:4567\"")
		}
	}
	if a.Region != "" && !regionRE.MatchString(a.Region) {
		return fmt.Errorf("region: %q is not a region; write for example \"eu-central-1\"", a.Region)
	}
	if err := a.checkKeys(); err != nil {
		return err
	}
	if err := a.checkProxy(); err != nil {
		return err
	}
	if a.CA != "" {
		if _, err := os.Stat(a.CA); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
	}
	return nil
}

// CheckWhere says whether it is known where to send: by the endpoint, by the
// region, or by the AWS environment and profile. A gateway that does not know
// does not start, so it is for the check of a config to say so.
func (a Access) CheckWhere() error {
	_, err := regionOf(a)
	return err
}

// checkKeys finds credentials that are not whole, or stand beside others.
func (a Access) checkKeys() error {
	if a.AccessKey != "" && !a.SecretKey.IsSet() {
		return fmt.Errorf("access_key: secret_key is missing beside it")
	}
	if a.AccessKey == "" && a.SecretKey.IsSet() {
		return fmt.Errorf("secret_key: access_key is missing beside it")
	}
	if a.AccessKey == "" && a.SessionToken.IsSet() {
		return fmt.Errorf("session_token: access_key and secret_key are missing beside it")
	}
	if a.AccessKey != "" && a.Profile != "" {
		return fmt.Errorf("profile: give either access_key and secret_key, or a profile")
	}
	if a.IoT == nil {
		return nil
	}
	if a.AccessKey != "" {
		return fmt.Errorf("access_key: give either access_key and secret_key, or the table iot")
	}
	if a.Profile != "" {
		return fmt.Errorf("profile: give either a profile or the table iot")
	}
	if err := a.IoT.check(); err != nil {
		return fmt.Errorf("iot.%w", err)
	}
	return nil
}

func (a Access) checkProxy() error {
	if a.Proxy != "" {
		u, err := url.Parse(a.Proxy)
		if err == nil && u.User != nil {
			return fmt.Errorf("proxy: write the user and the password as proxy_user and proxy_password")
		}
		if err != nil || (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5") || u.Host == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("proxy: this is not a proxy; write for example \"http://10.0.0.1:3128\", \"https://proxy.plant:443\" or \"socks5://10.0.0.1:1080\"")
		}
	}
	if a.ProxyUser != "" && a.Proxy == "" {
		return fmt.Errorf("proxy_user: proxy is missing beside it")
	}
	if a.ProxyPassword.IsSet() && a.ProxyUser == "" {
		return fmt.Errorf("proxy_password: proxy_user is missing beside it")
	}
	return nil
}

func (c *IoT) check() error {
	if !hostRE.MatchString(c.Endpoint) {
		return fmt.Errorf("endpoint: %q is not a host; write what `aws iot describe-endpoint --endpoint-type iot:CredentialProvider` tells, without https://", c.Endpoint)
	}
	if !aliasRE.MatchString(c.RoleAlias) {
		return fmt.Errorf("role_alias: %q is not the name of a role alias; use 1 to 128 of a-z, A-Z, 0-9, =, @, comma, _ and -", c.RoleAlias)
	}
	for _, f := range []struct{ name, path string }{{"cert", c.Cert}, {"key", c.Key}} {
		if f.path == "" {
			return fmt.Errorf("%s: the device's file is missing", f.name)
		}
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if c.CA != "" {
		if _, err := os.Stat(c.CA); err != nil {
			return fmt.Errorf("ca: %w", err)
		}
	}
	if c.Thing != "" && !thingRE.MatchString(c.Thing) {
		return fmt.Errorf("thing: %q is not a thing name; use 1 to 128 of a-z, A-Z, 0-9, :, _ and -", c.Thing)
	}
	return nil
}

// Where is what a person reads for the place: the endpoint, or the service's
// name ("Amazon Kinesis") and the region.
func (a Access) Where(service string) string {
	switch {
	case a.Endpoint != "":
		return a.Endpoint
	case a.Region != "":
		return service + " " + a.Region
	}
	return service
}

// EndpointOf is a service's AWS endpoint in a region: "https://HOST". prefix
// is the service's name in it.
func EndpointOf(prefix, region string) string {
	domain := "amazonaws.com"
	switch {
	case strings.HasPrefix(region, "cn-"):
		domain = "amazonaws.com.cn"
	case strings.HasPrefix(region, "eusc-"):
		domain = "amazonaws.eu"
	}
	return "https://" + prefix + "." + region + "." + domain
}
