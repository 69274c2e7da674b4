// Package serial reads devices on serial ports: instruments that send lines by
// themselves, and instruments that answer a query. It never writes anything to
// a port but the configured query.
//
// A port that is pulled out is noticed at once and opened again when it is
// back. What is lost on the way (a line too long, half a line at an unplug,
// lines that the log could not take in time) is counted and reported, never
// dropped in silence.
package serial

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// Config is one [[serial]] table of the config file; zero means the documented
// default.
type Config struct {
	// ID names the source.
	ID conf.Name `toml:"id"`
	// Port is the device, such as "/dev/serial/by-id/usb-…" or "COM3". A name
	// under /dev/serial/by-id stays the same wherever the cable is plugged in;
	// /dev/ttyUSB0 does not. A symbolic link is followed anew at each opening.
	Port string `toml:"port"`
	// Baud is the line's speed in bit/s; default 9600. One of the standard
	// speeds, 50 to 4000000.
	Baud int `toml:"baud"`
	// DataBits is 5, 6, 7 or 8; default 8.
	DataBits int `toml:"data_bits"`
	// Parity is "none", "odd" or "even"; default "none".
	Parity string `toml:"parity"`
	// StopBits is 1 or 2; default 1.
	StopBits int `toml:"stop_bits"`
	// Framing says how the bytes are cut into records; default "line": up to
	// LF or CR LF, which are cut off; empty lines are passed over.
	Framing string `toml:"framing"`
	// MaxFrame is the longest frame, in bytes; default 4096, at most 1MiB. A
	// longer one is dropped up to the next frame's start, and counted.
	MaxFrame conf.Size `toml:"max_frame"`
	// Query, if set, is written to the device each Interval, and one frame is
	// read as its answer; the next query goes out only when the answer is on
	// disk. Besides TOML's own escapes it knows \r \n \t \0 \e \\ and \xHH, so
	// that a literal string ('READ\r\n') and bytes above 7F can be written.
	Query string `toml:"query"`
	// Interval is the time from one query to the next; default 1s.
	Interval conf.Duration `toml:"interval"`
	// Timeout is how long an answer may take; default 1s.
	Timeout conf.Duration `toml:"timeout"`
	// Key is the partition key of the records; default the ID.
	Key string `toml:"key"`
	// Stream is where the records go; default "serial".
	Stream conf.Stream `toml:"stream"`
	// Buffer is how many bytes of lines wait in memory while the log holds
	// back; default 1MiB. Beyond it the oldest lines are dropped and counted.
	// A port with a Query needs none: it is not asked.
	Buffer conf.Size `toml:"buffer"`
}

// Defaults of Config.
const (
	DefaultBaud     = 9600
	DefaultMaxFrame = 4096
	DefaultBuffer   = 1 << 20
	DefaultInterval = time.Second
	DefaultTimeout  = time.Second
	DefaultStream   = "serial"

	maxFrameLimit = 1 << 20
	maxQuery      = 256
)

// bauds are the speeds that the driver knows on Linux (termios B constants).
var bauds = [...]int{
	50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400, 57600, 115200,
	230400, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000,
}

// Check reports the first value that cannot be; the error begins with the
// field's name in the config file.
func (c Config) Check() error {
	c = c.WithDefaults()
	switch {
	case c.ID == "":
		return errors.New("id: is missing; give the port a name such as \"scale-1\"")
	case c.Port == "":
		return errors.New("port: is missing; name the device, best by /dev/serial/by-id")
	case strings.ContainsRune(c.Port, 0):
		return fmt.Errorf("port: %q holds a NUL", c.Port)
	case !slices.Contains(bauds[:], c.Baud):
		return fmt.Errorf("baud: %d is not a standard speed, such as 9600, 19200, 38400, 57600 or 115200", c.Baud)
	case c.DataBits < 5 || c.DataBits > 8:
		return fmt.Errorf("data_bits: %d is not 5, 6, 7 or 8", c.DataBits)
	case c.Parity != "none" && c.Parity != "odd" && c.Parity != "even":
		return fmt.Errorf("parity: %q is not \"none\", \"odd\" or \"even\"", c.Parity)
	case c.StopBits != 1 && c.StopBits != 2:
		return fmt.Errorf("stop_bits: %d is not 1 or 2", c.StopBits)
	case c.MaxFrame < 1 || c.MaxFrame > maxFrameLimit:
		return fmt.Errorf("max_frame: %s is not between 1 and %s", c.MaxFrame, conf.Size(maxFrameLimit))
	case c.Interval < 0:
		return fmt.Errorf("interval: %s is negative", c.Interval)
	case c.Timeout < 0:
		return fmt.Errorf("timeout: %s is negative", c.Timeout)
	case !conf.ValidStream(string(c.Stream)):
		return fmt.Errorf("stream: %q is not a stream name", c.Stream)
	case c.Buffer < c.MaxFrame+lineCharge:
		return fmt.Errorf("buffer: %s does not hold one frame of max_frame, %s", c.Buffer, c.MaxFrame)
	case !utf8.ValidString(c.Key) || utf8.RuneCountInString(c.Key) > record.MaxKey:
		return fmt.Errorf("key: is not UTF-8 of at most %d characters", record.MaxKey)
	}
	if _, err := newFramer(c.Framing, int(c.MaxFrame)); err != nil {
		return fmt.Errorf("framing: %w", err)
	}
	if _, err := unescape(c.Query); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	return nil
}

func (c Config) WithDefaults() Config {
	set := func(p *int, def int) {
		if *p == 0 {
			*p = def
		}
	}
	set(&c.Baud, DefaultBaud)
	set(&c.DataBits, 8)
	set(&c.StopBits, 1)
	if c.Parity == "" {
		c.Parity = "none"
	}
	if c.Framing == "" {
		c.Framing = "line"
	}
	c.MaxFrame = conf.Size(c.MaxFrame.Or(DefaultMaxFrame))
	c.Buffer = conf.Size(c.Buffer.Or(max(DefaultBuffer, 2*int64(c.MaxFrame))))
	c.Interval = conf.Duration(c.Interval.Or(DefaultInterval))
	c.Timeout = conf.Duration(c.Timeout.Or(DefaultTimeout))
	if c.Key == "" {
		c.Key = string(c.ID)
	}
	if c.Stream == "" {
		c.Stream = DefaultStream
	}
	return c
}

// unescape reads the query's escapes; see Config.Query.
func unescape(s string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		if i == len(s) {
			return nil, fmt.Errorf("%q ends in a lone backslash", s)
		}
		switch s[i] {
		case 'r':
			out = append(out, '\r')
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case '0':
			out = append(out, 0)
		case 'e':
			out = append(out, 0x1b)
		case '\\':
			out = append(out, '\\')
		case 'x':
			if i+2 >= len(s) {
				return nil, fmt.Errorf("%q: \\x needs two hexadecimal digits", s)
			}
			hi, ok1 := hexDigit(s[i+1])
			lo, ok2 := hexDigit(s[i+2])
			if !ok1 || !ok2 {
				return nil, fmt.Errorf("%q: \\x%s is not two hexadecimal digits", s, s[i+1:i+3])
			}
			out = append(out, hi<<4|lo)
			i += 2
		default:
			return nil, fmt.Errorf("%q: \\%c is not one of \\r \\n \\t \\0 \\e \\\\ \\xHH", s, s[i])
		}
	}
	if len(out) > maxQuery {
		return nil, fmt.Errorf("has %d bytes; at most %d are allowed", len(out), maxQuery)
	}
	return out, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
