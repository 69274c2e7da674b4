package spool

import "forebay/gateway/conf"

// WithDefaults fills in what was left out. The quota is then the most that is
// used without being told; a small disk makes it less.
func (c Config) WithDefaults() Config {
	if c.Quota == 0 {
		c.Quota = defaultQuota
	}
	if c.FreeFloor == 0 {
		c.FreeFloor = defaultFreeFloor
	}
	if c.Segment == 0 {
		c.Segment = defaultSegment
	}
	if c.ScrubEvery == 0 {
		c.ScrubEvery = conf.Duration(defaultScrubEvery)
	}
	return c
}
