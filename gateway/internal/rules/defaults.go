package rules

import "forebay/gateway/conf"

// WithDefaults fills in what was left out and does not depend on the payload.
func (r Rule) WithDefaults() Rule {
	r.From, r.Match = conf.Stream(r.stream()), r.match()
	if r.Severity == 0 {
		r.Severity = 3
	}
	if r.Ack == "" {
		r.Ack = "required"
	}
	return r
}
