package kinesisapi

import (
	"fmt"
	"net/http"
	"strings"
)

// An apiError is an answer that is not 200: the shape's name and text as the
// Kinesis API reference gives them, and the HTTP status.
type apiError struct {
	code    string
	message string
	status  int
	cause   error // for the log; never sent
}

func (e *apiError) Error() string {
	if e.cause != nil {
		return e.code + ": " + e.message + ": " + e.cause.Error()
	}
	return e.code + ": " + e.message
}

func (e *apiError) Unwrap() error { return e.cause }

func refuse(code, format string, args ...any) *apiError {
	return &apiError{code: code, message: fmt.Sprintf(format, args...), status: http.StatusBadRequest}
}

func invalidArgument(format string, args ...any) *apiError {
	return refuse("InvalidArgumentException", format, args...)
}

func serialization(format string, args ...any) *apiError {
	return refuse("SerializationException", format, args...)
}

func internalFailure(cause error) *apiError {
	return &apiError{
		code: "InternalFailureException", message: internalServiceFailure,
		status: http.StatusInternalServerError, cause: cause,
	}
}

func unavailable(message string) *apiError {
	return &apiError{code: "ServiceUnavailableException", message: message, status: http.StatusServiceUnavailable}
}

// internalServiceFailure is the text that the API reference gives for
// InternalFailure (PutRecordsResultEntry, ErrorMessage).
const internalServiceFailure = "Internal Service Failure"

func (s *Server) noStream(name string) *apiError {
	return refuse("ResourceNotFoundException", "Stream %s under account %s not found.", name, s.cfg.Account)
}

func (s *Server) noShard(shard, stream string) *apiError {
	return refuse("ResourceNotFoundException", "Could not find shard %s in stream %s under account %s.", shard, stream, s.cfg.Account)
}

// faults gathers what is wrong with the members of a request, in the words of
// a ValidationException. Paths are written as AWS writes them: lower camel
// case, list members as "records.1.member.data".
type faults struct {
	n     int
	lines []string
}

// maxFaults bounds the text of one answer; the rest is only counted.
const maxFaults = 10

func (f *faults) add(value, path, constraint string) {
	f.n++
	if len(f.lines) < maxFaults {
		f.lines = append(f.lines, "Value"+value+" at '"+path+"' failed to satisfy constraint: Member must "+constraint)
	}
}

func (f *faults) null(path string) { f.add(" null", path, "not be null") }

// quoted shows a value in a text, cut to a length that is fit to be sent back.
func quoted(v string) string {
	const most = 256
	if len(v) > most {
		v = strings.ToValidUTF8(v[:most], "") + "..."
	}
	return " '" + v + "'"
}

func (f *faults) err() error {
	switch f.n {
	case 0:
		return nil
	case 1:
		return refuse("ValidationException", "1 validation error detected: %s", f.lines[0])
	}
	return refuse("ValidationException", "%d validation errors detected: %s", f.n, strings.Join(f.lines, "; "))
}
