package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"forebay/gateway/conf"
)

func streamName(s string) conf.Stream { return conf.Stream(s) }

// payloads is the bytes that records are cut from, one after the other and
// round again. Spool and rival write the same.
type payloads struct {
	name string
	size int // bytes of one
	all  []byte
}

const payloadPool = 8 << 20

// randomPayloads are bytes that nothing compresses.
func randomPayloads(size int) payloads {
	p := payloads{name: "random", size: size, all: make([]byte, payloadPool/size*size)}
	rng := rand.NewPCG(1, 2)
	for i := 0; i+8 <= len(p.all); i += 8 {
		binary.LittleEndian.PutUint64(p.all[i:], rng.Uint64())
	}
	return p
}

// jsonPayloads are measurements as a sensor sends them, cut or filled up to
// the size.
func jsonPayloads(size int) payloads {
	p := payloads{name: "json", size: size, all: make([]byte, 0, payloadPool/size*size)}
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // G404: not for secrets
	for i := 0; len(p.all)+size <= payloadPool; i++ {
		s := fmt.Sprintf(`{"name":"temp","value":%.2f,"unit":"Cel","quality":"good","time":"2026-01-01T%02d:%02d:%02d.%03dZ"}`,
			20+rng.Float64()*10, i/3_600_000%24, i/60_000%60, i/1000%60, i%1000)
		for len(s) < size {
			s += fmt.Sprintf(`,"x%d":%d`, len(s), rng.IntN(1000))
		}
		p.all = append(p.all, s[:size]...)
	}
	return p
}

// take is n payloads in one piece of memory, beginning at the i-th call's.
func (p payloads) take(i, n int) []byte {
	want := n * p.size
	if want >= len(p.all) {
		return p.all
	}
	calls := (len(p.all)-want)/p.size + 1
	return p.all[i*n%calls*p.size:][:want]
}
