//go:build peers

package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/firehose"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
)

// covers checks that every operation of the newest SDK was asked for.
func (m *matrix) covers(t *testing.T) {
	t.Helper()
	n := 0
	for prefix, client := range map[string]any{"": &kinesis.Client{}, "firehose:": &firehose.Client{}} {
		for f := range reflect.TypeOf(client).Methods() {
			if f.Type.NumIn() != 4 || !f.Type.IsVariadic() { // ctx, input, options
				continue
			}
			n++
			asked := false
			for _, row := range m.rows {
				asked = asked || row == prefix+f.Name || strings.HasPrefix(row, prefix+f.Name+":")
			}
			if !asked {
				t.Errorf("%s%s is not in the matrix", prefix, f.Name)
			}
		}
	}
	if !t.Failed() {
		t.Logf("all %d operations of the Go SDK's Kinesis and Firehose were asked for", n)
	}
}
