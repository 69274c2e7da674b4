package spool_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"forebay/spool"
	"forebay/spool/faultdisk"
)

// kindOf is what kind of file a path names: failures are listed by it.
func kindOf(path string) string {
	base := filepath.Base(path)
	if strings.HasPrefix(base, "log-") {
		return "log"
	}
	if _, ext, ok := strings.Cut(base, "."); ok && len(base) > 10 && base[10] == '.' {
		return ext
	}
	return base
}

// A point is a place in the record at which a step of a protocol was done.
type point struct {
	at   int
	what string
}

func points(events []faultdisk.Event) (out []point, kinds []string) {
	for at, e := range events {
		if e.Op.Point() && e.Failed == nil {
			p := point{at, e.Op.String() + " " + kindOf(e.Path)}
			out = append(out, p)
			if !slices.Contains(kinds, p.what) {
				kinds = append(kinds, p.what)
			}
		}
	}
	slices.Sort(kinds)
	return out, kinds
}

// A crash right before and right after every step: of what was done nothing is
// missing (a kill), or all that was not synced (a power cut).
func TestACrashAtEveryFailPointRecovers(t *testing.T) {
	limit := number(t, "FOREBAY_FAILPOINTS", 60)
	root, events, u := recordWorkload(t, 16, 11)
	h := newHistory(u, events)
	all, kinds := points(events)
	chosen := all
	if len(all) > limit { // every kind, and the others by lot
		rand.New(rand.NewPCG(uint64(len(events)), 3)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		seen := map[string]bool{}
		chosen = nil
		var rest []point
		for _, p := range all {
			if !seen[p.what] {
				seen[p.what] = true
				chosen = append(chosen, p)
			} else {
				rest = append(rest, p)
			}
		}
		chosen = append(chosen, rest[:max(0, limit-len(chosen))]...)
	}
	slices.SortFunc(chosen, func(a, b point) int { return a.at - b.at })
	base := scratch(t)
	t.Setenv("TMPDIR", base)
	r, applied, recovered, tried := faultdisk.NewReplay(root, 1), 0, 0, 0
	rng := rand.New(rand.NewPCG(1, 1))
	for _, p := range chosen {
		good := true
		for _, until := range []int{p.at, p.at + 1} {
			for ; applied < until; applied++ {
				if err := r.Apply(events[applied]); err != nil {
					t.Fatal(err)
				}
			}
			for _, cut := range []faultdisk.Cut{faultdisk.Kept, faultdisk.Lost} {
				dir := filepath.Join(base, fmt.Sprint("image", tried))
				tried++
				err := os.Mkdir(dir, 0o750)
				if err == nil {
					err = r.Image(dir, cut, rng)
				}
				if err == nil {
					err = h.verify(t.Context(), dir, smallSpool(), until)
				}
				if err != nil {
					t.Errorf("crash at event %d of %d, %s, cut %d: %v", until, len(events), p.what, cut, err)
					good = false
				}
				_ = os.RemoveAll(dir)
			}
		}
		if good {
			recovered++
		}
	}
	if len(kinds) < 12 {
		t.Errorf("only %d kinds of steps were met: %v", len(kinds), kinds)
	}
	t.Logf("crash at %d of %d points (before and after, with and without what was not synced): %d/%d recover", len(chosen), len(all), recovered, len(chosen))
	t.Logf("%d kinds of points: %s", len(kinds), strings.Join(kinds, ", "))
}

// Every step fails once, while the spool is at work: what was acknowledged
// stays, what was not stored was said not to be, and the spool goes on by
// itself or opens again.
func TestAnErrorAtEveryFailPointRecovers(t *testing.T) {
	limit := number(t, "FOREBAY_FAILPOINTS", 60)
	steps := map[string]int{} // how often each kind of step is met
	runWithFault(t, func(e faultdisk.Event) error {
		steps[e.Op.String()+" "+kindOf(e.Path)]++
		return nil
	})
	kinds := make([]string, 0, len(steps))
	for k := range steps {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	type target struct {
		kind string
		nth  int
		err  error
	}
	var targets []target
	per := max(1, limit/4/len(kinds))
	for _, k := range kinds {
		for n := range min(per, steps[k]) {
			// The first ones, and beyond them at equal distance.
			nth := n * steps[k] / min(per, steps[k])
			for i, err := range []error{syscall.EIO, syscall.ENOSPC} {
				if limit >= 1000 || i == len(targets)%2 { // the short form takes them by turns
					targets = append(targets, target{k, nth, err})
				}
			}
		}
	}
	recovered := 0
	for _, tg := range targets {
		n := 0
		if runWithFault(t, func(e faultdisk.Event) error {
			if e.Op.String()+" "+kindOf(e.Path) != tg.kind {
				return nil
			}
			n++
			if n == tg.nth+1 {
				return tg.err
			}
			return nil
		}) {
			recovered++
		} else {
			t.Errorf("after %v at %s number %d", tg.err, tg.kind, tg.nth+1)
		}
	}
	t.Logf("an error at %d steps of %d kinds, EIO or ENOSPC: %d/%d recover", len(targets), len(kinds), recovered, len(targets))
}

// runWithFault runs a small workload with a fault, lets the spool go on without
// it, closes and verifies. The fault is asked by one goroutine at a time.
func runWithFault(t *testing.T, fault faultdisk.Fault) bool {
	t.Helper()
	d, u := newFaultDisk(t, false), newTruth()
	dir := filepath.Join(scratch(t), "spool")
	var mu sync.Mutex
	d.SetFault(func(e faultdisk.Event) error {
		if !e.Op.Point() && e.Op != faultdisk.Write {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		return fault(e)
	})
	ctx := context.Background()
	var refused atomic.Int64
	for part := range uint64(3) {
		if part == 2 {
			d.SetFault(nil)
		}
		s, err := spool.OpenWith(ctx, dir, smallSpool(), nil, spool.Faults(d))
		if err != nil && part < 2 {
			continue // it may be refused once, with the fault's cause
		}
		if err != nil {
			t.Errorf("open: %v", err)
			return false
		}
		w, err := startWorkload(ctx, s, u, func(any) {})
		if err == nil {
			w.onError = func(error) { refused.Add(1) }
			err = w.run(ctx, 12, part)
		}
		if err != nil && part == 2 {
			t.Errorf("workload: %v", err)
		}
		if err := s.Ledger().Balanced(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil && part == 2 {
			t.Errorf("close: %v", err)
		}
	}
	if refused.Load() > 30 {
		t.Errorf("one error refused %d batches", refused.Load())
	}
	h := newHistory(u, nil)
	for pos := range u.recs { // all of it was acknowledged
		h.acked[pos.Shard] = []step{{0, max(pos.Seq, after(h.acked[pos.Shard], 0))}}
		h.first[pos.Shard] = []step{{0, math.MaxUint64}} // whatever retention has taken since
	}
	if err := h.verify(ctx, dir, smallSpool(), 1); err != nil {
		t.Error(err)
		return false
	}
	return !t.Failed()
}
