package mqtt

import (
	"forebay/spool/record"
	"forebay/uplink/lane"
)

// TopicOf is the topic of a record's message.
func TopicOf(cfg Config, id record.Identity, l lane.Lane, r record.Record) (string, error) {
	t, err := cfg.template()
	if err != nil {
		return "", err
	}
	m, err := newWriter(cfg.WithDefaults(), t, id).messages(nil, &l, &r)
	if err != nil {
		return "", err
	}
	return m[0].topic, nil
}
