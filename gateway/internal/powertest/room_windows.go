package powertest

import "golang.org/x/sys/windows"

// room is the size of the file system and what is free for us, in bytes.
func room(dir string) (total, free int64, err error) {
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
