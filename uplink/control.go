package uplink

import (
	"time"

	"forebay/uplink/lane"
)

// Pause stops sending. What is under way is waited for and counts; nothing is
// sent or probed after that until Resume. It is not remembered: whoever wants
// it to outlast the program hands it in again as Options.Paused.
func (p *Pump) Pause() { p.setPaused(true) }

// Resume goes on where Pause stopped, and tries at once.
func (p *Pump) Resume() { p.setPaused(false) }

func (p *Pump) setPaused(on bool) {
	p.mu.Lock()
	was := p.paused
	p.paused = on
	if was && !on {
		p.link.retryAt = time.Time{}
		p.wakeLanes(lane.OK)
	}
	p.refresh(time.Now())
	p.mu.Unlock()
	p.poke()
}

// RetryNow ends every wait for a next try: the link is tried at once, and so
// is every lane. Where too many records in a row were refused, as many again
// may be. It does not end a Pause.
func (p *Pump) RetryNow() {
	p.mu.Lock()
	p.link.retryAt = time.Time{}
	p.forgive()
	p.wakeLanes(lane.OK)
	p.mu.Unlock()
	p.poke()
}
