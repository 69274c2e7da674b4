package demo

import (
	"fmt"
	"strings"
	"time"

	"forebay/firmware-sim/factory"
	"forebay/firmware-sim/link"
)

// screen draws the one-screen status, at most width columns wide.
func screen(v view, l link.Stats, f factory.Stats, now, started time.Time, note string, width int) []string {
	title := "Forebay demo"
	if v.status.Title != "" {
		title += ": " + v.status.Title + " (" + v.status.Gateway + ")"
	}
	out := []string{fmt.Sprintf("%-52s %s   running %s", title, now.Format("15:04:05"), clock(now.Sub(started))), ""}
	add := func(name, format string, args ...any) {
		out = append(out, fmt.Sprintf("  %-9s ", name)+fmt.Sprintf(format, args...))
	}
	if v.err != nil {
		add("gateway", "not reached: %v", v.err)
	} else {
		add("in", "%.1f records/s, %d in all, %.1f MB on disk", v.status.In.PerSecond, v.status.In.Total, float64(v.status.Disk.Used)/1e6)
		for _, u := range v.uplinks {
			add("uplink", "%s, %d delivered%s", u.State, u.Delivered, because(u.Error))
		}
		waiting, oldest := v.waiting()
		age := ""
		if oldest != nil && waiting > 0 {
			age = ", oldest " + clock(now.Sub(*oldest))
		}
		add("backlog", "%d records%s", waiting, age)
	}
	add("link", "%s, %d connections, %d bytes out, %d bytes back", l.State, l.Connections, l.BytesIn, l.BytesOut)
	add("factory", "%d of %d devices, %d acknowledged, %d serial lines, %d pictures",
		f.Fleet.Connected, f.Fleet.Devices, f.Fleet.Acked, f.Serial, f.Chunks)
	out = append(out, "")
	out = append(out, tileLines(v.tiles)...)
	out = append(out, "")
	out = append(out, alarmLines(v)...)
	out = append(out, "", "  c cuts or restores the link   r overheats a press   q stops everything", "  "+note)
	for i := range out {
		out[i] = strings.TrimRight(out[i], " ")
		if r := []rune(out[i]); len(r) > width {
			out[i] = string(r[:width])
		}
	}
	return out
}

func because(err string) string {
	if err == "" {
		return ""
	}
	return ": " + strings.ReplaceAll(err, "\n", " ")
}

// tileLines shows the points, two in a line.
func tileLines(tiles []tile) []string {
	var out []string
	for i := 0; i < len(tiles); i += 2 {
		var line strings.Builder
		line.WriteString(" ")
		for _, t := range tiles[i:min(i+2, len(tiles))] {
			v := "-"
			if t.Value != nil {
				v = fmt.Sprintf("%.1f", *t.Value)
			}
			mark := " "
			if t.Alarm > 0 {
				mark = "!"
			}
			fmt.Fprintf(&line, " %s %-18s %8s %-8s", mark, t.Label, v, t.Unit)
		}
		out = append(out, line.String())
	}
	return out
}

// alarmLines shows the alarms that an operator would see, at most five.
func alarmLines(v view) []string {
	if v.err != nil {
		return []string{"  alarms: not known"}
	}
	var out []string
	shown := 0
	for _, a := range v.alarms {
		if a.State == "normal" {
			continue
		}
		if shown++; shown <= 5 {
			out = append(out, fmt.Sprintf("  P%d %-11s %s  %s", a.Severity, a.State, a.Text, a.Key))
		}
	}
	head := fmt.Sprintf("  alarms: %d", shown)
	return append([]string{head}, out...)
}

func clock(d time.Duration) string {
	s := int(max(d, 0).Seconds())
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}
