//go:build windows

package spool

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// tryLock takes the exclusive lock of f; false means that another process has
// it. It locks a byte far behind the pid that the file holds, so that others
// can read the pid.
func tryLock(f *os.File) (bool, error) {
	ol := &windows.Overlapped{OffsetHigh: 1}
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, ol)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// diskSpace is the size of the file system and what is free for us, in bytes.
func diskSpace(dir string) (total, free int64, err error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	var avail, all, unused uint64
	if err := windows.GetDiskFreeSpaceEx(p, &avail, &all, &unused); err != nil {
		return 0, 0, err
	}
	return int64(all), int64(avail), nil
}

// syncDir does nothing: NTFS journals its names.
func syncDir(string) error { return nil }
