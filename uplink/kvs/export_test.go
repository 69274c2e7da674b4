package kvs

import "time"

// Hurry lifts the service's limits on rates, for tests of something else.
func (s *Sink) Hurry() { s.limits = limits{} }

// Still sets for how long a connection may stand still.
func (s *Sink) Still(d time.Duration) { s.still = d }

// Age makes what is known of all streams old.
func (s *Sink) Age(d time.Duration) {
	for _, f := range s.fars {
		f.asked, f.checked = f.asked.Add(-d), f.checked.Add(-d)
	}
}
