package kinesisapi

import (
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSequenceNumbers(t *testing.T) {
	created := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	var prev string
	for _, seq := range []uint64{0, 1, 2, 9, 10, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 62, maxCounter} {
		s := newSequence(place{index: 3, created: created, epoch: 0xfedcba987654321}, seq).String()
		if len(s) != 56 {
			t.Errorf("%s has %d digits, want 56", s, len(s))
		}
		// The layout, said a second time: digits of the hexadecimal form.
		n, _ := new(big.Int).SetString(s, 10)
		hex := n.Text(16)
		want := "2" + hexDigits(uint64(created.Unix()), 9) + "3" + hexDigits(seq, 16) + "00" + "987654321" + "00000003" + "2"
		if hex != want {
			t.Errorf("hexadecimal form of %d is %s, want %s", seq, hex, want)
		}
		if s <= prev {
			t.Errorf("%s does not rise over %s", s, prev)
		}
		prev = s
		q, err := parseSequence(s)
		if err != nil || q.seq != seq || q.shard != 3 || q.created != uint64(created.Unix()) || q.epoch != 0x987654321 {
			t.Errorf("parse %s: %+v, %v", s, q, err)
		}
	}
}

func hexDigits(v uint64, digits int) string {
	s := new(big.Int).SetUint64(v).Text(16)
	return strings.Repeat("0", digits-len(s)) + s
}

func TestForeignSequenceNumbers(t *testing.T) {
	good := newSequence(place{created: time.Now()}, 7).String()
	for _, s := range []string{
		"", "0", "1", good + "0", good[:55], "0" + good[1:], "9" + good[1:], " " + good[1:], "-" + good[1:],
		good[:30] + "x" + good[31:], strings.Repeat("9", 56), strings.Repeat("1", 56), good[:55] + string('0'+(good[55]-'0'+1)%10),
	} {
		if q, err := parseSequence(s); err == nil {
			t.Errorf("%q is taken as %+v", s, q)
		}
	}
}

func FuzzSequence(f *testing.F) {
	f.Add(newSequence(place{created: time.Unix(1, 0)}, 0).String())
	f.Add(newSequence(place{index: 1 << 20, created: time.Now(), epoch: 77}, maxCounter).String())
	f.Add(strings.Repeat("9", 56))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		if q, err := parseSequence(s); err == nil && q.String() != s {
			t.Errorf("%q is parsed as %+v, which prints as %s", s, q, q)
		}
		h, ok := parseHashKey(s)
		if ok && decimal(h) != s {
			t.Errorf("hash key %q comes back as %s", s, decimal(h))
		}
	})
}

func TestTokens(t *testing.T) {
	s := newSealer()
	now := time.UnixMilli(1_800_000_000_000)
	its := []iterator{
		{stream: "a", created: 1, shard: 2, after: 3},
		{stream: strings.Repeat("x", 128), created: -5, shard: 1<<32 - 1, after: 1<<64 - 1},
		{stream: "s", since: time.UnixMilli(0)},
		{stream: "s", since: time.UnixMilli(1234567890123)},
	}
	for _, it := range its {
		token := s.seal(kindIterator, it.encode(), now)
		if len(token) > maxToken {
			t.Errorf("token of %+v has %d characters", it, len(token))
		}
		body, issued, err := s.open(kindIterator, token, now.Add(tokenLife))
		if err != nil || !issued.Equal(now) {
			t.Fatalf("open: %v, issued %v", err, issued)
		}
		if got, err := decodeIterator(body); err != nil || got != it {
			t.Errorf("came back as %+v, %v; want %+v", got, err, it)
		}
		if _, _, err := s.open(kindIterator, token, now.Add(tokenLife+time.Millisecond)); !errors.Is(err, errExpired) {
			t.Errorf("after its life: %v", err)
		}
		if _, _, err := s.open(kindShards, token, now); !errors.Is(err, errForged) {
			t.Errorf("as another kind: %v", err)
		}
		if _, _, err := newSealer().open(kindIterator, token, now); !errors.Is(err, errExpired) {
			t.Errorf("at another start: %v", err)
		}
		for i := range token {
			bad := []byte(token)
			bad[i] = "AB"[b2i(bad[i] == 'A')]
			if _, _, err := s.open(kindIterator, string(bad), now); err == nil {
				t.Fatalf("opened with character %d changed", i)
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func FuzzToken(f *testing.F) {
	s := newSealer()
	now := time.Now()
	made := []string{
		s.seal(kindIterator, iterator{stream: "s", after: 1}.encode(), now),
		s.seal(kindShards, []byte("s/shardId-000000000001"), now),
	}
	for _, m := range append(made, "", "AAAA") {
		f.Add(m, []byte(m))
	}
	f.Fuzz(func(t *testing.T, token string, body []byte) {
		for _, kind := range []tokenKind{kindIterator, kindShards, kindStreams} {
			if b, _, err := s.open(kind, token, now); err == nil && !slices.Contains(made, token) {
				t.Fatalf("forged token opened: %q", b)
			}
		}
		if it, err := decodeIterator(body); err == nil {
			back, err := decodeIterator(it.encode())
			if err != nil || back.stream != it.stream || back.shard != it.shard || back.after != it.after {
				t.Errorf("%+v came back as %+v, %v", it, back, err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"StreamName":"s","Records":[{"Data":"YQ==","PartitionKey":"k","ExplicitHashKey":"0"}]}`,
		`{"StreamARN":"arn:aws:kinesis:us-east-1:000000000000:stream/s","ShardIterator":"x","Limit":1,"Timestamp":1.5}`,
		`{"ShardFilter":{"Type":"AT_TIMESTAMP","Timestamp":1e400}}`, `[]`, `{"Records":{}}`, `null`, `{} {}`, "\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, in := range []any{
			new(putRecordsInput), new(putRecordInput), new(getRecordsInput), new(getShardIteratorInput),
			new(listShardsInput), new(createStreamInput), new(describeStreamInput), new(listStreamsInput),
		} {
			err := (jsonCodec{}).decode(body, in)
			if err == nil {
				if c, ok := in.(interface{ check() error }); ok {
					err = c.check()
				}
			}
			if _, ok := errors.AsType[*apiError](err); err != nil && !ok {
				t.Fatalf("%T: error %v has no code", in, err)
			}
			if p, ok := in.(*putRecordsInput); ok && err == nil {
				for i := range *p.Records {
					if r, err := (*p.Records)[i].record(); err == nil && r.Check() != nil {
						t.Fatalf("entry passes the API and not the log: %v", r.Check())
					}
				}
			}
		}
	})
}
