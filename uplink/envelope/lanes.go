package envelope

import "strings"

// TypeLanes is the media type of a stored record that holds envelopes of
// other gateways' lanes, alone or as a KPL aggregate, of which the door that
// took them knows that they came in rising order. Its parameter "by" tells the
// series: who sent them.
const TypeLanes = "application/vnd.forebay.lanes"

const byParameter = TypeLanes + ";by="

// LanesType is the media type of records that came by a series.
func LanesType(by string) string { return byParameter + by }

// LanesBy is the series in such a media type; ok is false for any other.
func LanesBy(mediaType string) (by string, ok bool) {
	return strings.CutPrefix(mediaType, byParameter)
}
