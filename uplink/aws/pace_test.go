package aws_test

import (
	"errors"
	"testing"
	"time"

	"forebay/uplink/aws"
)

// A slow link is not given more than it can carry within the timeout.
func TestPace(t *testing.T) {
	const timeout, most, least = 30 * time.Second, 5 << 20, 16 << 10
	p := aws.Pace{Most: most}
	if p.Size() != most/8 {
		t.Errorf("at first: %d", p.Size())
	}
	for range 5 {
		p.Took(p.Size(), timeout, timeout, nil)
	}
	if p.Size() != least {
		t.Errorf("after five timeouts: %d", p.Size())
	}
	p.Took(p.Size(), timeout/100, timeout, errors.New("refused"))
	if p.Size() != least {
		t.Errorf("after a failure: %d", p.Size())
	}
	if d := p.Timeout(least, timeout); d != timeout {
		t.Errorf("a small request may take %v", d)
	}
	if d := p.Timeout(2*least+100*least, timeout); d != timeout+100*time.Second {
		t.Errorf("a large request may take %v", d)
	}
	for range 20 {
		p.Took(p.Size(), timeout/100, timeout, nil)
	}
	if p.Size() != most {
		t.Errorf("after twenty fast ones: %d", p.Size())
	}
	p.Took(100, timeout/100, timeout, nil)
	p.Took(p.Size(), timeout/2, timeout, nil)
	if p.Size() != most/2 {
		t.Errorf("after a slow one: %d", p.Size())
	}
}
