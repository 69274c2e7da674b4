package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// aheadWithin is how fast a segment must fill to its half for the files of the
// next to be made meanwhile.
const aheadWithin = 10 * time.Second

// An aheadMaker makes what the next segment needs beside its database while the
// present one fills, so that a log which is written fast does not wait for it
// when it rolls. Without their .seg the files count for nothing, and an opening
// deletes them.
type aheadMaker struct {
	asked uint64 // number of the segment that was asked for; the encoder's

	mu   sync.Mutex // held while files are made
	made []string
}

// makeAhead begins to make the next segment's files where that is worth it;
// wmu is held.
func (l *commitLog) makeAhead() {
	next := l.w.seg.num + 1
	if l.ahead.asked == next || 2*l.w.bytes < l.segmentBytes() || time.Since(l.rolled) > aheadWithin {
		return
	}
	l.ahead.asked = next
	seg, chunks := filepath.Join(l.dir, segmentFile(next)), l.w.chunks != nil
	l.sp.parts.Go(func() { l.ahead.make(l, seg, chunks) })
}

// make makes the WAL and, where asked to, the chunk file. What fails is left to
// the roll, which needs the same and says what is wrong.
func (a *aheadMaker) make(l *commitLog, seg string, chunks bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sm := l.sp.seam
	if there, err := exists(seg); err != nil || there {
		return // the log has rolled already
	}
	a.made = append(a.made[:0], seg+"-wal")
	err := l.prepareWAL(seg + "-wal")
	if err == nil && chunks {
		a.made = append(a.made, chunkFileOf(seg))
		var f diskFile
		if f, err = sm.disk.open(chunkFileOf(seg), os.O_RDWR|os.O_CREATE, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		l.log.Debug("files of the next segment could not be made ahead", "file", seg, "error", err)
	}
}

// hold ends when nothing is being made, and lets nothing be made until its
// result is called: the segment is being opened. What was made has its name
// synced with that of the segment; what came later would not, and zeros written
// late would take the place of commits.
func (a *aheadMaker) hold() (release func()) {
	a.mu.Lock()
	a.made = a.made[:0]
	return a.mu.Unlock
}

// undo removes what was made for a segment that did not come; the log is
// closed.
func (a *aheadMaker) undo(d disk) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, path := range a.made {
		if err := d.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	a.made = nil
	return errors.Join(errs...)
}
