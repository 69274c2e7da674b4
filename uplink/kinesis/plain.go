package kinesis

import "encoding/base64"

// bulk is what the records of a unit have together, to tell what they would
// take on the wire each as an entry of its own.
type bulk struct {
	n    int
	keys int // bytes of their keys
	data int // bytes of their data as they stand in an entry
}

func (b *bulk) add(key string, data []byte) {
	b.n++
	b.keys += len(key)
	b.data += base64.StdEncoding.EncodedLen(len(data))
}

// plain is what the records of a unit would take, as the unit's entry has size
// bytes: each has what the entry has beside data and key.
func (u *unit) plain(size int) int {
	if u.bulk.n < 2 {
		return size
	}
	beside := size - len(u.key) - base64.StdEncoding.EncodedLen(len(u.data))
	return u.bulk.n*beside + u.bulk.keys + u.bulk.data
}
