package serial_test

import (
	"log/slog"
	"strings"
	"testing"

	"forebay/devices/serial"
)

func TestConfigNamesTheField(t *testing.T) {
	good := serial.Config{ID: "scale", Port: "/dev/ttyUSB0"}
	if err := good.Check(); err != nil {
		t.Fatalf("least config: %v", err)
	}
	for field, change := range map[string]func(*serial.Config){
		"id":        func(c *serial.Config) { c.ID = "" },
		"port":      func(c *serial.Config) { c.Port = "" },
		"baud":      func(c *serial.Config) { c.Baud = 128000 },
		"data_bits": func(c *serial.Config) { c.DataBits = 9 },
		"parity":    func(c *serial.Config) { c.Parity = "mark" },
		"stop_bits": func(c *serial.Config) { c.StopBits = 3 },
		"framing":   func(c *serial.Config) { c.Framing = "slip" },
		"max_frame": func(c *serial.Config) { c.MaxFrame = 2 << 20 },
		"query":     func(c *serial.Config) { c.Query = `READ\q` },
		"stream":    func(c *serial.Config) { c.Stream = "a b" },
		"buffer":    func(c *serial.Config) { c.Buffer = 100 },
		"key":       func(c *serial.Config) { c.Key = strings.Repeat("k", 257) },
		"interval":  func(c *serial.Config) { c.Interval = -1 },
		"timeout":   func(c *serial.Config) { c.Timeout = -1 },
	} {
		c := good
		change(&c)
		err := c.Check()
		if err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("bad %s: got %v", field, err)
		}
		if _, nerr := serial.New(c, slog.New(slog.DiscardHandler), serial.Options{}); nerr == nil {
			t.Errorf("bad %s: New took it", field)
		}
	}
}

func TestQueryEscapesThatAreWrong(t *testing.T) {
	for _, q := range []string{`a\`, `\x`, `\x1`, `\xZ1`, `\u0041`, strings.Repeat("q", 257)} {
		c := serial.Config{ID: "scale", Port: "p", Query: q}
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), "query: ") {
			t.Errorf("query %q: got %v", q, err)
		}
	}
}
