package devices

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// A Decoder says what a payload is: its media type, or why it is not what it
// should be. It changes nothing and keeps nothing.
type Decoder = func(data []byte) (mediaType string, err error)

// Decoders are the payload forms that a [[route]] may ask for, by name. The
// map is the caller's.
func Decoders() map[string]Decoder {
	return map[string]Decoder{
		"raw":    func([]byte) (string, error) { return "", nil },
		"json":   decodeJSON,
		"number": decodeNumber,
		"text":   decodeText,
	}
}

func decodeJSON(data []byte) (string, error) {
	if json.Valid(data) {
		return "application/json", nil
	}
	var v any
	err := json.Unmarshal(data, &v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return "", fmt.Errorf("not JSON: byte %d: %w", syntax.Offset, err)
	}
	return "", errors.Join(errors.New("not JSON"), err)
}

func decodeNumber(data []byte) (string, error) {
	if _, err := strconv.ParseFloat(string(bytes.TrimSpace(data)), 64); err != nil {
		return "", fmt.Errorf("not a number: %w", errors.Unwrap(err))
	}
	return "text/plain", nil
}

func decodeText(data []byte) (string, error) {
	if !utf8.Valid(data) {
		return "", errors.New("not UTF-8 text")
	}
	return "text/plain; charset=utf-8", nil
}
