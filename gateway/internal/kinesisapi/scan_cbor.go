package kinesisapi

import (
	"unicode/utf8"

	"forebay/uplink/cbor"
)

// putArena is 0: the records stay where they are in the body.
func (*cborCodec) putArena(int) int { return 0 }

// scanPuts reads a PutRecords request. The records' data points into the body.
func (*cborCodec) scanPuts(body []byte, b *batch) bool {
	b.begin()
	r := cbor.NewReader(body)
	records := false
	for n := r.Items(cbor.Map, maxValues); r.Another(&n); {
		switch string(r.String(cbor.Text)) {
		case "StreamName":
			if b.ref.StreamName != nil {
				return false
			}
			b.ref.StreamName = textOf(&r)
		case "StreamARN":
			if b.ref.StreamARN != nil {
				return false
			}
			b.ref.StreamARN = textOf(&r)
		case "Records":
			if records {
				return false
			}
			records = true
			for n := r.Items(cbor.Array, maxValues); r.Another(&n); {
				if !b.scanCBOR(&r) {
					return false
				}
			}
		default:
			return false
		}
		if r.Failed() {
			return false
		}
	}
	return r.AtEnd() && b.finish()
}

// textOf reads a text string of definite length.
func textOf(r *cbor.Reader) *string {
	s := string(r.String(cbor.Text))
	if !utf8.ValidString(s) {
		r.Fail()
	}
	return &s
}

// scanCBOR reads one record.
func (b *batch) scanCBOR(r *cbor.Reader) bool {
	rec := scanned{hash: -1}
	for n := r.Items(cbor.Map, maxValues); r.Another(&n); {
		switch string(r.String(cbor.Text)) {
		case "Data":
			if rec.haveData {
				return false
			}
			rec.data, rec.haveData = r.String(cbor.Bytes), true
		case "PartitionKey":
			k := r.String(cbor.Text)
			from := len(b.keys)
			b.keys = append(b.keys, k...)
			if !utf8.Valid(k) || !b.key(&rec, from) {
				return false
			}
		case "ExplicitHashKey":
			if !b.hashKey(&rec, r.String(cbor.Text)) {
				return false
			}
		default:
			return false
		}
	}
	return !r.Failed() && b.add(&rec)
}
