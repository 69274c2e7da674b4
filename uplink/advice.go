package uplink

import (
	"fmt"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
)

// advice says, for the class of an error, what the pump does about it by
// itself and what is left to a person.
func advice(c lane.Class, id string, longest time.Duration) string {
	most := conf.Duration(longest).InWords()
	again := fmt.Sprintf("it is tried again by itself, at the latest every %s; \"forebay uplink retry %s\" tries at once", most, id)
	switch c {
	case lane.OK:
		return ""
	case lane.Throttled:
		return "the target asks for less: smaller batches are sent until it takes more again; if it lasts, the target needs more capacity (shards, throughput)"
	case lane.Transient:
		return "the target could not do it now; it is sent again by itself"
	case lane.Ambiguous:
		return "no answer came, so the target may have taken it: the same records are sent again with the same ids"
	case lane.Auth:
		return "renew or correct the credentials, or what they are allowed to do; files and variables are read anew, and " + again
	case lane.ClockSkew:
		return "set this box's clock (NTP, or by hand); records keep their order, and " + again
	case lane.Misconfigured:
		return "correct the target or the config; the records are kept, and " + again
	case lane.Poison:
		return "the record that the target can never take waits for room in the stream refused"
	case lane.Offline:
		return "check the link, the name service, the proxy and the target's address; the records are kept, and the target is asked again by itself, at the latest every " + most
	}
	return ""
}
