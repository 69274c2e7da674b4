package spool

import (
	"encoding/binary"

	"forebay/spool/record"
)

func putHeadCRC(h []byte) {
	binary.LittleEndian.PutUint32(h[8:], uint32(len(h)))
	binary.LittleEndian.PutUint32(h[76:], headCRC(h))
}

func decodeBody(b *block, body []byte, verify bool) (int, error) {
	if verify {
		if err := b.setBody(body); err != nil {
			return 0, err
		}
	} else {
		b.body = body
	}
	n := 0
	for _, g := range b.groups {
		gr := newGroupReader(b, g, 1)
		var rec record.Record
		for gr.left() > 0 {
			if _, err := gr.next(&rec); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// EncodeBlock makes a block of records of one shard.
func EncodeBlock(shard record.ShardID, first uint64, recs []record.Record) (head, body []byte) {
	e := encoder{maxRow: maxBody}
	pend := make([]pending, len(recs))
	res := make([]record.Result, len(recs))
	for i := range recs {
		pend[i] = pending{rec: &recs[i], res: &res[i], arr: recs[i].Arrived.UnixNano(), mono: int64(recs[i].Mono)}
		pend[i].most = int32(pend[i].bound())
		pend[i].placed() // nothing lies in a chunk file here
	}
	b := e.encode(pend, []uint64{first}, []record.ShardID{shard}, func(int32) bool { return false })
	b.finish()
	return b.head, b.stored
}

// Pack is how a body is packed.
func Pack(body []byte) []byte {
	var p packer
	stored, _ := p.pack(body)
	return stored
}

// Unpack is the body of a packed one.
func Unpack(stored []byte, raw uint32) ([]byte, error) { return unpack(stored, codecSnappy, raw) }
