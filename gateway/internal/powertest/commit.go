package powertest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"forebay/spool"
	"forebay/spool/record"
)

// commit measures a commit of the spool that holds one small record: what a
// lone producer waits for, and what it makes the disk write.
func (m *measurer) commit(ctx context.Context) error {
	var before int64
	var counted bool
	s, err := spool.Open(ctx, filepath.Join(m.dir, "spool"), spool.Config{Quota: 64 << 20}, nil)
	if err != nil {
		return fmt.Errorf("measure a commit: %w", err)
	}
	st, err := s.Ensure(ctx, spool.StreamConfig{Name: "powertest"})
	if err == nil {
		data := noise(100)
		before, counted = processWritten()
		m.facts.Commit, err = m.rounds(ctx, func(int) error {
			res, err := st.Put(ctx, []record.Record{{Key: "powertest", Source: "powertest", Data: data}})
			if err == nil {
				err = res[0].Err
			}
			return err
		})
	}
	stats := s.Stats()
	if err = errors.Join(err, s.Close()); err != nil { // brings the WAL into the file: that counts too
		return fmt.Errorf("measure a commit: %w", err)
	}
	written := int64(stats.Written) // the spool's own estimate
	if after, ok := processWritten(); ok && counted && after > before {
		written = after - before
	}
	m.facts.Written += written
	if stats.Records > 0 {
		m.facts.RecordBytes = float64(written) / float64(stats.Records)
	}
	return nil
}
