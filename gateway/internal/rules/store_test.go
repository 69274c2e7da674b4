package rules_test

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

func TestDamagedStore(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"cut":   func(b []byte) []byte { return b[:50] },
		"other": func([]byte) []byte { return []byte(strings.Repeat("no database ", 400)) },
		"flipped": func(b []byte) []byte {
			return append(append(b[:4096:4096], bytes.Repeat([]byte{0xa5}, len(b)-8192)...), b[len(b)-4096:]...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rules.db")
			log := newMemLog("mqtt", "alarms")
			start(t, path, hot, log, rules.Options{}).end()
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o644); err != nil {
				t.Fatal(err)
			}
			r := start(t, path, hot, log, rules.Options{})
			until(t, "the alarm", func() bool { return len(r.Alarms()) == 1 })
			if a := r.Alarms()[0]; a.Rule != rules.SystemRule || a.Key != "rules/state-lost" || a.State != rules.StateRTNUnacked {
				t.Fatalf("%+v", a)
			}
			if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) == 0 {
				t.Error("nothing was put aside")
			}
			r.ready()
			log.put("mqtt", 1, rec("a", "90"))
			until(t, "rules work", func() bool { return len(r.Alarms()) == 2 })
		})
	}
}

func TestNewerStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.db")
	start(t, path, hot, newMemLog("mqtt", "alarms"), rules.Options{}).end()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "PRAGMA user_version = 2"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = rules.NewLoop(path, load(t, hot), newMemLog(), rules.Options{})
	var fe *record.FormatError
	if !errors.As(err, &fe) || fe.Path != path {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Error("the file was changed", err)
	}
}

// TestStoreFails: while rules.db takes nothing, alarms are shown and nothing
// goes to the log; when it does again, all of it goes.
func TestStoreFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.db")
	log := newMemLog("mqtt", "alarms")
	r := start(t, path, hot, log, rules.Options{FromOldest: true})
	r.ready()
	db, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "ALTER TABLE outbox RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	log.put("mqtt", 1, rec("a", "90"))
	until(t, "the alarm", func() bool { return len(r.Alarms()) == 1 })
	until(t, "the problem", func() bool {
		p := r.Stats().Problems
		return len(p) > 0 && strings.Contains(p[0], "cannot be stored")
	})
	if _, _, err := r.Ack(t.Context(), []string{"hot/a/1"}, "eve", ""); err == nil {
		t.Error("acknowledged, though not durably")
	}
	if n := len(log.transitions(t)); n != 0 {
		t.Errorf("%d transitions in the log", n)
	}
	if _, err := db.ExecContext(t.Context(), "ALTER TABLE elsewhere RENAME TO outbox"); err != nil {
		t.Fatal(err)
	}
	until(t, "both transitions", func() bool { return len(log.transitions(t)) == 2 && len(r.Stats().Problems) == 0 })
}
