package kinesisapi

import (
	"context"
	"fmt"
	"math"
)

// absentOperations are about what a box does not have: a key service, policies
// attached to resources, channels, capacity to be bought, CloudWatch. Questions
// are answered with what is true; changes that would have no effect are taken
// where they ask for what is so already, and refused by an error of the
// operation where not.
func (s *Server) absentOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.CreateChannel":                          {toAdminister, decoded(s.createChannel)},
		"Kinesis_20131202.DeleteChannel":                          {toAdminister, decoded(s.noChannel)},
		"Kinesis_20131202.DeleteResourcePolicy":                   {toAdminister, decoded(s.noResourcePolicy)},
		"Kinesis_20131202.DescribeAccountSettings":                {toDescribe, decoded(s.describeAccountSettings)},
		"Kinesis_20131202.DescribeChannel":                        {toDescribe, decoded(s.noChannel)},
		"Kinesis_20131202.DisableEnhancedMonitoring":              {toAdminister, decoded(s.enhancedMonitoring)},
		"Kinesis_20131202.EnableEnhancedMonitoring":               {toAdminister, decoded(s.enhancedMonitoring)},
		"Kinesis_20131202.GetResourcePolicy":                      {toDescribe, decoded(s.noResourcePolicy)},
		"Kinesis_20131202.ListChannels":                           {toDescribe, decoded(s.listChannels)},
		"Kinesis_20131202.PutResourcePolicy":                      {toAdminister, decoded(s.putResourcePolicy)},
		"Kinesis_20131202.StartStreamEncryption":                  {toAdminister, decoded(s.startStreamEncryption)},
		"Kinesis_20131202.StopStreamEncryption":                   {toAdminister, decoded(s.stopStreamEncryption)},
		"Kinesis_20131202.UpdateAccountSettings":                  {toAdminister, decoded(s.updateAccountSettings)},
		"Kinesis_20131202.UpdateChannel":                          {toAdminister, decoded(s.noChannel)},
		"Kinesis_20131202.UpdateStreamRecordDistributionStrategy": {toAdminister, decoded(s.updateDistribution)},
		"Kinesis_20131202.UpdateStreamWarmThroughput":             {toAdminister, decoded(s.updateWarmThroughput)},
	}
}

// byPartitionKey is how every stream picks a record's shard.
const byPartitionKey = "USER_PARTITION_KEY"

func noDistribution() error {
	return invalidArgument("RecordDistributionStrategy AUTO is not supported by this endpoint: a record's partition key picks its shard.")
}

func noWarmThroughput() error {
	return invalidArgument("WarmThroughputMiBps is not supported by this endpoint: a gateway has the throughput of its disk, and none to set aside.")
}

type distributionInput struct {
	StreamARN                  *string
	RecordDistributionStrategy *string
}

func (s *Server) updateDistribution(_ context.Context, c *call, in *distributionInput) (any, error) {
	var f faults
	f.required("streamARN", in.StreamARN, 1, maxARN, arnRE, patternARN)
	if in.RecordDistributionStrategy == nil {
		f.null("recordDistributionStrategy")
	} else {
		f.enum("recordDistributionStrategy", *in.RecordDistributionStrategy, "AUTO", byPartitionKey)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if _, err := c.find(streamRef{StreamARN: in.StreamARN}); err != nil {
		return nil, err
	}
	if *in.RecordDistributionStrategy != byPartitionKey {
		return nil, noDistribution()
	}
	return nil, nil
}

type warmThroughputInput struct {
	streamRef
	WarmThroughputMiBps *int
}

func (s *Server) updateWarmThroughput(_ context.Context, c *call, in *warmThroughputInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if in.WarmThroughputMiBps == nil {
		f.null("warmThroughputMiBps")
	}
	f.number("warmThroughputMiBps", in.WarmThroughputMiBps, 0, math.MaxInt32)
	if err := f.err(); err != nil {
		return nil, err
	}
	if _, err := c.find(in.streamRef); err != nil {
		return nil, err
	}
	return nil, noWarmThroughput()
}

type commitmentInput struct{ Status *string }

type accountSettingsInput struct {
	MinimumThroughputBillingCommitment *commitmentInput
}

type commitment struct{ Status string }

type accountSettings struct{ MinimumThroughputBillingCommitment commitment }

func (s *Server) describeAccountSettings(context.Context, *call, *struct{}) (any, error) {
	return accountSettings{commitment{"DISABLED"}}, nil
}

func (s *Server) updateAccountSettings(_ context.Context, _ *call, in *accountSettingsInput) (any, error) {
	var f faults
	switch m := in.MinimumThroughputBillingCommitment; {
	case m == nil:
		f.null("minimumThroughputBillingCommitment")
	case m.Status == nil:
		f.null("minimumThroughputBillingCommitment.status")
	default:
		f.enum("minimumThroughputBillingCommitment.status", *m.Status, "ENABLED", "DISABLED")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	if *in.MinimumThroughputBillingCommitment.Status == "ENABLED" {
		return nil, invalidArgument("MinimumThroughputBillingCommitment cannot be ENABLED: this endpoint bills nobody.")
	}
	return accountSettings{commitment{"DISABLED"}}, nil
}

type enhancedMonitoringInput struct {
	streamRef
	ShardLevelMetrics []string
}

// enhancedMonitoring says, of what was on before and of what is on now, that it
// is nothing.
func (s *Server) enhancedMonitoring(_ context.Context, c *call, in *enhancedMonitoringInput) (any, error) {
	var f faults
	f.stream(in.streamRef)
	switch n := len(in.ShardLevelMetrics); {
	case in.ShardLevelMetrics == nil:
		f.null("shardLevelMetrics")
	case n < 1:
		f.add(" '[]'", "shardLevelMetrics", "have length greater than or equal to 1")
	case n > 7:
		f.add("", "shardLevelMetrics", "have length less than or equal to 7")
	}
	for i, m := range in.ShardLevelMetrics {
		f.enum(fmt.Sprintf("shardLevelMetrics.%d.member", i+1), m, "IncomingBytes", "IncomingRecords", "OutgoingBytes", "OutgoingRecords",
			"WriteProvisionedThroughputExceeded", "ReadProvisionedThroughputExceeded", "IteratorAgeMilliseconds", "ALL")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	return struct {
		StreamName, StreamARN                              string
		CurrentShardLevelMetrics, DesiredShardLevelMetrics []string
	}{st.Name(), s.arn(st.Name()), []string{}, []string{}}, nil
}

type encryptionInput struct {
	streamRef
	EncryptionType *string
	KeyID          *string `json:"KeyId"`
}

func (in *encryptionInput) check() error {
	var f faults
	f.stream(in.streamRef)
	if in.EncryptionType == nil {
		f.null("encryptionType")
	} else {
		f.enum("encryptionType", *in.EncryptionType, "KMS", "NONE")
	}
	f.required("keyId", in.KeyID, 1, maxARN, nil, "")
	return f.err()
}

func (s *Server) startStreamEncryption(_ context.Context, c *call, in *encryptionInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	if _, err := c.find(in.streamRef); err != nil {
		return nil, err
	}
	return nil, refuse("KMSNotFoundException", "There is no key%s: a gateway has no AWS KMS. It encrypts what a stream keeps on the disk with a key of its own where encrypt = true is set in the [[stream]] of the config file.", quoted(*in.KeyID))
}

func (s *Server) stopStreamEncryption(_ context.Context, c *call, in *encryptionInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	return nil, invalidArgument("Stream %s under account %s is not encrypted with a key of AWS KMS.", st.Name(), s.cfg.Account)
}

type resourcePolicyInput struct {
	ResourceARN *string
	Policy      *string
}

// findPolicied finds what a policy would be attached to, and that it exists.
func (c *call) findPolicied(in *resourcePolicyInput, f *faults) error {
	f.resource(in.ResourceARN)
	if err := f.err(); err != nil {
		return err
	}
	r, err := c.findResource(*in.ResourceARN)
	if err != nil {
		return err
	}
	n, err := c.s.noteOf(r.st)
	if err != nil {
		return err
	}
	_, err = r.tags(&n)
	return err
}

func (s *Server) putResourcePolicy(_ context.Context, c *call, in *resourcePolicyInput) (any, error) {
	var f faults
	if in.Policy == nil {
		f.null("policy")
	}
	if err := c.findPolicied(in, &f); err != nil {
		return nil, err
	}
	return nil, refuse("AccessDeniedException", "Resource policies are not supported by this endpoint: what a key may do is set in its [[kinesis.key]] in the gateway's config file.")
}

func (s *Server) noResourcePolicy(_ context.Context, c *call, in *resourcePolicyInput) (any, error) {
	var f faults
	if err := c.findPolicied(in, &f); err != nil {
		return nil, err
	}
	return nil, refuse("ResourceNotFoundException", "No resource policy is attached to%s.", quoted(*in.ResourceARN))
}

type channelInput struct {
	ChannelName *string
	ChannelARN  *string
}

func (s *Server) createChannel(_ context.Context, _ *call, in *channelInput) (any, error) {
	var f faults
	if in.ChannelName == nil {
		f.null("channelName")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return nil, invalidArgument("Channels are not supported by this endpoint: a gateway delivers records by the [[uplink]]s of its config file.")
}

func (s *Server) noChannel(_ context.Context, _ *call, in *channelInput) (any, error) {
	var f faults
	f.required("channelARN", in.ChannelARN, 1, maxARN, nil, "")
	if err := f.err(); err != nil {
		return nil, err
	}
	return nil, refuse("ResourceNotFoundException", "Channel%s not found.", quoted(*in.ChannelARN))
}

func (s *Server) listChannels(context.Context, *call, *struct{}) (any, error) {
	return struct{ ChannelSummaries []struct{} }{[]struct{}{}}, nil
}
