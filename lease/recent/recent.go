// Package recent is a map that forgets what was not asked for lately.
package recent

// Map keeps entries in two generations: when the young ones are as many as they may be they
// become the old ones, and what nobody has asked for since the last time is gone. It is not
// safe for concurrent use. The zero Map keeps nothing.
type Map[K comparable, V any] struct {
	max        int
	young, old map[K]V
}

// New returns a map of max to 2·max entries.
func New[K comparable, V any](max int) *Map[K, V] {
	return &Map[K, V]{max: max, young: make(map[K]V), old: make(map[K]V)}
}

// Get returns an entry, which is young then.
func (m *Map[K, V]) Get(k K) (v V, ok bool) {
	if v, ok = m.young[k]; ok {
		return v, true
	}
	if v, ok = m.old[k]; ok {
		m.Put(k, v)
	}
	return v, ok
}

// Put adds or replaces an entry.
func (m *Map[K, V]) Put(k K, v V) {
	if len(m.young) >= m.max {
		m.young, m.old = m.old, m.young
		clear(m.young)
	}
	m.young[k] = v
}

// Forget removes an entry.
func (m *Map[K, V]) Forget(k K) {
	delete(m.young, k)
	delete(m.old, k)
}

// Clear removes all entries.
func (m *Map[K, V]) Clear() {
	clear(m.young)
	clear(m.old)
}
