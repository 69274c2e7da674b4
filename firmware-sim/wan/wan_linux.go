package wan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A WAN is a path that stands. Its near end is a device of this system, its
// far end a device of a network namespace of its own, in which an address
// listens; what connects there is passed on to another address of this system.
type WAN struct {
	to          string
	log         *slog.Logger
	there, back *way
	near, far   *os.File
	name        string
	lis         net.Listener
}

// Open makes a path to listen, of whose network of four addresses (a /30) the
// path has both hosts: with 198.18.0.2:9000 the near end is 198.18.0.1. What
// connects is handed on to the address to. It needs root.
func Open(p Path, listen netip.AddrPort, to string, log *slog.Logger) (*WAN, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("wan: %w", err)
	}
	far := listen.Addr()
	if !far.Is4() || far.As4()[3]%4 != 2 {
		return nil, fmt.Errorf("wan: listen: %s is not the second host of a network of four IPv4 addresses, such as 198.18.0.2", far)
	}
	w := &WAN{to: to, log: log, there: newWay(p, 1), back: newWay(p, 2)}
	var err error
	if w.near, w.name, err = device(far.Prev()); err != nil {
		return nil, err
	}
	made := make(chan error)
	// The thread is never unlocked, so it ends with its goroutine. The namespace
	// lives as long as what was opened in it.
	go func() {
		runtime.LockOSThread()
		made <- w.openFar(listen)
	}()
	if err = <-made; err != nil {
		return nil, errors.Join(err, w.near.Close())
	}
	return w, nil
}

// openFar makes a namespace of the thread that calls it, and the far end in it.
func (w *WAN) openFar(listen netip.AddrPort) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("%w: make a network namespace: %w", ErrUnsupported, err)
	}
	var err error
	if w.far, _, err = device(listen.Addr()); err != nil {
		return err
	}
	if w.lis, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", listen.String()); err != nil { // a local act: nothing to wait for
		return errors.Join(fmt.Errorf("wan: %w", err), w.far.Close())
	}
	return nil
}

// device makes a TUN device with an address of a network of four. It is gone
// when it is closed.
func device(a netip.Addr) (*os.File, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", fmt.Errorf("%w: open /dev/net/tun: %w", ErrUnsupported, err)
	}
	req, err := unix.NewIfreq("fbwan%d")
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = setUp(req.Name(), a)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%w: make a device: %w", ErrUnsupported, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), req.Name()), req.Name(), nil
}

func setUp(name string, a netip.Addr) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ip := a.As4()
	for _, do := range []struct {
		op  uint
		set func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip[:]) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 252}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = do.set(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, do.op, r)
		}
		if err != nil {
			return errors.Join(err, unix.Close(s))
		}
	}
	return unix.Close(s)
}

// Counts are what became of the packets there, and back, so far.
func (w *WAN) Counts() (there, back Counts) { return w.there.counts(), w.back.counts() }

// Device is the name of the near end's device.
func (w *WAN) Device() string { return w.name }

// Run carries packets and passes connections on until ctx ends; then the path
// is gone.
func (w *WAN) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var errs [2]error
	wg.Go(func() { defer stop(); errs[0] = w.there.carry(ctx, w.far, w.near) })
	wg.Go(func() { defer stop(); errs[1] = w.back.carry(ctx, w.near, w.far) })
	wg.Go(func() { defer stop(); w.accept(ctx, &wg) })
	<-ctx.Done()
	err := errors.Join(w.lis.Close(), w.near.Close(), w.far.Close())
	wg.Wait()
	return errors.Join(err, errs[0], errs[1])
}

func (w *WAN) accept(ctx context.Context, wg *sync.WaitGroup) {
	for {
		c, err := w.lis.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				w.log.Error("wan stopped accepting", "error", err)
			}
			return
		}
		wg.Go(func() { w.pass(ctx, c) })
	}
}

// pass hands a connection on, until both directions have ended or ctx has.
func (w *WAN) pass(ctx context.Context, near net.Conn) {
	far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", w.to)
	if err != nil {
		w.log.Warn("far side not reached", "error", err)
		_ = near.Close() // it learns of it by its own read
		return
	}
	shut := context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() }) // both copies end by it
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{far, near}, {near, far}} {
		wg.Go(func() {
			_, err := io.Copy(way[0], way[1])
			if tcp, ok := way[0].(*net.TCPConn); ok && err == nil && tcp.CloseWrite() == nil {
				return
			}
			_, _ = near.Close(), far.Close() // the other direction is of no use without this one
		})
	}
	wg.Wait()
	if shut() {
		_, _ = near.Close(), far.Close()
	}
}
