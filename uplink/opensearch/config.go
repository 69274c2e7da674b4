// Package opensearch is the uplink to OpenSearch and Elasticsearch: records
// become documents by _bulk, each under its own id, so that one that is sent
// twice is there once.
//
// Order: the service indexes the documents of a request side by side, so a
// lane's documents become visible in another order by at most one request. Each
// carries shard and sequence number, by which a query sorts them. A record is
// acknowledged only when all before it in its lane are.
package opensearch

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
	"forebay/uplink/web"
)

const (
	defaultIndex  = "forebay-{stream}-{yyyy.MM.dd}"
	defaultStream = "forebay-{stream}"
	defaultBody   = 5 << 20
	mostBody      = 90 << 20 // the service's own default limit is 100 MiB
	leastBody     = 64 << 10
	maxID         = 512 // bytes of an _id
)

// Config is the table [uplink.opensearch] of the config file. Zero means the
// documented default.
type Config struct {
	// URL is the cluster's address, "https://HOST:9200". Required.
	URL string `toml:"url"`
	// Index is the name of the index a document goes to. "{stream}" in it
	// stands for the local stream's name in lower case, "{yyyy.MM.dd}" for the
	// day of the record's arrival in UTC, at the gateway that took it first (up to
	// 400 days before its arrival here; else here); any of yyyy, MM, dd and HH may stand
	// in such braces. Default "forebay-{stream}-{yyyy.MM.dd}"; with
	// data_stream "forebay-{stream}".
	Index string `toml:"index"`
	// DataStream says that the names are data streams' and not indices'.
	DataStream bool `toml:"data_stream"`
	// Op is "create", which leaves a document that is there as it is, or
	// "index", which writes it anew. Data streams take "create" only. Default
	// "create".
	Op string `toml:"op"`
	// Template is "on", to create an index template with sound mappings where
	// there is none of this uplink yet, or "off". Default "on".
	Template string `toml:"template"`
	// Compression is "gzip" or "off". Default "gzip".
	Compression string `toml:"compression"`
	// MaxBody is how many bytes a request may have before it is compressed;
	// 64KiB to 90MiB. A larger document goes alone. Default 5MiB.
	MaxBody conf.Size `toml:"max_body"`
	// User and Password are sent as HTTP Basic.
	User     string      `toml:"user"`
	Password conf.Secret `toml:"password"`
	// APIKey is sent as "Authorization: ApiKey KEY": the encoded key, as
	// Elasticsearch gives it out.
	APIKey conf.Secret `toml:"api_key"`
	// AWS is how requests to Amazon OpenSearch are signed. Default: they are
	// not.
	AWS *AWS `toml:"aws"`

	web.Access
}

// AWS is the table aws of a target: what requests are signed with (Signature
// Version 4).
type AWS struct {
	// Service is "es" for a domain of Amazon OpenSearch Service or "aoss" for
	// a search collection of OpenSearch Serverless. Default: what the host
	// says, else "es".
	Service string `toml:"service"`

	aws.Access
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	u, err := url.Parse(c.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("url: this is not an address; write for example \"https://10.0.0.5:9200\"; user and password have keys of their own")
	}
	if _, err := parseName(c.WithDefaults().Index); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	switch c.Op {
	case "", "create":
	case "index":
		if c.DataStream {
			return errors.New("op: a data stream takes \"create\" only")
		}
	default:
		return fmt.Errorf("op: %q is not \"create\" or \"index\"", c.Op)
	}
	switch c.Template {
	case "", "on", "off":
	default:
		return fmt.Errorf("template: %q is not \"on\" or \"off\"", c.Template)
	}
	switch c.Compression {
	case "", "gzip", "off":
	default:
		return fmt.Errorf("compression: %q is not \"gzip\" or \"off\"", c.Compression)
	}
	if n := int64(c.MaxBody); n != 0 && (n < leastBody || n > mostBody) {
		return fmt.Errorf("max_body: %s is not between 64KiB and 90MiB", c.MaxBody)
	}
	if err := c.checkAuth(); err != nil {
		return err
	}
	return c.Access.Check()
}

func (c Config) checkAuth() error {
	switch {
	case c.User == "" && c.Password.IsSet():
		return errors.New("password: user is missing beside it")
	case strings.Contains(c.User, ":"):
		return errors.New("user: a name for HTTP Basic has no colon")
	case c.APIKey.IsSet() && c.User != "":
		return errors.New("api_key: give either an API key, or user and password")
	case c.AWS == nil:
		return nil
	case c.APIKey.IsSet() || c.User != "":
		return errors.New("aws: give either this table, or an API key, or user and password")
	case c.AWS.Endpoint != "":
		return errors.New("aws.endpoint: the address is url")
	}
	switch c.AWS.Service {
	case "", "es", "aoss":
	default:
		return fmt.Errorf("aws.service: %q is not \"es\" or \"aoss\"", c.AWS.Service)
	}
	if err := c.AWS.Check(); err != nil {
		return fmt.Errorf("aws.%w", err)
	}
	return nil
}

// service and region are what requests are signed for; region "" where neither
// config nor host says.
func (c Config) service() (service, region string) {
	u, err := url.Parse(c.URL)
	if err != nil || c.AWS == nil {
		return "", ""
	}
	service, region = c.AWS.Service, c.AWS.Region
	// NAME.REGION.es.amazonaws.com, ID.REGION.aoss.amazonaws.com
	if p := strings.Split(u.Hostname(), "."); len(p) >= 5 && p[3] == "amazonaws" && (p[2] == "es" || p[2] == "aoss") {
		if service == "" {
			service = p[2]
		}
		if region == "" {
			region = p[1]
		}
	}
	if service == "" {
		service = "es"
	}
	return service, region
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	d := c.WithDefaults()
	return d.URL + ", " + d.Index
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	if c.Index == "" {
		c.Index = defaultIndex
		if c.DataStream {
			c.Index = defaultStream
		}
	}
	if c.Op == "" {
		c.Op = "create"
	}
	if c.Template == "" {
		c.Template = "on"
	}
	if c.Compression == "" {
		c.Compression = "gzip"
	}
	c.MaxBody = conf.Size(c.MaxBody.Or(defaultBody))
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(web.DefaultTimeout))
	return c
}
