//go:build !linux

package spool

// dropCached does nothing: the system has no way to ask for it.
func dropCached(string) {}
