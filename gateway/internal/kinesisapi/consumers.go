package kinesisapi

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
)

const (
	// maxConsumers is how many consumers a stream may have (API reference,
	// RegisterStreamConsumer: 20 of a provisioned stream).
	maxConsumers = 20
	// maxConsumersListed is the largest page of ListStreamConsumers.
	maxConsumersListed = 100

	kindConsumers tokenKind = 'C'

	patternConsumerARN = `^(arn):aws.*:kinesis:.*:\d{12}:.*stream\/[a-zA-Z0-9_.-]+\/consumer\/[a-zA-Z0-9_.-]+:[0-9]+`

	consumerActive = "ACTIVE"
)

var consumerARNRE = regexp.MustCompile(patternConsumerARN + `$`)

// consumerOperations are about those who are registered to be pushed the
// records of a stream, and about the pushing.
func (s *Server) consumerOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.DeregisterStreamConsumer": {toAdminister, decoded(s.deregisterStreamConsumer)},
		"Kinesis_20131202.DescribeStreamConsumer":   {toDescribe, decoded(s.describeStreamConsumer)},
		"Kinesis_20131202.ListStreamConsumers":      {toDescribe, decoded(s.listStreamConsumers)},
		"Kinesis_20131202.RegisterStreamConsumer":   {toAdminister, decoded(s.registerStreamConsumer)},
		"Kinesis_20131202.SubscribeToShard":         {toRead, decoded(s.subscribeToShard)},
	}
}

// A consumerName is what an ARN says of a consumer. The region and the account
// are not compared, as in the ARN of a stream.
type consumerName struct {
	stream, name string
	created      int64 // seconds since 1970
}

// parseConsumerARN reads arn:aws:kinesis:REGION:ACCOUNT:stream/STREAM/consumer/NAME:CREATED.
func parseConsumerARN(arn string) (consumerName, bool) {
	var c consumerName
	if len(arn) > maxARN || !consumerARNRE.MatchString(arn) {
		return c, false
	}
	at := strings.LastIndex(arn, "stream/") // a name holds no slash
	stream, rest, ok := strings.Cut(arn[at+len("stream/"):], "/consumer/")
	if !ok || !conf.ValidStream(stream) {
		return c, false
	}
	name, created, _ := strings.Cut(rest, ":") // the pattern has one
	sec, err := strconv.ParseInt(created, 10, 64)
	if err != nil || strconv.FormatInt(sec, 10) != created || len(name) > maxName {
		return c, false
	}
	return consumerName{stream, name, sec}, true
}

func (s *Server) consumerARN(stream string, c consumer) string {
	return s.arn(stream) + "/consumer/" + c.Name + ":" + strconv.FormatInt(c.Created.Unix(), 10)
}

// A consumerRef names a consumer in a request: by its ARN, by its name and its
// stream's ARN, or by all three.
type consumerRef struct {
	StreamARN    *string
	ConsumerName *string
	ConsumerARN  *string
}

func (f *faults) consumer(r consumerRef) {
	f.text("streamARN", r.StreamARN, 1, maxARN, arnRE, patternARN)
	f.text("consumerName", r.ConsumerName, 1, maxName, nameRE, patternName)
	f.text("consumerARN", r.ConsumerARN, 1, maxARN, consumerARNRE, patternConsumerARN)
}

// consumer finds what a checked consumerRef names.
func (c *call) consumer(r consumerRef) (*spool.Stream, consumer, error) {
	ref, name, created := streamRef{StreamARN: r.StreamARN}, "", int64(-1)
	switch {
	case r.ConsumerARN != nil:
		arn, ok := parseConsumerARN(*r.ConsumerARN)
		if !ok {
			return nil, consumer{}, invalidArgument("ConsumerARN%s does not name a consumer.", quoted(*r.ConsumerARN))
		}
		if r.ConsumerName != nil && *r.ConsumerName != arn.name {
			return nil, consumer{}, invalidArgument("ConsumerName%s and ConsumerARN%s do not name the same consumer.", quoted(*r.ConsumerName), quoted(*r.ConsumerARN))
		}
		ref.StreamName, name, created = &arn.stream, arn.name, arn.created // find compares it with the stream's ARN
	case r.StreamARN == nil || r.ConsumerName == nil:
		return nil, consumer{}, invalidArgument("Either ConsumerARN or both StreamARN and ConsumerName must be specified.")
	default:
		name = *r.ConsumerName
	}
	st, n, err := c.findNote(ref)
	if err != nil {
		return nil, consumer{}, err
	}
	i := slices.IndexFunc(n.Consumers, func(have consumer) bool { return have.is(name, created) })
	if i < 0 {
		return nil, consumer{}, c.s.noConsumer(name, st.Name())
	}
	return st, n.Consumers[i], nil
}

// is reports whether it is the consumer of that name and, unless created is
// negative, of that time.
func (c consumer) is(name string, created int64) bool {
	return c.Name == name && (created < 0 || c.Created.Unix() == created)
}

func (s *Server) noConsumer(name, stream string) *apiError {
	return refuse("ResourceNotFoundException", "Consumer %s under stream %s not found for account %s.", name, stream, s.cfg.Account)
}

type consumerMembers struct {
	ConsumerName              string
	ConsumerARN               string
	ConsumerStatus            string
	ConsumerCreationTimestamp epoch
}

func (s *Server) consumerMembers(st *spool.Stream, c consumer) consumerMembers {
	return consumerMembers{c.Name, s.consumerARN(st.Name(), c), consumerActive, epoch(c.Created)}
}

type registerStreamConsumerInput struct {
	StreamARN    *string
	ConsumerName *string
	Tags         map[string]string
}

func (in *registerStreamConsumerInput) check() error {
	var f faults
	f.required("streamARN", in.StreamARN, 1, maxARN, arnRE, patternARN)
	f.required("consumerName", in.ConsumerName, 1, maxName, nameRE, patternName)
	if in.Tags != nil {
		f.tags(in.Tags)
	}
	return f.err()
}

func (s *Server) registerStreamConsumer(ctx context.Context, c *call, in *registerStreamConsumerInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, err := c.find(streamRef{StreamARN: in.StreamARN})
	if err != nil {
		return nil, err
	}
	made := consumer{Name: *in.ConsumerName, Created: s.now().UTC().Truncate(time.Millisecond)}
	err = s.changeNote(ctx, st, func(n *note) error {
		switch {
		case slices.ContainsFunc(n.Consumers, func(have consumer) bool { return have.Name == made.Name }):
			return refuse("ResourceInUseException", "Consumer %s under stream %s already exists for account %s.", made.Name, st.Name(), s.cfg.Account)
		case len(n.Consumers) >= maxConsumers:
			return refuse("LimitExceededException", "Stream %s under account %s has reached its limit of %d registered consumers.", st.Name(), s.cfg.Account, maxConsumers)
		}
		if err := n.addTags(&made.Tags, in.Tags); err != nil {
			return err
		}
		n.Consumers = append(n.Consumers, made)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("consumer registered", "stream", st.Name(), "consumer", made.Name)
	return struct{ Consumer consumerMembers }{s.consumerMembers(st, made)}, nil
}

func (s *Server) describeStreamConsumer(_ context.Context, c *call, in *consumerRef) (any, error) {
	var f faults
	f.consumer(*in)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, found, err := c.consumer(*in)
	if err != nil {
		return nil, err
	}
	type description struct {
		consumerMembers
		StreamARN string
	}
	return struct{ ConsumerDescription description }{description{s.consumerMembers(st, found), s.arn(st.Name())}}, nil
}

// deregisterStreamConsumer ends the consumer's subscriptions as well.
func (s *Server) deregisterStreamConsumer(ctx context.Context, c *call, in *consumerRef) (any, error) {
	var f faults
	f.consumer(*in)
	if err := f.err(); err != nil {
		return nil, err
	}
	st, found, err := c.consumer(*in)
	if err != nil {
		return nil, err
	}
	err = s.changeNote(ctx, st, func(n *note) error {
		i := slices.IndexFunc(n.Consumers, func(have consumer) bool { return have.is(found.Name, found.Created.Unix()) })
		if i < 0 {
			return s.noConsumer(found.Name, st.Name())
		}
		n.Consumers = slices.Delete(n.Consumers, i, i+1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.subs.endConsumer(st, found)
	s.log.Info("consumer deregistered", "stream", st.Name(), "consumer", found.Name)
	return nil, nil
}

type listStreamConsumersInput struct {
	StreamARN               *string
	NextToken               *string
	MaxResults              *int
	StreamCreationTimestamp *epoch
}

func (s *Server) listStreamConsumers(_ context.Context, c *call, in *listStreamConsumersInput) (any, error) {
	var f faults
	f.required("streamARN", in.StreamARN, 1, maxARN, arnRE, patternARN)
	f.text("nextToken", in.NextToken, 1, maxPageToken, nil, "")
	f.number("maxResults", in.MaxResults, 1, maxListed)
	if err := f.err(); err != nil {
		return nil, err
	}
	if in.NextToken != nil && in.StreamCreationTimestamp != nil {
		return nil, invalidArgument("NextToken and StreamCreationTimestamp cannot be provided together.")
	}
	st, n, err := c.findNote(streamRef{StreamARN: in.StreamARN})
	if err != nil {
		return nil, err
	}
	if t := in.StreamCreationTimestamp; t != nil && time.Time(*t).Unix() != st.Created().Unix() {
		return nil, s.noStream(st.Name())
	}
	prefix := st.Name() + "/" + strconv.FormatInt(st.Created().UnixNano(), 10) + "/"
	after := ""
	if in.NextToken != nil {
		body, err := s.openPage(kindConsumers, *in.NextToken)
		if err != nil {
			return nil, err
		}
		var same bool
		if after, same = strings.CutPrefix(string(body), prefix); !same {
			return nil, invalidArgument("Invalid NextToken.")
		}
	}
	limit := maxConsumersListed
	if in.MaxResults != nil {
		limit = min(limit, *in.MaxResults)
	}
	slices.SortFunc(n.Consumers, func(a, b consumer) int { return cmp.Compare(a.Name, b.Name) })
	out := struct {
		Consumers []consumerMembers
		NextToken string `json:",omitempty"`
	}{Consumers: []consumerMembers{}}
	for _, have := range n.Consumers {
		if have.Name <= after {
			continue
		}
		if len(out.Consumers) == limit {
			out.NextToken = s.sealer.seal(kindConsumers, []byte(prefix+out.Consumers[limit-1].ConsumerName), s.now())
			break
		}
		out.Consumers = append(out.Consumers, s.consumerMembers(st, have))
	}
	return out, nil
}
