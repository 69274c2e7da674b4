package serial

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	tarm "github.com/tarm/serial"
	"golang.org/x/sys/unix"
)

// openExclusive follows the link, locks the device and opens it. The driver
// has no lock of its own (two opens succeed) and does not show its descriptor,
// so a second descriptor carries the lock: flock keeps out whoever asks for
// it, in this process too; TIOCEXCL keeps out everybody else but root.
func openExclusive(name string, open func(device string) (*tarm.Port, error)) (Transport, error) {
	device, err := filepath.EvalSymlinks(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open %s: %w", name, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), unix.Close(fd))
	}
	t, err := open(device)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), t.Close(), unix.Close(fd))
	}
	return &lockedPort{Port: t, device: device, fd: fd}, nil
}

type lockedPort struct {
	*tarm.Port
	device string // the link's target when it was opened
	fd     int    // carries the lock
}

// Flush also fails if the device's file is gone.
func (p *lockedPort) Flush() error {
	if _, err := os.Stat(p.device); err != nil {
		return err
	}
	return p.Port.Flush()
}

// Waiting is how many bytes are unread.
func (p *lockedPort) Waiting() (int, error) { return unix.IoctlGetInt(p.fd, unix.TIOCINQ) }

func (p *lockedPort) Close() error {
	err := p.Port.Close()
	// A pty's exclusive mode outlives its last descriptor. On a device that is
	// gone this fails with EIO, and there is nothing left to unlock.
	if xerr := unix.IoctlSetInt(p.fd, unix.TIOCNXCL, 0); xerr != nil && !errors.Is(xerr, unix.EIO) {
		err = errors.Join(err, xerr)
	}
	return errors.Join(err, unix.Close(p.fd))
}
