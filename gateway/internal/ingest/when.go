package ingest

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

var (
	errNoTime   = errors.New("it is neither RFC 3339 (2026-11-05T14:00:00Z) nor a number since 1970")
	errTimeSpan = errors.New("it is not within the years 1678 to 2261; is precision right?")
)

// readTime reads RFC 3339, or a decimal number of units since 1970 in UTC. The
// time is one that nanoseconds in 64 bits reach: what is meant for another
// precision mostly is not.
func readTime(s string, unit time.Duration) (time.Time, error) {
	if s == "" {
		return time.Time{}, errNoTime
	}
	date := len(s) > 4 && s[4] == '-'
	if !date && strings.Trim(s, "0123456789.eE+-") == "" {
		return epoch(s, unit)
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, errNoTime
	}
	if t.Year() < 1678 || t.Year() > 2261 {
		return time.Time{}, errTimeSpan
	}
	return t.UTC(), nil
}

// epoch reads a number of units. Plain decimals are exact to the nanosecond;
// what lies below is cut off. One with an exponent is as exact as a float.
func epoch(s string, unit time.Duration) (time.Time, error) {
	if strings.ContainsAny(s, "eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return time.Time{}, errNoTime
		}
		return within(math.Round(f * float64(unit)))
	}
	digits, negative := strings.CutPrefix(s, "-")
	whole, rest, _ := strings.Cut(digits, ".")
	if whole == "" || strings.Trim(whole, "0123456789") != "" || strings.Trim(rest, "0123456789") != "" {
		return time.Time{}, errNoTime
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return time.Time{}, errTimeSpan
	}
	n *= int64(unit)
	if rest != "" {
		frac, err := strconv.ParseInt((rest + "000000000")[:9], 10, 64)
		if err != nil {
			return time.Time{}, errNoTime
		}
		frac = frac * int64(unit) / 1e9
		if n > math.MaxInt64-frac {
			return time.Time{}, errTimeSpan
		}
		n += frac
	}
	if negative {
		n = -n
	}
	return nanos(n)
}

func within(ns float64) (time.Time, error) {
	if math.Abs(ns) >= math.MaxInt64 {
		return time.Time{}, errTimeSpan
	}
	return nanos(int64(ns))
}

func nanos(n int64) (time.Time, error) {
	t := time.Unix(0, n).UTC()
	if y := t.Year(); y < 1678 || y > 2261 {
		return time.Time{}, errTimeSpan
	}
	return t, nil
}
