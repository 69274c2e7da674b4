package bench

import "time"

// A meter counts from when it was made.
type meter struct {
	began time.Time
	from  counts
}

// counts are the kernel's, of this process and of the device.
type counts struct {
	calls, process, device int64
	cpu                    time.Duration
}

func (b *bench) meter() *meter {
	return &meter{began: time.Now(), from: b.counts()}
}

func (b *bench) counts() counts {
	c := processCounts()
	c.device = deviceWritten(b.rep.Device)
	return c
}

// since is what was counted until now.
func (m *meter) since(b *bench) counts {
	c := b.counts()
	return counts{c.calls - m.from.calls, c.process - m.from.process, c.device - m.from.device, c.cpu - m.from.cpu}
}

// per divides what was written.
func (c counts) per(n int64) Written {
	d := float64(max(n, 1))
	return Written{Calls: float64(c.calls) / d, Process: float64(c.process) / d, Device: float64(c.device) / d}
}

func (c counts) plus(o counts) counts {
	return counts{c.calls + o.calls, c.process + o.process, c.device + o.device, c.cpu + o.cpu}
}
