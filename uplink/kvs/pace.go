package kvs

import (
	"context"
	"time"
)

// limits are the service's on one stream (Developer Guide, service quotas).
type limits struct {
	// between is the time from one fragment, and one connection, to the next:
	// five a second, and a little for the way there.
	between time.Duration
	// rate is how many bytes go out in a second.
	rate int
}

func serviceLimits() limits { return limits{between: 210 * time.Millisecond, rate: 12_000_000} }

// A pace holds one stream to the limits. It belongs to who has the stream's
// turn.
type pace struct {
	limits
	fragment, connection time.Time // when the next may begin
	free                 time.Time // when what went out is paid for
}

// burst is what may go out at once after a pause, in bytes.
const burst = 256 << 10

func (p *pace) connect(ctx context.Context) error { return p.turn(ctx, &p.connection) }
func (p *pace) begin(ctx context.Context) error   { return p.turn(ctx, &p.fragment) }

func (p *pace) turn(ctx context.Context, next *time.Time) error {
	if err := sleep(ctx, time.Until(*next)); err != nil {
		return err
	}
	*next = time.Now().Add(p.between)
	return nil
}

// spend pays for n bytes.
func (p *pace) spend(ctx context.Context, n int) error {
	if p.rate == 0 {
		return ctx.Err()
	}
	now := time.Now()
	if credit := now.Add(-time.Duration(burst) * time.Second / time.Duration(p.rate)); p.free.Before(credit) {
		p.free = credit
	}
	p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	return sleep(ctx, p.free.Sub(now))
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
