package spool_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/faultdisk"
)

// recordWorkload runs a workload on a recording disk. The spool is closed and
// opened again once in between.
func recordWorkload(t *testing.T, rounds int, seed uint64) (root string, events []faultdisk.Event, u *truth) {
	t.Helper()
	root = filepath.Join(scratch(t), "spool")
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	d, u := newFaultDisk(t, true), newTruth()
	for part := range uint64(2) {
		s, err := spool.OpenWith(t.Context(), root, smallSpool(), nil, spool.Faults(d))
		if err != nil {
			t.Fatal(err)
		}
		w, err := startWorkload(t.Context(), s, u, d.Mark)
		if err == nil {
			err = w.run(t.Context(), rounds, seed+part)
		}
		if err != nil {
			t.Errorf("workload: %v", err)
		}
		w.markFirst()
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	return root, d.Events(), u
}

// An image is one that is to be verified.
type image struct {
	dir string
	at  int
	cut faultdisk.Cut
}

// images builds n images over all prefixes of the record and hands them to f,
// two at a time. It stops after some have failed.
func images(t *testing.T, root string, events []faultdisk.Event, n int, unsynced func(faultdisk.Event) bool, f func(image) error) (built, failed int) {
	t.Helper()
	base := scratch(t)
	t.Setenv("TMPDIR", base) // Check copies what has a WAL
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 2))
	work := make(chan image)
	var bad atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for im := range work {
				if err := f(im); err != nil {
					if bad.Add(1) <= 3 && unsynced == nil {
						e := events[max(im.at-1, 0)]
						t.Errorf("image of the first %d events (the last is %s %s), cut %d, seed %d: %v", im.at, e.Op, filepath.Base(e.Path), im.cut, seed, err)
					}
				}
				_ = os.RemoveAll(im.dir)
			}
		})
	}
	r := faultdisk.NewReplay(root, seed)
	r.Unsynced = unsynced
	var err error
	for at := 0; at <= len(events) && bad.Load() < 3 && err == nil; at++ {
		for err == nil && built*(len(events)+1) < n*(at+1) {
			// Every third one is each of the plain ones or, mostly, in between.
			cut := []faultdisk.Cut{faultdisk.Torn, faultdisk.Lost, faultdisk.Torn, faultdisk.Kept, faultdisk.Torn, faultdisk.Torn}[built%6]
			im := image{dir: filepath.Join(base, fmt.Sprint(built)), at: at, cut: cut}
			if err = os.Mkdir(im.dir, 0o750); err == nil {
				err = r.Image(im.dir, cut, rng)
			}
			built++
			work <- im
		}
		if at < len(events) && err == nil {
			err = r.Apply(events[at])
		}
	}
	close(work)
	workers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return built, int(bad.Load())
}

// What a power cut can leave at any moment, as far as files and syncs promise
// no more than POSIX does, opens without a loss of what was acknowledged.
func TestEveryCutOfTheWriteLogKeepsWhatWasAcknowledged(t *testing.T) {
	n := number(t, "FOREBAY_IMAGES", 200)
	root, events, u := recordWorkload(t, 60, uint64(time.Now().UnixNano()))
	h := newHistory(u, events)
	began := time.Now()
	built, failed := images(t, root, events, n, nil, func(im image) error {
		return h.verify(context.Background(), im.dir, smallSpool(), im.at)
	})
	count := map[faultdisk.Op]int{}
	for _, e := range events {
		count[e.Op]++
	}
	if count[faultdisk.Remove] < 4 || count[faultdisk.Rename] < 6 || len(u.recs) < 500 {
		t.Errorf("the workload is too small to show anything: %v, %d records", count, len(u.recs))
	}
	t.Logf("%d prefixes and reorders of a write log of %d events (%v; %d records acknowledged): %d violations, %v", built, len(events), count, len(u.recs), failed, time.Since(began).Round(time.Millisecond))
}

// The controls: where syncs count for nothing the same images must lose
// something, else the test above is blind.
func TestTheWriteLogIsNotBlind(t *testing.T) {
	root, events, u := recordWorkload(t, 40, 7)
	h := newHistory(u, events)
	for name, unsynced := range map[string]func(faultdisk.Event) bool{
		"WAL not synced, as synchronous=NORMAL": func(e faultdisk.Event) bool {
			return e.Op == faultdisk.Sync && filepath.Ext(e.Path) == ".seg-wal"
		},
		"chunk files not synced": func(e faultdisk.Event) bool {
			return e.Op == faultdisk.Sync && filepath.Ext(e.Path) == ".chunks"
		},
		"segments not synced": func(e faultdisk.Event) bool {
			return e.Op == faultdisk.Sync && filepath.Ext(e.Path) == ".seg"
		},
		"directories not synced": func(e faultdisk.Event) bool { return e.Op == faultdisk.SyncDir },
	} {
		t.Run(name, func(t *testing.T) {
			built, failed := images(t, root, events, 400, unsynced, func(im image) error {
				return h.verify(context.Background(), im.dir, smallSpool(), im.at)
			})
			if failed == 0 {
				t.Errorf("%d images lost nothing", built)
			}
		})
	}
}
