package record_test

import (
	"errors"
	"strings"
	"testing"

	"forebay/spool/record"
)

func TestKeyOf(t *testing.T) {
	for _, c := range []struct {
		name, key string
		long      bool
	}{
		{"plant/line1/temp", "plant/line1/temp", false},
		{strings.Repeat("a", record.MaxKey), strings.Repeat("a", record.MaxKey), false},
		{strings.Repeat("é", record.MaxKey), strings.Repeat("é", record.MaxKey), false}, // characters count, not bytes
		{strings.Repeat("a", 257), "b7958df91b9413477491e9b6e27f1bac", true},
	} {
		key, long := record.KeyOf(c.name)
		if key != c.key || long != c.long {
			t.Errorf("a name of %d bytes has the key %q, long %v; want %q, %v", len(c.name), key, long, c.key, c.long)
		}
		r := record.Record{Key: key}
		if err := r.Check(); err != nil {
			t.Errorf("the key of a name of %d bytes: %v", len(c.name), err)
		}
	}
}

func TestCheckNamesTheField(t *testing.T) {
	for _, c := range []struct {
		rec   record.Record
		field string
		large bool
	}{
		{record.Record{}, "partition key", false},
		{record.Record{Key: strings.Repeat("k", record.MaxKey+1)}, "partition key", false},
		{record.Record{Key: "\xff"}, "partition key", false},
		{record.Record{Key: "k", Data: make([]byte, record.MaxData+1)}, "data", true},
		{record.Record{Key: "k", Attrs: map[string]string{"a": strings.Repeat("v", record.MaxAttrBytes)}}, "attributes", false},
	} {
		err := c.rec.Check()
		bad, ok := errors.AsType[*record.InvalidError](err)
		if !ok || bad.Field != c.field || bad.TooLarge != c.large {
			t.Errorf("a key of %d, %d bytes of data, %d attributes: %v, want the field %q", len(c.rec.Key), len(c.rec.Data), len(c.rec.Attrs), err, c.field)
		}
	}
}
