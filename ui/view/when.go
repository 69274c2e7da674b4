package view

import (
	"fmt"
	"strings"
	"time"
)

// ErrWhen is what a time that a person wrote and that cannot be read is
// answered with.
type ErrWhen struct{ Text string }

func (e *ErrWhen) Error() string { return e.Text }

// When reads a time as an operator writes it: "14:30", "14:30:05" (of today),
// "2026-03-14", "2026-03-14 14:30", "2026-03-14 14:30:05", or with a zone of
// its own as RFC 3339 has it. now is the gateway's clock in the operator's
// zone. An empty text is the zero time.
//
// A time that the zone skips, or has twice, as clocks are put forward or back,
// is an *ErrWhen that says what to write instead.
func When(text string, now time.Time) (time.Time, error) {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "–", "-")), " ")
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	loc := now.Location()
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02", "15:04:05", "15:04"} {
		if _, err := time.Parse(layout, text); err != nil {
			continue
		}
		full := text
		if !strings.HasPrefix(layout, "2006") {
			full, layout = now.Format("2006-01-02 ")+text, "2006-01-02 "+layout
		}
		t, err := time.ParseInLocation(layout, full, loc)
		if err != nil {
			break
		}
		return t, once(t, full, layout)
	}
	return time.Time{}, &ErrWhen{"Write it like 14:30, or " + now.Format("2006-01-02 15:04")}
}

// once refuses a local time that is not, or is twice.
func once(t time.Time, text, layout string) error {
	if t.Format(layout) != text {
		return &ErrWhen{"That time is skipped there: clocks are put forward"}
	}
	const wall = "2006-01-02 15:04:05"
	for _, d := range []time.Duration{-time.Hour, time.Hour, -30 * time.Minute, 30 * time.Minute} {
		if other := t.Add(d); other.Format(wall) == t.Format(wall) {
			a, b := t, other
			if b.Before(a) {
				a, b = b, a
			}
			return &ErrWhen{fmt.Sprintf("That time is twice, clocks are put back: add %s or %s", a.Format("Z07:00"), b.Format("Z07:00"))}
		}
	}
	return nil
}

// Zone names the zone of t as people know it: "CET (UTC+01:00)".
func Zone(t time.Time) string {
	name, off := t.Zone()
	if off == 0 {
		return "UTC"
	}
	utc := "UTC" + t.Format("-07:00")
	if name == "" || name[0] == '+' || name[0] == '-' {
		return utc
	}
	return name + " (" + utc + ")"
}

// Moment writes a time with its day and zone: "Sat 2026-03-14 14:30:00 CET (UTC+01:00)".
func Moment(t time.Time) string { return t.Format("Mon 2006-01-02 15:04:05 ") + Zone(t) }

// WhenText writes a time so that When reads it again, to the second.
func WhenText(t time.Time) string {
	text := t.Format("2006-01-02 15:04:05")
	if _, err := When(text, t); err != nil {
		return t.Format(time.RFC3339)
	}
	return text
}
