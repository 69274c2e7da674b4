package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"forebay/spool/record"
)

// storeError is storeError with what the file system says when it is asked. The
// condition "read-only" stands until a log finds a new segment.
func (s *Spool) storeError(err error) error {
	said := storeError(err)
	if errors.Is(said, record.ErrCannotStore) && isReadOnly(s.dir) {
		s.raise("read-only", 1, fmt.Sprintf("the file system takes no writes: %v; what is stored is read and delivered", err))
		return fmt.Errorf("%w: %w", record.ErrReadOnly, err)
	}
	return said
}

// isReadOnly reports whether the file system of a spool takes no writes, as ext4
// does after an error of the disk. SQLite does not say so of a file that it has
// open: it names the operation that failed. Neither does statfs, of ext4 since
// Linux 6.15. So the lock's time is set, which changes nothing that counts.
func isReadOnly(dir string) bool {
	return errors.Is(os.Chtimes(filepath.Join(dir, "lock"), time.Time{}, time.Now()), syscall.EROFS)
}
