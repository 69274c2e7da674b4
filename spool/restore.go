package spool

import (
	"archive/tar"
	"bytes"
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
	"regexp"
	"slices"
	"time"

	"forebay/spool/record"
)

const (
	maxManifest = 256 << 20 // bytes; a segment takes about 300
	partial     = ".partial"
)

// backupNames is what a backup may hold; nothing else is written anywhere.
var backupNames = regexp.MustCompile(`^(state\.db|log-[0-9]{5,10}/[0-9]{10}\.(seg|chunks))$`)

// A BackupError is returned for a backup that is not whole.
type BackupError struct {
	Reason string
}

func (e *BackupError) Error() string { return "the backup is not whole: " + e.Reason }

// VerifyBackup reads a backup to its end and compares every file with the
// manifest. A backup that is cut short or changed is answered with a
// *BackupError.
func VerifyBackup(ctx context.Context, r io.Reader) (BackupReport, error) {
	return readBackup(ctx, r, func(string) (io.WriteCloser, error) { return discard{}, nil })
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

// Restore makes the spool directory dir of a backup: all of it, or nothing
// where the backup is not whole (*BackupError) or dir is there already. What
// is restored has a new epoch as soon as it is opened, so that its new records
// never pass for those that the original stored after the backup; the records
// in the backup keep their ids.
func Restore(ctx context.Context, r io.Reader, dir string) (BackupReport, error) {
	rep, err := restore(ctx, r, dir)
	if err != nil {
		return rep, fmt.Errorf("restore a spool to %s: %w", dir, err)
	}
	return rep, nil
}

func restore(ctx context.Context, r io.Reader, dir string) (BackupReport, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return BackupReport{}, err
	}
	if entries, err := os.ReadDir(abs); err == nil && len(entries) > 0 {
		return BackupReport{}, fmt.Errorf("%w: the directory holds %d files; give one that is not there yet", fs.ErrExist, len(entries))
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return BackupReport{}, err
	}
	if err := os.MkdirAll(filepath.Dir(abs), 0o750); err != nil {
		return BackupReport{}, err
	}
	work := abs + partial
	if err := os.Mkdir(work, 0o750); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%w: another restore left it or is at work; remove it if none is", err)
		}
		return BackupReport{}, err
	}
	rep, err := readBackup(ctx, r, func(name string) (io.WriteCloser, error) { return createIn(work, name) })
	if err == nil {
		err = finishRestore(ctx, work, abs)
	}
	if err != nil {
		return rep, errors.Join(err, os.RemoveAll(work))
	}
	return rep, syncDir(filepath.Dir(abs))
}

// finishRestore marks the files as restored and gives them their name.
func finishRestore(ctx context.Context, work, dir string) error {
	if err := checkFormats(work); err != nil {
		return err
	}
	path := filepath.Join(work, "state.db")
	db, err := openDatabase(ctx, path, openWrite, "")
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "INSERT OR REPLACE INTO meta VALUES('restored', ?)", time.Now().UnixNano())
	if err == nil { // a spool without a place gets a new epoch when it is opened
		err = db.run(ctx, "DELETE FROM meta WHERE key IN ('place', 'sum')") // the sum was of what stood here before
	}
	if err == nil {
		err = db.truncateWAL(ctx)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := (seam{disk: systemDisk{}}).syncFile(path); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(work, "log-*"))
	if err != nil {
		return err
	}
	for _, d := range append(dirs, work) {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // it was empty a moment ago
	}
	return os.Rename(work, dir)
}

// A syncedFile is durable when it was closed.
type syncedFile struct{ *os.File }

func (f syncedFile) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

func createIn(dir, name string) (io.WriteCloser, error) {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return syncedFile{f}, nil
}

// readBackup reads a backup, hands its files on and compares all with the
// manifest at its end.
func readBackup(ctx context.Context, r io.Reader, create func(name string) (io.WriteCloser, error)) (BackupReport, error) {
	var rep BackupReport
	var got []BackupFile
	var manifest []byte
	for in := tar.NewReader(r); ; {
		if err := ctx.Err(); err != nil {
			return rep, context.Cause(ctx)
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return rep, &BackupError{"it ends before its manifest does"}
		}
		if err != nil {
			return rep, notWhole(err)
		}
		switch {
		case h.Name == backupManifest && manifest == nil:
			if manifest, err = io.ReadAll(io.LimitReader(in, maxManifest)); err != nil {
				return rep, notWhole(err)
			}
		case h.Name == backupSum && manifest != nil:
			b, err := io.ReadAll(io.LimitReader(in, 1<<10))
			if err != nil {
				return rep, notWhole(err)
			}
			if sum := sha256.Sum256(manifest); string(bytes.TrimSpace(b)) != hex.EncodeToString(sum[:]) {
				return rep, &BackupError{"its manifest was changed"}
			}
			if err := compareManifest(manifest, got, &rep); err != nil {
				return rep, err
			}
			_, err = io.Copy(io.Discard, r) // the padding, so that a pipe's writer can end
			return rep, err
		case manifest != nil || h.Typeflag != tar.TypeReg || !backupNames.MatchString(h.Name):
			return rep, &BackupError{fmt.Sprintf("%q is not a file of a spool", h.Name)}
		default:
			f, err := readFile(ctx, in, h.Name, create)
			if err != nil {
				return rep, err
			}
			got = append(got, f)
		}
	}
}

// notWhole is what an error of reading the stream means.
func notWhole(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
		return &BackupError{err.Error()}
	}
	return err
}

// A contextReader ends with its context.
type contextReader struct {
	ctx func() error
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func readFile(ctx context.Context, in io.Reader, name string, create func(string) (io.WriteCloser, error)) (BackupFile, error) {
	out, err := create(name)
	if err != nil {
		return BackupFile{}, err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), contextReader{ctx.Err, in})
	if err = errors.Join(notWhole(err), out.Close()); err != nil {
		return BackupFile{}, fmt.Errorf("%s: %w", name, err)
	}
	return BackupFile{Name: name, Bytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

func compareManifest(manifest []byte, got []BackupFile, rep *BackupReport) error {
	if err := json.Unmarshal(manifest, rep); err != nil {
		return &BackupError{"its manifest cannot be read: " + err.Error()}
	}
	if rep.Version != backupVersion {
		return &record.FormatError{Path: backupManifest, Reason: fmt.Sprintf("says that the backup has version %d; this program reads %d", rep.Version, backupVersion), Hint: "run the version of forebay that made it, or a newer one"}
	}
	for i, f := range rep.Files {
		if i >= len(got) || got[i] != f {
			return &BackupError{f.Name + " is missing or not as it was"}
		}
	}
	if len(got) != len(rep.Files) || !slices.ContainsFunc(got, func(f BackupFile) bool { return f.Name == "state.db" }) {
		return &BackupError{"it does not hold what its manifest says"}
	}
	return nil
}
