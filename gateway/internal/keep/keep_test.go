package keep_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/internal/keep"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestAPartIsStartedAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := []time.Time{}
		g, ctx := keep.New(t.Context(), quiet())
		g.Go(ctx, keep.Part{Name: "flaky", Run: func(ctx context.Context) error {
			starts = append(starts, time.Now())
			if len(starts) == 3 {
				panic("contained")
			}
			if len(starts) == 12 {
				<-ctx.Done()
				return nil
			}
			return errors.New("no luck")
		}})
		time.Sleep(10 * time.Minute) // the bubble's clock
		g.Stop()
		if len(starts) != 12 {
			t.Fatalf("started %d times, want 12", len(starts))
		}
		if p := starts[1].Sub(starts[0]); p > time.Second {
			t.Errorf("first pause %v", p)
		}
		if p := starts[11].Sub(starts[10]); p < 15*time.Second || p > 45*time.Second {
			t.Errorf("last pause %v", p)
		}
		if keep.Failure(ctx) != nil {
			t.Errorf("group failed: %v", keep.Failure(ctx))
		}
	})
}

func TestAVitalPartEndsTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		g, ctx := keep.New(t.Context(), quiet())
		g.Go(ctx, keep.Part{Name: "other", Run: func(ctx context.Context) error { <-ctx.Done(); return nil }})
		g.Go(ctx, keep.Part{Name: "vital", Vital: true, Run: func(context.Context) error { return boom }})
		<-ctx.Done()
		g.Stop()
		if !errors.Is(keep.Failure(ctx), boom) {
			t.Errorf("group's error is %v", keep.Failure(ctx))
		}
	})
}
