// Package keep runs the parts of the gateway: each part until its context
// ends, again after a growing pause when it fails, and never past its owner.
package keep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

// Pauses between restarts: from first to longest, doubled each time, with
// jitter of a half; a part that ran for good starts over at first.
const (
	first   = 250 * time.Millisecond
	longest = 30 * time.Second
	good    = time.Minute
)

// A Part is something that runs until its context ends.
type Part struct {
	Name string
	// Run returns nil when ctx ended, else why it stopped.
	Run func(ctx context.Context) error
	// Vital: an error ends the whole group instead of a restart.
	Vital bool
}

// A Group runs parts and waits for them. Make one with New.
type Group struct {
	cancel context.CancelCauseFunc
	log    *slog.Logger
	wg     sync.WaitGroup
}

// New makes a group, and the context that its parts run in: it ends when ctx
// does, when a vital part fails, or at Stop.
func New(ctx context.Context, log *slog.Logger) (*Group, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{cancel: cancel, log: log}, ctx
}

// Go starts a part in the group's context or one derived from it.
func (g *Group) Go(ctx context.Context, p Part) {
	g.wg.Go(func() {
		pause := first
		for ctx.Err() == nil {
			began := time.Now()
			err := run(ctx, p)
			if ctx.Err() != nil || err == nil {
				return
			}
			if p.Vital {
				g.cancel(fmt.Errorf("%s: %w", p.Name, err))
				return
			}
			if time.Since(began) >= good {
				pause = first
			}
			wait := pause/2 + rand.N(pause)
			g.log.Error("part stopped and is started again", "part", p.Name, "error", err, "pause", wait)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			pause = min(2*pause, longest)
		}
	})
}

// Stop ends the parts and waits for them.
func (g *Group) Stop() {
	g.cancel(nil)
	g.wg.Wait()
}

// Failure is the error of the vital part that ended a group's context; nil if
// none did.
func Failure(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// A panicError is a panic turned into a restart.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

func run(ctx context.Context, p Part) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	return p.Run(ctx)
}
