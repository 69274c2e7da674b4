// Package config reads the one file that configures a gateway, checks all of
// it, and prints it back with the defaults filled in. The file is TOML; its
// struct is made of the Config of each package it configures.
package config

import (
	"bytes"
	"crypto/tls"
	"encoding"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

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
	Link    uplink.Bandwidth  `toml:"bandwidth"`
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
	seen := map[conf.Stream]bool{}
	for i := range c.Streams {
		switch name := c.Streams[i].Name; {
		case name == "": // its own Check says so
		case seen[name]:
			complain("stream", i, fmt.Errorf("name: %q stands twice", name))
		default:
			seen[name] = true
		}
	}
	for i, s := range c.Streams {
		if s.Encrypt && c.Spool.KeyFile == "" && c.Spool.KeyCredential == "" {
			complain("stream", i, errors.New("encrypt: there is no master key; set key_file or key_credential in [spool] (make a key with: openssl rand -hex 32 > FILE; chmod 600 FILE)"))
		}
	}
	c.checkDoors(complain)
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
// struct. Where a word of a table is not well formed, the table's own Check is
// not asked: it would say the same in other words.
func checkField(f reflect.StructField, v reflect.Value, complain func(string, int, error)) {
	table := f.Tag.Get("toml")
	one := func(i int, v reflect.Value) {
		if err := checkWords("", v); err != nil {
			complain(table, i, err)
			return
		}
		if ck, ok := reflect.TypeAssert[checker](v.Addr()); ok {
			complain(table, i, ck.Check())
		}
	}
	switch {
	case f.Anonymous && v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			checkField(v.Type().Field(i), v.Field(i), complain)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			one(i, v.Index(i))
		}
	default:
		one(0, v)
	}
}

// checkWords reads every word of package conf in a table once more: the
// decoder sets words that are strings underneath (Name, Stream, Listen)
// without asking them. The error begins with the key, "user.name" for one of a
// table below.
func checkWords(prefix string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.String:
		w, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
		if !ok || v.Len() == 0 {
			return nil
		}
		if err := w.UnmarshalText([]byte(v.String())); err != nil {
			return fmt.Errorf("%s: %w", prefix, err)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return checkWords(prefix, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkWords(prefix, v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			key := v.Type().Field(i).Tag.Get("toml")
			if !v.Type().Field(i).IsExported() || key == "-" {
				continue
			}
			if v.Type().Field(i).Anonymous && key == "" { // its keys stand among ours
				key = prefix
			} else if prefix != "" {
				key = prefix + "." + key
			}
			if err := checkWords(key, v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkDoors finds what only one may have: an address, a serial port; and
// reads the certificates, so that a wrong path is known before anything runs.
func (c *Config) checkDoors(complain func(string, int, error)) {
	addresses := map[conf.Listen]string{}
	for _, d := range []struct {
		table     string
		listen    conf.Listen
		cert, key string
	}{
		{"mqtt", c.Broker.WithDefaults().Listen, c.Broker.TLSCert, c.Broker.TLSKey},
		{"kinesis", c.Kinesis.WithDefaults().Listen, c.Kinesis.TLSCert, c.Kinesis.TLSKey},
		{"api", c.API.WithDefaults().Listen, c.API.TLSCert, c.API.TLSKey},
	} {
		if other := addresses[d.listen]; other != "" && !d.listen.Off() && !strings.HasSuffix(string(d.listen), ":0") {
			complain(d.table, 0, fmt.Errorf("listen: %q is the address of [%s] already", d.listen, other))
		}
		addresses[d.listen] = d.table
		if d.cert != "" && d.key != "" {
			if _, err := tls.LoadX509KeyPair(d.cert, d.key); err != nil {
				complain(d.table, 0, fmt.Errorf("tls_cert: %w", err))
			}
		}
	}
	ports := map[string]conf.Name{}
	for i, s := range c.Serial {
		if other, taken := ports[s.Port]; taken {
			complain("serial", i, fmt.Errorf("port: %q is the port of %q already", s.Port, other))
		}
		ports[s.Port] = s.ID
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
	if i, err := uplink.CheckPlaces(c.Uplinks); err != nil {
		complain("uplink", i, err)
	}
	once("rule", len(c.Rules), func(i int) conf.Name { return c.Rules[i].ID })
	once("point", len(c.Points), func(i int) conf.Name { return c.Points[i].ID })
}

// noTablesRE finds the line that the encoder writes for a list without tables.
var noTablesRE = regexp.MustCompile(`^(mqtt_client|serial|camera|route|schedule|uplink|shape|rule|point|user|key) = \[\]\n$`)

// Print writes the config as TOML, every key with its default filled in.
// Secrets are not printed. A list of tables that has none is shown by an
// example in comments.
func (c Config) Print() ([]byte, error) {
	fillIn(reflect.ValueOf(&c).Elem())
	out, err := encode(c)
	if err != nil {
		return nil, err
	}
	examples(reflect.ValueOf(&c).Elem(), func(table string, sample Config) {
		var text []byte
		if text, err = encode(sample); err != nil {
			return
		}
		inside := false
		for line := range bytes.Lines(text) {
			if m := headerRE.FindSubmatch(line); m != nil {
				inside = string(m[2]) == table || strings.HasPrefix(string(m[2]), table+".")
				if inside {
					out = append(out, '\n')
				}
			}
			if inside && len(bytes.TrimSpace(line)) > 0 {
				out = append(append(out, "# "...), line...)
			}
		}
	})
	return out, err
}

func encode(c Config) ([]byte, error) {
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

// examples calls show for each list of tables in v that is empty, with a
// config in which it has one, and everything below it too.
func examples(v reflect.Value, show func(table string, sample Config)) {
	var visit func(v reflect.Value, table string, path []int)
	visit = func(v reflect.Value, table string, path []int) {
		for i := range v.NumField() {
			f, at := v.Type().Field(i), append(slices.Clone(path), i)
			name := f.Tag.Get("toml")
			if table != "" {
				name = table + "." + name
			}
			switch {
			case name == "-" || !f.IsExported() || strings.HasSuffix(name, ".-"):
			case f.Anonymous:
				visit(v.Field(i), table, at)
			case f.Type.Kind() == reflect.Struct && strings.HasPrefix(f.Type.PkgPath(), "forebay/") && f.Type.PkgPath() != "forebay/gateway/conf":
				visit(v.Field(i), name, at)
			case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct && v.Field(i).Len() == 0:
				sample := Config{}
				list := reflect.ValueOf(&sample).Elem().FieldByIndex(at)
				list.Set(reflect.MakeSlice(f.Type, 1, 1))
				fillUp(list.Index(0))
				fillIn(reflect.ValueOf(&sample).Elem())
				show(name, sample)
			}
		}
	}
	visit(v, "", nil)
}

// fillUp makes the tables below a table.
func fillUp(v reflect.Value) {
	for _, f := range v.Fields() {
		switch {
		case !f.CanSet():
		case f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct:
			f.Set(reflect.New(f.Type().Elem()))
			fillUp(f.Elem())
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case f.Kind() == reflect.Struct:
			fillUp(f)
		}
	}
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
