package serial

import (
	"errors"
	"fmt"

	tarm "github.com/tarm/serial"
	"golang.org/x/sys/windows"
)

// openExclusive needs no lock: the driver opens with share mode 0, and Windows
// refuses the second.
func openExclusive(name string, open func(device string) (*tarm.Port, error)) (Transport, error) {
	t, err := open(name)
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
		return nil, fmt.Errorf("open %s: %w", name, ErrInUse)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}
