package query

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// maxSQL is the longest query, in bytes.
	maxSQL = 64 << 10
	// maxValue is the largest text or blob that a query may make or take, in
	// bytes.
	maxValue = 2 << 20
	// maxColumns is how many columns a table or a result may have.
	maxColumns = 400
)

// limits bound what one statement may ask of SQLite (sqlite3_limit). Time and
// memory are watched from outside as well; these see to it that no single step
// is beyond all measure, because only between steps can a statement be ended.
var limits = []struct{ id, value int }{
	{sqlite3.SQLITE_LIMIT_LENGTH, maxValue},
	{sqlite3.SQLITE_LIMIT_SQL_LENGTH, 2 * maxSQL}, // names with dots grow a little
	{sqlite3.SQLITE_LIMIT_COLUMN, maxColumns},
	{sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200},
	{sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 50},
	{sqlite3.SQLITE_LIMIT_VDBE_OP, 50_000},
	{sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 100},
	{sqlite3.SQLITE_LIMIT_ATTACHED, 0},
	{sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200},
	{sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1},
	{sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0},
}

// functions are those a query may call: all of SQLite's that do nothing but
// compute. What is not here is refused, so that a newer SQLite brings nothing
// in unseen.
var functions = strings.Fields(`
	-> ->> abs acos acosh asin asinh atan atan2 atanh avg ceil ceiling changes char coalesce concat concat_ws cos cosh
	count cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp first_value floor
	format glob group_concat hex if ifnull iif instr json json_array json_array_insert json_array_length
	json_error_position json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty
	json_quote json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_array_insert
	jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove
	jsonb_replace jsonb_set julianday lag last_value lead length like likelihood likely ln log log10 log2 lower
	ltrim match max min mod now nth_value ntile nullif octet_length percent_rank pi pow power printf quote radians random rank replace round row_number rtrim sign sin sinh
	soundex sqlite_version sqrt strftime string_agg subtype substr substring subtype sum tan tanh time timediff total trim
	trunc typeof unhex unicode unistr unistr_quote unixepoch unlikely upper`)

// verbs says what the authorizer's actions are, for people.
var verbs = map[sqlite.AuthorizerActionCode]string{
	sqlite.AuthInsert: "INSERT", sqlite.AuthUpdate: "UPDATE", sqlite.AuthDelete: "DELETE", sqlite.AuthPragma: "PRAGMA",
	sqlite.AuthAttach: "ATTACH", sqlite.AuthDetach: "DETACH", sqlite.AuthTransaction: "BEGIN, COMMIT and ROLLBACK",
	sqlite.AuthSavepoint: "SAVEPOINT", sqlite.AuthAlterTable: "ALTER TABLE", sqlite.AuthReindex: "REINDEX", sqlite.AuthAnalyze: "ANALYZE",
}

// allow is the connection's authorizer: what is not reading a stream, calling
// a known function or selecting is refused when the statement compiles.
func (r *run) allow(action sqlite.AuthorizerActionCode, arg1, arg2, _, _ string) sqlite.AuthorizerReturnCode {
	if r.preparing {
		return sqlite.AuthorizerOK
	}
	switch action {
	case sqlite.AuthSelect, sqlite.AuthRecursive:
		return sqlite.AuthorizerOK
	case sqlite.AuthFunction:
		if slices.Contains(functions, strings.ToLower(arg2)) {
			return sqlite.AuthorizerOK
		}
		r.refusal = refuse(fmt.Sprintf("the function %s is not for queries", arg2), "")
	case sqlite.AuthRead:
		if r.readable(arg1, arg2) {
			return sqlite.AuthorizerOK
		}
		r.refusal = refuse(fmt.Sprintf("the table %s is not for queries", arg1), "`forebay streams` lists the streams")
	case sqlite.AuthInsert:
		if r.output != "" && arg1 == r.output {
			return sqlite.AuthorizerOK // our own statement around the query
		}
		fallthrough
	default:
		verb := verbs[action]
		if verb == "" {
			verb = "this statement"
		}
		r.refusal = refuse("a query only reads; "+verb+" is refused", "")
	}
	return sqlite.AuthorizerDeny
}

// readable reports whether a query may read a table. Where no column of it is
// read SQLite asks for what the query itself defines, too.
func (r *run) readable(name, col string) bool {
	if s, ok := r.engine.stream(name); ok && r.tables[s] != nil {
		return true
	}
	if _, ok := r.names.aliases[strings.ToLower(name)]; ok && col == "" {
		return true
	}
	return slices.Contains([]string{"json_each", "json_tree", "jsonb_each", "jsonb_tree"}, name) || r.output != "" && name == r.output
}

// arm gives the connection its limits and its authorizer.
func (r *run) arm(ctx context.Context, c *sql.Conn) error {
	for _, p := range []string{"PRAGMA temp_store=MEMORY", "PRAGMA cache_size=-8192", "PRAGMA trusted_schema=OFF"} {
		if _, err := c.ExecContext(ctx, p); err != nil {
			return err
		}
	}
	for _, l := range limits {
		if _, err := sqlite.Limit(c, l.id, l.value); err != nil {
			return err
		}
	}
	return c.Raw(func(driverConn any) error {
		a, ok := driverConn.(sqlite.AuthorizerRegisterer)
		if !ok {
			return fmt.Errorf("the SQLite driver %T has no authorizer", driverConn)
		}
		return a.RegisterAuthorizer(r.allow)
	})
}
