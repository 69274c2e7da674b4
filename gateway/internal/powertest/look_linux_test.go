package powertest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheMountOfAPath(t *testing.T) {
	const info = `21 1 254:0 / / rw,relatime - ext4 /dev/vda rw,errors=remount-ro
30 21 0:26 / /var/lib/with\040space rw,noatime - xfs /dev/sdb1 rw,nobarrier
31 21 0:27 / /var rw - ext4 /dev/sda2 rw
32 31 0:28 / /var rw - btrfs /dev/sda3 rw,ssd
bad line
`
	for path, want := range map[string][2]string{
		"/":                         {"ext4", "rw,relatime,rw,errors=remount-ro"},
		"/home/x":                   {"ext4", "rw,relatime,rw,errors=remount-ro"},
		"/var/lib/with space/spool": {"xfs", "rw,noatime,rw,nobarrier"},
		"/var/lib":                  {"btrfs", "rw,rw,ssd"},
		"/various":                  {"ext4", "rw,relatime,rw,errors=remount-ro"},
	} {
		if kind, options := mountOf([]byte(info), path); kind != want[0] || options != want[1] {
			t.Errorf("%s lies on %s (%s), want %v", path, kind, options, want)
		}
	}
}

func TestADeviceAsTheKernelTellsIt(t *testing.T) {
	sys := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(sys, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const card = "devices/platform/mmc_host/mmc0/block/mmcblk0"
	write(card+"/size", "61071360")
	write(card+"/queue/write_cache", "write back")
	write(card+"/queue/rotational", "0")
	write(card+"/device/type", "MMC")
	write(card+"/device/name", "DG4032")
	write(card+"/device/life_time", "0x02 0x03")
	write(card+"/mmcblk0p2/partition", "2")
	write("dev/block/README", "")
	if err := os.Symlink("../../"+card+"/mmcblk0p2", filepath.Join(sys, "dev", "block", "179:2")); err != nil {
		t.Fatal(err)
	}
	want := Device{Name: "mmcblk0", Kind: "emmc", Model: "DG4032", WriteCache: "write back", Bytes: 61071360 * 512, LifeUsed: 30}
	if got := lookDevice(sys, 179, 2); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := lookDevice(sys, 1, 1); got != (Device{LifeUsed: -1}) {
		t.Errorf("a device that is not there: %+v", got)
	}
	for name, kind := range map[string]string{"nvme0n1": "nvme", "vda": "virtual", "dm-0": "stacked", "sda": "ssd", "zzz": ""} {
		if got := kindOf(name, false, ""); got != kind {
			t.Errorf("%s is %q, want %q", name, got, kind)
		}
	}
	if kindOf("sda", true, "") != "disk" || kindOf("mmcblk1", false, "SD") != "sd" {
		t.Error("a platter or a card is not known")
	}
}
