package powertest

import (
	"fmt"
	"slices"
	"strings"
)

// A Level says how much a finding matters.
type Level string

const (
	// Danger: acknowledged records may be lost when the power goes.
	Danger Level = "danger"
	// Warning: it works, but an operator should know.
	Warning Level = "warning"
	// Note: what to expect.
	Note Level = "note"
)

// A Finding is a sentence about the disk.
type Finding struct {
	Level Level  `json:"level"`
	About string `json:"about"` // place, sync, speed, wear, settings
	Text  string `json:"text"`
}

// Judge says in words what the facts mean. It measures nothing; where a thing
// is not known it says so. Whether a sync reaches the disk can only be guessed
// from outside: the words are "seems" and "cannot be told". Cutting the power is
// the only proof.
func Judge(f Facts) []Finding {
	j := &judge{Facts: f}
	j.place()
	j.sync()
	j.speed()
	j.life()
	j.wear()
	j.settings()
	return j.out
}

// JudgeForReport is Judge for the report of an acceptance test, which a person
// signs who sets nothing and gives no flags: it leaves out what a load that
// nobody knows does to the disk, and settings, but for those that need to be
// changed.
func JudgeForReport(f Facts) []Finding {
	j := &judge{Facts: f}
	j.place()
	j.sync()
	j.speed()
	j.life()
	if f.Load.From != "" {
		j.wear()
	}
	kept := len(j.out)
	j.settings()
	return append(j.out[:kept], slices.DeleteFunc(j.out[kept:], func(s Finding) bool { return s.Level == Note })...)
}

type judge struct {
	Facts
	out []Finding
}

func (j *judge) say(l Level, about, format string, args ...any) {
	j.out = append(j.out, Finding{l, about, fmt.Sprintf(format, args...)})
}

// Kinds of file systems, as the kernel names them.
var (
	inMemory = []string{"tmpfs", "ramfs", "devtmpfs"}
	overNet  = []string{"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "fuse.glusterfs", "afs", "virtiofs"}
	noLinks  = []string{"vfat", "msdos", "exfat", "fat"}
)

// place looks at the file system and how it is mounted.
func (j *judge) place() {
	switch fs := j.FileSystem; {
	case slices.Contains(inMemory, fs):
		j.say(Danger, "place", "%s is %s: it lies in memory and everything in it is gone when the power goes. Choose a directory on a disk.", j.Dir, fs)
	case slices.Contains(overNet, fs):
		j.say(Danger, "place", "%s is %s, which is served by another machine: locks and syncs may not do what they say, and the log stops with the network. Choose a directory on a local disk.", j.Dir, fs)
	case slices.Contains(noLinks, fs):
		j.say(Danger, "place", "%s is %s, which keeps no journal: a power cut may damage the file system itself. Make it ext4, or choose another disk.", j.Dir, fs)
	case fs == "overlay":
		j.say(Warning, "place", "%s is an overlay, as containers have it: it goes with the container. Give the container a volume for it. What is below is not seen from here.", j.Dir)
	case fs == "":
		j.say(Note, "place", "What kind of file system it is and how it is mounted is not found out on %s.", j.System)
	}
	for o := range strings.SplitSeq(j.Options, ",") {
		switch o {
		case "nobarrier", "barrier=0":
			j.say(Danger, "place", "It is mounted with %s: a sync does not ask the disk to empty its cache. Mount it without.", o)
		case "sync", "dirsync":
			j.say(Warning, "place", "It is mounted with %s: everything is slower and wears the disk more, for nothing; the log syncs by itself.", o)
		case "data=writeback":
			j.say(Note, "place", "It is mounted with data=writeback. That is safe for the log: what counts is synced, and checksums tell the rest.")
		}
	}
}

// Below these a sync is quicker than the kind of disk can be, as a rule:
// milliseconds.
var leastSync = map[string]float64{"disk": 1.5, "emmc": 0.15, "sd": 0.3, "ssd": 0.02, "nvme": 0.008}

var kindNames = map[string]string{
	"disk": "a disk with platters", "emmc": "an eMMC", "sd": "an SD card", "ssd": "an SSD or USB disk", "nvme": "an NVMe SSD",
	"virtual": "a virtual disk", "stacked": "a device made of others",
}

// A smaller sample is no ground for a verdict.
const (
	leastSample = 1.0 // seconds
	leastSyncs  = 100
	leastPairs  = 10 // of two ways to sync that are compared
)

// small says in words how small the sample is by which the sync would be
// judged; "" where it is large enough: so many syncs over a second, or very
// many in less.
func (j *judge) small() string {
	o := j.Overwrite
	if o.N >= maxSyncs || o.N >= leastSyncs && o.Seconds >= leastSample {
		return ""
	}
	return fmt.Sprintf("%d syncs in %.2g s", o.N, o.Seconds)
}

// bare is a rate of the sustained step without what its syncs took, a sync for
// each MiB; at most ten times the rate.
func (j *judge) bare(rate float64) float64 {
	took := stride / rate
	return stride / max(took-min(j.Grow.P50, j.Overwrite.P50)/1e3, took/10)
}

// Words are what is known of a device, for a person.
func (d Device) Words() string {
	var known []string
	for _, s := range []string{kindNames[d.Kind], d.Model} {
		if s != "" {
			known = append(known, s)
		}
	}
	if len(known) == 0 {
		return "not known here"
	}
	return strings.Join(known, ", ")
}

// outruns reports whether a burst and its sync were quicker by far than the disk
// goes on.
func (j *judge) outruns() bool {
	return j.SustainRate > 0 && j.BurstRate > 4*j.bare(j.SustainRate) && (j.LastRate <= 0 || j.BurstRate > 4*j.bare(j.LastRate))
}

// sync says whether a sync seems to reach the disk.
func (j *judge) sync() {
	if slices.Contains(inMemory, j.FileSystem) {
		j.say(Danger, "sync", "A sync does nothing here.")
		return
	}
	if slices.Contains(overNet, j.FileSystem) {
		j.say(Note, "sync", "A sync takes %s. What the other machine does for it cannot be told from here.", ms(j.Overwrite.P50))
		return
	}
	p50 := j.Overwrite.P50
	name := kindNames[j.Device.Kind]
	least, known := leastSync[j.Device.Kind]
	doubt, small := false, j.small()
	switch tooQuick := known && p50 > 0 && p50 < least; {
	case known && small != "" && tooQuick:
		doubt = true
		j.say(Warning, "sync", "A sync took %s, quicker than %s can be, as a rule (%s). But %s are too small a sample to say that it does not wait for the disk. Measure for a second or longer.", ms(p50), name, ms(least), small)
	case known && small != "":
		doubt = true // neither the one nor the other
		j.say(Note, "sync", "A sync took %s. %s are too small a sample to say whether it reaches the disk. Measure for a second or longer.", ms(p50), small)
	case tooQuick:
		doubt = true
		j.say(Danger, "sync", "A sync takes %s, which is quicker than %s can be, as a rule (%s): it seems not to wait for the disk. Either its cache is safe against a power cut (a battery, capacitors; ask its maker) or acknowledged records may be lost.", ms(p50), name, ms(least))
	}
	if j.outruns() && min(j.SustainS, j.BurstS) >= leastSample {
		doubt = true
		j.say(Danger, "sync", "A sync of 32 MiB came back at %s/s, while the disk goes on at %s/s: it seems not to have waited for all of it.", bytesText(j.BurstRate), bytesText(j.SustainRate))
	} else if j.outruns() {
		j.say(Note, "sync", "A sync of 32 MiB came back at %s/s, while the disk went on at %s/s. The samples (%.2g s, %.2g s) are too small to say whether it did not wait for all of it or other programs slowed the disk.", bytesText(j.BurstRate), bytesText(j.SustainRate), j.BurstS, j.SustainS)
	}
	if d := j.DSync.P50; min(j.DSync.N, j.Overwrite.N) >= leastPairs && p50 > 0 && d > 4*p50 && d-p50 > 1 {
		doubt = true
		j.say(Warning, "sync", "A write with O_DSYNC takes %s, but a write and a sync only %s. Both promise the same: the sync seems to do less.", ms(d), ms(p50))
	}
	if doubt {
		return
	}
	switch {
	case j.Device.Kind == "virtual":
		j.say(Note, "sync", "A sync takes %s. The disk is virtual: whether the host hands it on to a real one cannot be told from inside. Ask for cache mode \"none\" or \"directsync\".", ms(p50))
	case j.Device.Kind == "stacked":
		j.say(Note, "sync", "A sync takes %s. %s lies on other devices; whether they all hand it on cannot be told from here.", ms(p50), j.Device.Name)
	case name == "":
		j.say(Note, "sync", "A sync takes %s. Which kind of disk it is cannot be told here, and so not whether that is plausible.", ms(p50))
	case j.Device.WriteCache == "write through":
		j.say(Note, "sync", "A sync takes %s, which is plausible for %s. It says that it has no cache that a power cut empties (write through), so the system does not ask it to empty one.", ms(p50), name)
	default:
		j.say(Note, "sync", "A sync takes %s, which is plausible for %s: it seems to reach the disk. Only cutting the power proves it.", ms(p50), name)
	}
}

// speed says what producers may expect.
func (j *judge) speed() {
	c := j.Commit
	if c.N == 0 {
		return
	}
	j.say(Note, "speed", "A lone record is acknowledged after %s, one in a hundred after %s or more. Records that wait together share a commit, so that a faster producer does not wait longer.", ms(c.P50), ms(c.P99))
	if g, o := j.Grow.P50, j.Overwrite.P50; o > 0 && g > 2*o && g-o > 0.2 {
		j.say(Note, "speed", "A sync takes %s where a file grows, %s where it is written over; the log grows its files in large steps.", ms(g), ms(o))
	}
	if c.P99 > 100 {
		j.say(Warning, "speed", "One commit in a hundred takes %s. Senders with a timeout below that will send again. Another program on the disk, or a card that tidies itself up, is the usual reason.", ms(c.P99))
	}
	if j.SustainRate > 0 && j.SustainS < leastSample {
		j.say(Note, "speed", "%s were written and synced in %.2g s: too small a sample to say at what rate the disk goes on.", bytesText(float64(j.SustainBytes)), j.SustainS)
		return
	}
	if j.SustainRate > 0 {
		j.say(Note, "speed", "Written for %.0f s on end, the disk took %s/s. The log writes records about twice (first in order, then in place): count on %s/s of small records.", j.SustainS, bytesText(j.SustainRate), bytesText(j.SustainRate/2.2))
	}
	if j.LastRate > 0 && j.LastRate < j.SustainRate/2 {
		j.say(Warning, "speed", "In its last quarter it was %s/s: a quick part of the disk was full by then. A flood that lasts goes on at that rate or below.", bytesText(j.LastRate))
	}
}

// An endurance is how often all of a disk can be written over, and what a
// byte written by us costs inside. Both are what makers and studies give for
// ordinary parts; a data sheet knows better.
type endurance struct {
	cycles float64
	inside float64
}

var endurances = map[string]endurance{
	"sd":   {500, 8},
	"emmc": {3_000, 4},
	"ssd":  {600, 2},
	"nvme": {600, 2},
}

// life says how much of its life the disk says is used.
func (j *judge) life() {
	if n := j.Device.LifeUsed; n >= 0 {
		l := Note
		if n >= 80 {
			l = Warning
		}
		j.say(l, "wear", "The eMMC says that %d %% of its life are used at most.", n)
	}
}

// wear says how long the disk lasts under the load.
func (j *judge) wear() {
	if j.Load.From == "" {
		j.say(Note, "wear", "The load is not known: no gateway answers. --rate and --size tell one.")
		return
	}
	day := j.Load.BytesPerDay
	what := fmt.Sprintf("%s writes %s a day", j.Load.From, bytesText(day))
	if j.Load.Rate > 0 {
		what = fmt.Sprintf("%s records/s of %s write about %s a day", number(j.Load.Rate), bytesText(j.Load.Size), bytesText(day))
	}
	if o := j.Load.Over; o > 0 && o < 600 {
		what += fmt.Sprintf(" (it has run for %.0f s only)", o)
	}
	e, ok := endurances[j.Device.Kind]
	size := j.Device.Bytes
	if !ok || size == 0 {
		j.say(Note, "wear", "%s. How much the disk bears is not known for %s; its data sheet says it (TBW).", what, orUnknown(kindNames[j.Device.Kind]))
		return
	}
	if day <= 0 {
		j.say(Note, "wear", "%s.", what)
		return
	}
	years := float64(size) * e.cycles / e.inside / day / 365
	l := Note
	if years < 5 {
		l = Warning
	}
	j.say(l, "wear", "%s. That wears it out in %s, if it is %s of %s that bears %.0f writes of every place and writes %.0f bytes inside for one of ours: assumed, its data sheet knows better.", what, span(years), kindNames[j.Device.Kind], bytesText(float64(size)), e.cycles, e.inside)
}

// settings recommends.
func (j *judge) settings() {
	if total := float64(j.Total); total > 0 {
		// What the spool's own defaults come to, and what is free now.
		floor := min(512<<20, total/20)
		quota := min(total*8/10, max(float64(j.Free)-floor, 0))
		l, more := Note, ""
		if quota < 1e9 {
			l, more = Warning, " That is little: an outage of the link fills it soon."
		}
		j.say(l, "settings", "[spool] quota: %s is the most that makes sense here (%s free, %s kept for everything else).%s", bytesText(quota), bytesText(float64(j.Free)), bytesText(floor), more)
	}
	if j.RecordBytes > 0 {
		text := fmt.Sprintf("A record of 100 bytes that comes alone makes the disk write %s", bytesText(j.RecordBytes))
		if _, flash := endurances[j.Device.Kind]; flash && j.Load.Rate == 0 && j.RecordBytes > 8<<10 {
			text += "; where the wear above is too much, let devices send several values in one message"
		}
		j.say(Note, "settings", "%s. Many devices at the same time share that.", text)
	}
	if j.Commit.P50 > 20 {
		j.say(Warning, "settings", "With %s a commit, a sender that waits for each answer sends %.0f records/s at most. Let senders keep many messages under way (MQTT: a window of 100), or send batches.", ms(j.Commit.P50), 1000/j.Commit.P50)
	}
}

func ms(v float64) string {
	if v < 1 {
		return fmt.Sprintf("%.2g ms", v)
	}
	if v >= 1000 {
		return fmt.Sprintf("%.0f ms", v)
	}
	return fmt.Sprintf("%.3g ms", v)
}

func number(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func bytesText(v float64) string {
	for _, u := range []struct {
		name string
		n    float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if v >= u.n {
			return fmt.Sprintf("%.3g %s", v/u.n, u.name)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}

func span(years float64) string {
	switch {
	case years > 50:
		return "more than 50 years"
	case years >= 1:
		return fmt.Sprintf("about %.1f years", years)
	case years*12 >= 2:
		return fmt.Sprintf("about %.0f months", years*12)
	}
	return fmt.Sprintf("about %.0f days", max(years*365, 1))
}

func orUnknown(kind string) string {
	if kind == "" {
		return "this disk"
	}
	return kind
}

// Modelled is the load of so many records a second of so many bytes, by what
// the disk wrote for one that came alone: a commit at a time, records that come
// meanwhile share the next, and every record is written about twice.
func (f Facts) Modelled(rate, size float64) Load {
	commits := rate
	if p := f.Commit.P50 / 1e3; p > 0 {
		commits = min(rate, 1/p)
	}
	perSecond := commits*f.RecordBytes + 2.2*(rate*(size+30)-commits*130)
	return Load{From: "flags", BytesPerDay: max(perSecond, 2.2*rate*size) * 86_400, Rate: rate, Size: size}
}
