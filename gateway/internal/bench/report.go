package bench

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Report is what `forebay bench spool --json` prints.
type Report struct {
	System  string  `json:"system"`
	Cores   int     `json:"cores"`
	Load    float64 `json:"load_average"` // when the run began; above 0.5 the figures are of a busy machine
	Device  string  `json:"device,omitempty"`
	Payload int     `json:"payload_bytes"`
	Rounds  int     `json:"rounds"`
	Full    bool    `json:"full"`
	Lines   []Line  `json:"lines"`
}

// A Line is one figure of one work, with its rival and its targets.
type Line struct {
	Work    string   `json:"work"`
	Payload string   `json:"payload,omitempty"` // random or json
	Unit    string   `json:"unit"`
	Figure  Spread   `json:"figure"`
	Rival   *Rival   `json:"rival,omitempty"`
	Targets []Target `json:"targets,omitempty"`
	Cost    *Cost    `json:"cost,omitempty"`
	Note    string   `json:"note,omitempty"`
}

// A Rival is a plain way to do the same. Of several, the one that keeps the same
// records; the others are given beside it.
type Rival struct {
	Name   string  `json:"name"`
	Figure Spread  `json:"figure"`
	Ratio  Spread  `json:"ratio"` // ours to the rival's of the same round
	Others []Rival `json:"others,omitempty"`
}

// A Target is a figure that we set out to reach, in the words it was set in.
type Target struct {
	Text string `json:"text"`
	Met  bool   `json:"met"`
}

// A Cost is what a load cost in passing; of the spool, not of the rival.
type Cost struct {
	CallP50MS float64 `json:"call_ms_p50"` // from handing over to acknowledged
	CallP99MS float64 `json:"call_ms_p99"`
	CallMaxMS float64 `json:"call_ms_max"`
	CPUNS     float64 `json:"cpu_ns_per_record"` // of this process, the producers included
	PerByte   Written `json:"written_per_byte"`
	PerRecord Written `json:"written_per_record"`
	PeakMB    float64 `json:"rss_mb"`
}

// Written is bytes written, counted in three ways. Zero where the system does
// not tell.
type Written struct {
	// Calls is what the process handed to write calls.
	Calls float64 `json:"calls"`
	// Process is write_bytes of /proc/self/io: pages made dirty. A page cache of
	// large folios counts a whole folio for a part of it, and the file system's
	// journal is not in it.
	Process float64 `json:"process"`
	// Device is what the block device was told to write, the journal and all
	// other programs included.
	Device float64 `json:"device"`
}

// A Spread is a median and what lies around it.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func spread(v []float64) Spread {
	s := slices.Sorted(slices.Values(v))
	return Spread{Median: s[len(s)/2], Min: s[0], Max: s[len(s)-1]}
}

func one(v float64) Spread { return Spread{v, v, v} }

// over divides round by round.
func over(a, b []float64) Spread {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	return spread(q)
}

func atLeast(text string, have, want float64) Target { return Target{text, have >= want} }
func atMost(text string, have, want float64) Target  { return Target{text, have <= want} }
func below(text string, have, want float64) Target   { return Target{text, have < want} }

// Verdict is met or missed for each target, in their order; empty without any.
func (l *Line) Verdict() string {
	var out []string
	for _, t := range l.Targets {
		if t.Met {
			out = append(out, "met")
		} else {
			out = append(out, "MISSED")
		}
	}
	return strings.Join(out, "; ")
}

// TargetText is the targets as they were set.
func (l *Line) TargetText() string {
	var out []string
	for _, t := range l.Targets {
		out = append(out, t.Text)
	}
	return strings.Join(out, "; ")
}

// Name is the work and what it was done with.
func (l *Line) Name() string {
	if l.Payload == "" {
		return l.Work
	}
	return l.Work + ", " + l.Payload
}

// String is the figure in its unit: 1.23 M, 45.6 k, 7.89.
func (s Spread) String() string {
	if s.Min == s.Max {
		return number(s.Median)
	}
	return number(s.Median) + " [" + number(s.Min) + "-" + number(s.Max) + "]"
}

func number(v float64) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.2f G", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1f k", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// percentile sorts the durations and gives one of them, milliseconds.
func percentile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return ms(d[min(len(d)-1, int(float64(len(d))*q))])
}
