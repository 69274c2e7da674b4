package proof

import (
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"slices"
	"time"

	"forebay/gateway/internal/powertest"
)

// What an acceptance test came to.
const (
	Passed       = "passed"
	Reservations = "passed with reservations"
	Failed       = "failed"
)

// A Report is a site's acceptance test.
type Report struct {
	Format  int       `json:"format"` // of this report; 1
	Name    string    `json:"name"`   // of the test; its streams are called so
	Result  string    `json:"result"`
	Why     []string  `json:"why"` // what failed, and reservations
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"`
	Version string    `json:"version"`
	System  string    `json:"system"` // operating system and processor
	Host    string    `json:"host"`

	Gateway string `json:"gateway"`       // whose config was tested
	Config  string `json:"config_sha256"` // of the config with all defaults and without secrets
	Uplink  string `json:"uplink"`
	Kind    string `json:"kind"`
	Target  string `json:"target"`
	Left    string `json:"left_at_target"` // what stays there
	// FarStream is what the test used at the target instead of making its own.
	FarStream string `json:"far_stream,omitempty"`
	// Kept is the directory where the test's own data was left, "" where it was
	// removed.
	Kept string `json:"data_kept,omitempty"`

	Disk     powertest.Facts     `json:"disk"`
	Findings []powertest.Finding `json:"findings"`
	Figures  Figures             `json:"figures"`
	Events   []Event             `json:"events"`
	Verdict  *Verdict            `json:"verdict,omitempty"`
}

// Figures are what was counted and measured.
type Figures struct {
	Seconds float64 `json:"seconds"` // that records were written
	// Written are the numbered records, Acknowledged those of which the gateway
	// said that they are safe; Again how often one was sent again because no
	// answer came: the gateway was being killed, or started.
	Written      uint64 `json:"written"`
	Acknowledged uint64 `json:"acknowledged"`
	Again        uint64 `json:"sent_again"`
	// LostHere are acknowledged and not in the log. TwiceHere are in the log
	// more than once, because they were sent again.
	LostHere  uint64 `json:"lost_in_log"`
	TwiceHere uint64 `json:"twice_in_log"`
	// LostThere are delivered by the ledger and not at the target, TwiceThere
	// there more than once.
	// Undelivered still waited when the time to drain was over.
	LostThere   uint64 `json:"lost_at_target"`
	TwiceThere  uint64 `json:"twice_at_target"`
	Undelivered uint64 `json:"undelivered"`

	AckP50 float64 `json:"ack_p50_ms"`
	AckP99 float64 `json:"ack_p99_ms"`
	AckMax float64 `json:"ack_max_ms"`

	Kills   int     `json:"kills"`
	Restart float64 `json:"longest_restart_seconds"`
	Cuts    int     `json:"link_cuts"`
	// EarlyKill: nothing was delivered yet when the gateway was killed first.
	// DownAtCut: the target was away already when the link was cut.
	EarlyKill bool `json:"killed_before_anything_was_delivered,omitempty"`
	DownAtCut bool `json:"down_when_cut,omitempty"`

	CutFor  float64 `json:"link_cut_seconds"`
	Backlog uint64  `json:"largest_backlog"` // records
	// Drain is from the link's return until nothing waited any more that had
	// waited then; a kill and a start lie between. Drained is false where that was
	// not reached. Rest is from the last record that was written until nothing
	// waited at all, or until the time to drain was over.
	Drain     float64    `json:"drain_seconds"`
	Drained   bool       `json:"drained"`
	Rest      float64    `json:"delivered_after_writing_seconds"`
	DrainKill *DrainKill `json:"drain_kill,omitempty"`
	Balanced  bool       `json:"ledger_balanced"`
	Problems  int        `json:"spool_problems"`
}

// A DrainKill is the kill while the backlog of the cut drained.
type DrainKill struct {
	// Shown: some of what had waited when the link came back was delivered at the
	// kill, and some was not. Why says why that was not shown.
	Shown   bool    `json:"shown"`
	Why     string  `json:"why,omitempty"`
	Waited  uint64  `json:"waited_at_return"`     // records, when the link came back
	After   float64 `json:"seconds_after_return"` // when the gateway was killed; 0 if it was not
	Waiting uint64  `json:"waiting_at_kill"`      // records, what came meanwhile included
	Before  uint64  `json:"delivered_before"`     // records, from the link's return to the kill
	Rest    uint64  `json:"delivered_after"`      // records, from the kill to the end
}

// An Event is something that was done to the gateway or its link.
type Event struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// Judge sets Result and Why from the figures.
func (r *Report) Judge() {
	f := &r.Figures
	var bad, but []string
	note := func(to *[]string, is bool, format string, args ...any) {
		if is {
			*to = append(*to, fmt.Sprintf(format, args...))
		}
	}
	note(&bad, f.Acknowledged == 0, "no record was acknowledged")
	note(&bad, f.LostHere > 0, "%d acknowledged records are not in the log", f.LostHere)
	note(&bad, f.Undelivered > 0, "%d records were not delivered in the time to drain", f.Undelivered)
	note(&bad, r.Verdict == nil, "the far end was not verified")
	if v := r.Verdict; v != nil {
		note(&bad, v.Result == HasGap, "%d delivered records are not at the target", v.Missing)
		note(&bad, v.Result == NotProven, "the far end is not proven: %d records cannot be told", v.Unknown)
		note(&bad, (v.Result == NoGap || v.Result == Nothing) && v.Found == 0, "nothing was found at the target")
	}
	note(&bad, !f.Balanced, "the ledger does not balance")
	note(&bad, f.Problems > 0, "the spool has %d problems", f.Problems)
	for _, s := range r.Findings {
		note(&but, s.Level == powertest.Danger, "disk: %s", s.Text)
	}
	note(&but, f.Kills == 0, "the gateway was not killed")
	if k := f.DrainKill; k != nil && !k.Shown {
		note(&but, true, "the gateway was not killed while the backlog drained: %s", k.Why)
	}
	note(&but, f.Kills > 0 && f.EarlyKill, "the gateway was not killed while records were delivered: none was yet")
	note(&but, f.Cuts == 0, "the link was not cut")
	note(&but, f.Cuts > 0 && f.DownAtCut, "the link was not cut while records were delivered: the uplink was down already")
	switch {
	case len(bad) > 0:
		r.Result = Failed
	case len(but) > 0:
		r.Result = Reservations
	default:
		r.Result = Passed
	}
	r.Why = append(append(r.Why, bad...), but...)
}

// JSON is the report as it is kept, and its SHA-256 in hexadecimal digits.
func (r *Report) JSON() (text []byte, sum string, err error) {
	text, err = json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, "", err
	}
	text = append(text, '\n')
	return text, fmt.Sprintf("%x", sha256.Sum256(text)), nil
}

//go:embed report.html
var reportHTML string

// HTML writes the report as one page that needs nothing else, to be printed
// and signed. sum is the SHA-256 of its JSON.
func (r *Report) HTML(w io.Writer, sum string) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"mb":    func(v float64) string { return fmt.Sprintf("%.1f MB/s", v/1e6) },
		"ms":    func(v float64) string { return fmt.Sprintf("%.2f ms", v) },
		"fine":  fine,
		"short": func(v float64) string { return fmt.Sprintf("%.2f s", v) },
		"sec":   func(v float64) string { return fmt.Sprintf("%.1f s", v) },
		"known": func(s string) string { return map[bool]string{true: "not known here", false: s}[s == ""] },
		"yes":   func(b bool) string { return map[bool]string{true: "yes", false: "NO"}[b] },
	}).Parse(reportHTML)
	if err != nil {
		return fmt.Errorf("read the report's form: %w", err)
	}
	return t.Execute(w, struct {
		*Report
		Sum       string
		Latencies []step
	}{r, sum, r.measured()})
}

// fine is milliseconds as they are known: three digits.
func fine(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.3g ms", v)
}

// A step of the disk's measurement, as the page shows it.
type step struct {
	What string
	powertest.Latency
}

// measured are the steps that were.
func (r *Report) measured() []step {
	return slices.DeleteFunc([]step{
		{"4 KiB appended and synced", r.Disk.Grow},
		{"4 KiB written over and synced", r.Disk.Overwrite},
		{"a lone record of 100 bytes, acknowledged", r.Disk.Commit},
	}, func(s step) bool { return s.N == 0 })
}
