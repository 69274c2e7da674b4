package spool

import "context"

// Scrub reads and verifies all closed segments now, as fast as it can.
func Scrub(s *Spool) ScrubStats {
	c := newScrubber(s)
	c.pass(context.Background())
	return c.snapshot()
}

// HoldRead keeps a read transaction on a file open.
func HoldRead(ctx context.Context, path string) (release func() error, err error) {
	db, err := openDatabase(ctx, path, openRead, "")
	if err != nil {
		return nil, err
	}
	var n int
	if err := db.run(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM block").Scan(&n); err != nil {
		return nil, err
	}
	return db.Close, nil
}
