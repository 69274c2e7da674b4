package localapi

import (
	"encoding/json"
	"iter"
	"math/big"
	"strconv"
	"unicode/utf8"

	"forebay/gateway/api"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/kpl"
)

// asTheyAre reads ?deaggregate=: a reader gets the records inside KPL
// aggregates unless it says false.
func asTheyAre(deaggregate string) (bool, error) {
	switch deaggregate {
	case "", "true":
		return false, nil
	case "false":
		return true, nil
	}
	return false, &record.InvalidError{Field: "deaggregate", Reason: strconv.Quote(deaggregate) + " is neither true nor false"}
}

// shown yields a record as it is shown, or, one by one, the records inside a
// KPL aggregate: under the aggregate's place, times and source, with a key, an
// explicit hash key, a payload and an id of their own. What only looks like an
// aggregate, and one that holds nothing, is shown as it is.
func (l *lines) shown(r *record.Record, sh spool.Shard) iter.Seq[api.Record] {
	return func(yield func(api.Record) bool) {
		one := api.Record{
			ID: l.identity.Of(r), Stream: l.stream, Shard: ShardName(sh.Index), Seq: r.Pos.Seq, Key: r.Key,
			Arrived: r.Arrived.UTC(), Source: r.Source, Type: r.Type, Attrs: r.Attrs, Chunk: r.Chunk.Len,
		}
		if r.HashKey != nil {
			one.HashKey = new(big.Int).SetBytes(r.HashKey[:]).String()
		}
		if !r.At.IsZero() {
			at := r.At.UTC()
			one.At = &at
		}
		var inside *kpl.Aggregate
		if !l.raw && kpl.IsAggregate(r.Data) {
			if a, err := kpl.Decode(r.Data); err == nil && a.Len() > 0 {
				inside = a
			}
		}
		if inside == nil {
			yield(payload(one, r.Data))
			return
		}
		for i, u := range inside.All() {
			part := one
			part.Sub, part.Key, part.HashKey = i+1, u.Key, u.HashKey
			part.ID += "/" + strconv.Itoa(part.Sub)
			if !yield(payload(part, u.Data)) {
				return
			}
		}
	}
}

// payload shows bytes as what they are: JSON, text, or neither.
func payload(r api.Record, data []byte) api.Record {
	switch {
	case len(data) == 0:
	case json.Valid(data):
		r.Data = json.RawMessage(data)
	case utf8.Valid(data):
		t := string(data)
		r.Text = &t
	default:
		r.Base64 = data
	}
	return r
}
