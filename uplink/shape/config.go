package shape

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/expr"
	"forebay/spool/record"
)

const (
	// DefaultMaxSilence is the longest that a deadband keeps quiet a key that
	// has records.
	DefaultMaxSilence = time.Hour

	// maxPaths bounds each list of fields of an entry.
	maxPaths = 64
	// refused is the stream of what far sides cannot take; its records keep its
	// name, by which the gateway knows them.
	refused = "refused"
)

// Config is one [[uplink.shape]] of the config file: what an uplink does to
// some of its records before they are sent. The entries are tried in the order
// they are written, and a record takes the first whose streams and keys match;
// one that matches none is sent as it is, and so is one whose entry says
// nothing more. The log keeps every record as it was taken. Zero means the
// documented default.
type Config struct {
	// Streams are patterns of the streams that the entry is for; * stands for
	// anything. Default: all.
	Streams []string `toml:"streams"`
	// Keys are topic filters on the partition key, with + and #; one of them
	// must match. Default: all.
	Keys []string `toml:"keys"`

	// When is a condition such as "temp > 80"; only records for which it holds
	// are sent. Default: all.
	When string `toml:"when"`
	// Unsure says what becomes of a record that lacks a field of `when`, or has
	// it as another kind, or is not JSON: "drop" or "send". Default "drop".
	Unsure string `toml:"unsure"`
	// Deadband says, for fields, by how much the value must differ from the one
	// that was sent last of the key: as a number, or in percent of that, such
	// as "2%"; 0 is any change. A change of the field "quality" is always sent,
	// and so is a record that has none of the fields.
	Deadband map[string]Band `toml:"deadband"`
	// MaxSilence is after how long a value is sent though it is within its
	// deadband, by the record's time. Default 1h.
	MaxSilence conf.Duration `toml:"max_silence"`
	// Every thins: of each key, the first record in each interval of that
	// length is sent, by the record's time. Default: all.
	Every conf.Duration `toml:"every"`

	// Fields keeps only these fields of a JSON object, such as "value" or
	// "motor.temp". Default: all.
	Fields []string `toml:"fields"`
	// Drop takes fields out.
	Drop []string `toml:"drop"`
	// Rename gives fields new names: the path as it is = the new name.
	Rename map[string]string `toml:"rename"`
	// Set adds fields to the object, or replaces them: name = text, number,
	// true or false.
	Set map[string]any `toml:"set"`
	// Attrs adds attributes to the record, or replaces them.
	Attrs map[string]string `toml:"attrs"`

	// As is what the stream is called at the far side; {stream} is its own
	// name. It holds for all keys. Default: its own name.
	As string `toml:"as"`
}

// A Band is how far a value may move without being sent: by a number, or by
// percent of the value that was sent last.
type Band struct {
	By      float64
	Percent bool
}

// UnmarshalText reads "0.5" or "2%".
func (b *Band) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	num, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		return fmt.Errorf("%q is not a deadband; write for example 0.5, or \"2%%\" of the value", s)
	}
	*b = Band{By: v, Percent: percent}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (b Band) MarshalText() ([]byte, error) {
	out := strconv.AppendFloat(nil, b.By, 'g', -1, 64)
	if b.Percent {
		out = append(out, '%')
	}
	return out, nil
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	if len(c.Streams) == 0 {
		c.Streams = []string{"*"}
	}
	if len(c.Keys) == 0 {
		c.Keys = []string{"#"}
	}
	if c.Unsure == "" {
		c.Unsure = "drop"
	}
	c.MaxSilence = conf.Duration(c.MaxSilence.Or(DefaultMaxSilence))
	if c.Deadband == nil {
		c.Deadband = map[string]Band{}
	}
	if c.Rename == nil {
		c.Rename = map[string]string{}
	}
	if c.Set == nil {
		c.Set = map[string]any{}
	}
	if c.Attrs == nil {
		c.Attrs = map[string]string{}
	}
	return c
}

// Check says whether the values can be meant; the error begins with the name of
// the field.
func (c Config) Check() error {
	_, err := compile(c)
	return err
}

func (c *Config) simple() error {
	for _, p := range c.Streams {
		if _, err := path.Match(p, ""); err != nil || p == "" || strings.Contains(p, "/") {
			return fmt.Errorf("streams: %q is not a pattern; write for example \"mqtt\", \"line-*\" or \"*\"", p)
		}
	}
	switch {
	case c.Unsure != "" && c.Unsure != "drop" && c.Unsure != "send":
		return fmt.Errorf("unsure: %q is not \"drop\" or \"send\"", c.Unsure)
	case c.Unsure == "send" && c.When == "":
		return errors.New("unsure: there is no `when` to be unsure of")
	case c.MaxSilence < 0:
		return errors.New("max_silence: a time span cannot be negative")
	case len(c.Deadband) > maxPaths:
		return fmt.Errorf("deadband: has %d fields; at most %d are allowed", len(c.Deadband), maxPaths)
	case c.Every != 0 && c.Every.D() < time.Millisecond:
		return fmt.Errorf("every: %s is too short; at least 1ms", c.Every)
	}
	for name, b := range c.Deadband {
		if _, err := expr.Path(name); err != nil {
			return fmt.Errorf("deadband: %w", err)
		}
		if b.By < 0 || b.By-b.By != 0 {
			return fmt.Errorf("deadband: %s has a value below 0; write for example 0.5, or \"2%%\" of the value", name)
		}
	}
	if err := c.name(); err != nil {
		return err
	}
	return c.attributes()
}

func (c *Config) name() error {
	switch {
	case c.As == "":
		return nil
	case c.As == refused:
		return fmt.Errorf("as: %q is the stream of what cannot be delivered; take another name", c.As)
	case !conf.ValidStream(strings.ReplaceAll(c.As, "{stream}", "s")) || len(c.As) > 64:
		return fmt.Errorf("as: %q is not a stream name; use 1 to 64 of a-z, A-Z, 0-9, _, . and -, and {stream} for its own name", c.As)
	case len(c.Keys) > 0 && !slices.Contains(c.Keys, "#"):
		return errors.New("as: a stream is renamed for all keys; write an entry without `keys`, behind this one")
	}
	return nil
}

func (c *Config) attributes() error {
	n := 0
	for k, v := range c.Attrs {
		n += len(k) + len(v)
		if k == "" {
			return errors.New("attrs: an attribute needs a name")
		}
	}
	if len(c.Attrs) > record.MaxAttrs || n > record.MaxAttrBytes/2 {
		return fmt.Errorf("attrs: there are %d with %d bytes; at most %d with %d are allowed", len(c.Attrs), n, record.MaxAttrs, record.MaxAttrBytes/2)
	}
	return nil
}

// constant writes the value of a field to set as JSON.
func constant(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return quote(v), nil
	case bool:
		return strconv.AppendBool(nil, v), nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	case int:
		return strconv.AppendInt(nil, int64(v), 10), nil
	case float64:
		if v-v != 0 {
			return nil, errors.New("JSON has no such number")
		}
		return json.Marshal(v)
	}
	return nil, errors.New("a text, a number, true or false is needed")
}

// Far is what a stream is called at the far side.
func Far(entries []Config, stream string) string {
	if stream == refused {
		return stream
	}
	for i := range entries {
		c := &entries[i]
		if c.As == "" || !c.matches(stream) {
			continue
		}
		if name := strings.ReplaceAll(c.As, "{stream}", stream); conf.ValidStream(name) {
			return name
		}
		return stream // too long to be a name
	}
	return stream
}

func (c *Config) matches(stream string) bool {
	if len(c.Streams) == 0 {
		return true
	}
	for _, p := range c.Streams {
		if ok, err := path.Match(p, stream); err == nil && ok {
			return true
		}
	}
	return false
}
