package renewals_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"brightgid/lease"
	"brightgid/lease/leasetest"
	"brightgid/lease/renewals"
)

var t0 = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// aLease is lease i of a subscriber, as the database has it and as it is named here.
func aLease(i int, number uint64, pd bool) (l lease.Lease, k renewals.Key, addr [16]byte) {
	l = leasetest.Lease(i, t0)
	l.Subscriber = number
	if pd {
		l.Bits, l.Client.PD = 56, true
	}
	return l, renewals.KeyOf(number, pd), l.Addr.As16()
}

func after(l lease.Lease, d time.Duration) lease.Lease {
	l.Updated, l.PreferredUntil, l.ValidUntil = l.Updated.Add(d), l.PreferredUntil.Add(d), l.ValidUntil.Add(d)
	return l
}

func record(l lease.Lease) []byte { return lease.AppendRecord(nil, &l) }

func TestARenewalSetsTimesOnly(t *testing.T) {
	for _, pd := range []bool{false, true} {
		p := renewals.New(1)
		defer p.Close()
		l, k, addr := aLease(1, 1<<20, pd)
		if _, _, ok := p.Renew(k, &addr, record(l)); ok {
			t.Error("renewed without a place")
		}
		p.Take(k, &addr, record(l))
		if at, place, ok := p.Renew(k, &addr, record(after(l, time.Hour))); !ok || at != k || len(place) != renewals.PlaceLen {
			t.Errorf("%d, %x, %v", at, place, ok)
		}
		want := lease.RecordTimes(record(after(l, time.Hour)))
		if got, ok := p.Times(k, &addr, record(l)); !ok || got != want {
			t.Errorf("%+v, %v; want %+v", got, ok, want)
		}
		other := renewals.KeyOf(1<<20, !pd)
		if _, ok := p.Times(other, &addr, record(l)); ok {
			t.Error("it is in the other's place, too")
		}
		for what, change := range map[string]func(*lease.Lease){
			"the relay":             func(l *lease.Lease) { l.Anchor.LinkLayer = []byte{9} },
			"the state":             func(l *lease.Lease) { l.State = lease.Released },
			"when it began":         func(l *lease.Lease) { l.Start = l.Start.Add(time.Second) },
			"the last of its bytes": func(l *lease.Lease) { l.Anchor.RemoteID = []byte{1} },
			"valid for 137 years":   func(l *lease.Lease) { l.ValidUntil = l.Updated.Add(1 << 32 * time.Second) },
			"preferred until before it was updated": func(l *lease.Lease) {
				l.PreferredUntil = l.Updated.Add(-time.Second)
			},
			"updated before 1970": func(l *lease.Lease) { *l = after(*l, -100*365*24*time.Hour) },
			"updated after 2106":  func(l *lease.Lease) { *l = after(*l, 81*365*24*time.Hour) },
		} {
			changed := after(l, 2*time.Hour)
			change(&changed)
			if _, _, ok := p.Renew(k, &addr, record(changed)); ok {
				t.Errorf("renewed though %s is new", what)
			}
			if got, ok := p.Times(k, &addr, record(l)); !ok || got != want {
				t.Errorf("after that, %s: %+v, %v; want %+v", what, got, ok, want)
			}
		}
		changed := l
		changed.State = lease.Declined
		if _, ok := p.Times(k, &addr, record(changed)); ok {
			t.Error("another record has its times")
		}
		if _, ok := p.Leave(k, &[16]byte{1}); ok || !p.Has(k, &addr) {
			t.Error("left by who has it not")
		}
		if at, ok := p.Leave(k, &addr); !ok || at != k || p.Has(k, &addr) {
			t.Error("not left by who has it")
		}
		if _, ok := p.Leave(k, &addr); ok {
			t.Error("left twice")
		}
	}
}

// A subscriber has some places; of more leases the one has to go that was not renewed for longest.
func TestSomeLeasesOfASubscriberHavePlaces(t *testing.T) {
	for pd, many := range map[bool]int{false: 4, true: 2} {
		p := renewals.New(1)
		defer p.Close()
		k := renewals.KeyOf(7, pd)
		var leases []lease.Lease
		var addrs [][16]byte
		for i := range many + 1 {
			l, _, addr := aLease(i, 7, pd)
			leases, addrs = append(leases, l), append(addrs, addr)
			victim, ok := p.Victim(k, &addr)
			if want := i == many; ok != want || ok && victim != addrs[0] {
				t.Errorf("lease %d: %x has to go, %v", i, victim, ok)
			}
			p.Take(k, &addr, record(l))
			if p.Has(k, &addr) != (i < many) {
				t.Errorf("lease %d has a place: %v", i, i == many)
			}
		}
		for i := range many {
			l := after(leases[i], time.Duration(many-i)*time.Hour)
			at, place, ok := p.Renew(k, &addrs[i], record(l))
			if !ok || at != k+renewals.Key(i) || [16]byte(place) != addrs[i] {
				t.Errorf("lease %d is renewed at %d", i, at)
			}
			if _, ok := p.Victim(k, &addrs[i]); ok {
				t.Errorf("another has to go for lease %d, which has a place", i)
			}
		}
		if victim, ok := p.Victim(k, &addrs[many]); !ok || victim != addrs[many-1] {
			t.Errorf("%x has to go, %v; want the one that was not renewed for longest", victim, ok)
		}
		p.Leave(k, &addrs[1])
		p.Take(k, &addrs[many], record(leases[many]))
		if at, _, ok := p.Renew(k, &addrs[many], record(after(leases[many], time.Hour))); !ok || at != k+1 {
			t.Errorf("at %d, %v; want the place that was left", at, ok)
		}
		if other := renewals.KeyOf(7, !pd); p.Has(other, &addrs[0]) || p.Has(renewals.KeyOf(8, pd), &addrs[0]) {
			t.Error("it is in others' places, too")
		}
	}
}

// A lease whose times do not fit takes no place, and whose it was has it no more.
func TestTimesThatDoNotFitTakeNoPlace(t *testing.T) {
	p := renewals.New(1)
	defer p.Close()
	l, k, addr := aLease(1, 7, false)
	p.Take(k, &addr, record(l))
	l.ValidUntil = l.Updated.Add(1 << 32 * time.Second)
	p.Take(k, &addr, record(l))
	if p.Has(k, &addr) {
		t.Error("it has")
	}
}

// Numbers that nobody has take no memory.
func TestThereIsNoPlaceBeyondTheLast(t *testing.T) {
	p := renewals.New(1)
	defer p.Close()
	l, _, addr := aLease(1, 7, false)
	for _, k := range []renewals.Key{renewals.KeyOf(1<<32, false), renewals.Key(1<<64 - 1)} {
		p.Take(k, &addr, record(l))
		p.Clear(k)
		_, ok := p.Victim(k, &addr)
		if ok || p.Has(k, &addr) || p.Changed() {
			t.Errorf("%d has a place", k)
		}
		if err := p.Set(k, make([]byte, renewals.PlaceLen)); !errors.Is(err, renewals.ErrDamaged) {
			t.Errorf("%d: %v", k, err)
		}
	}
}

func TestChangedIsSinceTheLastCall(t *testing.T) {
	p := renewals.New(1)
	defer p.Close()
	l, k, addr := aLease(1, 7, false)
	steps := []struct {
		name string
		do   func()
		want bool
	}{
		{"nothing", func() {}, false},
		{"taken", func() { p.Take(k, &addr, record(l)) }, true},
		{"asked", func() { p.Victim(k, &addr); p.Times(k, &addr, record(l)) }, false},
		{"renewed", func() { p.Renew(k, &addr, record(after(l, 1))) }, true},
		{"left", func() { p.Leave(k, &addr) }, true},
		{"left again", func() { p.Leave(k, &addr) }, false},
		{"set", func() { _ = p.Set(k, make([]byte, renewals.PlaceLen)) }, true},
		{"cleared", func() { p.Clear(k) }, true},
		{"told", p.Change, true},
	}
	for _, s := range steps {
		if s.do(); p.Changed() != s.want || p.Changed() {
			t.Errorf("%s: not %v once", s.name, s.want)
		}
	}
}

// encoded is the file of places.
func encoded(p *renewals.Places) (b []byte) {
	e := p.Encode()
	for more := true; more; {
		b, more = e.Next(b)
	}
	return b
}

// Whatever was done, a file has all places, and so have those that a log sets again.
func TestAFileHasAllPlaces(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	p, redone := renewals.New(5), renewals.New(5)
	defer func() { p.Close(); redone.Close() }()
	type named struct {
		k    renewals.Key
		addr [16]byte
	}
	is := make(map[named]lease.Lease) // as it is
	had := make(map[named]lease.Lease)
	for range 5000 {
		number := rng.Uint64N(300) * rng.Uint64N(3) * 997 // some far from others
		l, k, addr := aLease(rng.IntN(5), number, rng.IntN(4) == 0)
		n := named{k, addr}
		switch old, ok := is[n]; {
		case !ok || rng.IntN(5) == 0:
			if victim, ok := p.Victim(k, &addr); ok {
				at, _ := p.Leave(k, &victim)
				redone.Clear(at)
				delete(is, named{k, victim})
			}
			p.Take(k, &addr, record(l))
			is[n], had[n] = l, l
		case rng.IntN(5) == 0:
			at, _ := p.Leave(k, &addr)
			redone.Clear(at)
			delete(is, n)
		default:
			is[n] = after(old, time.Duration(rng.IntN(1e6))*time.Second)
			at, place, ok := p.Renew(k, &addr, record(is[n]))
			if !ok {
				t.Fatalf("%+v was not renewed", is[n])
			}
			key, ok := renewals.ParseKey(at.Append(nil))
			if err := redone.Set(key, place); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	}
	file := encoded(p)
	read, err := renewals.Read(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if got := encoded(read); !bytes.Equal(got, file) {
		t.Errorf("it is written as %d bytes, and was %d", len(got), len(file))
	}
	renewed := 0
	for n, l := range had {
		now, ok := is[n]
		for what, p := range map[string]*renewals.Places{"they": p, "read": read, "redone": redone} {
			if what == "redone" && (!ok || now.Updated.Equal(l.Updated)) {
				continue // of which it was not told
			}
			got, has := p.Times(n.k, &n.addr, record(l))
			if has != ok || ok && got != lease.RecordTimes(record(now)) {
				t.Errorf("%s: %+v, %v; want %+v, %v", what, got, has, now, ok)
			}
		}
		if ok && !now.Updated.Equal(l.Updated) {
			renewed++
		}
	}
	if renewed < 100 {
		t.Errorf("%d that are renewed show little", renewed)
	}
}

// Who guards places keeps others from them for no more than one piece at a time, be there anything in it or
// not.
func TestOnePieceAtATime(t *testing.T) {
	p := renewals.New(5)
	defer p.Close()
	const piece, pieces = 2048, 64 // of those that are had together
	l, k, addr := aLease(1, 0, false)
	p.Take(k, &addr, record(l))
	p.Leave(k, &addr)
	_, last, _ := aLease(1, piece*(pieces-1), false)
	p.Take(last, &addr, record(l))
	e := p.Encode()
	var lens []int
	for more := true; more; {
		var b []byte
		b, more = e.Next(nil)
		lens = append(lens, len(b))
	}
	want := make([]int, pieces+2)
	want[0], want[pieces], want[pieces+1] = 20, 5+piece*renewals.PlaceLen+4, 9
	if !slices.Equal(lens, want) {
		t.Errorf("parts of %d bytes, want %d", lens, want)
	}
}

// A file whose end or middle is not there, or of which a bit is another, is refused.
func TestADamagedFileIsRefused(t *testing.T) {
	p := renewals.New(5)
	defer p.Close()
	for _, number := range []uint64{3, 3000, 1 << 20} {
		l, k, addr := aLease(1, number, number == 3000)
		p.Take(k, &addr, record(l))
	}
	whole := encoded(p)
	const start, piece = 20, 5 + 65536 + 4
	if len(whole) != start+3*piece+9 {
		t.Fatalf("%d bytes", len(whole))
	}
	refused := func(what string, file []byte) {
		t.Helper()
		if _, err := renewals.Read(bytes.NewReader(file)); !errors.Is(err, renewals.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("nothing", nil)
	for _, n := range []int{1, start - 1, start, start + 1, start + piece - 1, start + piece, len(whole) - 9, len(whole) - 1} {
		refused(fmt.Sprintf("its first %d bytes", n), whole[:n])
	}
	refused("one piece less", append(bytes.Clone(whole[:start+piece]), whole[start+2*piece:]...))
	refused("more after its end", append(bytes.Clone(whole), 0))
	for _, at := range []int{0, 8, start - 1, start, start + 1, start + 5, start + piece - 1, len(whole) - 9, len(whole) - 5, len(whole) - 1} {
		b := bytes.Clone(whole)
		b[at] ^= 4
		refused(fmt.Sprintf("another bit in byte %d", at), b)
	}
	for what, head := range map[string][]byte{"a row that is none": {6, 0, 0, 0, 0}, "a number that nobody has": {0, 0xff, 0xff, 0xff, 0xff}} {
		b := bytes.Clone(whole)
		copy(b[start:], head)
		sum(b[start : start+piece])
		refused(what, b)
	}
	other := bytes.Clone(whole)
	other[6] = '2'
	sum(other[:start])
	refused("another magic", other)
}

// sum writes the CRC of the rest at the end.
func sum(b []byte) {
	end := len(b) - 4
	binary.BigEndian.PutUint32(b[end:], crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)))
}

func FuzzRead(f *testing.F) {
	p := renewals.New(5)
	l, k, addr := aLease(1, 3, false)
	f.Add(encoded(p))
	p.Take(k, &addr, record(l))
	f.Add(encoded(p))
	p.Close()
	f.Fuzz(func(t *testing.T, file []byte) {
		p, err := renewals.Read(bytes.NewReader(file))
		if err != nil {
			return
		}
		defer p.Close()
		read, err := renewals.Read(bytes.NewReader(encoded(p)))
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		if !bytes.Equal(encoded(read), encoded(p)) {
			t.Error("what is read is written as something else")
		}
	})
}

// Renewing allocates nothing.
func TestARenewalAllocatesNothing(t *testing.T) {
	p := renewals.New(1)
	defer p.Close()
	l, k, addr := aLease(1, 7, false)
	p.Take(k, &addr, record(l))
	r := record(after(l, time.Hour))
	if n := testing.AllocsPerRun(100, func() {
		if _, _, ok := p.Renew(k, &addr, r); !ok {
			t.Error("not renewed")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
