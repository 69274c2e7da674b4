package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"forebay/gateway/internal/config"
	"forebay/uplink"
)

// A proofSetup is the gateway that an acceptance test runs: a data directory,
// a stream and a target of its own, and the uplink's way there.
type proofSetup struct {
	name   string // of its gateway and its streams
	config string // file
	socket string
	data   string
	left   string // what stays at the target, in words
	up     uplink.Config
	direct uplink.Config  // the same past the link
	limits map[string]any // what the link may be used for, as in production
	link   *cutLink       // nil where the cable is pulled by hand, or not at all
}

// testConfig is the file of its config, beside its data.
const testConfig = "prove.toml"

// errByHand says that the link cannot be cut from here.
var errByHand = errors.New("its link cannot be cut from here; add --by-hand and pull the cable when you are asked to")

// setUp writes the config of the gateway under test: the uplink as the
// customer has it, all but the name of what it writes to and, where the link is
// ours to cut, the address. far is a stream, topic or prefix to use at the
// target instead of one that is created.
func setUp(ctx context.Context, file, dir, sockets, name, far string, byHand bool, up uplink.Config) (s *proofSetup, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the config file: %w", err)
	}
	var all struct {
		Link    map[string]any   `toml:"bandwidth"`
		Uplinks []map[string]any `toml:"uplink"`
	}
	if err := toml.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read the config file: %w", err)
	}
	var table map[string]any
	for _, u := range all.Uplinks {
		if u["id"] == string(up.ID) {
			table = u
		}
	}
	kind := up.Kind()
	target, ok := table[kind].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the config file has no table [uplink.%s] for uplink %s", kind, up.ID)
	}
	s = &proofSetup{name: name, config: filepath.Join(dir, testConfig), socket: filepath.Join(sockets, "forebay.sock"), data: filepath.Join(dir, "data"), limits: all.Link}
	delete(table, "shape") // every record is to be found again
	table["streams"], table["from"], table["retry_max"] = []string{name}, "oldest", "5s"
	if s.left, err = aside(kind, target, name, far); err != nil {
		return nil, err
	}
	if s.direct, err = s.write(table); err != nil {
		return nil, err
	}
	if !byHand {
		if s.link, err = onLink(ctx, kind, target, s.direct); err != nil {
			return nil, err
		}
	}
	if s.up, err = s.write(table); err != nil && s.link != nil {
		err = errors.Join(err, s.link.close())
	}
	return s, err
}

// write writes the config, and reads it as the gateway will.
func (s *proofSetup) write(table map[string]any) (uplink.Config, error) {
	all := map[string]any{
		"gateway": map[string]any{"name": s.name, "data": s.data},
		"mqtt":    map[string]any{"listen": "off"},
		"kinesis": map[string]any{"listen": "off"},
		"api":     map[string]any{"listen": "off", "socket": s.socket},
		"stream":  []any{map[string]any{"name": s.name, "shards": 4}},
		"uplink":  []any{table},
	}
	if s.limits != nil {
		all["bandwidth"] = s.limits
	}
	out, err := toml.Marshal(all)
	if err != nil {
		return uplink.Config{}, fmt.Errorf("write the test's config: %w", err)
	}
	if err := os.WriteFile(s.config, out, 0o600); err != nil { // secrets may stand in it
		return uplink.Config{}, fmt.Errorf("write the test's config: %w", err)
	}
	cfg, err := config.Load(s.config)
	if err != nil {
		return uplink.Config{}, fmt.Errorf("the test's config: %w", err)
	}
	return cfg.Uplinks[0], nil
}

// aside makes the target one of the test's own, and says what stays there.
func aside(kind string, t map[string]any, name, far string) (string, error) {
	own := far
	if own == "" {
		own = name
	}
	unless := func(key string, v any) {
		if _, there := t[key]; !there && far == "" {
			t[key] = v
		}
	}
	switch kind {
	case "kinesis":
		t["stream"] = own
		unless("create_shards", 2)
		return "the stream " + own, nil
	case "s3":
		t["prefix"], t["max_age"] = own, "2s"
		return fmt.Sprintf("objects below %s/ in the bucket %v", own, t["bucket"]), nil
	case "kafka":
		t["topic"], t["cursor_topic"], t["transactional_id"] = own, own+"-cursors", own
		unless("create_partitions", 4)
		return fmt.Sprintf("the topics %s and %s-cursors", own, own), nil
	case "opensearch":
		t["index"] = own
		delete(t, "data_stream")
		return "the index " + own, nil
	case "nats":
		t["stream"], t["subject"], t["create_stream"] = own, own+".{gateway}.{stream}.{shard}", far == ""
		return "the JetStream stream " + own, nil
	}
	return "", fmt.Errorf("an acceptance test to the target %s is not possible: what it took cannot be read back apart from the rest", kind)
}

// onLink leads the uplink over a link of ours.
func onLink(ctx context.Context, kind string, t map[string]any, up uplink.Config) (*cutLink, error) {
	at := map[string]string{"kinesis": "endpoint", "s3": "endpoint", "opensearch": "url"}[kind]
	if at == "" {
		return nil, fmt.Errorf("uplink %s to %s: %w", up.ID, kind, errByHand)
	}
	if p, _ := t["proxy"].(string); p != "" {
		return nil, fmt.Errorf("uplink %s goes through a proxy: %w", up.ID, errByHand)
	}
	endpoint, _ := t[at].(string)
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("endpoint: %w", err)
	}
	if u.Scheme != "http" { // TLS, and its names, go through untouched
		if kind == "opensearch" {
			return nil, fmt.Errorf("uplink %s goes by TLS and knows no proxy: %w", up.ID, errByHand)
		}
		l, err := newCutLink(ctx, "")
		if err == nil {
			t["proxy"] = "http://" + l.addr()
		}
		return l, err
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	l, err := newCutLink(ctx, host)
	if err == nil {
		u.Host = l.addr()
		t[at] = u.String()
	}
	return l, err
}
