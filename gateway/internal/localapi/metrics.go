package localapi

import (
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics serves GET /metrics. Nothing is counted twice: every number is read
// from the plant when somebody asks.
func (s *Server) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{s})
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 2})
}

type collector struct{ s *Server }

// Describe sends nothing: what there is to tell depends on the config, so the
// registry treats the collector as unchecked.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the plant.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(name, help string, v float64, labels ...string) {
		send(out, prometheus.GaugeValue, name, help, v, labels)
	}
	count := func(name, help string, v float64, labels ...string) {
		send(out, prometheus.CounterValue, name, help, v, labels)
	}
	st := c.s.plant.Status()
	gauge("forebay_spool_used_bytes", "Bytes the spool uses, everything counted.", float64(st.Disk.Used))
	gauge("forebay_spool_quota_bytes", "Bytes the spool may use.", float64(st.Disk.Quota))
	gauge("forebay_spool_free_bytes", "Bytes free on the file system.", float64(st.Disk.Free))
	gauge("forebay_spool_full", "1 while producers are held back.", flag(st.Disk.Full))
	gauge("forebay_spool_read_only", "1 while the disk takes no writes.", flag(st.ReadOnly))
	count("forebay_spool_scrubbed_bytes_total", "Bytes that were read and verified in the background.", float64(st.Disk.Scrub.Bytes))
	count("forebay_spool_scrub_damaged_total", "Blocks, chunks and files that scrubbing found damaged.", float64(st.Disk.Scrub.Damaged))
	if at := st.Disk.Scrub.LastPass; at != nil {
		gauge("forebay_spool_scrub_last_pass_timestamp_seconds", "When scrubbing last ended a whole pass.", float64(at.Unix()))
	}
	disk := c.s.sp.Stats()
	count("forebay_spool_commits_total", "Commits since the process started.", float64(disk.Commits))
	count("forebay_spool_fsyncs_total", "Syncs of commits and chunk files since the process started.", float64(disk.Fsyncs))
	count("forebay_spool_written_bytes_total", "Bytes written to the disk by the spool since the process started, estimate.", float64(disk.Written))
	count("forebay_spool_blocks_read_total", "Blocks read from segments for readers far behind since the process started.", float64(disk.BlocksRead))
	if n, ok := kernelWritten(); ok {
		count("forebay_disk_written_bytes_total", "Bytes written to the disk by the process since it started, as the kernel counts them.", n)
	}
	gauge("forebay_alarms_unacknowledged", "Alarms that wait for an acknowledgement.", float64(st.Alarms.Unacked))
	gauge("forebay_alarms_active", "Alarms whose condition holds.", float64(st.Alarms.Active))
	for _, d := range c.s.plant.Devices() {
		count("forebay_source_taken_total", "Records of the source on disk.", float64(d.Taken), "source", d.ID)
		count("forebay_source_shed_total", "Records of the source lost before the log.", float64(d.Shed), "source", d.ID)
		count("forebay_source_quarantined_total", "Records of the source that did not decode.", float64(d.Quar), "source", d.ID)
		count("forebay_source_errors_total", "Errors of the source.", float64(d.Errors), "source", d.ID)
		if d.Kind == "kinesis" {
			count("forebay_source_aggregates_total", "KPL aggregates that the source took since the process started.", float64(d.Aggregates), "source", d.ID)
			count("forebay_source_repeated_total", "Records of other gateways that came again and were stored already.", float64(d.Repeated), "source", d.ID)
			count("forebay_source_unchecked_total", "Records of other gateways that were stored without a look at whether they were stored already.", float64(d.Unchecked), "source", d.ID)
			count("forebay_source_lane_marks_lost_total", "Streams of which it was not known any more what is stored of other gateways.", float64(d.MarksLost), "source", d.ID)
		}
		gauge("forebay_source_up", "1 while the source works.", flag(d.State == "up"), "source", d.ID)
	}
	for _, t := range c.s.plant.Streams() {
		count("forebay_stream_records_total", "Records ever appended to the stream.", float64(t.Total), "stream", t.Name)
		gauge("forebay_stream_records", "Records kept in the stream.", float64(t.Records), "stream", t.Name)
	}
	for _, u := range st.Uplinks {
		uplinkMetrics(gauge, count, u)
		gauge("forebay_uplink_up", "1 while the uplink delivers.", flag(u.State == "up"), "uplink", u.ID)
		gauge("forebay_uplink_waiting_records", "Records not yet delivered.", float64(u.Waiting), "uplink", u.ID)
		count("forebay_uplink_delivered_total", "Records acknowledged by the far side since the process started.", float64(u.Delivered), "uplink", u.ID)
		count("forebay_uplink_filtered_total", "Records left out on purpose since the process started.", float64(u.Filtered), "uplink", u.ID)
		count("forebay_uplink_refused_total", "Records the far side can never take.", float64(u.Refused), "uplink", u.ID)
		count("forebay_uplink_retries_total", "Sends that were repeated.", float64(u.Retries), "uplink", u.ID)
		count("forebay_uplink_wire_bytes_total", "Bytes sent over the link.", float64(u.WireBytes), "uplink", u.ID)
	}
	for _, l := range c.s.plant.Ledger().Streams {
		count("forebay_stream_expired_total", "Records removed by retention or the quota.", float64(l.Expired), "stream", l.Stream)
		count("forebay_stream_corrupt_total", "Records lost to damage on the disk.", float64(l.Corrupt), "stream", l.Stream)
	}
}

// kernelWritten reads what the kernel counts (proc_pid_io(5), write_bytes);
// false where there is no such file.
func kernelWritten() (float64, bool) {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "write_bytes:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return float64(n), err == nil
		}
	}
	return 0, false
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// send emits one sample; labels are names and values by turns.
func send(out chan<- prometheus.Metric, kind prometheus.ValueType, name, help string, v float64, labels []string) {
	names, values := []string{}, []string{}
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	m, err := prometheus.NewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, v, values...)
	if err != nil {
		m = prometheus.NewInvalidMetric(prometheus.NewDesc(name, help, names, nil), err)
	}
	out <- m
}
