package kinesisapi

import "context"

// KeepMarks keeps the lanes' marks at once.
func KeepMarks(s *Server) { s.keepMarks(context.Background()) }

// MaxMarks is how many lanes of a stream are known.
const MaxMarks = maxMarks
