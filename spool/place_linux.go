//go:build linux

package spool

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// File systems whose id is part of what lies on the disk. The id of others is
// the number of a device, which changes from start to start.
const (
	magicExt   = 0xef53
	magicBtrfs = 0x9123683e
	magicZFS   = 0x2fc12fc1
)

// fileMarks is what tells a file from a copy of it: number and birth of the
// inode, the file system, the disk. Numbers of devices are left out, because
// they change.
func fileMarks(path string) []string {
	var out []string
	var x unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &x); err != nil {
		return nil
	}
	out = append(out, fmt.Sprint("inode ", x.Ino))
	if x.Mask&unix.STATX_BTIME != 0 {
		out = append(out, fmt.Sprintf("born %d.%09d", x.Btime.Sec, x.Btime.Nsec))
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil {
		switch uint32(fs.Type) {
		case magicExt, magicBtrfs, magicZFS:
			out = append(out, fmt.Sprintf("file system %08x%08x", uint32(fs.Fsid.Val[0]), uint32(fs.Fsid.Val[1])))
		}
	}
	if id := diskID(x.Dev_major, x.Dev_minor); id != "" {
		out = append(out, "disk "+id)
	}
	if id := firstLine("/sys/firmware/devicetree/base/serial-number"); id != "" {
		out = append(out, "board "+id)
	}
	return out
}

// diskID is the serial number of the disk that a device is or lies on, as far
// as everybody may read it; empty where the kernel tells none.
func diskID(major, minor uint32) string {
	dev, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	part := firstLine(filepath.Join(dev, "partition"))
	if part != "" {
		dev, part = filepath.Dir(dev), " partition "+part
	}
	for _, name := range []string{"wwid", "device/cid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid"} {
		if id := firstLine(filepath.Join(dev, name)); id != "" {
			return id + part
		}
	}
	return ""
}
