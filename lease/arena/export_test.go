package arena

// Slabs is how many slabs an arena has.
func (a *Arena) Slabs() int { return len(a.slabs) }
