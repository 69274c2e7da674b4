package uplink

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bandwidth is the table [bandwidth] of the config file: how much of the link
// all uplinks together may take, by the time of day. Counted are the bytes of
// the payloads as they travel, not the headers of the protocols below. Streams
// of class alarm do not wait for it, but count.
type Bandwidth struct {
	// LimitKbit is in kilobits (1000 bits) a second, for the time that no entry
	// of the schedule covers. Default 0: no limit.
	LimitKbit int `toml:"limit_kbit"`
	// Timezone is the IANA name of the zone that the schedule is meant in, such
	// as "Europe/Berlin". Default: the system's. Where clocks are put back, an
	// hour comes twice, and an entry covers it twice.
	Timezone string `toml:"timezone"`
	// Schedule is a list of tables; the first entry that covers the moment
	// counts.
	Schedule []Hours `toml:"schedule"`
}

// Hours is one [[bandwidth.schedule]].
type Hours struct {
	// Days are those on which it begins: "mon", "tue", "wed", "thu", "fri",
	// "sat", "sun". Default: every day.
	Days []string `toml:"days"`
	// From and To are times of day, "22:00"; To belongs to the next day where it
	// is not after From. Default "00:00" and "24:00".
	From string `toml:"from"`
	To   string `toml:"to"`
	// LimitKbit is the limit meanwhile, in kilobits a second. Default 0: no limit.
	LimitKbit int `toml:"limit_kbit"`
}

const (
	maxKbit = 10_000_000
	allDay  = 24 * 60 // minutes of a day
)

// WithDefaults fills in what was left out.
func (h Hours) WithDefaults() Hours {
	if len(h.Days) == 0 {
		h.Days = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	}
	if h.From == "" {
		h.From = "00:00"
	}
	if h.To == "" {
		h.To = "24:00"
	}
	return h
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (b Bandwidth) Check() error {
	_, err := b.plan()
	return err
}

// A plan is a Bandwidth that was read.
type plan struct {
	kbit  int
	zone  *time.Location
	hours []hours
}

type hours struct {
	days     [7]bool
	from, to int // minutes of the day
	kbit     int
}

func (b Bandwidth) plan() (plan, error) {
	p := plan{kbit: b.LimitKbit, zone: time.Local}
	if err := checkKbit(b.LimitKbit); err != nil {
		return p, fmt.Errorf("limit_kbit: %w", err)
	}
	if b.Timezone != "" {
		var err error
		if p.zone, err = time.LoadLocation(b.Timezone); err != nil || b.Timezone == "Local" {
			return p, fmt.Errorf("timezone: %q is not known on this machine; write a name such as \"Europe/Berlin\", with the system's zone files (tzdata) installed, or leave it out", b.Timezone)
		}
	}
	for i, h := range b.Schedule {
		x, err := h.read()
		if err != nil {
			return p, fmt.Errorf("schedule[%d].%w", i+1, err)
		}
		p.hours = append(p.hours, x)
	}
	return p, nil
}

func checkKbit(n int) error {
	if n < 0 || n > maxKbit {
		return fmt.Errorf("%d is not between 0 (no limit) and %d", n, maxKbit)
	}
	return nil
}

func (h Hours) read() (hours, error) {
	h = h.WithDefaults()
	x := hours{kbit: h.LimitKbit}
	for _, d := range h.Days {
		i := strings.Index("sun mon tue wed thu fri sat", d)
		if len(d) != 3 || i < 0 || i%4 != 0 {
			return x, fmt.Errorf("days: %q is not one of mon, tue, wed, thu, fri, sat, sun", d)
		}
		x.days[i/4] = true
	}
	var err error
	if x.from, err = minute(h.From); err != nil {
		return x, fmt.Errorf("from: %w", err)
	}
	if x.to, err = minute(h.To); err != nil {
		return x, fmt.Errorf("to: %w", err)
	}
	if err := checkKbit(h.LimitKbit); err != nil {
		return x, fmt.Errorf("limit_kbit: %w", err)
	}
	return x, nil
}

func minute(s string) (int, error) {
	if s == "24:00" {
		return allDay, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day; write for example \"22:00\"", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// at is the limit at a moment, in kilobits a second; 0 is none. It goes by what
// a clock on the wall shows then, so a change to or from summer time needs no
// rule of its own.
func (p *plan) at(t time.Time) int {
	t = t.In(p.zone)
	day, m := int(t.Weekday()), t.Hour()*60+t.Minute()
	for i := range p.hours {
		if p.hours[i].cover(day, m) {
			return p.hours[i].kbit
		}
	}
	return p.kbit
}

func (h *hours) cover(day, m int) bool {
	if h.from < h.to {
		return h.days[day] && m >= h.from && m < h.to
	}
	return h.days[day] && m >= h.from || h.days[(day+6)%7] && m < h.to
}

// A Cap holds uplinks to a bandwidth: a bucket of bytes that fills at the
// limit. A Send may begin while nothing is owed, and is charged as a whole; so
// what goes over the link in a few seconds is the limit, and no Send is cut.
// Pumps that share a Cap get their turns in the order in which they came.
type Cap struct {
	plan plan
	wall func() time.Time

	mu    sync.Mutex
	level float64 // bytes that may go; below zero: owed
	at    time.Time
	rate  int // bytes a second then
	wait  []waiter
}

type waiter struct {
	who   any
	last  bool      // it goes behind all that are not
	until time.Time // it will have asked again by then
}

// NewCap makes a Cap of a Bandwidth that Check has passed. wall is the wall
// clock that the schedule goes by; nil is time.Now.
func NewCap(b Bandwidth, wall func() time.Time) (*Cap, error) {
	p, err := b.plan()
	if err != nil {
		return nil, err
	}
	if wall == nil {
		wall = time.Now
	}
	return &Cap{plan: p, wall: wall}, nil
}

// Rate is the limit now, in bytes a second; 0 is none.
func (c *Cap) Rate() int { return c.plan.at(c.wall()) * 125 }

const (
	// spare is how much of what was not used may be used later.
	spare = 250 * time.Millisecond
	// recheck is after how long a waiting pump looks again: the limit may have
	// changed meanwhile.
	recheck = time.Second
	// turnover is how long a pump has after its time to take its turn.
	turnover = 50 * time.Millisecond
)

// fill brings the level up to date; c.mu is held.
func (c *Cap) fill(now time.Time) {
	rate := c.Rate()
	if !c.at.IsZero() && c.rate > 0 {
		c.level = min(c.level+now.Sub(c.at).Seconds()*float64(c.rate), float64(c.rate)*spare.Seconds())
	}
	if rate == 0 {
		c.level, c.wait = 0, nil
	}
	c.at, c.rate = now, rate
}

// ask is how long who has to wait for its next Send; 0: it may begin, and is to
// be charged. One that is last waits behind all that are not.
func (c *Cap) ask(who any, last bool, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fill(now)
	if c.rate == 0 {
		return 0
	}
	for len(c.wait) > 0 && c.wait[0].who != who && now.After(c.wait[0].until) {
		c.wait = c.wait[1:] // it has nothing to send any more
	}
	place := 0
	for place < len(c.wait) && c.wait[place].who != who {
		place++
	}
	if place == len(c.wait) && !last {
		place = slices.IndexFunc(c.wait, func(w waiter) bool { return w.last })
		if place < 0 {
			place = len(c.wait)
		}
		c.wait = slices.Insert(c.wait, place, waiter{who: who})
	} else if place == len(c.wait) {
		c.wait = append(c.wait, waiter{who: who, last: true})
	}
	if c.level >= 0 && place == 0 {
		c.wait = c.wait[1:]
		return 0
	}
	d := time.Duration(-c.level / float64(c.rate) * float64(time.Second))
	d = min(max(d, 5*time.Millisecond), recheck)
	c.wait[place].until = now.Add(d + turnover)
	return d
}

// charge takes bytes out of the bucket; less than none puts them back.
func (c *Cap) charge(n int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fill(now)
	if c.rate > 0 {
		c.level -= float64(n)
	}
}
