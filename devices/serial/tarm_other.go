//go:build !linux && !windows

package serial

import (
	"errors"
	"fmt"
)

// OpenTarm reports that the driver does not run here.
func OpenTarm(p Params) (Transport, error) {
	return nil, fmt.Errorf("open %s: serial ports are read on Linux and Windows: %w", p.Port, errors.ErrUnsupported)
}
