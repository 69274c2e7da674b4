package sigv4

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"strings"
)

// nvme is the polynomial of CRC-64/NVME (NVM Express NVM Command Set
// Specification, 5.2.1.3.4), reversed.
const nvme = 0x9a6c9329ac4bc9b5

const checksumPrefix = "x-amz-checksum-"

// newChecksum gives the hash of a trailing header; nil if it is none.
func newChecksum(header string) hash.Hash {
	name, ok := strings.CutPrefix(header, checksumPrefix)
	if !ok {
		return nil
	}
	switch name {
	case "crc32":
		return crc32.NewIEEE()
	case "crc32c":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "crc64nvme":
		return crc64.New(crc64.MakeTable(nvme))
	case "sha1":
		return sha1.New()
	case "sha256":
		return sha256.New()
	}
	return nil
}

// checkChecksum compares a checksum, in base64 and the highest byte first,
// with the payload's.
func checkChecksum(header, value string, payload []byte) error {
	h := newChecksum(header)
	want, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil || len(want) != h.Size() {
		return refuse("InvalidRequest", "Value for %s trailing header is invalid.", header)
	}
	h.Write(payload)
	if !bytes.Equal(h.Sum(nil), want) {
		return refuse("BadDigest", "The %s you specified did not match the calculated checksum.", strings.ToUpper(strings.TrimPrefix(header, checksumPrefix)))
	}
	return nil
}
