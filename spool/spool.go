// Package spool is the log: streams of records in numbered shards, on disk
// before anyone hears "yes".
//
// A Spool is a directory that one process has open. A Stream takes records
// (Append, Put) and gives each a sequence number within its shard; a Reader
// follows a shard, a Cursor is a reader whose place is durable, Scan reads
// what is there. Retention removes old segments; the Ledger says where every
// record went; Check verifies a closed spool. The files are described in
// docs/format.md.
//
// A record's result without an error means that it is on the disk: the commit
// that holds it was synced. Streams of one class and retention share a log,
// and so one commit and one sync serve all of them.
package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

// A Spool is an open spool directory. Its methods may be called from many
// goroutines.
type Spool struct {
	dir      string
	cfg      Config
	log      *slog.Logger
	seam     seam
	identity record.Identity
	origin   record.Origin // of what is stored now; never changes while it is open
	lock     *os.File
	state    *stateDB
	clock    *clock
	monoBase time.Duration // since boot, when opened
	opened   time.Time

	segmentBytes int64
	walBytes     int64
	reserveBytes int64
	fileSystem   int64 // size of the file system, bytes

	mu      sync.RWMutex
	streams map[string]*Stream
	logs    map[uint32]*commitLog
	logKeys map[logKey]uint32
	closed  bool

	create  sync.Mutex // one stream is made at a time
	backing sync.Mutex // held while a backup is made
	roomMu  sync.Mutex // one at a time makes room
	used    atomic.Int64
	quota   int64
	handles handleCache
	cold    coldCache
	dropped map[record.Class]uint64 // undelivered records removed for room; guarded by roomMu
	pinned  growth                  // of what is undelivered; guarded by roomMu
	doomed  []*segment              // still to be unlinked; guarded by roomMu
	// strangers is what lies in the logs' directories and is of no segment,
	// bytes; looked is when that was measured. Guarded by roomMu.
	strangers int64
	looked    int64
	stats     counters
	alarms    conditions
	scrubs    *scrubber
	// salvagedAt is when state.db was made again, retention clock, salvagedWall
	// the wall clock then; nil: it never was.
	salvagedAt   *int64
	salvagedWall int64
	settled      atomic.Int64 // when a config last named a stream that was made again, retention clock
	keys         *keyring

	reading  sync.RWMutex // held while files are read, so that Close waits
	closing  chan struct{}
	parts    sync.WaitGroup // keeper, flusher, sealers
	closeErr error
	once     sync.Once
}

// A logKey is what streams must agree in to share a log.
type logKey struct {
	retention
	key uint32 // of an encrypted stream, which shares its log with none
}

func keyOf(c StreamConfig) logKey { return logKey{retention: retentionOf(c)} }

// Open opens the spool in dir and creates it if it is not there. One process
// has it at a time: another gets a *LockedError with the owner's pid. A spool
// of a newer format is left untouched and answered with a
// *record.FormatError. What a crash left unfinished is put in order here. ctx
// bounds opening only.
func Open(ctx context.Context, dir string, cfg Config, log *slog.Logger) (*Spool, error) {
	return open(ctx, dir, cfg, log, systemSeam())
}

// open is Open on a given seam. Where the disk is full the reserve is given up
// for it.
func open(ctx context.Context, dir string, cfg Config, log *slog.Logger, sm seam) (*Spool, error) {
	lost, err := lostStateIn(dir)
	if err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	s, err := openOnce(ctx, dir, cfg, log, sm, lost)
	if err != nil && errors.Is(storeError(err), record.ErrFull) && sm.disk.remove(filepath.Join(dir, "reserve")) == nil {
		s, err = openOnce(ctx, dir, cfg, log, sm, lost)
	}
	if found, ok := errors.AsType[*lostState](err); ok && lost == nil && !sm.still {
		return openOnce(ctx, dir, cfg, log, sm, found)
	}
	return s, err
}

func openOnce(ctx context.Context, dir string, cfg Config, log *slog.Logger, sm seam, lost *lostState) (_ *Spool, err error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if lost == nil || sm.still {
		if err := checkFormats(dir); err != nil {
			return nil, fmt.Errorf("open the spool: %w", err)
		}
	}
	if err := sm.disk.mkdir(dir); err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	s := &Spool{
		dir: dir, cfg: cfg, log: log, seam: sm, streams: map[string]*Stream{}, logs: map[uint32]*commitLog{},
		logKeys: map[logKey]uint32{}, dropped: map[record.Class]uint64{}, closing: make(chan struct{}), opened: time.Now(),
	}
	s.identity.Boot, s.monoBase = bootID()
	if s.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.abandon()
		}
	}()
	if err := os.RemoveAll(filepath.Join(dir, backupTmp)); err != nil { // what a crash left of a backup
		log.Warn("remains of a backup could not be removed", "error", err)
	}
	if err := s.setLimits(); err != nil {
		return nil, err
	}
	if lost != nil {
		if err := s.salvage(ctx, lost); err != nil {
			return nil, fmt.Errorf("open the spool: %w", err)
		}
	}
	m, err := s.openState(ctx)
	if err != nil {
		return nil, asLost(err)
	}
	if err := s.openKeys(ctx); err != nil {
		return nil, err
	}
	if err := s.loadStreams(ctx, m.clean); err != nil {
		return nil, err
	}
	if err := s.enterMissed(ctx, m.clean, m.migrated, m.reborn); err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	if err := s.state.setMeta(ctx, "clean", 0); err != nil {
		return nil, fmt.Errorf("open the spool: %w", err)
	}
	s.looked = s.clock.now()
	s.findStrangers()
	s.measure()
	s.restoreReserve()
	s.rollOld()
	for _, l := range s.logs {
		l.sealLeftovers(ctx)
		s.startLog(l)
	}
	s.parts.Go(s.flusher)
	s.scrubs = newScrubber(s)
	s.scrubs.load(ctx)
	if !sm.still {
		s.mendShapes()
		s.parts.Go(s.keeper)
		s.parts.Go(s.scrubs.scrub)
	}
	return s, nil
}

// checkFormats refuses, before anything is written, a directory that this
// program does not read.
func checkFormats(dir string) error {
	state := filepath.Join(dir, "state.db")
	there, err := exists(state)
	if err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "log-*"))
	if err != nil {
		return err
	}
	if !there {
		if len(logs) > 0 {
			return &record.FormatError{Path: dir, Reason: "has logs but no state.db", Hint: "open the spool for writing (start the gateway): state.db is made again from the logs"}
		}
		return nil
	}
	if err := checkHeader(state, appState); err != nil {
		return err
	}
	for _, l := range logs {
		segs, err := listSegments(l)
		if err != nil {
			return err
		}
		// A damaged segment is dealt with later; only a well-formed one of
		// another version is a reason to stop.
		for _, n := range segs[max(0, len(segs)-2):] {
			if err := checkHeader(filepath.Join(l, segmentFile(n)), appSegment); err != nil {
				if f, ok := errors.AsType[*record.FormatError](err); ok && strings.Contains(f.Reason, "format version") {
					return err
				}
			}
		}
	}
	return nil
}

// setLimits works out quota, segment size and reserve.
func (s *Spool) setLimits() error {
	total, _, err := s.seam.space(s.dir)
	if err != nil {
		return fmt.Errorf("open the spool: ask for the disk's size: %w", err)
	}
	s.fileSystem = total
	// The defaults written out are still the defaults: a small disk makes them less.
	if s.quota = s.cfg.Quota.Or(defaultQuota); s.quota == defaultQuota {
		s.quota = min(s.quota, total/10*8)
	}
	s.segmentBytes = max(min(s.cfg.Segment.Or(defaultSegment), s.quota/16), minSegment)
	s.walBytes = max(min(walLimit, s.segmentBytes/4), minWAL)
	s.reserveBytes = min(maxReserve, s.quota/16)
	return nil
}

// freeFloor is what must stay free on the file system, bytes.
func (s *Spool) freeFloor() int64 {
	floor := s.cfg.FreeFloor.Or(defaultFreeFloor)
	if floor == defaultFreeFloor {
		floor = min(floor, s.fileSystem/20)
	}
	return floor
}

func (s *Spool) now() time.Time {
	if s.cfg.Now != nil {
		return s.cfg.Now()
	}
	return time.Now()
}

// Mono is the time since the machine booted, which orders records within one
// Boot; an inlet stamps records with it.
func (s *Spool) Mono() time.Duration { return s.monoBase + time.Since(s.opened) }

// openState opens or creates state.db and settles who the spool is.
func (s *Spool) openState(ctx context.Context) (m stateMeta, err error) {
	path := filepath.Join(s.dir, "state.db")
	gateway, machine := s.cfg.Gateway, machineID()
	there, err := exists(path)
	if err != nil {
		return m, fmt.Errorf("open the spool: %w", err)
	}
	if !there {
		if gateway == "" {
			gateway = "forebay"
		}
		if err := createState(ctx, s.seam, path, gateway, machine, s.now().UnixNano(), nil); err != nil {
			return m, fmt.Errorf("create the spool: %w", err)
		}
	}
	lost, err := lostInWAL(path)
	if err != nil {
		return m, fmt.Errorf("open the spool: %w", err)
	}
	if lost > 0 {
		s.raise("corrupt", 2, fmt.Sprintf("the write-ahead log of state.db is damaged: its last %d commits or more are lost; cursors may stand where they stood before and send again", lost))
	}
	db, err := openState(ctx, s.seam, s.dir)
	if err != nil {
		return m, err
	}
	if err := migrateState(ctx, s.seam, db, path); err != nil {
		return m, errors.Join(fmt.Errorf("open state.db: %w", err), db.Close())
	}
	s.state = &stateDB{db: db, now: s.now, kick: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
	m, err = readStateMeta(ctx, db)
	if err != nil {
		return m, fmt.Errorf("open state.db: %w", err)
	}
	if m.clean {
		if err := checkState(ctx, db); isDamage(err) {
			s.raise("corrupt", 1, "state.db: "+err.Error())
		} else if err != nil {
			return m, fmt.Errorf("open state.db: %w", err)
		}
	}
	s.clock = newClock(m.clock, s.seam.time, s.now())
	s.state.clock = s.clock
	if gateway == "" {
		gateway = m.gateway
	}
	s.identity.Gateway = gateway
	if s.identity.Epoch, err = parseEpoch(m.epoch); err != nil {
		return m, fmt.Errorf("open state.db: %w", err)
	}
	place, reborn, err := s.settleEpoch(ctx, m.machine == machine, there)
	m.reborn = reborn
	if err != nil {
		return m, fmt.Errorf("open state.db: %w", err)
	}
	s.origin = record.Origin{Gateway: gateway, Epoch: s.identity.Epoch}
	err = s.state.txn(ctx, func() error {
		return errors.Join(
			s.state.exec(ctx, "DELETE FROM meta WHERE key='sum'"), // it was of what stood here before
			s.state.setMeta(ctx, "gateway", gateway),
			s.state.setMeta(ctx, "epoch", s.identity.Epoch.String()),
			s.state.setMeta(ctx, "machine", machine),
			s.state.setMeta(ctx, "place", place),
			s.state.stampClock(ctx))
	})
	if err != nil {
		return m, fmt.Errorf("open state.db: %w", storeError(err))
	}
	if err := s.state.load(ctx); err != nil {
		return m, fmt.Errorf("open state.db: %w", err)
	}
	at, why, err := s.state.salvaged(ctx)
	if err != nil {
		return m, fmt.Errorf("open state.db: %w", err)
	}
	if why != "" {
		if m.migrated > 0 { // it was just now
			m.reborn, at = why, s.clock.now()
			if err := s.state.setMeta(ctx, "salvaged_at", at); err != nil {
				return m, fmt.Errorf("open state.db: %w", storeError(err))
			}
		}
		s.salvagedAt = &at
		err := s.state.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key='created'").Scan(&s.salvagedWall)
		if err != nil {
			return m, fmt.Errorf("open state.db: %w", err)
		}
	}
	return m, s.state.loadChain(ctx)
}

// Identity is what the spool signs its records with.
func (s *Spool) Identity() record.Identity { return s.identity }

// Stream finds a stream; record.ErrNoStream if there is none.
func (s *Spool) Stream(name string) (*Stream, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if t := s.streams[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("%w: %q", record.ErrNoStream, name)
}

// Streams lists the streams by name.
func (s *Spool) Streams() []*Stream {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Stream, 0, len(s.streams))
	for _, t := range s.streams {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *Stream) int { return strings.Compare(a.name, b.name) })
	return out
}

func (s *Spool) allLogs() []*commitLog {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*commitLog, 0, len(s.logs))
	for _, l := range s.logs {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *commitLog) int { return cmp.Compare(a.num, b.num) })
	return out
}

// Shed counts records of a source that were lost before the log. The count is
// durable within 100 ms.
func (s *Spool) Shed(source string, n uint64) {
	if n > 0 {
		s.state.addShed(source, n)
	}
}

// SourceSeq is the greatest SourceSeq of the source that is on disk, 0 if
// there is none: an inlet goes on from there.
func (s *Spool) SourceSeq(source string) uint64 {
	var last uint64
	for _, l := range s.allLogs() {
		l.mu.RLock()
		last = max(last, l.sources[source].last)
		l.mu.RUnlock()
	}
	return last
}

// startLog starts a log's writer.
func (s *Spool) startLog(l *commitLog) { go l.run() }

// Close settles what was queued, makes cursors and counts durable and gives
// the directory free. Readers that wait get record.ErrClosed. It may be called
// more than once.
func (s *Spool) Close() error {
	s.once.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Spool) close() error {
	s.create.Lock() // no stream is being made
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.create.Unlock()
	logs := s.allLogs()
	for _, l := range logs {
		l.qmu.Lock()
		l.closing = true
		l.cond.Broadcast()
		l.wake()
		l.qmu.Unlock()
	}
	for _, l := range logs {
		<-l.quiet
	}
	close(s.closing)
	s.parts.Wait()
	s.reading.Lock()
	defer s.reading.Unlock()
	s.roomMu.Lock()
	s.removeDoomed()
	s.roomMu.Unlock()
	ctx := context.Background()
	var errs []error
	for _, l := range logs {
		errs = append(errs, l.close(ctx))
	}
	s.parts.Wait() // a commit that failed last left its segment to be sealed
	errs = append(errs, s.closeState(ctx, logs), s.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the spool: %w", err)
	}
	return nil
}

func (l *commitLog) close(ctx context.Context) error {
	l.lockEmpty()
	defer l.wmu.Unlock()
	var err error
	if l.w != nil {
		l.w.seg.release() // a reader's lock would keep the WAL
		if err := l.w.db.truncateWAL(ctx); err != nil {
			l.log.Warn("active segment keeps its WAL; it is brought in at the next start", "error", err)
		}
		err = errors.Join(l.w.close(), l.ahead.undo(l.sp.seam.disk))
		l.w = nil
	}
	l.mu.RLock()
	segs := slices.Clone(l.segs)
	l.mu.RUnlock()
	for _, seg := range segs {
		seg.release()
	}
	return err
}

func (s *Spool) closeState(ctx context.Context, logs []*commitLog) error {
	s.state.enterOwed(true)
	err := s.flushState(ctx)
	s.state.disk.Lock()
	defer s.state.disk.Unlock()
	err = errors.Join(err, s.state.txn(ctx, func() error {
		for _, l := range logs {
			if a := l.active(); a != nil {
				if err := s.state.exec(ctx, "UPDATE logs SET written=? WHERE id=?", a.closed.Load(), l.num); err != nil {
					return err
				}
			}
			l.mu.RLock()
			defer l.mu.RUnlock()
			for _, sh := range l.slots {
				if err := s.state.exec(ctx, "UPDATE shards SET next=? WHERE id=?", int64(sh.next), sh.id); err != nil {
					return err
				}
			}
		}
		if err := errors.Join(s.state.setMeta(ctx, "clean", 1), s.state.stampClock(ctx)); err != nil {
			return err
		}
		return s.state.sealState(ctx) // last: it is over all of it
	}))
	err = errors.Join(err, s.state.db.truncateWAL(ctx))
	return errors.Join(err, s.state.db.Close())
}

// abandon gives back what a failed Open took.
func (s *Spool) abandon() {
	var errs []error
	for _, l := range s.logs {
		errs = append(errs, l.close(context.Background()))
	}
	if s.state != nil {
		errs = append(errs, s.state.db.Close())
	}
	if err := errors.Join(append(errs, s.lock.Close())...); err != nil {
		s.log.Warn("what a failed opening took was not given back in order", "error", err)
	}
}

// flusher writes cursors and counts at most every flushEvery.
func (s *Spool) flusher() {
	ctx := context.Background()
	for {
		select {
		case <-s.closing:
			return
		case <-s.state.kick:
		}
		if err := s.flushState(ctx); err != nil {
			s.raise("state", 1, "cursors and counts could not be written: "+err.Error())
			touch(s.state.kick) // tried again after the pause
		} else {
			s.clear("state")
		}
		select {
		case <-s.closing:
			return
		case <-time.After(flushEvery):
		}
	}
}

const flushEvery = 80 * time.Millisecond
