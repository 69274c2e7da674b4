package kinesisapi

import "unicode/utf8"

// putArena is 0: the records stay where they are in the body.
func (*cborCodec) putArena(int) int { return 0 }

// scanPuts reads a PutRecords request. The records' data points into the body.
func (*cborCodec) scanPuts(body []byte, b *batch) bool {
	b.begin()
	r := cborReader{b: body}
	records := false
	for n := r.items(cborMap); r.another(&n); {
		switch string(r.string(cborText)) {
		case "StreamName":
			if b.ref.StreamName != nil {
				return false
			}
			b.ref.StreamName = r.text()
		case "StreamARN":
			if b.ref.StreamARN != nil {
				return false
			}
			b.ref.StreamARN = r.text()
		case "Records":
			if records {
				return false
			}
			records = true
			for n := r.items(cborArray); r.another(&n); {
				if !b.scanCBOR(&r) {
					return false
				}
			}
		default:
			return false
		}
		if r.bad {
			return false
		}
	}
	return !r.bad && r.at == len(body) && b.finish()
}

// text reads a text string of definite length.
func (r *cborReader) text() *string {
	s := string(r.string(cborText))
	if !utf8.ValidString(s) {
		r.bad = true
	}
	return &s
}

// scanCBOR reads one record.
func (b *batch) scanCBOR(r *cborReader) bool {
	rec := scanned{hash: -1}
	for n := r.items(cborMap); r.another(&n); {
		switch string(r.string(cborText)) {
		case "Data":
			if rec.haveData {
				return false
			}
			rec.data, rec.haveData = r.string(cborBytes), true
		case "PartitionKey":
			k := r.string(cborText)
			from := len(b.keys)
			b.keys = append(b.keys, k...)
			if !utf8.Valid(k) || !b.key(&rec, from) {
				return false
			}
		case "ExplicitHashKey":
			if !b.hashKey(&rec, r.string(cborText)) {
				return false
			}
		default:
			return false
		}
	}
	return !r.bad && b.add(&rec)
}
