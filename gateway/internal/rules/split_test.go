package rules_test

import (
	"path/filepath"
	"testing"

	"forebay/gateway/internal/rules"
	"forebay/spool/record"
)

// split makes children of a shard, which takes no more records.
func (l *memLog) split(stream string, parent record.ShardID, children ...record.ShardID) {
	l.create(stream, children...)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range children {
		l.streams[stream][id].parents = []record.ShardID{parent}
	}
	s := l.streams[stream][parent]
	s.children = children
	close(s.more)
	s.more = make(chan struct{})
}

// What lies in a child is stepped behind all that its parent holds, also where
// its parent's records were stored before the rules ran.
func TestAChildIsReadBehindItsParent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.db")
	log := newMemLog("mqtt", "alarms")
	turns := func(n int, key string) (recs []record.Record) {
		for i := range n {
			recs = append(recs, rec(key, []string{"70", "90"}[i%2]))
		}
		return recs
	}
	log.put("mqtt", 1, turns(4000, "a")...)
	log.split("mqtt", 1, 2, 3)
	log.put("mqtt", 2, turns(4000, "a")...)
	log.put("mqtt", 3, turns(2, "b")...)
	log.split("mqtt", 2, 4)
	log.put("mqtt", 4, rec("a", "70"))
	const rule = hot + "ack = \"none\"\n"
	r := start(t, path, rule, log, rules.Options{FromOldest: true})
	until(t, "all is read", func() bool { return log.readTo(4) == 2 && log.readTo(3) == 3 })
	until(t, "the alarms are sent", func() bool { return r.Stats().Outbox == 0 })
	if s := r.Stats(); s.Changes != 4000+4000+1 || s.Shards != 2 {
		t.Errorf("%d changes in %d shards", s.Changes, s.Shards)
	}
	r.end()

	// A restart goes on where it was: the parents have ended.
	log.split("mqtt", 4, 5)
	log.put("mqtt", 5, rec("a", "90"))
	r = start(t, path, rule, log, rules.Options{})
	until(t, "the new child is read", func() bool { return log.readTo(5) == 2 })
	until(t, "the alarm is up", func() bool { return len(r.Alarms()) == 2 })
	if s := r.Stats(); s.Changes != 1 {
		t.Errorf("%d changes after a restart", s.Changes)
	}
}
