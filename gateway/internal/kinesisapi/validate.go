package kinesisapi

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"forebay/gateway/conf"
	"forebay/spool"
)

// The constraints of the members, as the service's model states them
// (kinesis-2013-12-02).
const (
	maxName         = 128
	maxARN          = 2048
	maxListed       = 10000 // Limit, MaxResults
	maxPageToken    = 1 << 20
	maxPutRecords   = 500
	maxPutBytes     = 10 << 20
	maxData         = 10 << 20 // Data's length in the model
	maxRecordBytes  = 1 << 20  // data and key; see recordLimit
	maxPartitionKey = 256

	patternName     = "[a-zA-Z0-9_.-]+"
	patternHashKey  = `0|([1-9]\d{0,38})`
	patternSequence = `0|([1-9]\d{0,128})`
	patternARN      = `arn:aws.*:kinesis:.*:\d{12}:stream/\S+`
)

var (
	nameRE     = regexp.MustCompile(`^` + patternName + `$`)
	sequenceRE = regexp.MustCompile(`^(` + patternSequence + `)$`)
	arnRE      = regexp.MustCompile(`^` + patternARN + `$`)
)

// validHashKey is patternHashKey, for every record of a request.
func validHashKey[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > 39 || s[0] == '0' && len(s) > 1 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// text checks a string member that may be left out.
func (f *faults) text(path string, v *string, least, most int, re *regexp.Regexp, pattern string) {
	if v == nil {
		return
	}
	n := utf8.RuneCountInString(*v)
	if n < least {
		f.add(quoted(*v), path, fmt.Sprintf("have length greater than or equal to %d", least))
	}
	if n > most {
		f.add(quoted(*v), path, fmt.Sprintf("have length less than or equal to %d", most))
	}
	if re != nil && !re.MatchString(*v) {
		f.add(quoted(*v), path, "satisfy regular expression pattern: "+pattern)
	}
}

// required is text for a member that must be there.
func (f *faults) required(path string, v *string, least, most int, re *regexp.Regexp, pattern string) {
	if v == nil {
		f.null(path)
		return
	}
	f.text(path, v, least, most, re, pattern)
}

func (f *faults) number(path string, v *int, least, most int) {
	if v == nil {
		return
	}
	if *v < least {
		f.add(fmt.Sprintf(" '%d'", *v), path, fmt.Sprintf("have value greater than or equal to %d", least))
	}
	if *v > most {
		f.add(fmt.Sprintf(" '%d'", *v), path, fmt.Sprintf("have value less than or equal to %d", most))
	}
}

func (f *faults) enum(path, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		f.add(quoted(v), path, "satisfy enum value set: ["+strings.Join(allowed, ", ")+"]")
	}
}

// A streamRef names a stream in a request, one way or the other. The member
// StreamId, which the model has for neither and says of that it is reserved, is
// passed over like any member that is not known: a request with nothing else
// does not name a stream.
type streamRef struct {
	StreamName *string
	StreamARN  *string
}

func (f *faults) stream(r streamRef) {
	f.text("streamName", r.StreamName, 1, maxName, nameRE, patternName)
	f.text("streamARN", r.StreamARN, 1, maxARN, arnRE, patternARN)
}

// find gives the stream that a checked streamRef names. The region and the
// account of an ARN are not compared: a box has one stream of a name.
func (c *call) find(r streamRef) (*spool.Stream, error) {
	var name string
	switch {
	case r.StreamARN != nil:
		_, name, _ = strings.Cut(*r.StreamARN, ":stream/") // without it the name is "", which is not valid
		if !conf.ValidStream(name) {
			return nil, invalidArgument("StreamARN%s does not name a stream.", quoted(*r.StreamARN))
		}
		if r.StreamName != nil && *r.StreamName != name {
			return nil, invalidArgument("StreamName%s and StreamARN%s do not name the same stream.", quoted(*r.StreamName), quoted(*r.StreamARN))
		}
	case r.StreamName != nil:
		name = *r.StreamName
	default:
		return nil, invalidArgument("Either StreamName or StreamARN must be specified.")
	}
	if err := c.allow(name); err != nil {
		return nil, err
	}
	st, err := c.s.spool.Stream(name)
	if err != nil {
		return nil, c.s.storeError(err, name)
	}
	return st, nil
}

// dryRun refuses a request that is right but asked not to be carried out.
func dryRun(asked bool) error {
	if !asked {
		return nil
	}
	return refuse("DryRunOperationException", "The request would have succeeded, but the DryRun parameter is set.")
}
