package kinesis

// What Kinesis bills. A PUT payload unit is 25 kB of data and key of one
// record; on demand a record is rounded up to the next KiB.
const (
	putUnit = 25_000
	roundUp = 1 << 10
)

// Units is how many PUT payload units a Kinesis record of n bytes costs.
func Units(n int) int { return max((n+putUnit-1)/putUnit, 1) }

// Billed is as how many bytes a Kinesis record of n bytes counts on demand.
func Billed(n int) int { return max((n+roundUp-1)/roundUp, 1) * roundUp }
