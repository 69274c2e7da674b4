//go:build !linux

package wan

import (
	"context"
	"log/slog"
	"net/netip"
)

// A WAN does not exist on this system: Open always fails.
type WAN struct{}

// Open fails with ErrUnsupported.
func Open(Path, netip.AddrPort, string, *slog.Logger) (*WAN, error) { return nil, ErrUnsupported }

// Counts are none.
func (*WAN) Counts() (there, back Counts) { return Counts{}, Counts{} }

// Device is none.
func (*WAN) Device() string { return "" }

// Run fails with ErrUnsupported.
func (*WAN) Run(context.Context) error { return ErrUnsupported }
