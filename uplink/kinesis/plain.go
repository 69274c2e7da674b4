package kinesis

import "encoding/base64"

// bulk is what the records of a unit have together, to tell what they would
// take on the wire each as an entry of its own.
type bulk struct {
	n    int
	json int // bytes of keys and data as they stand in entries
	cbor int
}

func (b *bulk) add(key string, data []byte) {
	b.n++
	b.json += inJSON(key, data)
	b.cbor += inCBOR(key, data)
}

func inJSON(key string, data []byte) int {
	return len(key) + base64.StdEncoding.EncodedLen(len(data))
}

func inCBOR(key string, data []byte) int {
	return headOf(len(key)) + len(key) + headOf(len(data)) + len(data)
}

// headOf is how many bytes stand before n bytes (RFC 8949, section 3).
func headOf(n int) int {
	switch {
	case n < 24:
		return 1
	case n < 1<<8:
		return 2
	case n < 1<<16:
		return 3
	}
	return 5
}

// plain is what the records of a unit would take in a form, as the unit's entry
// has size bytes: each has what the entry has beside data and key.
func (u *unit) plain(form wire, size int) int {
	switch {
	case u.bulk.n < 2:
		return size
	case form.media() == cborMedia:
		return u.bulk.n*(size-inCBOR(u.key, u.data)) + u.bulk.cbor
	}
	return u.bulk.n*(size-inJSON(u.key, u.data)) + u.bulk.json
}
