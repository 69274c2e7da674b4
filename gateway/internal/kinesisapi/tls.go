package kinesisapi

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateLife is how long a certificate is used before its files are
// looked at again.
const certificateLife = time.Second

// A certificate is a pair of files that may be renewed while we run.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	looked time.Time
	loaded [2]fileStamp // what is in use
	told   string       // why the files cannot be used, as the log has it
	pair   *tls.Certificate
}

// A fileStamp changes when a file is written or replaced.
type fileStamp struct {
	written time.Time
	size    int64
}

func newCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	now, err := c.stamps()
	if err != nil {
		return nil, err
	}
	if err := c.load(now); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificate) stamps() (now [2]fileStamp, err error) {
	for i, name := range []string{c.certFile, c.keyFile} {
		fi, err := os.Stat(name)
		if err != nil {
			return now, fmt.Errorf("look at the certificate's files: %w", err)
		}
		now[i] = fileStamp{fi.ModTime(), fi.Size()}
	}
	return now, nil
}

func (c *certificate) load(now [2]fileStamp) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the Kinesis endpoint's certificate: %w", err)
	}
	c.pair, c.loaded = &pair, now
	return nil
}

// get gives the certificate of the files as they are now. While they are
// missing or do not belong together, as between two renames, the one before
// stays in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateLife {
		return c.pair, nil
	}
	c.looked = time.Now()
	now, err := c.stamps()
	if err == nil && now != c.loaded {
		if err = c.load(now); err == nil {
			c.log.Info("the renewed certificate is in use", "cert", c.certFile)
		}
	}
	told := ""
	if err != nil {
		told = err.Error()
	}
	if told != "" && told != c.told {
		c.log.Warn("the certificate's files cannot be used; the one before stays in use", "error", told)
	}
	c.told = told
	return c.pair, nil
}

// config is the TLS configuration that serves the certificate.
func (c *certificate) config() *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
}
