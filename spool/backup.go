package spool

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"

	"forebay/spool/record"
)

const (
	backupVersion  = 1
	backupManifest = "manifest.json"
	backupSum      = "manifest.sha256"
	// backupTmp is where, in the spool's directory, copies of files that are
	// being written lie while they are sent. It is removed at the next opening.
	backupTmp = "backup.tmp"
)

// ErrBackupRuns is returned where a backup of the spool is being made already.
var ErrBackupRuns = errors.New("a backup is being made already")

// A BackupReport says what is in a backup. It is the backup's manifest.json.
type BackupReport struct {
	Version int       `json:"version"` // of the form of the backup
	Format  int       `json:"format"`  // of the program that made it; a file may be older
	Gateway string    `json:"gateway"`
	Epoch   string    `json:"epoch"`
	Taken   time.Time `json:"taken"` // every record acknowledged before is in it
	Logs    int       `json:"logs"`
	// Expired is how many segments retention removed while the backup was
	// being made, so that they are not in it.
	Expired int `json:"expired"`
	// Damaged are segments that SQLite cannot read; they are in the backup as
	// they lie.
	Damaged []string     `json:"damaged,omitempty"`
	Bytes   int64        `json:"bytes"` // of the files
	Files   []BackupFile `json:"files"` // in the order of the backup
}

// A BackupFile is one file in a backup.
type BackupFile struct {
	Name   string `json:"name"` // below the spool's directory, with slashes
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// A backupCut is one log at the moment of a backup: its segments, oldest
// first, and how many blocks of the newest count.
type backupCut struct {
	segs   []*segment
	blocks int64 // -1: all
}

// A backupWriter writes the files of a backup as a tar stream.
type backupWriter struct {
	out    *tar.Writer
	report BackupReport
	tmp    string // directory for copies
	live   bool   // another program part writes the files
	ended  func() error
}

// Backup writes the spool as it is now to w, as a tar stream that Restore
// takes, while producers and readers go on: every record that was acknowledged
// before, in order, and no cursor further than the records. Whoever cannot
// read it to its end (manifest.sha256 is the last file) has no backup;
// VerifyBackup tells.
//
// Sealed segments are sent as they lie. A segment that is being written is
// copied first, which takes as much room as it has; nothing waits for w. Where
// retention removes a segment before its turn comes it is left out and
// counted. One backup is made at a time: ErrBackupRuns. record.ErrClosed when
// the spool is closed meanwhile; ctx ends it too.
func (s *Spool) Backup(ctx context.Context, w io.Writer) (BackupReport, error) {
	if !s.backing.TryLock() {
		return BackupReport{}, ErrBackupRuns
	}
	defer s.backing.Unlock()
	tmp, err := s.backupDir()
	if err != nil {
		return BackupReport{}, fmt.Errorf("back up the spool: %w", err)
	}
	defer os.RemoveAll(tmp)
	b := &backupWriter{out: tar.NewWriter(w), tmp: tmp, live: true, ended: func() error {
		select {
		case <-s.closing:
			return record.ErrClosed
		default:
			return context.Cause(ctx)
		}
	}}
	b.report = BackupReport{Gateway: s.origin.Gateway, Epoch: s.origin.Epoch.String()}
	state, cuts, err := s.cut(ctx, b)
	if err == nil {
		err = b.write(ctx, state, cuts)
	}
	if err != nil {
		return b.report, fmt.Errorf("back up the spool: %w", err)
	}
	return b.report, nil
}

// backupDir makes the directory for copies: in the spool, where there is a
// real disk, else where the system has room.
func (s *Spool) backupDir() (string, error) {
	tmp := filepath.Join(s.dir, backupTmp)
	err := os.RemoveAll(tmp)
	if err == nil {
		err = os.Mkdir(tmp, 0o700)
	}
	if err == nil {
		return tmp, nil
	}
	return os.MkdirTemp("", "forebay-backup-")
}

// cut settles what the backup holds. The state comes first and no stream is
// made in between, so that no cursor stands beyond the records and every shard
// in a block is known.
func (s *Spool) cut(ctx context.Context, b *backupWriter) (state string, cuts []backupCut, err error) {
	if err := s.enter(); err != nil {
		return "", nil, err
	}
	defer s.leave()
	s.create.Lock()
	defer s.create.Unlock()
	b.report.Taken = s.now().UTC()
	if err := s.state.flush(ctx); err != nil {
		s.log.Warn("backup holds cursors and counts as they were last written", "error", err)
	}
	if state, err = b.copyDB(ctx, filepath.Join(s.dir, "state.db"), -1); err != nil {
		return "", nil, err
	}
	for _, l := range s.allLogs() {
		l.mu.RLock()
		if n := len(l.segs); n > 0 {
			cuts = append(cuts, backupCut{segs: l.segs, blocks: l.segs[n-1].blocks.Load()})
		}
		l.mu.RUnlock()
	}
	return state, cuts, nil
}

// BackupDir is Backup for a spool that no process has open; the directory is
// not changed. A spool in use is answered with a *LockedError, one of a newer
// format with a *record.FormatError.
func BackupDir(ctx context.Context, dir string, w io.Writer) (BackupReport, error) {
	r, err := backupDir(ctx, dir, w)
	if err != nil {
		return r, fmt.Errorf("back up the spool: %w", err)
	}
	return r, nil
}

func backupDir(ctx context.Context, dir string, w io.Writer) (BackupReport, error) {
	there, err := exists(filepath.Join(dir, "state.db"))
	if err == nil && !there {
		err = &record.FormatError{Path: dir, Reason: "is not a spool", Hint: "give the directory that holds state.db"}
	}
	if err == nil {
		err = checkFormats(dir)
	}
	if err != nil {
		return BackupReport{}, err
	}
	unlock, err := lockForCheck(dir)
	if err != nil {
		return BackupReport{}, err
	}
	defer unlock()
	tmp, err := os.MkdirTemp("", "forebay-backup-")
	if err != nil {
		return BackupReport{}, err
	}
	defer os.RemoveAll(tmp)
	b := &backupWriter{out: tar.NewWriter(w), tmp: tmp, ended: func() error { return context.Cause(ctx) }}
	b.report.Taken = time.Now().UTC()
	state, err := b.copyDB(ctx, filepath.Join(dir, "state.db"), -1)
	if err != nil {
		return b.report, err
	}
	cuts, err := b.closedCuts(ctx, dir, state)
	if err == nil {
		err = b.write(ctx, state, cuts)
	}
	return b.report, err
}

// closedCuts reads from the copy of state.db which logs there are, and lists
// their segments.
func (b *backupWriter) closedCuts(ctx context.Context, dir, state string) ([]backupCut, error) {
	db, err := openDatabase(ctx, state, openRead, "")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	m, err := readStateMeta(ctx, db)
	if err != nil {
		return nil, err
	}
	b.report.Gateway, b.report.Epoch = m.gateway, m.epoch
	var cuts []backupCut
	return cuts, each(ctx, db, "SELECT id FROM logs ORDER BY id", func(scan func(...any) error) error {
		var num uint32
		if err := scan(&num); err != nil {
			return err
		}
		nums, err := listSegments(filepath.Join(dir, logDir(num)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		cut := backupCut{blocks: -1}
		for _, n := range nums {
			seg := &segment{log: num, num: n, path: filepath.Join(dir, logDir(num), segmentFile(n))}
			seg.sealed.Store(fileSize(seg.path+"-wal") == 0)
			cut.segs = append(cut.segs, seg)
		}
		if len(nums) > 0 {
			cuts = append(cuts, cut)
		}
		return nil
	})
}

// write sends the state, the newest segment of each log, then the others from
// the newest to the oldest: where retention takes one, it has taken the older
// ones too.
func (b *backupWriter) write(ctx context.Context, state string, cuts []backupCut) error {
	b.report.Version, b.report.Format, b.report.Logs = backupVersion, formatVersion, len(cuts)
	if err := b.addCopy(state, "state.db"); err != nil {
		return err
	}
	for _, c := range cuts {
		seg := c.segs[len(c.segs)-1]
		err := b.addSegment(ctx, seg, c.blocks)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("retention has removed everything that %s held when the backup began; give the spool more room, or back up more quickly: %w", logDir(seg.log), err)
		}
		if err != nil {
			return err
		}
	}
	for _, c := range cuts {
		for i := len(c.segs) - 2; i >= 0; i-- {
			if err := b.ended(); err != nil {
				return err
			}
			err := b.addSegment(ctx, c.segs[i], -1)
			if errors.Is(err, fs.ErrNotExist) && b.live {
				b.report.Expired += i + 1
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return b.finish()
}

// addSegment sends a segment, cut behind the blocks that count (-1: all), and
// its chunk file.
func (b *backupWriter) addSegment(ctx context.Context, seg *segment, blocks int64) error {
	name := logDir(seg.log) + "/" + segmentFile(seg.num)
	chunks, err := os.Open(chunkFileOf(seg.path)) // before the segment: removal begins with the .seg
	switch {
	case errors.Is(err, fs.ErrNotExist):
		chunks = nil
	case err != nil:
		return err
	default:
		defer chunks.Close()
	}
	if seg.sealed.Load() && blocks < 0 {
		if err := b.addFile(seg.path, name); err != nil {
			return err
		}
	} else {
		copied, err := b.copyDB(ctx, seg.path, blocks)
		switch {
		case err == nil:
			err = b.addCopy(copied, name)
		case isDamage(err), !errors.Is(err, fs.ErrNotExist) && isForeign(seg.path):
			b.report.Damaged = append(b.report.Damaged, name)
			err = b.addFile(seg.path, name)
		}
		if err != nil {
			return err
		}
		if chunks == nil { // the first chunk may have come since
			f, err := os.Open(chunkFileOf(seg.path))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil {
				defer f.Close()
				chunks = f
			}
		}
	}
	if chunks == nil {
		return nil
	}
	return b.add(chunkFileOf(name), chunks)
}

// copyDB makes a copy of a database at one moment, WAL included and brought
// in, that nobody else has. blocks says behind which block a segment is cut;
// -1: nowhere.
func (b *backupWriter) copyDB(ctx context.Context, path string, blocks int64) (string, error) {
	there, err := exists(path)
	if err == nil && !there {
		err = fs.ErrNotExist
	}
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", filepath.Base(path), err)
	}
	copied := filepath.Join(b.tmp, filepath.Base(path))
	if b.live {
		err = copyLive(ctx, path, copied)
	} else {
		err = copyFile(copied, path)
		if err == nil && fileSize(path+"-wal") > 0 {
			err = copyFile(copied+"-wal", path+"-wal")
		}
	}
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", filepath.Base(path), err)
	}
	db, err := openDatabase(ctx, copied, openWrite, "")
	if err != nil {
		return "", err
	}
	err = db.run(ctx, "PRAGMA journal_mode=WAL")
	if err == nil && blocks >= 0 {
		_, err = db.ExecContext(ctx, "DELETE FROM block WHERE rowid > ?", blocks)
	}
	if err == nil {
		err = db.truncateWAL(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return "", fmt.Errorf("copy %s: %w", filepath.Base(path), err)
	}
	return copied, nil
}

// copyLive copies a database that is being written, by SQLite's own backup, in
// one step and so of one moment.
func copyLive(ctx context.Context, from, to string) error {
	target, err := databaseURL(to, openCreate)
	if err != nil {
		return err
	}
	db, err := openDatabase(ctx, from, openRead, "")
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Raw(func(conn any) error {
		c, ok := conn.(interface {
			NewBackup(uri string) (*sqlite.Backup, error)
		})
		if !ok {
			return errors.New("SQLite's backup is not there")
		}
		bak, err := c.NewBackup(target.String())
		if err != nil {
			return err
		}
		more, err := bak.Step(-1)
		if err == nil && more {
			err = errors.New("SQLite's backup is not complete")
		}
		return errors.Join(err, bak.Finish())
	})
}

func (b *backupWriter) addFile(path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(b.add(name, f), f.Close())
}

// addCopy sends a file of our own and removes it.
func (b *backupWriter) addCopy(path, name string) error {
	return errors.Join(b.addFile(path, name), os.Remove(path))
}

// add sends a file as long as it is now. What a failed write is cut off of a
// chunk file meanwhile belongs to no record; zeros stand in its place.
func (b *backupWriter) add(name string, f *os.File) error {
	if err := b.ended(); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	size := fi.Size()
	if err := b.out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: b.report.Taken, Format: tar.FormatPAX}); err != nil {
		return err
	}
	h := sha256.New()
	to := io.MultiWriter(b.out, h)
	buf := make([]byte, 256<<10)
	for left := size; left > 0; {
		if err := b.ended(); err != nil {
			return err
		}
		n, err := f.ReadAt(buf[:min(left, int64(len(buf)))], size-left)
		if errors.Is(err, io.EOF) && n == 0 {
			n = int(min(left, int64(len(buf))))
			clear(buf[:n])
		} else if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	b.report.Files = append(b.report.Files, BackupFile{Name: name, Bytes: size, SHA256: hex.EncodeToString(h.Sum(nil))})
	b.report.Bytes += size
	return nil
}

// finish sends the manifest and its checksum, which make the backup whole.
func (b *backupWriter) finish() error {
	m, err := json.MarshalIndent(b.report, "", " ")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(m)
	for _, f := range []struct {
		name string
		data []byte
	}{{backupManifest, m}, {backupSum, []byte(hex.EncodeToString(sum[:]) + "\n")}} {
		if err := b.out.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: b.report.Taken, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if _, err := b.out.Write(f.data); err != nil {
			return err
		}
	}
	return b.out.Close()
}
