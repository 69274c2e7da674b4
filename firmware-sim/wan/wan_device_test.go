//go:build wan && linux

package wan

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestPathOfTheKernel: bytes go through real devices and the kernel's TCP, of
// which packets are lost, and come back as they went. It needs root:
// `make wan`.
func TestPathOfTheKernel(t *testing.T) {
	echo, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				_, err := io.Copy(c, c)
				if cerr := c.Close(); err == nil && cerr != nil {
					t.Log(cerr)
				}
			}()
		}
	}()
	t.Cleanup(func() { _ = echo.Close() })
	listen := netip.MustParseAddrPort("198.18.4.2:9100")
	w, err := Open(Path{Rate: 1_000_000, Delay: 20 * time.Millisecond, Loss: 0.02, Queue: 64 << 10, Seed: 3}, listen, echo.Addr().String(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()

	c, err := new(net.Dialer).DialContext(ctx, "tcp", listen.String())
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 1_000_000)
	for i, rng := 0, rand.New(rand.NewPCG(1, 1)); i < len(sent); i++ {
		sent[i] = byte(rng.Uint32())
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		wrote <- err
	}()
	got, err := io.ReadAll(c)
	if werr := <-wrote; err != nil || werr != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came back of %d, %v %v", len(got), len(sent), err, werr)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	there, back := w.Counts()
	if there.Lost == 0 || back.Lost == 0 || there.Bytes < 1_000_000 || back.Bytes < 1_000_000 {
		t.Errorf("there %+v, back %+v", there, back)
	}
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if _, err := net.InterfaceByName(w.Device()); err == nil {
		t.Errorf("the device %s is still there", w.Device())
	}
}
