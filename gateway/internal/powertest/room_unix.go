//go:build unix && !linux

package powertest

import "golang.org/x/sys/unix"

// room is the size of the file system and what is free for us, in bytes.
func room(dir string) (total, free int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Blocks) * int64(s.Bsize), int64(s.Bavail) * int64(s.Bsize), nil
}
