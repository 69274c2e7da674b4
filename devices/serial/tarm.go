//go:build linux || windows

package serial

import (
	"fmt"

	tarm "github.com/tarm/serial"
)

// OpenTarm opens a port with the default driver, tarm/serial.
func OpenTarm(p Params) (Transport, error) {
	return openExclusive(p.Port, func(device string) (*tarm.Port, error) {
		c := &tarm.Config{
			Name: device, Baud: p.Baud, ReadTimeout: ReadTimeout,
			Size: byte(p.DataBits), StopBits: tarm.StopBits(p.StopBits),
		}
		switch p.Parity {
		case "odd":
			c.Parity = tarm.ParityOdd
		case "even":
			c.Parity = tarm.ParityEven
		default:
			c.Parity = tarm.ParityNone
		}
		t, err := tarm.OpenPort(c)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", p.Port, err)
		}
		return t, nil
	})
}
