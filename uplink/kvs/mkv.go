package kvs

import "encoding/binary"

// Matroska (RFC 9559) as Kinesis Video wants it: an EBML header, one segment
// of unknown size with Info and Tracks, and then for each fragment its Tags and
// one Cluster of SimpleBlocks. Timestamps are milliseconds since 1970 in UTC.
const (
	idEBML, idVersion, idReadVersion, idMaxID, idMaxSize       = 0x1A45DFA3, 0x4286, 0x42F7, 0x42F2, 0x42F3
	idDocType, idDocVersion, idDocReadVersion                  = 0x4282, 0x4287, 0x4285
	idSegment, idInfo, idScale, idMuxer, idWriter              = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4D80, 0x5741
	idTracks, idTrackEntry, idTrackNumber, idTrackUID          = 0x1654AE6B, 0xAE, 0xD7, 0x73C5
	idTrackType, idTrackName, idCodec, idPrivate, idLacing     = 0x83, 0x536E, 0x86, 0x63A2, 0x9C
	idVideo, idWidth, idHeight                                 = 0xE0, 0xB0, 0xBA
	idTags, idTag, idTargets, idSimpleTag, idTagName, idTagStr = 0x1254C367, 0x7373, 0x63C0, 0x67C8, 0x45A3, 0x4487
	idCluster, idTimestamp, idSimpleBlock                      = 0x1F43B675, 0xE7, 0xA3

	codecAVC  = "V_MPEG4/ISO/AVC"
	codecHEVC = "V_MPEGH/ISO/HEVC"

	trackNumber = 1
	blockHead   = 4 // track number, two bytes of time, flags
)

func appendID(b []byte, id uint32) []byte {
	switch {
	case id > 0xFFFFFF:
		return binary.BigEndian.AppendUint32(b, id)
	case id > 0xFFFF:
		return append(b, byte(id>>16), byte(id>>8), byte(id))
	case id > 0xFF:
		return append(b, byte(id>>8), byte(id))
	}
	return append(b, byte(id))
}

// appendSize writes a size in the fewest bytes; all ones, which would mean
// that it is not known, are avoided.
func appendSize(b []byte, n uint64) []byte {
	width := sizeLen(n)
	n |= 1 << (7 * width)
	for i := width - 1; i >= 0; i-- {
		b = append(b, byte(n>>(8*i)))
	}
	return b
}

func sizeLen(n uint64) int {
	width := 1
	for n >= 1<<(7*width)-1 {
		width++
	}
	return width
}

func appendBytes[T ~string | ~[]byte](b []byte, id uint32, v T) []byte {
	return append(appendSize(appendID(b, id), uint64(len(v))), v...)
}

func appendUint(b []byte, id uint32, v uint64) []byte {
	width := 1
	for width < 8 && v>>(8*width) != 0 {
		width++
	}
	b = appendSize(appendID(b, id), uint64(width))
	for i := width - 1; i >= 0; i-- {
		b = append(b, byte(v>>(8*i)))
	}
	return b
}

// appendHead writes what stands before the first fragment of a connection.
func appendHead(b []byte, t *track) []byte {
	var e []byte
	for _, f := range []struct {
		id uint32
		v  uint64
	}{{idVersion, 1}, {idReadVersion, 1}, {idMaxID, 4}, {idMaxSize, 8}} {
		e = appendUint(e, f.id, f.v)
	}
	e = appendBytes(e, idDocType, "matroska")
	e = appendUint(appendUint(e, idDocVersion, 2), idDocReadVersion, 2)
	b = appendBytes(b, idEBML, e)

	b = append(appendID(b, idSegment), 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // until the connection ends
	info := appendUint(nil, idScale, 1_000_000)
	info = appendBytes(appendBytes(info, idMuxer, "forebay"), idWriter, "forebay")
	b = appendBytes(b, idInfo, info)

	entry := appendUint(appendUint(nil, idTrackNumber, trackNumber), idTrackUID, trackNumber)
	entry = appendUint(entry, idTrackType, 1) // video
	entry = appendUint(entry, idLacing, 0)
	entry = appendBytes(entry, idTrackName, "video")
	entry = appendBytes(entry, idCodec, t.codec)
	entry = appendBytes(entry, idPrivate, t.private)
	entry = appendBytes(entry, idVideo, appendUint(appendUint(nil, idWidth, uint64(t.width)), idHeight, uint64(t.height)))
	return appendBytes(b, idTracks, appendBytes(nil, idTrackEntry, entry))
}

// A tag is one piece of metadata that the service keeps with a fragment.
type tag struct{ name, value string }

// appendTags writes the metadata of the fragment that follows.
func appendTags(b []byte, tags []tag) []byte {
	one := appendBytes(nil, idTargets, "")
	for _, t := range tags {
		one = appendBytes(one, idSimpleTag, appendBytes(appendBytes(nil, idTagName, t.name), idTagStr, t.value))
	}
	return appendBytes(b, idTags, appendBytes(nil, idTag, one))
}

// clusterSize is how many bytes a cluster has behind its size.
func clusterSize(at int64, frames []frame) uint64 {
	n := uint64(len(appendUint(nil, idTimestamp, uint64(at))))
	for i := range frames {
		n += blockSize(&frames[i])
	}
	return n
}

// blockSize is how many bytes a picture takes in a cluster.
func blockSize(f *frame) uint64 {
	body := uint64(f.size) + blockHead
	return 1 + uint64(sizeLen(body)) + body
}

func appendCluster(b []byte, at int64, size uint64) []byte {
	return appendUint(appendSize(appendID(b, idCluster), size), idTimestamp, uint64(at))
}

// appendBlock writes the head of a SimpleBlock; the picture follows.
func appendBlock(b []byte, size uint32, off int16, key bool) []byte {
	b = appendSize(appendID(b, idSimpleBlock), uint64(size)+blockHead)
	flags := byte(0)
	if key {
		flags = 0x80
	}
	return append(b, 0x80|trackNumber, byte(uint16(off)>>8), byte(off), flags)
}
