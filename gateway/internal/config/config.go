// Package config reads the one file that configures a gateway, checks all of
// it, and prints it back with the defaults filled in. The file is TOML; its
// struct is made of the Config of each package it configures.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"

	"github.com/pelletier/go-toml/v2"

	"forebay/devices"
	"forebay/gateway/conf"
	"forebay/gateway/internal/inlet"
	"forebay/gateway/internal/kinesisapi"
	"forebay/gateway/internal/localapi"
	"forebay/gateway/internal/points"
	"forebay/gateway/internal/rules"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
)

// Config is a whole config file. The zero Config is the embedded defaults.
type Config struct {
	Gateway Gateway              `toml:"gateway"`
	Spool   spool.Config         `toml:"spool"`
	Streams []spool.StreamConfig `toml:"stream"`
	devices.Config
	Routes  []inlet.Route     `toml:"route"`
	Kinesis kinesisapi.Config `toml:"kinesis"`
	API     localapi.Config   `toml:"api"`
	Uplinks []uplink.Config   `toml:"uplink"`
	Rules   []rules.Rule      `toml:"rule"`
	Points  []points.Config   `toml:"point"`
}

// Gateway is the table [gateway].
type Gateway struct {
	// Name signs the records; default the machine's host name.
	Name conf.Name `toml:"name"`
	// Title is what people call the place; shown in the console.
	Title string `toml:"title"`
	// Data is the directory that holds everything the gateway keeps; default
	// forebay-data in the working directory.
	Data string `toml:"data"`
}

// MaxFile is the largest config file, in bytes.
const MaxFile = 4 << 20

// BuiltIn are the streams that every gateway has. A [[stream]] of the same
// name changes them.
func BuiltIn() []spool.StreamConfig {
	return []spool.StreamConfig{
		{Name: "mqtt", Shards: 4, Class: record.ClassTelemetry},
		{Name: "serial", Shards: 1, Class: record.ClassTelemetry},
		{Name: "video", Shards: 1, Class: record.ClassVideo},
		{Name: "alarms", Shards: 1, Class: record.ClassAlarm},
		{Name: "audit", Shards: 1, Class: record.ClassAudit},
		{Name: "gaps", Shards: 1, Class: record.ClassAudit},
		{Name: "quarantine", Shards: 1, Class: record.ClassTelemetry},
		{Name: "refused", Shards: 1, Class: record.ClassTelemetry},
	}
}

// Load reads and checks a file. An error is an *Error with the place in the
// file, or several joined.
func Load(path string) (Config, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the config file: %w", err)
	}
	if st.Size() > MaxFile {
		return Config{}, fmt.Errorf("read the config file: %s has %d bytes; at most %d are allowed", path, st.Size(), int64(MaxFile))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the config file: %w", err)
	}
	return Parse(path, b)
}

// Parse is Load of text; path is what errors call it.
func Parse(path string, text []byte) (Config, error) {
	var c Config
	dec := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return Config{}, decodeErrors(path, text, err)
	}
	if err := c.check(path, text); err != nil {
		return Config{}, err
	}
	return c.withDefaults(), nil
}

// Default is the config of a gateway without a file.
func Default() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	if c.Gateway.Name == "" {
		c.Gateway.Name = hostName()
	}
	if c.Gateway.Data == "" {
		c.Gateway.Data = "forebay-data"
	}
	c.Streams = mergeStreams(BuiltIn(), c.Streams)
	return c
}

// hostName makes a Name of the machine's; "forebay" where it has none.
func hostName() conf.Name {
	h, err := os.Hostname()
	if err != nil {
		return "forebay"
	}
	b := bytes.ToLower([]byte(h))
	for i, ch := range b {
		if (ch < 'a' || ch > 'z') && (ch < '0' || ch > '9') && ch != '-' {
			b[i] = '-'
		}
	}
	var n conf.Name
	if n.UnmarshalText(bytes.Trim(b[:min(len(b), 63)], "-")) != nil {
		return "forebay"
	}
	return n
}

func mergeStreams(base, own []spool.StreamConfig) []spool.StreamConfig {
	out := append([]spool.StreamConfig(nil), base...)
next:
	for _, s := range own {
		for i := range out {
			if out[i].Name == s.Name {
				if s.Shards == 0 {
					s.Shards = out[i].Shards
				}
				if s.Class == 0 {
					s.Class = out[i].Class
				}
				out[i] = s
				continue next
			}
		}
		out = append(out, s)
	}
	return out
}

// checker is what a part of the config knows about itself. Its error begins
// with the key it is about: "listen: …".
type checker interface{ Check() error }

// check asks every part, then looks at what no part can see alone.
func (c *Config) check(path string, text []byte) error {
	var errs []error
	complain := func(table string, index int, err error) {
		if err != nil {
			errs = append(errs, locate(path, text, table, index, err))
		}
	}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		checkField(v.Type().Field(i), v.Field(i), complain)
	}
	for i := range c.Streams {
		if c.Streams[i].Name == "" {
			complain("stream", i, errors.New("name: a stream needs a name"))
		}
	}
	streams := map[conf.Stream]bool{}
	for _, s := range mergeStreams(BuiltIn(), c.Streams) {
		streams[s.Name] = true
	}
	c.checkNames(complain)
	for i, r := range c.Routes {
		if r.Stream != "" && !streams[r.Stream] {
			complain("route", i, fmt.Errorf("stream: %q is not a stream; add a [[stream]] with that name", r.Stream))
		}
		if _, ok := devices.Decoders()[r.Decode]; !ok && r.Decode != "" {
			complain("route", i, fmt.Errorf("decode: %q is not one of raw, json, number, text", r.Decode))
		}
	}
	return errors.Join(errs...)
}

// checkField checks a table, a list of tables, or the tables of an embedded
// struct.
func checkField(f reflect.StructField, v reflect.Value, complain func(string, int, error)) {
	table := f.Tag.Get("toml")
	switch {
	case f.Anonymous && v.Kind() == reflect.Struct:
		for f, v := range v.Fields() {
			checkField(f, v, complain)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			if ck, ok := reflect.TypeAssert[checker](v.Index(i).Addr()); ok {
				complain(table, i, ck.Check())
			}
		}
	default:
		if ck, ok := reflect.TypeAssert[checker](v.Addr()); ok {
			complain(table, 0, ck.Check())
		}
	}
}

// checkNames finds ids that stand twice: an id names one thing.
func (c *Config) checkNames(complain func(string, int, error)) {
	sources := map[conf.Name]string{"mqtt": "the embedded broker", "kinesis": "the Kinesis endpoint", "video": "the camera door", "api": "the local API"}
	c.EachID(func(table string, i int, id conf.Name) {
		if id == "" {
			complain(table, i, fmt.Errorf("id: a [[%s]] needs an id", table))
			return
		}
		if who := sources[id]; who != "" {
			complain(table, i, fmt.Errorf("id: %q is taken by %s", id, who))
			return
		}
		sources[id] = "another source"
	})
	once := func(table string, n int, id func(int) conf.Name) {
		seen := map[conf.Name]bool{}
		for i := range n {
			switch {
			case id(i) == "":
				complain(table, i, fmt.Errorf("id: a [[%s]] needs an id", table))
			case seen[id(i)]:
				complain(table, i, fmt.Errorf("id: %q stands twice", id(i)))
			}
			seen[id(i)] = true
		}
	}
	once("uplink", len(c.Uplinks), func(i int) conf.Name { return c.Uplinks[i].ID })
	once("rule", len(c.Rules), func(i int) conf.Name { return c.Rules[i].ID })
	once("point", len(c.Points), func(i int) conf.Name { return c.Points[i].ID })
}

var noTablesRE = regexp.MustCompile(`^(mqtt_client|serial|camera|route|uplink|rule|point|user|key) = \[\]\n$`)

// Print writes the config as TOML, every key with its default filled in.
// Secrets are not printed.
func (c Config) Print() ([]byte, error) {
	fillIn(reflect.ValueOf(&c).Elem())
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(c); err != nil {
		return nil, fmt.Errorf("print the config: %w", err)
	}
	out := []byte{}
	for line := range bytes.Lines(b.Bytes()) {
		// A list of tables that has none is left out; an empty list of texts
		// means something.
		if !noTablesRE.Match(line) {
			out = append(out, line...)
		}
	}
	return bytes.TrimLeft(out, "\n"), nil
}

// fillIn calls WithDefaults of every table that has it.
func fillIn(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if m := v.MethodByName("WithDefaults"); m.IsValid() {
			v.Set(m.Call(nil)[0])
		}
		for _, f := range v.Fields() {
			if f.CanSet() {
				fillIn(f)
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			fillIn(v.Elem())
		}
	case reflect.Slice:
		own := reflect.MakeSlice(v.Type(), v.Len(), v.Len()) // the caller's stays as it is
		reflect.Copy(own, v)
		v.Set(own)
		for i := range own.Len() {
			fillIn(own.Index(i))
		}
	}
}

// Path is a file of the gateway below its data directory.
func (c Config) Path(name string) string { return filepath.Join(c.Gateway.Data, name) }
