package kinesisapi

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// restricted reports whether the key has a policy. A list that is empty is one
// that was not given: the printed configuration has all three.
func (k *Key) restricted() bool { return len(k.Read)+len(k.Write)+len(k.Admin) > 0 }

// may reports whether the key allows something to be done to a stream. To
// describe one takes any of the three. No key at all is that of an endpoint
// without keys, which allows everything.
func (k *Key) may(a access, stream string) bool {
	if k == nil || !k.restricted() {
		return true
	}
	switch a {
	case toDescribe:
		return matches(k.Read, stream) || matches(k.Write, stream) || matches(k.Admin, stream)
	case toRead:
		return matches(k.Read, stream)
	case toWrite:
		return matches(k.Write, stream)
	case toAdminister:
		return matches(k.Admin, stream)
	}
	return false
}

func matches(patterns []string, stream string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, stream)
		return err == nil && ok
	})
}

// checkPolicy says what is wrong with a key's patterns.
func (k *Key) checkPolicy() error {
	for _, list := range []struct {
		name     string
		patterns []string
	}{{"read", k.Read}, {"write", k.Write}, {"admin", k.Admin}} {
		for _, p := range list.patterns {
			if _, err := path.Match(p, ""); err != nil || p == "" || strings.Contains(p, "/") {
				return fmt.Errorf("%s: %q of the access key %q is not a pattern; write for example \"mqtt\", \"line-*\" or \"*\"", list.name, p, k.AccessKey)
			}
		}
	}
	return nil
}

// allow refuses what the key's policy does not allow the call to do to a
// stream, whether there is such a stream or not.
func (c *call) allow(stream string) error {
	if c.key.may(c.op.needs, stream) {
		return nil
	}
	action, resource := c.action(), c.s.arn(stream)
	if strings.HasPrefix(action, serviceFirehose) {
		resource = "arn:aws:firehose:" + c.s.cfg.Region + ":" + c.s.cfg.Account + ":deliverystream/" + stream
	}
	return refuse("AccessDeniedException", "User: arn:aws:iam::%s:user/%s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action",
		c.s.cfg.Account, c.key.AccessKey, action, resource, action)
}

// action is what the call does, as a policy of AWS names it.
func (c *call) action() string {
	if op, ok := strings.CutPrefix(c.target, targetFirehose); ok {
		return serviceFirehose + ":" + op
	}
	return serviceKinesis + ":" + strings.TrimPrefix(c.target, targetKinesis)
}
