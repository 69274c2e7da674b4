package broker

// Pending is what is taken of the memory budgets, in bytes.
func (b *Broker) Pending() int {
	n := 0
	for _, m := range []*budget{b.memory, b.reading} {
		m.mu.Lock()
		n += m.used
		m.mu.Unlock()
	}
	return n
}
