package kafka

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/stranger"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// classify puts an error into words and a class. silent is the class of a
// connection that was there and gave no answer: Ambiguous where something may
// have been committed.
func classify(err error, w *wire, silent lane.Class) *lane.Error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	if ke := (*kerr.Error)(nil); errors.As(err, &ke) {
		e := answered(ke)
		e.Code = ke.Message
		if e.Class == lane.Throttled {
			e.RetryAfter = w.wait()
		}
		return e
	}
	if f := w.other.Load(); f != nil {
		e := &lane.Error{Class: lane.Offline, Text: f.err.Error() + "; look at brokers"}
		if other := (*stranger.Error)(nil); errors.As(f.err, &other) {
			e.Text = brokers.Instead(other)
		}
		return e
	}
	if eof := (*kgo.ErrFirstReadEOF)(nil); errors.As(err, &eof) {
		return &lane.Error{Class: lane.Offline, Text: "the broker closes the connection at once; perhaps it wants TLS (" + brokers.Secure + "), or a login (sasl), or is no Kafka; look at brokers"}
	}
	if cause := w.refused(); cause != nil {
		if e := (*lane.Error)(nil); errors.As(cause, &e) {
			return e
		}
		if ke := (*kerr.Error)(nil); errors.As(cause, &ke) {
			e := answered(ke)
			e.Code = ke.Message
			return e
		}
		e := unreachable(cause)
		if w.stood.Load() && errors.Is(cause, context.DeadlineExceeded) {
			e.Text = "something takes the connection and says nothing; look at brokers, and at tls"
		}
		return e
	}
	if wait := w.wait(); wait > 0 {
		return &lane.Error{Class: lane.Throttled, Text: "the broker throttles us", RetryAfter: wait}
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		return unreachable(err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &lane.Error{Class: silent, Text: "no answer within request_timeout"}
	}
	if errors.Is(err, context.Canceled) {
		return &lane.Error{Class: silent, Text: "the wait for an answer was ended", Err: err}
	}
	return &lane.Error{Class: silent, Text: "the connection was cut before the answer", Err: err}
}

// unsure is what an error means where something may have been committed: what
// is no broker's answer leaves that open.
func unsure(e *lane.Error, err error) *lane.Error {
	if ke := (*kerr.Error)(nil); errors.As(err, &ke) || e.Class != lane.Offline && e.Class != lane.Transient {
		return e
	}
	c := *e
	c.Class = lane.Ambiguous
	return &c
}

// answered is what a broker's word means.
func answered(ke *kerr.Error) *lane.Error {
	switch ke.Code {
	case kerr.SaslAuthenticationFailed.Code:
		return &lane.Error{Class: lane.Auth, Text: "the broker does not take username and password"}
	case kerr.UnsupportedSaslMechanism.Code, kerr.IllegalSaslState.Code:
		return &lane.Error{Class: lane.Misconfigured, Text: "the broker does not do this kind of SASL; choose another"}
	case kerr.TopicAuthorizationFailed.Code:
		return &lane.Error{Class: lane.Auth, Text: "the access rules forbid the topic; allow Describe and Write on it, and Read on cursor_topic as well"}
	case kerr.TransactionalIDAuthorizationFailed.Code:
		return &lane.Error{Class: lane.Auth, Text: "the access rules forbid our transactions; allow Write and Describe on the transactional id, or set transactions = \"off\""}
	case kerr.ClusterAuthorizationFailed.Code:
		return &lane.Error{Class: lane.Auth, Text: "the access rules forbid this on the cluster; allow IdempotentWrite, and Create where topics are to be created"}
	case kerr.UnknownTopicOrPartition.Code, kerr.UnknownTopicID.Code:
		return &lane.Error{Class: lane.Misconfigured, Text: "the topic does not exist; create it, or set create_partitions"}
	case kerr.ProducerFenced.Code, kerr.InvalidProducerEpoch.Code, kerr.InvalidProducerIDMapping.Code:
		return &lane.Error{
			Class: lane.Misconfigured,
			Text:  "our transaction was ended by somebody else: another gateway has the same transactional_id (the same name and uplink, or a copied disk), or this machine stood still for long",
		}
	case kerr.InvalidTopicException.Code, kerr.PolicyViolation.Code, kerr.InvalidReplicationFactor.Code, kerr.InvalidPartitions.Code,
		kerr.InvalidConfig.Code, kerr.InvalidTransactionTimeout.Code, kerr.UnsupportedVersion.Code, kerr.UnsupportedForMessageFormat.Code,
		kerr.UnsupportedCompressionType.Code:
		return &lane.Error{Class: lane.Misconfigured, Text: ke.Description}
	case kerr.MessageTooLarge.Code, kerr.RecordListTooLarge.Code, kerr.InvalidRecord.Code:
		return &lane.Error{Class: lane.Poison, Text: ke.Description}
	case kerr.InvalidTimestamp.Code:
		return &lane.Error{
			Class: lane.ClockSkew,
			Text: "the broker does not take the records' times, " + time.Now().UTC().Format(time.RFC3339) +
				" is our clock; set it right, or the topic's message.timestamp.type to LogAppendTime",
		}
	case kerr.ThrottlingQuotaExceeded.Code:
		return &lane.Error{Class: lane.Throttled, Text: "a quota is used up"}
	case kerr.RequestTimedOut.Code, kerr.NotEnoughReplicasAfterAppend.Code, kerr.UnknownServerError.Code:
		return &lane.Error{Class: lane.Ambiguous, Text: ke.Description}
	}
	return &lane.Error{Class: lane.Transient, Text: ke.Description}
}

// narrows reports whether a batch was refused for what is in it, so that
// smaller ones tell which record it is.
func narrows(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) || errors.Is(err, kerr.InvalidRecord)
}

// brokers is who a sink was told to ask.
var brokers = stranger.Peer{Who: "the broker", Key: "brokers", Plain: `tls = "off"`, Secure: `tls = "on"`}

var errNoTLS = errors.New("something takes the connection, and nothing answers to TLS there")

// unreachable says why there is no connection.
func unreachable(err error) *lane.Error {
	e := &lane.Error{Class: lane.Offline, Text: "cannot reach the brokers", Err: err}
	var (
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Text = "the broker's certificate is not valid at this machine's time, " +
			time.Now().UTC().Format(time.RFC3339) + "; check the clock first"
	case brokers.Explain(err) != "":
		e.Text, e.Err = brokers.Explain(err), nil
	case errors.Is(err, errNoTLS):
		e.Text, e.Err = errNoTLS.Error()+"; look at brokers and tls", nil
	case errors.As(err, &dns):
		e.Text = "the broker's name cannot be looked up"
	case errors.As(err, &op) && op.Op == "remote error":
		e.Class, e.Text = lane.Auth, "the broker does not take our certificate"
	case stranger.Closed(err):
		e.Text = "the broker closes the connection before or at the login; it may want TLS (" + brokers.Secure + ") or have none (" + brokers.Plain + "), or not take username and password"
	case errors.Is(err, context.DeadlineExceeded):
		e.Text, e.Err = "cannot reach the brokers in time", nil
	}
	return e
}
