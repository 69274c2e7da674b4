package opensearch_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/envelope"
	"forebay/uplink/opensearch"
	"forebay/uplink/web"
)

const head = `{"@timestamp":"2026-11-23T08:00:00.123456789Z","id":"edge-07/0000000000001234/3/1","via":"edge-07","gateway":"edge-07","epoch":"0000000000001234","shard":3,"seq":1,"stream":"mqtt","key":"k","source":"mqtt","arrived":"2026-11-23T08:00:00.123456789Z"`

func TestDocuments(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17)
	many := `{"x":1`
	for i := range 256 {
		many += fmt.Sprintf(`,"x%d":1`, i)
	}
	many += "}"
	for payload, want := range map[string]string{
		"":                        `}`,
		`{"a":{"b":[1,{"c":2}]}}`: `,"data":{"mqtt":{"a":{"b":[1,{"c":2}]}}}}`,
		`{}`:                      `,"data":{"mqtt":{}}}`,
		`21.50`:                   `,"value":21.50}`,
		`-1e3`:                    `,"value":-1e3}`,
		`1e999`:                   `,"text":"1e999"}`,
		`01`:                      `,"text":"01"}`,
		`1 `:                      `,"text":"1 "}`,
		`true`:                    `,"text":"true"}`,
		`"a"`:                     `,"text":"\"a\""}`,
		`[1]`:                     `,"text":"[1]"}`,
		"{\"a\":\n1}":             `,"text":"{\"a\":\n1}"}`,
		` {"a":1}`:                `,"text":" {\"a\":1}"}`,
		`{"a":1,"a":2}`:           `,"text":"{\"a\":1,\"a\":2}"}`,
		`{"":1}`:                  `,"text":"{\"\":1}"}`,
		`{"a..b":1}`:              `,"text":"{\"a..b\":1}"}`,
		`{"a":{" ":1}}`:           `,"text":"{\"a\":{\" \":1}}"}`,
		`{"\u0061":1}`:            `,"text":"{\"\\u0061\":1}"}`,
		`{"a":"\"}{"}`:            `,"data":{"mqtt":{"a":"\"}{"}}}`,
		`[{"a":1},{"a":2}]`:       `,"text":"[{\"a\":1},{\"a\":2}]"}`,
		`{"x":[{"a":1},{"a":2}]}`: `,"data":{"mqtt":{"x":[{"a":1},{"a":2}]}}}`,
		"on fire\x00":             `,"text":"on fire\u0000"}`,
		"\xff\xfe":                `,"data_b64":"//4="}`,
		many:                      `,"text":"` + strings.ReplaceAll(many, `"`, `\"`) + `"}`,
		deep:                      `,"text":"` + strings.ReplaceAll(deep, `"`, `\"`) + `"}`,
	} {
		c := newCluster(t)
		send(t, open(t, opensearch.Config{URL: c.URL}), batch(3, 1, payload))
		if got := c.docs["forebay-mqtt-2026.11.23/edge-07/0000000000001234/3/1"]; got != head+want {
			t.Errorf("%q:\n got %s\nwant %s", payload, got, head+want)
		}
	}
}

func TestTheRestOfADocument(t *testing.T) {
	c := newCluster(t)
	b := batch(3, 1, "1", "2", "3")
	b.Lane.Stream = "Line.3"
	r := &b.Recs[0]
	r.At, r.Type, r.Attrs, r.Key = time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), "text/plain", map[string]string{"b": "=2", "a": "\"1"}, "ü\xff"
	r.Chunk = record.ChunkRef{Len: 77}
	r.Data = []byte(`{"x":1}`)
	// Another gateway's envelope keeps its id, times and stream.
	r = &b.Recs[1]
	inner := record.Record{Key: "inner", Source: "serial", Arrived: arrived.AddDate(0, 0, -1), Data: []byte("7"), Pos: record.Pos{Shard: 9, Seq: 5}}
	r.Data = envelope.New(record.Identity{Gateway: "cell-1", Epoch: 0xabc}).AppendPart(nil, "serial", &inner, 2)
	b.Recs[2].Origin = &record.Origin{Gateway: "old-name", Epoch: 7}
	send(t, open(t, opensearch.Config{URL: c.URL}), b)
	got := slices.Sorted(maps.Keys(c.docs))
	if want := []string{
		"forebay-line.3-2026.11.22/cell-1/0000000000000abc/9/5/2",
		"forebay-line.3-2026.11.23/edge-07/0000000000001234/3/1",
		"forebay-line.3-2026.11.23/old-name/0000000000000007/3/3",
	}; !slices.Equal(got, want) {
		t.Fatalf("%q", got)
	}
	for i, want := range []string{
		`"id":"cell-1/0000000000000abc/9/5/2","via":"edge-07","gateway":"cell-1","epoch":"0000000000000abc","shard":9,"seq":5,"part":2,"stream":"serial","key":"inner","source":"serial"`,
		`"stream":"Line.3","key":"ü` + "\ufffd" + `","source":"mqtt","at":"9999-12-31T23:59:59.999999999Z","arrived":"2026-11-23T08:00:00.123456789Z","type":"text/plain","attrs":["a=\"1","b==2"],"chunk":77,"data":{"line_3":{"x":1}}}`,
		`"gateway":"old-name","epoch":"0000000000000007"`,
	} {
		want = strings.ReplaceAll(want, `["a="1"`, `["a=\"1"`)
		if doc := c.docs[got[i]]; !strings.Contains(doc, want) || !json.Valid([]byte(doc)) {
			t.Errorf("%s\nhas not %s", doc, want)
		}
	}
}

func TestALongIDIsHashed(t *testing.T) {
	c := newCluster(t)
	b := batch(3, 1, "1")
	b.Recs[0].Origin = &record.Origin{Gateway: strings.Repeat("g", 600), Epoch: 7}
	send(t, open(t, opensearch.Config{URL: c.URL}), b)
	for key := range c.docs {
		if len(key) > 512 {
			t.Errorf("an _id of %d bytes", len(key))
		}
	}
}

func TestConfigCheck(t *testing.T) {
	good := opensearch.Config{URL: "https://x.test:9200/search"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	if err := good.WithDefaults().Check(); err != nil {
		t.Fatal(err)
	}
	if got := good.Target(); got != "https://x.test:9200/search, forebay-{stream}-{yyyy.MM.dd}" {
		t.Error(got)
	}
	for _, index := range []string{"a", "plant-{yyyy}", "x-{stream}-{yyyy.MM.dd-HH}", "x_{MM}"} {
		c := good
		if c.Index = index; c.Check() != nil {
			t.Errorf("%s: %v", index, c.Check())
		}
	}
	for _, index := range []string{"{stream}", "Plant", "-x", "x y", "x-{day}", "x-{yyyy", "x/{stream}", "*", "x,y", ".x"} {
		c := good
		if c.Index = index; c.Check() == nil || !strings.HasPrefix(c.Check().Error(), "index:") {
			t.Errorf("%s: %v", index, c.Check())
		}
	}
	secret := conf.NewSecret("x")
	for field, f := range map[string]func(c *opensearch.Config){
		"url":             func(c *opensearch.Config) { c.URL = "x.test:9200" },
		"op":              func(c *opensearch.Config) { c.Op = "update" },
		"op:":             func(c *opensearch.Config) { c.Op, c.DataStream = "index", true },
		"template":        func(c *opensearch.Config) { c.Template = "yes" },
		"compression":     func(c *opensearch.Config) { c.Compression = "zstd" },
		"max_body":        func(c *opensearch.Config) { c.MaxBody = 1 },
		"password":        func(c *opensearch.Config) { c.Password = secret },
		"user":            func(c *opensearch.Config) { c.User = "a:b" },
		"api_key":         func(c *opensearch.Config) { c.User, c.APIKey = "a", secret },
		"aws":             func(c *opensearch.Config) { c.User, c.AWS = "a", &opensearch.AWS{} },
		"aws.endpoint":    func(c *opensearch.Config) { c.AWS = &opensearch.AWS{Access: aws.Access{Endpoint: "https://x"}} },
		"aws.service":     func(c *opensearch.Config) { c.AWS = &opensearch.AWS{Service: "s3"} },
		"aws.secret_key":  func(c *opensearch.Config) { c.AWS = &opensearch.AWS{Access: aws.Access{SecretKey: secret}} },
		"ca":              func(c *opensearch.Config) { c.Access = web.Access{CA: "/nowhere"} },
		"request_timeout": func(c *opensearch.Config) { c.RequestTimeout = 1 },
	} {
		c := good
		f(&c)
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), strings.TrimRight(field, ":")+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
