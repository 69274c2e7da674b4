// Package conf holds the words a config file is written in: Duration, Size,
// Secret, Name and Listen. Each reads itself from text with an error that says
// what would have been right, and prints itself back the same way.
package conf

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Duration is a time span such as "250ms", "10s", "72h" or "30d".
type Duration time.Duration

// D is the span as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// Or is the span, or def where none was given.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

func (d Duration) String() string {
	v := time.Duration(d)
	if v != 0 && v%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(v/(24*time.Hour)), 10) + "d"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// InWords is the span as a sentence has it, its two largest units: "250 ms",
// "1.5 s", "1 min 30 s", "2 h", "3 d 4 h".
func (d Duration) InWords() string {
	v := time.Duration(d)
	if v < 0 {
		return "-" + (-d).InWords()
	}
	if v > 0 && v < time.Second {
		return strconv.FormatInt(v.Round(time.Millisecond).Milliseconds(), 10) + " ms"
	}
	if v < 10*time.Second && v%time.Second != 0 {
		return strconv.FormatFloat(v.Seconds(), 'f', 1, 64) + " s"
	}
	units := []struct {
		d    time.Duration
		name string
	}{{24 * time.Hour, " d"}, {time.Hour, " h"}, {time.Minute, " min"}, {time.Second, " s"}}
	for i, u := range units {
		if v < u.d {
			continue
		}
		s := strconv.FormatInt(int64(v/u.d), 10) + u.name
		if i+1 < len(units) {
			if n := v % u.d / units[i+1].d; n > 0 {
				s += " " + strconv.FormatInt(int64(n), 10) + units[i+1].name
			}
		}
		return s
	}
	return "0 s"
}

// UnmarshalText reads "90s", "1h30m", "30d".
func (d *Duration) UnmarshalText(b []byte) error {
	s := strings.TrimSpace(string(b))
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n <= 100*365 {
			*d = Duration(n * 24 * float64(time.Hour))
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a time span; write for example \"250ms\", \"10s\", \"72h\" or \"30d\"", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// A Size is a number of bytes such as "64MiB", "20GB" or "512".
type Size int64

var units = []struct {
	name string
	n    int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"KB", 1e3},
	{"B", 1},
}

// Or is the size, or def where none was given.
func (s Size) Or(def int64) int64 {
	if s == 0 {
		return def
	}
	return int64(s)
}

func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10) + "B"
	for _, u := range units {
		if u.n > 1 && int64(s) >= u.n && int64(s)%u.n == 0 {
			if t := strconv.FormatInt(int64(s)/u.n, 10) + u.name; len(t) < len(best) {
				best = t
			}
		}
	}
	return best
}

// UnmarshalText reads "64MiB", "1.5GB", "4096".
func (s *Size) UnmarshalText(b []byte) error {
	t := strings.TrimSpace(string(b))
	num, mul := t, int64(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(t, u.name); ok {
			num, mul = strings.TrimSpace(n), u.n
			break
		}
	}
	v, err := strconv.ParseFloat(num, 64)
	if err != nil || v < 0 || v*float64(mul) > 1<<60 {
		return fmt.Errorf("%q is not a size; write for example \"64MiB\", \"20GB\" or \"4096\"", t)
	}
	*s = Size(v * float64(mul))
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Secret is a password or key. It never prints itself; Reveal is the only
// way to its text. In a config file it is the text itself, or "file:PATH", or
// "env:NAME".
type Secret struct{ from string }

// NewSecret makes a secret of its text as it would stand in a config file.
func NewSecret(from string) Secret { return Secret{from} }

// IsSet reports whether anything was configured.
func (s Secret) IsSet() bool { return s.from != "" }

// Reveal is the secret's text. It reads the file or the environment now, so
// that a changed file takes effect without a restart.
func (s Secret) Reveal() (string, error) {
	if path, ok := strings.CutPrefix(s.from, "file:"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the secret's file: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
	if name, ok := strings.CutPrefix(s.from, "env:"); ok {
		v, ok := os.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("the secret's environment variable %s is not set", name)
		}
		return v, nil
	}
	return s.from, nil
}

func (s Secret) String() string {
	switch {
	case s.from == "":
		return ""
	case strings.HasPrefix(s.from, "file:"), strings.HasPrefix(s.from, "env:"):
		return s.from
	}
	return "(secret)"
}

// GoString keeps %#v from printing the text.
func (s Secret) GoString() string { return "conf.Secret(" + s.String() + ")" }

// LogValue keeps slog from printing the text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText prints a reference as it is and a literal as "(secret)".
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes any text.
func (s *Secret) UnmarshalText(b []byte) error {
	s.from = string(b)
	return nil
}

// A Name is the id of something in the config: a source, an uplink, a rule, a
// key. It is what may appear in file names, URLs and pages, and nothing else
// may: [a-z0-9][a-z0-9_-]{0,62}.
type Name string

var (
	nameRE   = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	streamRE = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)
)

// UnmarshalText checks the form.
func (n *Name) UnmarshalText(b []byte) error {
	if !nameRE.Match(b) {
		return fmt.Errorf("%q is not a name; use 1 to 63 of a-z, 0-9, _ and -, the first a letter or digit", b)
	}
	*n = Name(b)
	return nil
}

// MarshalText prints the name.
func (n Name) MarshalText() ([]byte, error) { return []byte(n), nil }

// A Stream is the name of a stream, as Kinesis allows it:
// [a-zA-Z0-9_.-]{1,128}.
type Stream string

// UnmarshalText checks the form.
func (n *Stream) UnmarshalText(b []byte) error {
	if !ValidStream(string(b)) {
		return fmt.Errorf("%q is not a stream name; use 1 to 128 of a-z, A-Z, 0-9, _, . and -", b)
	}
	*n = Stream(b)
	return nil
}

// MarshalText prints the name.
func (n Stream) MarshalText() ([]byte, error) { return []byte(n), nil }

// ValidStream reports whether s may name a stream.
func ValidStream(s string) bool { return streamRE.MatchString(s) }

// A Listen is an address to listen on, "127.0.0.1:1883"; "off" closes the door.
type Listen string

// Off reports whether the door is closed.
func (l Listen) Off() bool { return l == "off" }

// Loopback reports whether only this machine can reach the address.
func (l Listen) Loopback() bool {
	host, _, err := net.SplitHostPort(string(l))
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// UnmarshalText checks the form.
func (l *Listen) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "off" {
		*l = Listen(s)
		return nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not an address; write for example \"127.0.0.1:1883\", or \"off\"", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q has no port between 0 and 65535", s)
	}
	*l = Listen(s)
	return nil
}

// MarshalText prints the address.
func (l Listen) MarshalText() ([]byte, error) { return []byte(l), nil }
