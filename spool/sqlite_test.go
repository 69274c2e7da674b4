package spool_test

import (
	"context"
	"database/sql/driver"

	"modernc.org/sqlite"
)

// A connector opens a SQLite file as it is.
type connector struct{ path string }

func (c connector) Connect(context.Context) (driver.Conn, error) {
	return (&sqlite.Driver{}).Open("file:" + c.path)
}

func (c connector) Driver() driver.Driver { return &sqlite.Driver{} }
