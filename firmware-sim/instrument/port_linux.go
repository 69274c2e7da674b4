package instrument

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// port is the instrument's end (the master) of a pseudo-terminal.
//
// The kernel's notification queue (inotify) on the other end keeps its
// closes, and they are in it before a later session can write: so a gateway
// that closes and opens again faster than we look is still seen to have
// closed. (It merges equal events that follow each other, so closes cannot be
// counted, only seen; and we must not open and close that end ourselves.)
type port struct {
	master int
	slave  int // our own hold on the other end, or -1
	notify int
	wake   int // an eventfd: ends a wait
	path   string
}

// writeWithin is how long a write waits for room. Where nobody reads, a UART
// does not wait either.
const writeWithin = 200 * time.Millisecond

// openPort makes a pseudo-terminal. With hold it keeps the other end open as
// well, so that what a session left unread can be thrown away at its end; a
// port without hold knows whether anybody is there.
func openPort(hold bool) (*port, error) {
	p := &port{master: -1, slave: -1, notify: -1, wake: -1}
	if err := p.setUp(hold); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *port) setUp(hold bool) (err error) {
	if p.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if p.master, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open /dev/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(p.master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock pseudo-terminal: %w", err)
	}
	n, err := unix.IoctlGetUint32(p.master, unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("number of pseudo-terminal: %w", err)
	}
	p.path = "/dev/pts/" + strconv.FormatUint(uint64(n), 10)
	if p.slave, err = unix.Open(p.path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open %s: %w", p.path, err)
	}
	if err := rawMode(p.slave); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	if !hold {
		fd := p.slave
		p.slave = -1
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close %s: %w", p.path, err)
		}
	}
	if p.notify, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err != nil {
		return fmt.Errorf("inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(p.notify, p.path, unix.IN_CLOSE_WRITE|unix.IN_CLOSE_NOWRITE); err != nil {
		return fmt.Errorf("inotify on %s: %w", p.path, err)
	}
	return nil
}

// rawMode turns echo and line editing off, so that a reader that sets nothing
// gets the bytes as they are. The setting stays while the master is open.
func rawMode(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func (p *port) name() string { return p.path }

// interrupt ends a read that waits, and every later one. It must not be
// called after close.
func (p *port) interrupt() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.wake, one[:]) // an eventfd that is set already stays set
}

// closed takes the notifications and says whether a session ended since the
// last call.
func (p *port) closed() (ended bool, err error) {
	var buf [4096]byte
	for {
		n, err := unix.Read(p.notify, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return ended, nil
		case err != nil:
			return ended, fmt.Errorf("inotify: %w", err)
		case n > 0:
			ended = true // the watch asks for closes only; an overflow means too many of them
		}
	}
}

// read waits for bytes, or for the end of a session, on a port that holds the
// other end. At an end there are no bytes: what had come by then may be of the
// session that ended or of the next, so it is dropped, as a cable drops it; a
// gateway asks again when no answer comes.
func (p *port) read(ctx context.Context, buf []byte) (n int, ended bool, err error) {
	for {
		fds := []unix.PollFd{
			{Fd: int32(p.master), Events: unix.POLLIN}, {Fd: int32(p.notify), Events: unix.POLLIN}, {Fd: int32(p.wake), Events: unix.POLLIN},
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, false, fmt.Errorf("poll: %w", err)
		}
		if ctx.Err() != nil {
			return 0, false, nil
		}
		if n, err = p.take(buf); err != nil {
			return 0, false, err
		}
		// After the bytes: a close that came before them is in the queue by now.
		ended, err = p.closed()
		if err == nil && ended {
			return 0, true, p.discard(buf)
		}
		if err != nil || n > 0 {
			return n, false, err
		}
	}
}

// take reads what is there.
func (p *port) take(buf []byte) (int, error) {
	n, err := unix.Read(p.master, buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read: %w", err)
	}
	return n, nil
}

// discard throws away what was not read, in both directions. The next session
// would else take an old answer for the answer to its first query, and stay
// one behind for good.
func (p *port) discard(buf []byte) error {
	if err := unix.IoctlSetInt(p.master, unix.TCFLSH, unix.TCOFLUSH); err != nil { // what is still on its way
		return fmt.Errorf("flush: %w", err)
	}
	if err := unix.IoctlSetInt(p.slave, unix.TCFLSH, unix.TCIFLUSH); err != nil { // what has come and was not read
		return fmt.Errorf("flush: %w", err)
	}
	for {
		if n, err := p.take(buf); n == 0 || err != nil {
			return err
		}
	}
}

// isOpen reports whether anybody has the other end open, on a port without
// hold.
func (p *port) isOpen() (bool, error) {
	fds := []unix.PollFd{{Fd: int32(p.master), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return fds[0].Revents&unix.POLLHUP == 0, err
	}
}

func (p *port) write(b []byte) error {
	for end := time.Now().Add(writeWithin); len(b) > 0; {
		n, err := unix.Write(p.master, b)
		switch {
		case err == nil:
			b = b[n:]
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("write: %w", err)
		default:
			left := time.Until(end)
			if left <= 0 {
				return fmt.Errorf("write: no room for %v: %w", writeWithin, err)
			}
			fds := []unix.PollFd{{Fd: int32(p.master), Events: unix.POLLOUT}}
			if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("poll: %w", err)
			}
		}
	}
	return nil
}

func (p *port) close() error {
	var err error
	for _, fd := range []int{p.slave, p.master, p.notify, p.wake} {
		if fd >= 0 {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}
