package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"time"

	"forebay/spool/record"
)

// Where the end of a shard cannot be read any more, numbering goes on this far
// behind what is known, so that no number is ever given twice. More records
// than that do not fit into what was lost.
const (
	blockJump   = maxBlock / minRecord
	segmentJump = 1 << 27
)

// load finds the log's segments and reads the heads of the newest. hints are
// the shards' next numbers from state.db, exact after an orderly close.
func (l *commitLog) load(ctx context.Context, hints map[record.ShardID]uint64, exact bool) error {
	if err := l.sp.seam.disk.mkdir(l.dir); err != nil {
		return err
	}
	// A kill may have come between making a name and syncing it: what is found
	// now must be there after a power cut too, before anything is built on it.
	for _, dir := range []string{l.sp.dir, l.dir} {
		if err := l.sp.seam.disk.syncDir(dir); err != nil && !errors.Is(storeError(err), record.ErrReadOnly) {
			return err
		}
	}
	if err := removeOrphans(l.sp.seam.disk, l.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	nums, err := listSegments(l.dir)
	if err != nil {
		return err
	}
	l.wmu.Lock()
	defer l.wmu.Unlock()
	for _, n := range nums {
		seg := &segment{log: l.num, num: n, path: filepath.Join(l.dir, segmentFile(n)), keys: l.sp.keys, remake: l.rebuildMeta}
		seg.blocks.Store(-1)
		seg.sealed.Store(fileSize(seg.path+"-wal") == 0)
		seg.measure()
		l.segs = append(l.segs, seg)
	}
	whole := true // the newest segment told everything
	if len(l.segs) > 0 {
		if whole, err = l.loadHeads(ctx); err != nil {
			return err
		}
	}
	whole = l.applyHints(hints, exact) && whole
	if err := l.loadTail(ctx); err != nil {
		return err
	}
	for _, sh := range l.slots {
		sh.forgetDeleted()
	}
	if err := l.settleNumbers(ctx, l.torn || !whole); err != nil {
		return err
	}
	if n := len(l.segs); n == 0 || !whole || formatOf(l.segs[n-1].path) < formatVersion {
		return l.openNext(ctx)
	}
	if !l.ours() {
		l.beginOrigin(ctx)
		return nil
	}
	return l.openActive(ctx)
}

// loadHeads reads the newest segment. whole is false where something in it is
// damaged, so that it is not written again.
func (l *commitLog) loadHeads(ctx context.Context) (whole bool, err error) {
	seg := l.segs[len(l.segs)-1]
	seg.sealed.Store(false)
	mended, err := l.sp.seam.mendWAL(seg.path)
	if err != nil && !errors.Is(storeError(err), record.ErrReadOnly) {
		return false, fmt.Errorf("mend the WAL of %s: %w", seg.file(), err)
	}
	if mended > 0 {
		l.sp.raise("corrupt", 2, fmt.Sprintf("the write-ahead log of %s was damaged and has been mended; of %d commits or more all that can be read is served", seg.file(), mended))
	}
	meta, err := seg.loadMeta(ctx)
	if err != nil {
		return false, err
	}
	l.setHeads(meta)
	l.doubt = map[record.ShardID]uint64{}
	maps.Copy(l.doubt, meta.doubt)
	last, err := seg.lastBlock(ctx)
	if err != nil {
		if !isDamage(err) && !isForeign(seg.path) {
			return false, err
		}
		l.sp.raise("corrupt", 2, fmt.Sprintf("%s cannot be read: %v; its records are lost, all others are served", seg.file(), err))
		l.torn = true
		l.hidden(segmentJump)
		return false, nil
	}
	seg.blocks.Store(last)
	damaged, err := l.countBlocks(ctx, seg, last)
	if err != nil {
		return false, err
	}
	if damaged > 0 {
		l.sp.raise("corrupt", 2, fmt.Sprintf("%d blocks of %s are damaged; their records are lost, all others are served", damaged, seg.file()))
	}
	l.torn = l.torn || meta.rebuilt || damaged > 0
	return !meta.rebuilt && damaged == 0, nil
}

// countBlocks takes the heads of the newest segment's blocks into the log's,
// and tells how many cannot be read. A shard's next number is in doubt where
// one of those lies behind the last block that names it.
func (l *commitLog) countBlocks(ctx context.Context, seg *segment, to int64) (damaged int64, err error) {
	index := newSegIndex()
	last := int64(0)
	err = seg.scanHeads(ctx, 1, to, func(st stored) error {
		bad := st.id - last - 1
		last = st.id
		if st.err != nil {
			bad++
		}
		if bad > 0 {
			damaged += bad
			l.hidden(uint64(bad) * blockJump)
		}
		if st.err != nil {
			return nil
		}
		for _, g := range st.blk.groups {
			delete(l.doubt, g.shard) // its directory tells where the shard stood
		}
		index.add(st.blk)
		st.blk.head = nil
		l.count(st.blk)
		return nil
	})
	seg.mu.Lock()
	defer seg.mu.Unlock()
	seg.index = index
	return damaged, err
}

// hidden notes that damage hides up to n more numbers of every shard.
func (l *commitLog) hidden(n uint64) {
	for _, sh := range l.slots {
		l.doubt[sh.id] += n
	}
}

// isForeign reports whether the file is no SQLite file any more.
func isForeign(path string) bool {
	var f *record.FormatError
	return errors.As(checkHeader(path, appSegment), &f)
}

func (l *commitLog) setHeads(m *segMeta) {
	l.maxArr = m.maxArr
	maps.Copy(l.sources, m.sources)
	for _, sh := range l.slots {
		h := m.head(sh.id)
		sh.next, sh.bytes, sh.newest = h.next, h.bytes, h.arrived
	}
}

// applyHints corrects what damage hid by what state.db knows. whole is false
// where the log lacks numbers that state.db says were given.
func (l *commitLog) applyHints(hints map[record.ShardID]uint64, exact bool) (whole bool) {
	defer l.behindCursors()
	whole = true
	for _, sh := range l.slots {
		// A closed shard's number is that of its closing, which was durable
		// before anything came behind it.
		exact := exact || sh.closed != 0
		switch hint, doubt := hints[sh.id], l.doubt[sh.id]; {
		case sh.stream.isDeleted: // as that of its deletion, and nobody misses what is lost of it
			sh.next = max(sh.next, hint)
		case exact && len(l.segs) > 0 && hint > sh.next:
			if doubt == 0 {
				l.sp.raise("corrupt", 2, fmt.Sprintf("shard %d of stream %q ends at %d, but %d was its end when the spool was closed; the records between are lost", sh.id, sh.stream.name, sh.next-1, hint-1))
			}
			sh.next, l.torn, whole = hint, true, false
		case exact:
			sh.next = max(sh.next, hint)
		case len(l.segs) == 0 && hint > 1:
			sh.next = hint + segmentJump
		default:
			sh.next = max(sh.next+doubt, hint)
		}
	}
	return whole
}

// behindCursors sees to it that no number is given again that a cursor has
// passed: its record went out under it, even if a disk that lied about a sync
// has lost the record since.
func (l *commitLog) behindCursors() {
	places := map[record.ShardID]uint64{}
	l.sp.state.mu.Lock()
	for k, p := range l.sp.state.cursors {
		places[k.shard] = max(places[k.shard], p.next)
	}
	l.sp.state.mu.Unlock()
	for _, sh := range l.slots {
		if at := places[sh.id]; at > sh.next {
			l.sp.raise("corrupt", 2, fmt.Sprintf("shard %d of stream %q ends at %d, but records up to %d were read once; the disk has lost them", sh.id, sh.stream.name, sh.next-1, at-1))
			sh.next, l.torn = at, true
		}
	}
}

// loadTail finds where the kept records begin.
func (l *commitLog) loadTail(ctx context.Context) error {
	if len(l.segs) == 0 {
		return nil
	}
	seg := l.segs[0]
	meta, err := seg.loadMeta(ctx)
	if err != nil {
		return err
	}
	for _, sh := range l.slots {
		sh.first = meta.head(sh.id)
		sh.first.next = min(sh.first.next, sh.next)
	}
	seg.release()
	l.segs[len(l.segs)-1].closed.Store(l.sp.clock.now())
	return nil
}

func (s *segment) knownMeta() *segMeta {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta
}

// sealLeftovers seals, in the background, older segments that a crash left with
// a WAL.
func (l *commitLog) sealLeftovers(ctx context.Context) {
	segs := l.segments()
	for i, seg := range segs {
		if seg.sealed.Load() || i == len(segs)-1 {
			continue
		}
		w, err := l.openSegWriter(ctx, seg, false)
		if err != nil {
			l.log.Warn("segment could not be opened to seal it", "file", seg.file(), "error", err)
			continue
		}
		l.sp.retire(l, w)
	}
}

// openActive goes on writing the newest segment; wmu is held.
func (l *commitLog) openActive(ctx context.Context) error {
	seg := l.segs[len(l.segs)-1]
	seg.release()
	err := l.sp.seam.emptyWAL(ctx, seg.path)
	var w *segWriter
	if err == nil {
		w, err = l.openSegWriter(ctx, seg, true)
	}
	if err != nil {
		// A full or read-only disk: what is stored is served, and writing
		// is tried again by the writer.
		l.suspect = l.sp.storeError(err)
		l.sp.raise("segment", 1, seg.file()+" could not be opened for writing: "+err.Error())
		return nil
	}
	l.w, l.rolled = w, time.Now()
	seg.blocks.Store(w.last)
	if err := l.nameShards(ctx); err != nil {
		l.log.Warn("the active segment does not list every stream; the next one does", "error", err)
	}
	// After a crash records grow old from their arrival where the clocks agree,
	// else from now.
	if m := seg.knownMeta(); l.written != 0 {
		seg.closed.Store(l.written)
	} else if m != nil && l.maxArr > m.created && l.maxArr < l.sp.clock.now() {
		seg.closed.Store(l.maxArr)
	}
	seg.measure()
	return nil
}
