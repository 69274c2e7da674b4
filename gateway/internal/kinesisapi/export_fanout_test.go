package kinesisapi

import "time"

// SetTerms shortens the times of subscriptions that begin from now on.
func SetTerms(s *Server, lease, beat time.Duration) { s.terms = terms{lease, beat} }

// SetMaxConns changes how many connections may be open.
func SetMaxConns(s *Server, n int) { s.ln.most.Store(int64(n)) }

// SetRoom changes how many bytes requests, and events being written, may hold.
func SetRoom(s *Server, requests, events int64) { s.held.most, s.pushed.most = requests, events }

// Held is how many bytes requests and events being written hold.
func Held(s *Server) (requests, events int64) { return s.held.Load(), s.pushed.Load() }

// The bounds that tests hold the server to.
const (
	MaxHeld          = maxHeld
	MaxPushed        = maxPushed
	MaxSubscriptions = maxSubscriptions
	MaxConsumers     = maxConsumers
)
