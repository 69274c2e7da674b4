package view

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Span writes a length of time in the greatest unit that says something:
// "60 ms", "14 s", "33 min", "2 h 05 min", "3 d 4 h". A negative one is "0 s".
func Span(d time.Duration) string {
	switch {
	case d <= 0:
		return "0 s"
	case d < time.Second:
		return strconv.FormatInt(max(1, d.Milliseconds()), 10) + " ms"
	case d < 2*time.Minute:
		return strconv.FormatInt(int64(d/time.Second), 10) + " s"
	case d < time.Hour:
		return strconv.FormatInt(int64(d/time.Minute), 10) + " min"
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %02d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// Stopwatch writes a length of time as a running clock: "00:42", "1:02:03".
func Stopwatch(d time.Duration) string {
	s := int64(max(0, d) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%02d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// Bytes writes a size in decimal units with two or three digits.
func Bytes(n int64) string { return scaled(float64(max(0, n)), "B") }

// ByteRate writes bytes per second.
func ByteRate(n float64) string { return scaled(math.Max(0, n), "B") + "/s" }

func scaled(v float64, unit string) string {
	if v < 999.5 {
		return strconv.FormatFloat(v, 'f', 0, 64) + " " + unit
	}
	for _, p := range []string{"k", "M", "G", "T", "P"} {
		v /= 1000
		if v < 9.95 {
			return strconv.FormatFloat(v, 'f', 1, 64) + " " + p + unit
		}
		if v < 999.5 || p == "P" {
			return strconv.FormatFloat(v, 'f', 0, 64) + " " + p + unit
		}
	}
	return ""
}

// Count writes a number of things: "1,284", "241,300", "2.41 M".
func Count(n uint64) string {
	switch {
	case n < 1_000_000:
		s := strconv.FormatUint(n, 10)
		if len(s) > 3 {
			s = s[:len(s)-3] + "," + s[len(s)-3:]
		}
		return s
	case n < 1_000_000_000:
		return significant(float64(n)/1e6) + " M"
	default:
		return significant(float64(n)/1e9) + " G"
	}
}

func significant(v float64) string {
	switch {
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(uint64(max(0, n))) + " " + many
}

// Number writes a value with the digits that the scale low..high deserves:
// the coarsest power of ten that is at most a 500th of it.
func Number(v, low, high float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "—"
	}
	s := strconv.FormatFloat(v, 'f', digits(low, high), 64)
	if strings.HasPrefix(s, "-") && strings.Trim(s, "-0.") == "" {
		return s[1:]
	}
	return strings.Replace(s, "-", "–", 1)
}

func digits(low, high float64) int {
	span := math.Abs(high - low)
	if span == 0 || math.IsNaN(span) || math.IsInf(span, 0) {
		return 1
	}
	return min(6, max(0, int(math.Ceil(-math.Log10(span/500)-1e-9))))
}

// short writes a configured number without trailing zeros.
func short(v float64) string {
	return strings.Replace(strconv.FormatFloat(v, 'f', -1, 64), "-", "–", 1)
}

// Unit writes a UCUM unit as people write it.
func Unit(ucum string) string {
	switch ucum {
	case "Cel":
		return "°C"
	case "[degF]":
		return "°F"
	case "1", "{1}":
		return ""
	case "deg":
		return "°"
	case "Ohm":
		return "Ω"
	case "1/min", "{rpm}", "{rev}/min", "/min":
		return "rpm"
	case "%{RH}", "%RH":
		return "%RH"
	}
	u := ucum
	if strings.HasPrefix(u, "{") && strings.HasSuffix(u, "}") {
		return u[1 : len(u)-1]
	}
	if i := strings.IndexByte(u, '{'); i > 0 && strings.HasSuffix(u, "}") {
		u = u[:i]
	}
	u = strings.NewReplacer("Cel", "°C", "m3", "m³", "m2", "m²", "s2", "s²", "um", "µm", "us", "µs", "uA", "µA", "uV", "µV").Replace(u)
	return strings.ReplaceAll(u, ".", "")
}

// ETA writes the time until a backlog is drained in words whose steps only
// grow with the time: under a minute, minutes, five minutes, half hours,
// hours, days. It always rounds up.
func ETA(d time.Duration) string {
	switch q := quantum(d); {
	case q <= time.Minute:
		return "under a minute"
	case q <= time.Hour:
		return strconv.Itoa(int(q/time.Minute)) + " min"
	case q <= 6*time.Hour:
		h, half := q/time.Hour, q%time.Hour != 0
		if half {
			return fmt.Sprintf("%d½ h", h)
		}
		return fmt.Sprintf("%d h", h)
	case q <= 48*time.Hour:
		return fmt.Sprintf("%d h", q/time.Hour)
	case q <= 400*24*time.Hour:
		return fmt.Sprintf("%d days", q/(24*time.Hour))
	default:
		return "over a year"
	}
}

// quantum rounds a time to drain up to the step that ETA writes.
func quantum(d time.Duration) time.Duration {
	const day = 24 * time.Hour
	step := day
	switch {
	case d <= 10*time.Minute:
		step = time.Minute
	case d <= time.Hour:
		step = 5 * time.Minute
	case d <= 6*time.Hour:
		step = 30 * time.Minute
	case d <= 48*time.Hour:
		step = time.Hour
	case d > 400*day:
		return 401 * day
	}
	return max(time.Minute, (d+step-1)/step*step)
}

func days(v float64) string {
	switch {
	case v < 0:
		return "0 days"
	case v < 1:
		if h := int(v * 24); h >= 2 {
			return strconv.Itoa(h) + " h"
		}
		return strconv.Itoa(int(v*24*60)) + " min"
	case v < 10:
		return strconv.FormatFloat(math.Floor(v*10)/10, 'f', 1, 64) + " days"
	case v < 1000:
		return strconv.Itoa(int(v)) + " days"
	default:
		return "years"
	}
}
