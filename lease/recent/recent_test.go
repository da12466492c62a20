package recent

import "testing"

// What is asked for stays, however much comes; what is not is gone, and there is a limit.
func TestOnlyWhatIsAskedForStays(t *testing.T) {
	m := New[int, string](10)
	m.Put(-1, "asked for")
	for i := range 1000 {
		m.Put(i, "")
		if v, ok := m.Get(-1); !ok || v != "asked for" {
			t.Fatalf("gone after %d entries: %q, %v", i, v, ok)
		}
		if n := len(m.young) + len(m.old); n > 20 {
			t.Fatalf("%d entries, want up to 20", n)
		}
	}
	if _, ok := m.Get(0); ok {
		t.Error("an entry that nobody asked for is still there")
	}
	m.Forget(-1)
	if _, ok := m.Get(-1); ok {
		t.Error("forgotten and still there")
	}
	m.Clear()
	if _, ok := m.Get(999); ok {
		t.Error("an entry of a cleared map")
	}
}
