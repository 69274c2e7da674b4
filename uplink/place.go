package uplink

import (
	"fmt"
	"path"
	"strings"
)

// CheckPlaces looks whether two uplinks may send the same lanes to one place
// of a target that goes by what lies there to know what it has: what one has
// sent would count as sent by the other, whatever its shape leaves out. index
// is that of the second one; the error begins with the name of the field.
func CheckPlaces(all []Config) (index int, err error) {
	for i := range all {
		field, place := all[i].place()
		if place == "" {
			continue
		}
		for k := range all[:i] {
			if _, other := all[k].place(); other == place && meet(all[k].WithDefaults().Streams, all[i].WithDefaults().Streams) {
				return i, fmt.Errorf("%s: uplink %q goes to the same place with some of the same streams, and what lies there tells each of the two what it has sent; "+
					"give one of them another %s, or other streams", field, all[k].ID, field[strings.LastIndexByte(field, '.')+1:])
			}
		}
	}
	return 0, nil
}

// place is where a target keeps what it knows of lanes, without the uplink's
// name, and the field that changes it; "" where each uplink has a place of its
// own, or the target knows nothing.
func (c *Config) place() (field, place string) {
	switch {
	case c.S3 != nil:
		return "s3.prefix", "s3 " + c.S3.Target()
	case c.NATS != nil:
		return "nats.subject", "nats " + c.NATS.Target() + " " + c.NATS.WithDefaults().Subject
	}
	return "", ""
}

// meet reports whether a stream may match patterns of both lists.
func meet(a, b []string) bool {
	for _, p := range a {
		for _, q := range b {
			wild, too := strings.ContainsAny(p, `*?[\`), strings.ContainsAny(q, `*?[\`)
			there, _ := path.Match(p, q)
			back, _ := path.Match(q, p)
			if wild && too || there || back {
				return true
			}
		}
	}
	return false
}
