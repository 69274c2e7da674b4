package demo

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"forebay/firmware-sim/plant"
)

// Ports are the addresses that a demo uses.
type Ports struct {
	MQTT, Kinesis, API string // of the near gateway
	FarKinesis, FarAPI string // of the far gateway
	Link               string // where the near gateway thinks that the far one is
}

// DefaultPorts are the near gateway's own defaults, and others for the far end.
func DefaultPorts() Ports {
	return Ports{
		MQTT: "127.0.0.1:1883", Kinesis: "127.0.0.1:4567", API: "127.0.0.1:8480",
		FarKinesis: "127.0.0.1:4568", FarAPI: "127.0.0.1:8481", Link: "127.0.0.1:4570",
	}
}

// uplinked are the near gateway's streams that go to the far end.
var uplinked = []string{"mqtt", "serial", "video", "alarms"}

// farStreams are their names there.
func farStreams(p *plant.Plant) []string {
	var out []string
	for _, s := range uplinked {
		out = append(out, p.Name+"-"+s)
	}
	return out
}

// farConfig is the far gateway's config file.
func farConfig(dir string, p Ports) string {
	var b strings.Builder
	b.WriteString("# The far end of the demo: a second gateway that takes the near one's uplink.\n")
	table(&b, "[gateway]", "name", "site", "title", "Site", "data", filepath.Join(dir, "far"))
	table(&b, "[mqtt]", "listen", "off")
	table(&b, "[kinesis]", "listen", p.FarKinesis)
	table(&b, "[api]", "listen", p.FarAPI)
	return b.String()
}

// nearConfig is the config file of the gateway in the plant: its points,
// rules, ports and cameras are those of the plant's table.
func nearConfig(dir, serialDir string, p Ports, pl *plant.Plant) string {
	var b strings.Builder
	b.WriteString("# The demo's gateway. The uplink's endpoint is a link that the demo can cut.\n")
	table(&b, "[gateway]", "name", pl.Name, "title", pl.Title, "data", filepath.Join(dir, "near"))
	table(&b, "[mqtt]", "listen", p.MQTT)
	table(&b, "[kinesis]", "listen", p.Kinesis)
	table(&b, "[api]", "listen", p.API)
	table(&b, "[[uplink]]", "id", "site", "streams", uplinked, "retry_max", "2s")
	table(&b, "[uplink.kinesis]", "endpoint", "http://"+p.Link, "region", "eu-central-1",
		"stream", pl.Name+"-{stream}", "create_shards", 4, "access_key", "demo", "secret_key", "demo")
	for _, s := range pl.Serial {
		table(&b, "[[serial]]", "id", s.ID, "port", filepath.Join(serialDir, s.ID))
		if s.Kind == plant.Scale {
			pairs(&b, "query", "READ\r\n", "interval", s.Interval.String())
		}
	}
	for _, c := range pl.Cameras {
		table(&b, "[[camera]]", "id", c.ID, "label", c.Label)
	}
	for _, r := range pl.Rules {
		table(&b, "[[rule]]", "id", r.ID, "from", "mqtt", "match", r.Topic, "when", r.When, "clear", r.Clear, "for", r.For,
			"severity", strconv.Itoa(r.Severity), "text", r.Text, "unit", r.Unit)
	}
	for _, d := range pl.Devices {
		for _, pt := range d.Points {
			if pt.Label != "" {
				point(&b, d, pt)
			}
		}
	}
	return b.String()
}

func point(b *strings.Builder, d plant.Device, pt plant.Point) {
	table(b, "[[point]]", "id", d.ID+"-"+pt.Name, "label", pt.Label, "place", d.Place, "stream", "mqtt", "key", d.Topic(pt),
		"unit", pt.Unit, "low", pt.Low, "high", pt.High)
	for _, o := range []struct {
		name string
		v    *float64
	}{{"normal_low", pt.NormalLow}, {"normal_high", pt.NormalHigh}, {"limit", pt.Limit}} {
		if o.v != nil {
			pairs(b, o.name, *o.v)
		}
	}
}

// table writes a header and its pairs of names and values.
func table(b *strings.Builder, header string, nameValue ...any) {
	b.WriteString("\n" + header + "\n")
	pairs(b, nameValue...)
}

func pairs(b *strings.Builder, nameValue ...any) {
	for i := 0; i+1 < len(nameValue); i += 2 {
		fmt.Fprintf(b, "%s = %s\n", nameValue[i], value(nameValue[i+1]))
	}
}

// value writes a TOML value.
func value(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case []string:
		q := make([]string, len(v))
		for i, s := range v {
			q[i] = quote(s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	case float64:
		s := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	case time.Duration:
		return quote(v.String())
	}
	return fmt.Sprint(v)
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\n':
			b.WriteString(`\n`)
		case r < 0x20 || r == 0x7F:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
