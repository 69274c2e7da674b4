package http_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"time"
)

// clientCert is a certificate that signs itself.
var clientCert = func() (c struct{ cert, key []byte }) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if c.cert, err = x509.CreateCertificate(rand.Reader, of, of, &k.PublicKey, k); err != nil {
		panic(err)
	}
	if c.key, err = x509.MarshalPKCS8PrivateKey(k); err != nil {
		panic(err)
	}
	return c
}()
