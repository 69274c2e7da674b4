package points

import "forebay/gateway/conf"

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	c.Stream, c.Field = conf.Stream(c.stream()), c.field()
	if c.Label == "" {
		c.Label = string(c.ID)
	}
	return c
}
