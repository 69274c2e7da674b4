package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Limits of what a Client takes from a gateway, in bytes.
const (
	maxAnswer = 64 << 20
	maxEvent  = 16 << 20
	maxFrame  = 8 << 20
)

// A Client talks to one gateway. It keeps no state but its connections and may
// be used by several goroutines at once. Reconnecting is the caller's.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// NewClient makes a client. addr is "host:port", "http://…", "https://…" or
// the path of a Unix socket (anything with a slash that is no URL, or
// "unix:PATH"). token is sent as a bearer token where it is not empty.
func NewClient(addr, token string) (*Client, error) {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.Proxy = nil
	c := &Client{token: token, http: &http.Client{Transport: tr}}
	path, isUnix := strings.CutPrefix(addr, "unix:")
	switch {
	case addr == "":
		return nil, errors.New("the gateway's address is empty; give host:port, a URL or the path of its socket")
	case strings.HasPrefix(addr, "http://"), strings.HasPrefix(addr, "https://"):
		if _, err := url.Parse(addr); err != nil {
			return nil, fmt.Errorf("read the gateway's address: %w", err)
		}
		c.base = strings.TrimRight(addr, "/")
	case isUnix || strings.ContainsAny(addr, `/\`):
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		c.base = "http://forebay"
	default:
		c.base = "http://" + addr
	}
	return c, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) do(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	maps.Copy(req.Header, header)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the gateway: %w", err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return nil, e
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var v T
	resp, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&v); err != nil {
		return v, fmt.Errorf("read the gateway's answer to %s: %w", path, err)
	}
	return v, nil
}

// Status is the gateway at a glance.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Streams lists the streams by name.
func (c *Client) Streams(ctx context.Context) ([]Stream, error) {
	return get[[]Stream](ctx, c, "/v1/streams")
}

// Devices lists the sources.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	return get[[]Device](ctx, c, "/v1/devices")
}

// Uplinks lists the uplinks.
func (c *Client) Uplinks(ctx context.Context) ([]Uplink, error) {
	return get[[]Uplink](ctx, c, "/v1/uplinks")
}

// Alarms lists the alarms, unacknowledged first, then by severity and time.
func (c *Client) Alarms(ctx context.Context) ([]Alarm, error) {
	return get[[]Alarm](ctx, c, "/v1/alarms")
}

// Points lists the configured points with their trends.
func (c *Client) Points(ctx context.Context) ([]Point, error) {
	return get[[]Point](ctx, c, "/v1/points")
}

// Cameras lists the cameras.
func (c *Client) Cameras(ctx context.Context) ([]Camera, error) {
	return get[[]Camera](ctx, c, "/v1/cameras")
}

// Ledger says for every record where it went.
func (c *Client) Ledger(ctx context.Context) (Ledger, error) {
	return get[Ledger](ctx, c, "/v1/ledger")
}

// Ack acknowledges alarms; durable when it returns.
func (c *Client) Ack(ctx context.Context, r AckRequest) (AckResult, error) {
	var res AckResult
	b, err := json.Marshal(r)
	if err != nil {
		return res, fmt.Errorf("write the request: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/alarms/ack", bytes.NewReader(b), http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&res); err != nil {
		return res, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return res, nil
}

// PutResult answers Put.
type PutResult struct {
	Stream string `json:"stream"`
	Shard  string `json:"shard"`
	Seq    uint64 `json:"sequence"`
	Bytes  int    `json:"bytes"`
}

// Put appends one record; it is on disk when Put returns without an error.
func (c *Client) Put(ctx context.Context, stream, key string, data []byte) (PutResult, error) {
	var res PutResult
	path := "/v1/streams/" + url.PathEscape(stream) + "/records?key=" + url.QueryEscape(key)
	resp, err := c.do(ctx, http.MethodPost, path, bytes.NewReader(data), http.Header{"Content-Type": {"application/octet-stream"}})
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&res); err != nil {
		return res, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return res, nil
}

// Backup gives the gateway's spool as it is now, as a tar stream to be read to
// its end and closed. The last file in it is a checksum: what breaks off before
// is no backup.
func (c *Client) Backup(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/spool/backup", nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Metric is the sum over its labels of one of the gateway's metrics.
func (c *Client) Metric(ctx context.Context, name string) (float64, error) {
	resp, err := c.do(ctx, http.MethodGet, "/metrics", nil, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(io.LimitReader(resp.Body, maxAnswer)); ; {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return 0, fmt.Errorf("read the gateway's metrics: %w", err)
			}
			break
		}
		line := lines.Text()
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("read the metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("the gateway has no metric %s", name)
	}
	return sum, nil
}

// Tail asks for records of a stream.
type Tail struct {
	Stream string
	From   string // oldest, newest, a time of arrival (RFC 3339), event: and a sender's time, or a sequence number; "" is oldest
	Shard  string // shardId-… ; "" is all
	Limit  int    // how many records at most; 0 is no limit
	Follow bool   // wait for more
	Raw    bool   // KPL aggregates as they are, instead of the records inside
}

// Records yields the records of a stream as they come, in order per shard. It
// ends at the newest record, at the limit, or with Follow when ctx ends.
func (c *Client) Records(ctx context.Context, t Tail) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		q := url.Values{}
		if t.From != "" {
			q.Set("from", t.From)
		}
		if t.Shard != "" {
			q.Set("shard", t.Shard)
		}
		if t.Limit > 0 {
			q.Set("limit", strconv.Itoa(t.Limit))
		}
		if t.Follow {
			q.Set("follow", "true")
		}
		if t.Raw {
			q.Set("deaggregate", "false")
		}
		resp, err := c.do(ctx, http.MethodGet, "/v1/streams/"+url.PathEscape(t.Stream)+"/records?"+q.Encode(), nil, nil)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer resp.Body.Close()
		dec := json.NewDecoder(resp.Body)
		for {
			var line struct {
				Record
				Err *Error `json:"error"`
			}
			if err := dec.Decode(&line); err != nil {
				if !errors.Is(err, io.EOF) && ctx.Err() == nil {
					yield(Record{}, fmt.Errorf("read the records: %w", err))
				}
				return
			}
			if line.Err != nil {
				if !yield(Record{}, line.Err) {
					return
				}
				continue
			}
			if !yield(line.Record, nil) {
				return
			}
		}
	}
}

// Events yields what changes in the gateway: first a snapshot, or what came
// after the event numbered since where the gateway still knows it. It ends
// with an error when the connection does; the caller asks again.
func (c *Client) Events(ctx context.Context, since uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		h := http.Header{"Accept": {"text/event-stream"}}
		if since > 0 {
			h.Set("Last-Event-ID", strconv.FormatUint(since, 10))
		}
		resp, err := c.do(ctx, http.MethodGet, "/v1/events", nil, h)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer resp.Body.Close()
		sc := bufio.NewScanner(resp.Body)
		sc.Buffer(make([]byte, 64<<10), maxEvent)
		for sc.Scan() {
			data, ok := bytes.CutPrefix(sc.Bytes(), []byte("data:"))
			if !ok {
				continue // id:, event:, comments and blank lines: the data repeats what they say
			}
			var ev Event
			if err := json.Unmarshal(data, &ev); err != nil {
				yield(Event{}, fmt.Errorf("read an event: %w", err))
				return
			}
			if !yield(ev, nil) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			yield(Event{}, fmt.Errorf("read the events: %w", err))
			return
		}
		yield(Event{}, fmt.Errorf("read the events: %w", io.EOF))
	}
}

// Frame is the newest still picture of a camera (JPEG) and when it arrived.
func (c *Client) Frame(ctx context.Context, camera string) ([]byte, time.Time, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/cameras/"+url.PathEscape(camera)+"/frame.jpg", nil, nil)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxFrame))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the frame: %w", err)
	}
	at, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the frame's time: %w", err)
	}
	if ns, err := time.Parse(time.RFC3339Nano, resp.Header.Get("X-Forebay-Arrived")); err == nil {
		at = ns
	}
	return b, at, nil
}
