package sigv4_test

import (
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"forebay/gateway/internal/sigv4"
)

// BenchmarkVerify compares the verifying of a request of 100 KB with the
// SHA-256 of its body, which no verifier can do without. The ratio is the
// median over pairs that are taken in turn, so that what else the machine does
// falls on both.
func BenchmarkVerify(b *testing.B) {
	body := make([]byte, 100_000)
	w := signed(b, "/", testHeaders, body, testNow)
	v := verifier()
	verify := func(b *testing.B) {
		if err := check(v, w); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			sha256.Sum256(body)
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			verify(b)
		}
	})
	b.Run("ratio", func(b *testing.B) {
		var ratios []float64
		for b.Loop() {
			began := time.Now()
			sha256.Sum256(body)
			hashed := time.Now()
			verify(b)
			ratios = append(ratios, float64(time.Since(hashed))/float64(hashed.Sub(began)))
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], "verify/sha256")
	})
	b.Run("small", func(b *testing.B) { // what it costs besides the body
		w := signed(b, "/", testHeaders, nil, testNow)
		b.ReportAllocs()
		for b.Loop() {
			if err := check(v, w); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := sigv4.Parse(w.r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
