package kinesisapi

import "forebay/spool"

// recordLimit is how large a record of the stream may be, data and key, in
// bytes.
func (s *Server) recordLimit(*spool.Stream) int { return maxRecordBytes }
