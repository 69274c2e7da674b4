package powertest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const oDSync = unix.O_DSYNC

// look finds out what the system tells about a directory's disk.
func look(dir string) (Facts, error) {
	f := Facts{Dir: dir, System: runtime.GOOS, Device: Device{LifeUsed: -1}}
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return f, err
	}
	f.Dir = abs
	var s unix.Statfs_t
	if err := unix.Statfs(abs, &s); err != nil {
		return f, err
	}
	f.Total, f.Free = int64(s.Blocks)*int64(s.Bsize), int64(s.Bavail)*int64(s.Bsize)
	var st unix.Stat_t
	if err := unix.Stat(abs, &st); err != nil {
		return f, err
	}
	major, minor := unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)) //nolint:unconvert // 32 bits on some machines
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil {
		f.FileSystem, f.Options = mountOf(mounts, abs)
	}
	f.Device = lookDevice("/sys", major, minor)
	return f, nil
}

// mountOf finds the mount that a path lies in: the longest mount point above
// it, the last of equals (proc_pid_mountinfo(5)).
func mountOf(mountinfo []byte, path string) (kind, options string) {
	longest := -1
	for lines := bufio.NewScanner(bytes.NewReader(mountinfo)); lines.Scan(); {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		a, b := strings.Fields(left), strings.Fields(right)
		if !ok || len(a) < 6 || len(b) < 1 {
			continue
		}
		at := unescape(a[4])
		if path != at && !strings.HasPrefix(path, strings.TrimSuffix(at, "/")+"/") || len(at) < longest {
			continue
		}
		longest, kind, options = len(at), b[0], a[5]
		if len(b) > 2 {
			options += "," + b[2]
		}
	}
	return kind, options
}

// unescape turns \040 and its like back.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// lookDevice reads what the kernel tells about a block device; sys is /sys.
func lookDevice(sys string, major, minor uint32) Device {
	d := Device{LifeUsed: -1}
	path, err := filepath.EvalSymlinks(fmt.Sprintf("%s/dev/block/%d:%d", sys, major, minor))
	if err != nil {
		return d
	}
	if line(path, "partition") != "" {
		path = filepath.Dir(path)
	}
	d.Name = filepath.Base(path)
	d.Model = strings.TrimSpace(line(path, "device/model") + line(path, "device/name"))
	d.WriteCache = line(path, "queue/write_cache")
	if n, err := strconv.ParseInt(line(path, "size"), 10, 64); err == nil {
		d.Bytes = n * 512
	}
	d.Kind = kindOf(d.Name, line(path, "queue/rotational") == "1", line(path, "device/type"))
	if life := strings.Fields(line(path, "device/life_time")); len(life) > 0 {
		for _, s := range life { // JEDEC eMMC 5.0: 0x01 is 0 to 10 % used
			if n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 8); err == nil && n > 0 {
				d.LifeUsed = max(d.LifeUsed, int(n)*10)
			}
		}
	}
	return d
}

func kindOf(name string, rotational bool, cardType string) string {
	has := func(prefixes ...string) bool {
		for _, p := range prefixes {
			if strings.HasPrefix(name, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("mmcblk") && cardType == "SD":
		return "sd"
	case has("mmcblk"):
		return "emmc"
	case has("nvme"):
		return "nvme"
	case has("vd", "xvd"):
		return "virtual"
	case has("dm-", "md", "loop", "zram", "ram", "nbd", "rbd", "bcache"):
		return "stacked"
	case rotational:
		return "disk"
	case has("sd"):
		return "ssd"
	}
	return ""
}

func line(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(s)
}

// processWritten is how many bytes this process has made the disk write, as
// the kernel counts them (proc_pid_io(5)).
func processWritten() (int64, bool) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "write_bytes:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
