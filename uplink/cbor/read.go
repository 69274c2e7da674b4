package cbor

// A Reader goes over the items of a message. Once something is not as it
// should be, it has failed, and stays so: what is asked of it then is empty.
// It takes no memory and no depth that a message merely announces.
type Reader struct {
	b   []byte
	at  int
	bad bool
}

// NewReader reads b, which must not change meanwhile.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Failed reports that the message was not what was asked for.
func (r *Reader) Failed() bool { return r.bad }

// Fail makes the reader one that has failed.
func (r *Reader) Fail() { r.bad = true }

// AtEnd reports that the message was read without a fault, to its end.
func (r *Reader) AtEnd() bool { return !r.bad && r.at == len(r.b) }

// Peek is the next item's first byte, Break at the end of the message.
func (r *Reader) Peek() byte {
	if r.bad || r.at >= len(r.b) {
		return Break
	}
	return r.b[r.at]
}

// Head reads an item's first byte and its argument, which for an indefinite
// length and the break is 0.
func (r *Reader) Head() (first byte, arg uint64) {
	if r.bad || r.at >= len(r.b) {
		r.bad = true
		return 0, 0
	}
	first = r.b[r.at]
	r.at++
	info := first & 31
	switch {
	case info < 24:
		return first, uint64(info)
	case info == Indefinite:
		switch first & Major {
		case Uint, NegInt, Tag:
			r.bad = true
			return 0, 0
		}
		return first, 0
	case info > 27:
		r.bad = true
		return 0, 0
	}
	n := 1 << (info - 24)
	if len(r.b)-r.at < n {
		r.bad = true
		return 0, 0
	}
	for _, c := range r.b[r.at : r.at+n] {
		arg = arg<<8 | uint64(c)
	}
	r.at += n
	return first, arg
}

// String reads a byte or text string of definite length; it points into the
// message.
func (r *Reader) String(major byte) []byte {
	first, n := r.Head()
	if r.bad || first&Major != major || first&31 == Indefinite || n > uint64(len(r.b)-r.at) {
		r.bad = true
		return nil
	}
	from := r.at
	r.at += int(n)
	return r.b[from:r.at:r.at]
}

// Whole is String for a string that may come in pieces (section 3.2.3); only
// of one that does it makes a copy.
func (r *Reader) Whole(major byte) []byte {
	if at := r.at; !r.bad && at < len(r.b) { // nearly all are short
		if n := int(r.b[at] - major); n < 24 && n < len(r.b)-at {
			r.at = at + 1 + n
			return r.b[at+1 : r.at : r.at]
		}
	}
	if r.Peek() != major|Indefinite {
		return r.String(major)
	}
	r.at++
	var whole []byte
	for r.Peek() != Break {
		whole = append(whole, r.String(major)...)
	}
	if first, _ := r.Head(); first != Break { // also where the message ends
		r.bad = true
	}
	if r.bad {
		return nil
	}
	return whole
}

// Items begins an array or a map. It gives the number of its items or pairs, -1
// if only a break ends them. More than most, or more than the message has room
// for, is a fault.
func (r *Reader) Items(major byte, most int) int {
	first, n := r.Head()
	switch {
	case r.bad || first&Major != major || n > uint64(most) || n > uint64(len(r.b)-r.at):
		r.bad = true
		return 0
	case first&31 == Indefinite:
		return -1
	}
	return int(n)
}

// Another reports whether another item follows; n counts down from what Items
// gave. Of a list without an end it says yes at the end of the message, where
// the next item is a fault.
func (r *Reader) Another(n *int) bool {
	switch {
	case r.bad:
		return false
	case *n < 0:
		if r.at < len(r.b) && r.b[r.at] == Break {
			r.at++
			return false
		}
		return true
	case *n == 0:
		return false
	}
	*n--
	return true
}

// maxDepth is how deep a value that is skipped may be nested, and maxTags how
// many tags may stand before an item.
const (
	maxDepth = 16
	maxTags  = 4
)

// Untag passes the tags in front of the next item (section 3.4).
func (r *Reader) Untag() {
	for n := 0; !r.bad && r.Peek()&Major == Tag; n++ {
		if r.Head(); n == maxTags {
			r.bad = true
		}
	}
}

// Skip passes one item, whatever it is.
func (r *Reader) Skip() { r.skip(maxDepth) }

func (r *Reader) skip(depth int) {
	r.Untag()
	kind := r.Peek() & Major
	switch {
	case r.bad || depth == 0:
		r.bad = true
	case kind == Bytes || kind == Text:
		r.skipString(kind)
	case kind == Array || kind == Map:
		for n := r.Items(kind, len(r.b)); r.Another(&n); {
			if kind == Map {
				r.skip(depth - 1)
			}
			r.skip(depth - 1)
		}
	default:
		if first, _ := r.Head(); first == Break {
			r.bad = true
		}
	}
}

func (r *Reader) skipString(major byte) {
	if r.Peek() != major|Indefinite {
		r.String(major)
		return
	}
	n := -1
	for r.at++; r.Another(&n); {
		r.String(major)
	}
}
