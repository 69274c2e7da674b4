package kinesisapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"forebay/spool"
)

const (
	maxTags       = 50 // of a stream or a consumer
	maxTagKey     = 128
	maxTagValue   = 256
	maxTagsInCall = 200 // the model's bound

	patternResource = `arn:aws.*:kinesis:.*:\d{12}:.*stream/\S+`
)

var resourceRE = regexp.MustCompile(`^` + patternResource + `$`)

func (s *Server) tagOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.AddTagsToStream":      {toAdminister, decoded(s.addTagsToStream)},
		"Kinesis_20131202.ListTagsForResource":  {toDescribe, decoded(s.listTagsForResource)},
		"Kinesis_20131202.ListTagsForStream":    {toDescribe, decoded(s.listTagsForStream)},
		"Kinesis_20131202.RemoveTagsFromStream": {toAdminister, decoded(s.removeTagsFromStream)},
		"Kinesis_20131202.TagResource":          {toAdminister, decoded(s.tagResource)},
		"Kinesis_20131202.UntagResource":        {toAdminister, decoded(s.untagResource)},
	}
}

// tags checks a map of tags, which must be there.
func (f *faults) tags(tags map[string]string) {
	switch {
	case tags == nil:
		f.null("tags")
		return
	case len(tags) < 1:
		f.add(" '{}'", "tags", "have length greater than or equal to 1")
	case len(tags) > maxTagsInCall:
		f.add("", "tags", fmt.Sprintf("have length less than or equal to %d", maxTagsInCall))
	}
	for k, v := range tags {
		if n := utf8.RuneCountInString(k); n < 1 || n > maxTagKey {
			f.add("", "tags", fmt.Sprintf("satisfy constraint: [Member must have length less than or equal to %d, Member must have length greater than or equal to 1]", maxTagKey))
		}
		if utf8.RuneCountInString(v) > maxTagValue {
			f.add("", "tags", fmt.Sprintf("satisfy constraint: [Member must have length less than or equal to %d, Member must have length greater than or equal to 0]", maxTagValue))
		}
	}
}

func (f *faults) tagKeys(keys []string) {
	switch {
	case keys == nil:
		f.null("tagKeys")
		return
	case len(keys) < 1:
		f.add(" '[]'", "tagKeys", "have length greater than or equal to 1")
	case len(keys) > maxTags:
		f.add("", "tagKeys", fmt.Sprintf("have length less than or equal to %d", maxTags))
	}
	for i := range keys {
		f.text(fmt.Sprintf("tagKeys.%d.member", i+1), &keys[i], 1, maxTagKey, nil, "")
	}
}

// validTag reports whether a key or value has only what a tag may have
// (TagResource, Tags).
func validTag(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsSpace(r) && !strings.ContainsRune("_.:/=+-%@", r)
	})
}

// addTags puts tags to one of the note's maps of tags, which is made if there
// is none.
func (n *note) addTags(to *map[string]string, tags map[string]string) error {
	if len(tags) == 0 {
		return nil
	}
	for k, v := range tags {
		if !validTag(k) || !validTag(v) {
			return invalidArgument("Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . : / = + - %% @.")
		}
		if strings.HasPrefix(strings.ToLower(k), "aws:") {
			return invalidArgument("Tag keys that begin with aws: are reserved.")
		}
	}
	all := maps.Clone(*to)
	if all == nil {
		all = make(map[string]string, len(tags))
	}
	maps.Copy(all, tags)
	if len(all) > maxTags {
		return invalidArgument("A resource cannot have more than %d tags.", maxTags)
	}
	*to = all
	return nil
}

type tag struct{ Key, Value string }

// sorted lists tags by key.
func sorted(tags map[string]string) []tag {
	out := make([]tag, 0, len(tags))
	for k, v := range tags {
		out = append(out, tag{k, v})
	}
	slices.SortFunc(out, func(a, b tag) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

type addTagsInput struct {
	streamRef
	Tags map[string]string
}

func (s *Server) addTagsToStream(ctx context.Context, c *call, in *addTagsInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	f.tags(in.Tags)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	return nil, s.changeNote(ctx, st, func(n *note) error { return n.addTags(&n.Tags, in.Tags) })
}

type removeTagsInput struct {
	streamRef
	TagKeys []string
}

func (s *Server) removeTagsFromStream(ctx context.Context, c *call, in *removeTagsInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	f.tagKeys(in.TagKeys)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	return nil, s.changeNote(ctx, st, func(n *note) error { return removeTags(n.Tags, in.TagKeys) })
}

// removeTags ignores keys that are not there, as AWS does.
func removeTags(from map[string]string, keys []string) error {
	if !validTag(strings.Join(keys, "")) {
		return invalidArgument("Some tags contain invalid characters. Valid characters: Unicode letters, digits, white space, _ . : / = + - %% @.")
	}
	for _, k := range keys {
		delete(from, k)
	}
	return nil
}

type listTagsForStreamInput struct {
	streamRef
	ExclusiveStartTagKey *string
	Limit                *int
}

func (s *Server) listTagsForStream(_ context.Context, c *call, in *listTagsForStreamInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	f.text("exclusiveStartTagKey", in.ExclusiveStartTagKey, 1, maxTagKey, nil, "")
	f.number("limit", in.Limit, 1, maxTags)
	if err := f.err(); err != nil {
		return nil, err
	}
	_, n, err := c.findNote(in.streamRef)
	if err != nil {
		return nil, err
	}
	tags := sorted(n.Tags)
	if after := in.ExclusiveStartTagKey; after != nil {
		tags = slices.DeleteFunc(tags, func(t tag) bool { return t.Key <= *after })
	}
	limit := maxTags
	if in.Limit != nil {
		limit = *in.Limit
	}
	out := struct {
		Tags        []tag
		HasMoreTags bool
	}{tags, len(tags) > limit}
	out.Tags = tags[:min(limit, len(tags))]
	return out, nil
}

// A resource is what an ARN names: a stream, or one of its consumers.
type resource struct {
	st       *spool.Stream
	arn      string
	consumer string // its name; "" for the stream itself
	created  int64  // the consumer's, Unix seconds
}

func (f *faults) resource(arn *string) {
	f.required("resourceARN", arn, 1, maxARN, resourceRE, patternResource)
}

// findResource finds what a checked ARN names; a consumer is looked for when
// its tags are.
func (c *call) findResource(arn string) (resource, error) {
	r, ref := resource{arn: arn}, streamRef{StreamARN: &arn}
	if strings.Contains(arn, "/consumer/") {
		n, ok := parseConsumerARN(arn)
		if !ok {
			return r, invalidArgument("ResourceARN%s names neither a stream nor a consumer.", quoted(arn))
		}
		r.consumer, r.created, ref = n.name, n.created, streamRef{StreamName: &n.stream}
	}
	var err error
	r.st, err = c.find(ref)
	return r, err
}

// tags is where the note keeps the resource's tags.
func (r resource) tags(n *note) (*map[string]string, error) {
	if r.consumer == "" {
		return &n.Tags, nil
	}
	for i := range n.Consumers {
		if k := &n.Consumers[i]; k.is(r.consumer, r.created) {
			return &k.Tags, nil
		}
	}
	return nil, refuse("ResourceNotFoundException", "Consumer%s not found.", quoted(r.arn))
}

// changeTags changes the tags of a stream or a consumer.
func (s *Server) changeTags(ctx context.Context, c *call, arn string, change func(*note, *map[string]string) error) error {
	r, err := c.findResource(arn)
	if err != nil {
		return err
	}
	return s.changeNote(ctx, r.st, func(n *note) error {
		tags, err := r.tags(n)
		if err != nil {
			return err
		}
		return change(n, tags)
	})
}

type tagResourceInput struct {
	ResourceARN *string
	Tags        map[string]string
}

func (s *Server) tagResource(ctx context.Context, c *call, in *tagResourceInput) (any, error) {
	var f faults
	f.resource(in.ResourceARN)
	f.tags(in.Tags)
	if err := f.err(); err != nil {
		return nil, err
	}
	return nil, s.changeTags(ctx, c, *in.ResourceARN, func(n *note, of *map[string]string) error { return n.addTags(of, in.Tags) })
}

type untagResourceInput struct {
	ResourceARN *string
	TagKeys     []string
}

func (s *Server) untagResource(ctx context.Context, c *call, in *untagResourceInput) (any, error) {
	var f faults
	f.resource(in.ResourceARN)
	f.tagKeys(in.TagKeys)
	if err := f.err(); err != nil {
		return nil, err
	}
	return nil, s.changeTags(ctx, c, *in.ResourceARN, func(_ *note, of *map[string]string) error { return removeTags(*of, in.TagKeys) })
}

type listTagsForResourceInput struct{ ResourceARN *string }

func (s *Server) listTagsForResource(_ context.Context, c *call, in *listTagsForResourceInput) (any, error) {
	var f faults
	f.resource(in.ResourceARN)
	if err := f.err(); err != nil {
		return nil, err
	}
	r, err := c.findResource(*in.ResourceARN)
	if err != nil {
		return nil, err
	}
	n, err := s.noteOf(r.st)
	if err != nil {
		return nil, err
	}
	tags, err := r.tags(&n)
	if err != nil {
		return nil, err
	}
	return struct{ Tags []tag }{sorted(*tags)}, nil
}
