package spool

import (
	"time"

	"golang.org/x/sys/unix"

	"forebay/spool/record"
)

// systemTime reads the kernel: CLOCK_BOOTTIME, which goes on while the machine
// sleeps, and adjtimex(2) for whether anybody keeps the wall clock right.
func systemTime() timeSource {
	began := time.Now()
	mono := func() time.Duration {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
			return time.Since(began)
		}
		return time.Duration(ts.Nano())
	}
	id, _ := bootID()
	return timeSource{
		mono:   mono,
		synced: clockSynced,
		boot:   func() (record.BootID, time.Duration) { return id, mono() },
	}
}

func clockSynced() bool {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return err == nil && state != timeError && tx.Status&staUnsync == 0
}

// TIME_ERROR and STA_UNSYNC of adjtimex(2).
const (
	timeError = 5
	staUnsync = 0x40
)
