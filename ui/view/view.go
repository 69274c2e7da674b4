// Package view reduces what a gateway says (api.Event) to one immutable
// Snapshot that a console draws as it stands: every sentence, order, age and
// digit is decided here, so that it can be tested without a window. It knows
// no toolkit and no clock: every method that needs the time is given it.
package view

import (
	"image"
	"slices"
	"time"
)

// Link is the state of the console's connection to the gateway.
type Link int

const (
	// Connecting: nothing has been heard from the gateway yet.
	Connecting Link = iota
	// Live: the gateway spoke within Config.SilentAfter.
	Live
	// Lost: the gateway was heard once and is silent now; what is shown is old.
	Lost
)

// String returns the state in a word.
func (l Link) String() string {
	switch l {
	case Live:
		return "live"
	case Lost:
		return "lost"
	}
	return "connecting"
}

// Snapshot is one frame of the console. It shares no memory that is written
// again, so it may cross goroutines; slices must not be changed.
type Snapshot struct {
	At        time.Time // the console's clock when the frame was made
	Link      Link
	Since     time.Time // of the link's state, by the console's clock
	Confirmed time.Time // last word of the gateway, by the console's clock; zero if there was none
	Title     string    // "EDGE-07  Press shop"
	Banner    Banner
	Notice    Notice
	Status    []StatusItem // most important first
	Tiles     []Tile       // in the gateway's order, so that each keeps its place
	Trend     Trend
	Cameras   []Camera
	CamNote   string  // what is wrong among the cameras, "" when nothing is
	Backlog   Backlog // the uplink that needs most attention
	Uplinks   []Uplink
	UplinkSay string  // how many, and as of when
	Desk      Desk    // of the uplink that the operator has opened
	Alarms    []Alarm // unacknowledged first, then severity, then newest
	AlarmHead string  // how many, and as of when; "no alarms" only with the time of the last confirmed update
}

// Stale reports that what the frame shows is not what is so now.
func (s Snapshot) Stale() bool { return s.Link != Live }

// Banner is the strip under the status line.
type Banner struct {
	Kind     BannerKind
	AlarmIDs []string // what Acknowledge would acknowledge; empty where there is nothing, or nobody to tell
	Severity int      // 1..4 for BannerAlarm
	Text     string   // the sentence
	Detail   string   // time, source, how many more
}

// BannerKind says what the strip shows.
type BannerKind int

const (
	// BannerQuiet: nothing waits for an acknowledgement.
	BannerQuiet BannerKind = iota
	// BannerAlarm: the top unacknowledged alarm.
	BannerAlarm
	// BannerLost: the console itself does not hear the gateway.
	BannerLost
)

// Notice is a sentence about the gateway itself, besides alarms and uplinks.
type Notice struct {
	Text string // "" where there is none
	More int    // how many further ones
}

// StatusItem is a pair of the status line.
type StatusItem struct {
	Name, Value string
	Severity    int // 0 normal, 1..4 as an alarm's
	Rank        int // items with the greatest rank go first where room is short
}

// Tile is a measured value.
type Tile struct {
	ID, Label, Place string
	Value            string // with the digits that its scale deserves; "—" before the first
	Unit             string // as people write it
	Position         float64
	Has              bool // Position holds a number, 0..1 of the scale, may lie outside
	Band             Band
	Limit            float64 // 0..1 of the scale; NaN where there is none
	LimitText        string  // "limit 85", "" where there is none
	Severity         int     // 0 none
	Quality          string  // "" when good
	Old              bool    // the value is not what is so now: draw it grey
	Age              string  // "" while fresh
	Spark            Pen
}

// Band is the normal range of a tile, 0..1 of its scale.
type Band struct {
	Low, High float64
	Has       bool
}

// Trend is the plot of the last ten minutes.
type Trend struct {
	Window  time.Duration
	End     string // what stands at the right end of the time axis
	Pens    []Pen  // at most Config.Pens: abnormal ones always, then in the gateway's order
	Omitted int    // points without a pen
	Old     bool
}

// Pen is one series: the least and greatest value per column, 0..1 of the
// point's scale, oldest first, NaN where nothing was measured.
type Pen struct {
	ID, Label string
	Severity  int
	Min, Max  []float32
	Limit     float32 // NaN where there is none
}

// Last returns the middle of the newest column that holds a value.
func (p Pen) Last() (float32, bool) {
	for i, v := range slices.Backward(p.Min) {
		if v == v {
			return (v + p.Max[i]) / 2, true
		}
	}
	return 0, false
}

// Camera is a picture and what is known of its age.
type Camera struct {
	ID, Label string
	Image     *image.RGBA // nil where there is no still; never written again
	Rate      string      // "10 fps", "h264"
	Age       string      // always there: the age of the picture, or that there is none
	Stale     bool        // the picture does not show what is so now
	Warn      string      // said over a stale picture
}

// BarSpan is the part of a backlog's time axis that waits.
type BarSpan struct {
	Window time.Duration // length of the axis; 0 = no axis
	End    string        // what stands at its right end: "now", or the last time known
	Oldest time.Duration // age of the oldest waiting record
	Ticks  []Tick
}

// Tick is a mark on a time axis.
type Tick struct {
	Age  time.Duration
	Text string
}

// Backlog is what waits for an uplink.
type Backlog struct {
	Has      bool   // an uplink is configured
	Title    string // "press-shop  kinesis:eu-west-1/press-shop"
	State    string // "up", "DOWN since 13:58, next try in 12 s"
	Severity int    // of the state, 0 when up
	Headline string // the sentence of the second offline state, or of a pause, "" when up
	Cut      bool   // the sentence is about a link that is cut
	Waiting  string // "2.41 M records  1.8 GB", "nothing waiting"; without an uplink, why there is nothing to show
	Empty    bool   // exactly nothing waits
	Oldest   string // "33 min", "" when nothing waits
	Drain    string // "drains in 8 min", "" when nothing waits
	Space    string // "space for 9.4 days"
	Span     BarSpan
	Others   string // one line about further uplinks
	Old      bool
}

// Alarm is a row of the alarm list.
type Alarm struct {
	ID       string
	Severity int
	Time     string // when it was raised, gateway's clock
	State    string // UNACK, ACK, RTN, ACK sent
	Source   string
	Text     string
	Unacked  bool
	Active   bool
	raised   time.Time
}
