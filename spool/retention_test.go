package spool_test

import (
	"crypto/rand"
	"time"

	"forebay/spool/record"
)

// aNewBoot lets every look be that of a machine that has booted since.
func aNewBoot() (record.BootID, time.Duration) {
	var id record.BootID
	_, _ = rand.Read(id[:]) // never fails
	return id, 0
}
