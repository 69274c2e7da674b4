package kinesisapi

import (
	"maps"
	"slices"
)

// Targets are the operations that the server answers, as X-Amz-Target names
// them.
func Targets(s *Server) []string { return slices.Sorted(maps.Keys(s.ops)) }
