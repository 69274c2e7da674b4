package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// datasync is the cheapest call after which appended bytes are on the disk.
func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// settle lets the disk come to rest before a measurement.
func settle() { unix.Sync() }

// dropCaches empties the page cache, which only root may; it reports whether it
// did.
func dropCaches() bool {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0o200) == nil //nolint:gosec // G306: the file exists
}

func processCounts() counts {
	var c counts
	io := procFields("/proc/self/io")
	c.calls, c.process = io["wchar"], io["write_bytes"]
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) == nil {
		c.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return c
}

// procFields reads the lines "name: number unit" of a file in /proc.
func procFields(path string) map[string]int64 {
	out := map[string]int64{}
	b, err := os.ReadFile(path)
	if err != nil {
		return out
	}
	for l := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(l, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.ParseInt(f[0], 10, 64); err == nil {
				out[name] = n
			}
		}
	}
	return out
}

// residentMB is the resident memory of a process, "self" or its number.
func residentMB(pid string) float64 {
	return float64(procFields("/proc/" + pid + "/status")["VmRSS"]) / 1024
}

func openFiles() int {
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(e) - 1 // without the one that lists
}

func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	v, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64)
	if err != nil {
		return 0
	}
	return v
}

// deviceOf is where the kernel counts for the block device under a directory;
// empty where it is on none.
func deviceOf(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	d := uint64(st.Dev) //nolint:unconvert // narrower on other machines
	p := fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(d), unix.Minor(d))
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	return p
}

// deviceWritten is how many bytes the device was told to write
// (Documentation/block/stat.rst: the seventh number is sectors of 512 bytes).
func deviceWritten(path string) int64 {
	b, err := os.ReadFile(path)
	if f := strings.Fields(string(b)); err == nil && len(f) > 6 {
		if n, err := strconv.ParseInt(f[6], 10, 64); err == nil {
			return n * 512
		}
	}
	return 0
}
