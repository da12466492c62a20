package ceremony

import (
	"crypto/hpke"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"brightgid/idcodec"
	"brightgid/trace"
)

var now = time.Date(2026, 5, 10, 9, 0, 0, 0, time.UTC)

// hall is where a ceremony takes place.
type hall struct {
	t      testing.TB
	rng    *rand.ChaCha8
	roster *Roster
	people map[string]*Participant
	order  []string
}

func newHall(t testing.TB, threshold, n int) *hall {
	t.Helper()
	h := &hall{t: t, rng: rand.NewChaCha8([32]byte{7}), people: make(map[string]*Participant)}
	var members []Member
	for i := range n {
		members = append(members, h.member(fmt.Sprintf("t%d", i+1)))
	}
	h.begin(threshold, members, nil, nil)
	return h
}

func (h *hall) begin(threshold int, trustees []Member, old *idcodec.EscrowKey, dealers []Member) {
	h.t.Helper()
	var err error
	if h.roster, err = NewRoster(h.rng, now, threshold, trustees, old, dealers); err != nil {
		h.t.Fatal(err)
	}
	for _, p := range h.people {
		p.Roster = h.roster
	}
}

// member makes a participant and its announcement.
func (h *hall) member(name string) Member {
	h.t.Helper()
	id, err := trace.NewIdentity(h.rng, trace.Subject{Name: "trustee " + name}, now.Add(-time.Hour), now.Add(time.Hour))
	if err != nil {
		h.t.Fatal(err)
	}
	secret, err := NewSecret(h.rng, name)
	if err != nil {
		h.t.Fatal(err)
	}
	signed, err := Join(id, secret)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := OpenJoin(signed, now)
	if err != nil {
		h.t.Fatal(err)
	}
	h.people[name] = &Participant{Secret: secret, Self: id}
	h.order = append(h.order, name)
	return *m
}

// tamper changes a file on its way; "" keeps it back.
type tamper func(file, content string) string

// run lets everybody take steps until nobody has one more. It returns where each is.
func (h *hall) run(files Files, change tamper, who ...string) (map[string]*Step, error) {
	h.t.Helper()
	if len(who) == 0 {
		who = h.order
	}
	last := make(map[string]*Step)
	for range 40 {
		moved := false
		for _, n := range who {
			s, err := h.people[n].Next(files)
			if err != nil {
				return last, fmt.Errorf("%s: %w", n, err)
			}
			last[n] = s
			if s.File == "" {
				continue
			}
			if !IsFile(s.File) {
				h.t.Fatalf("%q is no name of a file", s.File)
			}
			content := s.Content
			if change != nil {
				content = change(s.File, content)
			}
			if content != "" && files[s.File] != content {
				files[s.File] = content
				moved = true
			}
		}
		if !moved {
			return last, nil
		}
	}
	h.t.Fatal("the ceremony does not end")
	return nil, nil
}

// ended checks that all have the same key and shares that open an NID.
func (h *hall) ended(files Files, steps map[string]*Step, without ...string) (*idcodec.EscrowKey, map[string]*idcodec.Share) {
	h.t.Helper()
	public, err := Conclude(h.roster, files, without)
	if err != nil || !public.Done() {
		h.t.Fatalf("from outside: %+v, %v", public, err)
	}
	want, _ := public.Key.MarshalText()
	shares := make(map[string]*idcodec.Share)
	for n, s := range steps {
		if !s.Done() {
			h.t.Fatalf("%s waits for %v, notes %v", n, s.Waiting, s.Notes)
		}
		if got, _ := s.Key.MarshalText(); string(got) != string(want) {
			h.t.Errorf("%s has another key", n)
		}
		if s.Share != nil {
			shares[n] = s.Share
		}
	}
	h.opens(public.Key, shares)
	return public.Key, shares
}

func (h *hall) opens(key *idcodec.EscrowKey, shares map[string]*idcodec.Share) {
	h.t.Helper()
	eid, err := idcodec.ParseEID("radius:alice")
	if err != nil {
		h.t.Fatal(err)
	}
	nid, err := idcodec.SealNID(h.rng, key, "isp.example", eid)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.open(key, nid, shares); err != nil {
		h.t.Error(err)
	}
}

func (h *hall) open(key *idcodec.EscrowKey, nid idcodec.NID, shares map[string]*idcodec.Share) error {
	var ds []idcodec.DecryptionShare
	for _, n := range slices.Sorted(maps.Keys(shares)) {
		d, err := shares[n].DecryptShare(h.rng, key, "isp.example", nid)
		if err != nil {
			return err
		}
		ds = append(ds, d)
	}
	for first := range len(ds) - key.Threshold() + 1 {
		eid, err := key.OpenNID("isp.example", nid, ds[first:first+key.Threshold()])
		if err != nil || eid.Reveal() != "radius:alice" {
			return fmt.Errorf("shares %d to %d: %w", first, first+key.Threshold()-1, err)
		}
	}
	return nil
}

// noted reports whether every participant was told a text.
func noted(t *testing.T, steps map[string]*Step, text string) {
	t.Helper()
	for n, s := range steps {
		if !strings.Contains(strings.Join(s.Notes, "\n"), text) {
			t.Errorf("%s is not told %q but %q", n, text, s.Notes)
		}
	}
}

func TestHonestTrusteesMakeAKey(t *testing.T) {
	for _, c := range [][2]int{{1, 1}, {1, 2}, {2, 2}, {2, 3}, {3, 5}, {4, 7}} {
		h := newHall(t, c[0], c[1])
		files := make(Files)
		steps, err := h.run(files, nil)
		if err != nil {
			t.Fatal(err)
		}
		key, _ := h.ended(files, steps)
		if key.Threshold() != c[0] || len(key.Trustees()) != c[1] {
			t.Errorf("%d of %d: the key is %d of %d", c[0], c[1], key.Threshold(), len(key.Trustees()))
		}
		for n := range files {
			if strings.HasSuffix(n, ".answer") {
				t.Errorf("%d of %d: there is %s", c[0], c[1], n)
			}
		}
	}
}

// Taking a step again gives the same, and who has only public files is told whom the
// ceremony waits for.
func TestAStepMayBeTakenAgain(t *testing.T) {
	h := newHall(t, 2, 3)
	files := make(Files)
	s, err := h.people["t1"].Next(files)
	if err != nil || s.File != "t1.deal" {
		t.Fatalf("%+v, %v", s, err)
	}
	files[s.File] = s.Content
	s, err = h.people["t1"].Next(files)
	if err != nil || s.File != "" || !slices.Equal(s.Waiting, []string{"t2.deal", "t3.deal"}) {
		t.Errorf("%+v, %v", s, err)
	}
	out, err := Conclude(h.roster, files, nil)
	if err != nil || out.Done() || !slices.Equal(out.Waiting, []string{"t2.deal", "t3.deal"}) {
		t.Errorf("%+v, %v", out, err)
	}
	steps, err := h.run(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.ended(files, steps)
}

// forge re-signs a member's file with other content.
func forge[T any](h *hall, file, content string, change func(*T)) string {
	h.t.Helper()
	name, round, _ := strings.Cut(file, ".")
	var x T
	if err := trace.Payload(content, typeOf(round), &x); err != nil {
		h.t.Fatal(err)
	}
	change(&x)
	s, err := trace.Sign(h.people[name].Self, typeOf(round), x)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// sealRubbish gives a trustee another sub-share than the one committed to.
func (h *hall) sealRubbish(d *deal, dealer, trustee string) {
	h.t.Helper()
	seal, err := h.people[trustee].Secret.sealKey()
	if err != nil {
		h.t.Fatal(err)
	}
	to, err := hpke.NewDHKEMPublicKey(seal.PublicKey())
	if err != nil {
		h.t.Fatal(err)
	}
	other, err := idcodec.NewDealer(h.rng, 2)
	if err != nil {
		h.t.Fatal(err)
	}
	b, _ := other.SubShare(1).MarshalBinary()
	if d.Sealed[trustee], err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(h.roster, dealer, trustee), b); err != nil {
		h.t.Fatal(err)
	}
}

func TestADealerOfAWrongSubShareMustAnswer(t *testing.T) {
	h := newHall(t, 2, 3)
	files := make(Files)
	steps, err := h.run(files, func(file, content string) string {
		if file == "t2.deal" {
			return forge(h, file, content, func(d *deal) { h.sealRubbish(d, "t2", "t3") })
		}
		return content
	})
	if err != nil {
		t.Fatal(err)
	}
	if files["t2.answer"] == "" {
		t.Error("there is no answer")
	}
	noted(t, steps, "t3 complains of t2, whose answer holds")
	h.ended(files, steps)
}

func TestADealerWhoCheatsIsNamedAndLeftOut(t *testing.T) {
	for _, c := range []struct {
		name, note string
		change     func(h *hall) tamper
	}{
		{"a deal for another threshold", "t2 is left out: its deal is wrong", func(h *hall) tamper {
			return func(file, content string) string {
				if file == "t2.deal" {
					return forge(h, file, content, func(d *deal) { d.Commitments = d.Commitments[:1] })
				}
				return content
			}
		}},
		{"a deal with nothing for one", "t2 is left out: its deal is wrong: it has nothing for", func(h *hall) tamper {
			return func(file, content string) string {
				if file == "t2.deal" {
					return forge(h, file, content, func(d *deal) { delete(d.Sealed, "t1") })
				}
				return content
			}
		}},
		{"wrong sub-shares for many", "t2 is left out: t1, t3 complain of it", func(h *hall) tamper {
			return func(file, content string) string {
				if file == "t2.deal" {
					return forge(h, file, content, func(d *deal) { h.sealRubbish(d, "t2", "t1"); h.sealRubbish(d, "t2", "t3") })
				}
				return content
			}
		}},
		{"an answer that does not hold", "t2 is left out: t3 complains of it", func(h *hall) tamper {
			return func(file, content string) string {
				switch file {
				case "t2.deal":
					return forge(h, file, content, func(d *deal) { h.sealRubbish(d, "t2", "t3") })
				case "t2.answer":
					return forge(h, file, content, func(a *answer) { a.SubShares["t3"][0] ^= 1 })
				}
				return content
			}
		}},
		{"an answer without what was asked", "t2 is left out: t3 complains of it", func(h *hall) tamper {
			return func(file, content string) string {
				switch file {
				case "t2.deal":
					return forge(h, file, content, func(d *deal) { h.sealRubbish(d, "t2", "t3") })
				case "t2.answer":
					return forge(h, file, content, func(a *answer) { a.SubShares = nil })
				}
				return content
			}
		}},
		{"a false opening", "t2: it has opened falsely; its part was rebuilt", func(h *hall) tamper {
			return func(file, content string) string {
				if file == "t2.open" {
					return forge(h, file, content, func(o *opening) {
						d, err := idcodec.NewDealer(h.rng, 2)
						if err != nil {
							h.t.Fatal(err)
						}
						o.Public = d.Reveal()
					})
				}
				return content
			}
		}},
		{"an opening for another threshold", "t2: it has opened falsely; its part was rebuilt", func(h *hall) tamper {
			return func(file, content string) string {
				if file == "t2.open" {
					return forge(h, file, content, func(o *opening) { o.Public = o.Public[:1] })
				}
				return content
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHall(t, 2, 3)
			files := make(Files)
			steps, err := h.run(files, c.change(h))
			if err != nil {
				t.Fatal(err)
			}
			noted(t, steps, c.note)
			h.ended(files, steps)
		})
	}
}

// A dealer who gives two trustees different deals is found by the verdicts.
func TestADealerWithTwoDealsIsFound(t *testing.T) {
	h := newHall(t, 2, 3)
	files := make(Files)
	for _, n := range h.order {
		s, err := h.people[n].Next(files)
		if err != nil {
			t.Fatal(err)
		}
		files[s.File] = s.Content
	}
	other := maps.Clone(files)
	other["t2.deal"] = forge(h, "t2.deal", files["t2.deal"], func(d *deal) { h.sealRubbish(d, "t2", "t1") })
	for n, seen := range map[string]Files{"t1": files, "t2": files, "t3": other} {
		s, err := h.people[n].Next(seen)
		if err != nil {
			t.Fatal(err)
		}
		files[s.File] = s.Content
	}
	_, err := h.people["t1"].Next(files)
	if !errors.Is(err, ErrCheat) || !strings.Contains(err.Error(), `different deals of "t2"`) {
		t.Errorf("%v", err)
	}
}

// Who vanishes after dealing does not stop the others, and who never comes does not.
func TestTheOthersGoOnWithoutOne(t *testing.T) {
	for _, from := range []string{"deal", "verdict", "open", "accept"} {
		t.Run("from "+from, func(t *testing.T) {
			h := newHall(t, 2, 4)
			files := make(Files)
			gone := false
			change := func(file, content string) string {
				if file == "t2."+from {
					gone = true
				}
				if gone && strings.HasPrefix(file, "t2.") {
					return ""
				}
				return content
			}
			steps, err := h.run(files, change)
			if err != nil {
				t.Fatal(err)
			}
			if s := steps["t1"]; s.Done() || !slices.ContainsFunc(s.Waiting, func(w string) bool { return strings.HasPrefix(w, "t2.") }) {
				t.Fatalf("they do not wait for t2: %+v", s)
			}
			for _, p := range h.people {
				p.Without = []string{"t2"}
			}
			steps, err = h.run(files, change, "t1", "t3", "t4")
			if err != nil {
				t.Fatal(err)
			}
			h.ended(files, steps, "t2")
			if from == "open" {
				noted(t, steps, "t2: it has not opened; its part was rebuilt")
			}
		})
	}
}

// A trustee who asks the others to give away an honest dealer's sub-shares gets none.
func TestAnHonestDealersPartIsNotGivenAway(t *testing.T) {
	h := newHall(t, 2, 3)
	files := make(Files)
	asked := false
	steps, err := h.run(files, func(file, content string) string {
		if file == "t3.accept" {
			asked = true
			return forge(h, file, content, func(a *accept) {
				b, err := read(h.roster, files, nil)
				if err != nil {
					h.t.Fatal(err)
				}
				s, err := h.people["t3"].sub(b, "t1") // its own, which holds
				if err != nil {
					h.t.Fatal(err)
				}
				a.SubShares["t1"], _ = s.MarshalBinary()
				a.SubShares["t2"] = make([]byte, idcodec.SubShareLen)
			})
		}
		return content
	})
	if err != nil || !asked {
		t.Fatal(err, asked)
	}
	for _, n := range []string{"t1", "t2"} {
		var a accept
		if err := trace.Payload(files[n+".accept"], typeOf(roundAccept), &a); err != nil || len(a.SubShares) != 0 {
			t.Errorf("%s has brought %d sub-shares, %v", n, len(a.SubShares), err)
		}
	}
	h.ended(files, steps)
}

func TestFilesThatAreNotTheMembersAreRefused(t *testing.T) {
	h, other := newHall(t, 2, 3), newHall(t, 2, 3)
	other.people = h.people // the same people, another roster
	files, foreign := make(Files), make(Files)
	if _, err := h.run(files, nil); err != nil {
		t.Fatal(err)
	}
	for _, p := range h.people {
		p.Roster = nil
	}
	members := h.roster.Trustees
	h.begin(2, members, nil, nil)
	if _, err := h.run(foreign, nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ file, content, want string }{
		"of another ceremony": {"t1.deal", files["t1.deal"], "of another ceremony"},
		"signed by another":   {"t1.deal", foreign["t2.deal"], "not trusted"},
		"of another round":    {"t1.verdict", foreign["t1.deal"], "the document is a"},
		"rubbish":             {"t1.open", "x.y.z", "not a JWS"},
		"too long":            {"t1.open", strings.Repeat("x", MaxFile+1), "too many"},
	} {
		bad := maps.Clone(foreign)
		bad[c.file] = c.content
		if _, err := h.people["t2"].Next(bad); !errors.Is(err, ErrCheat) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Who read another file than the others is found at the end.
	bad := maps.Clone(foreign)
	bad["t3.open"] = forge(h, "t3.open", foreign["t3.open"], func(*opening) {})
	bad["t3.open"] = forge(h, "t3.open", bad["t3.open"], func(o *opening) { o.Public[0], o.Public[1] = o.Public[1], o.Public[0] })
	if _, err := Conclude(h.roster, bad, nil); !errors.Is(err, ErrCheat) || !strings.Contains(err.Error(), "t3.open is another") {
		t.Errorf("another opening: %v", err)
	}
}

// reshare deals the key of a hall out to new trustees.
func reshare(h *hall, key *idcodec.EscrowKey, shares map[string]*idcodec.Share, dealers []string, threshold, n int) *hall {
	h.t.Helper()
	x := &hall{t: h.t, rng: h.rng, people: make(map[string]*Participant)}
	var old, trustees []Member
	for _, d := range dealers {
		old = append(old, x.member(d))
		x.people[d].Share = shares[d]
	}
	for i := range n {
		if i == 0 { // one stays, with another index
			trustees = append(trustees, old[len(old)-1])
			continue
		}
		trustees = append(trustees, x.member(fmt.Sprintf("n%d", i+1)))
	}
	x.begin(threshold, trustees, key, old)
	return x
}

func TestAResharingKeepsTheKey(t *testing.T) {
	h := newHall(t, 2, 3)
	files := make(Files)
	steps, err := h.run(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, shares := h.ended(files, steps)
	eid, _ := idcodec.ParseEID("radius:alice")
	nid, err := idcodec.SealNID(h.rng, key, "isp.example", eid)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		dealers      []string
		threshold, n int
		change       func(*hall) tamper
		note         string
	}{
		{"to more", []string{"t3", "t1"}, 3, 5, nil, ""},
		{"to fewer", []string{"t1", "t2", "t3"}, 1, 2, nil, ""},
		{"with a dealer who cheats one", []string{"t1", "t2", "t3"}, 2, 4, func(x *hall) tamper {
			return func(file, content string) string {
				if file == "t1.deal" {
					return forge(x, file, content, func(d *deal) { x.sealRubbish(d, "t1", "n2") })
				}
				return content
			}
		}, "n2 complains of t1, whose answer holds"},
		{"with a dealer who cheats all", []string{"t1", "t2", "t3"}, 2, 4, func(x *hall) tamper {
			return func(file, content string) string {
				if file == "t1.deal" {
					return forge(x, file, content, func(d *deal) { x.sealRubbish(d, "t1", "n2"); x.sealRubbish(d, "t1", "n3") })
				}
				return content
			}
		}, "t1 is left out"},
		{"with a dealer of something else", []string{"t1", "t2", "t3"}, 2, 4, func(x *hall) tamper {
			return func(file, content string) string {
				if file == "t2.deal" {
					return forge(x, file, content, func(d *deal) {
						o, err := idcodec.NewDealer(x.rng, 2)
						if err != nil {
							x.t.Fatal(err)
						}
						d.Commitments = o.Reveal()
					})
				}
				return content
			}
		}, "t2 is left out: its deal is wrong: what it deals out is not"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := reshare(h, key, shares, c.dealers, c.threshold, c.n)
			x.t = t
			files := make(Files)
			var change tamper
			if c.change != nil {
				change = c.change(x)
			}
			steps, err := x.run(files, change)
			if err != nil {
				t.Fatal(err)
			}
			if c.note != "" {
				noted(t, steps, c.note)
			}
			now, fresh := x.ended(files, steps)
			if now.ID() != key.ID() || now.Threshold() != c.threshold || len(fresh) != c.n {
				t.Errorf("the key is %s, %d of %d", now.ID(), now.Threshold(), len(fresh))
			}
			if err := x.open(now, nid, fresh); err != nil {
				t.Errorf("an old NID: %v", err)
			}
		})
	}
	t.Run("with too few who are honest", func(t *testing.T) {
		x := reshare(h, key, shares, []string{"t1", "t2"}, 2, 3)
		x.t = t
		_, err := x.run(make(Files), func(file, content string) string {
			if file == "t1.deal" {
				return forge(x, file, content, func(d *deal) { d.Sealed = nil })
			}
			return content
		})
		if !errors.Is(err, ErrCheat) || !strings.Contains(err.Error(), "only 1 dealers are left") {
			t.Errorf("%v", err)
		}
	})
	t.Run("with the share of another", func(t *testing.T) {
		x := reshare(h, key, shares, []string{"t1", "t2"}, 2, 3)
		x.people["t1"].Share = shares["t3"]
		if _, err := x.people["t1"].Next(make(Files)); err == nil || !strings.Contains(err.Error(), `want that of "t1"`) {
			t.Errorf("%v", err)
		}
		x.people["t1"].Share = nil
		if _, err := x.people["t1"].Next(make(Files)); err == nil || !strings.Contains(err.Error(), "is needed") {
			t.Errorf("%v", err)
		}
	})
}

func TestARosterIsChecked(t *testing.T) {
	h := newHall(t, 2, 3)
	m := h.roster.Trustees
	for name, f := range map[string]func() error{
		"a threshold too high": func() error { _, err := NewRoster(h.rng, now, 4, m, nil, nil); return err },
		"no trustee":           func() error { _, err := NewRoster(h.rng, now, 1, nil, nil, nil); return err },
		"one twice":            func() error { _, err := NewRoster(h.rng, now, 2, []Member{m[0], m[0]}, nil, nil); return err },
		"one under two names": func() error {
			x := m[0]
			x.Name = "other"
			_, err := NewRoster(h.rng, now, 2, []Member{m[0], x}, nil, nil)
			return err
		},
		"dealers without a key": func() error { _, err := NewRoster(h.rng, now, 2, m, nil, m); return err },
		"no certificate": func() error {
			x := m[0]
			x.Certificate = []byte("x")
			_, err := NewRoster(h.rng, now, 1, []Member{x}, nil, nil)
			return err
		},
		"a space more": func() error {
			text := h.roster.Text()
			_, err := ParseRoster(append(text, ' '))
			return err
		},
	} {
		if err := f(); !errors.Is(err, ErrRoster) {
			t.Errorf("%s: %v, want ErrRoster", name, err)
		}
	}
	stranger := newHall(t, 1, 1)
	stranger.rng = rand.NewChaCha8([32]byte{8})
	stranger.member("t9")
	p := stranger.people["t9"]
	p.Roster = h.roster
	if _, err := p.Next(make(Files)); !errors.Is(err, ErrRoster) {
		t.Errorf("a stranger: %v, want ErrRoster", err)
	}
	p.Secret.Name = "t1"
	if _, err := p.Next(make(Files)); !errors.Is(err, ErrRoster) {
		t.Errorf("one in another's name: %v, want ErrRoster", err)
	}
}

func TestASecretSurvivesItsFileAndIsNotPrinted(t *testing.T) {
	s, err := NewSecret(rand.NewChaCha8([32]byte{1}), "judge")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := s.MarshalText()
	back, err := ParseSecret(text)
	if err != nil || *back != *s {
		t.Errorf("%v", err)
	}
	if got := fmt.Sprintf("%v %#v", s, s); strings.Count(got, "withheld") != 2 {
		t.Errorf("printed as %s", got)
	}
	for _, bad := range []string{"", "{}", `{"format":"gid-ceremony-secret-1","name":"x","seed":"AA=="}`} {
		if _, err := ParseSecret([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzParseRoster(f *testing.F) {
	text := newHall(f, 2, 3).roster.Text()
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRoster(b)
		if err != nil {
			return
		}
		if again := r.Text(); string(again) != string(b) {
			t.Fatal("a roster has two texts")
		}
	})
}

// FuzzFiles reads what a member signs, whatever it is.
func FuzzFiles(f *testing.F) {
	h := newHall(f, 2, 2)
	files := make(Files)
	if _, err := h.run(files, nil); err != nil {
		f.Fatal(err)
	}
	for round := range rounds {
		for _, text := range []string{`{}`, `{"ceremony":"` + h.roster.Hash() + `"}`, `{"ceremony":"` + h.roster.Hash() + `","deals":{"t1":""},"complaints":["t1","x"]}`} {
			f.Add(uint8(round), text)
		}
	}
	f.Fuzz(func(t *testing.T, round uint8, payload string) {
		name := rounds[int(round)%len(rounds)]
		signed, err := trace.Sign(h.people["t1"].Self, typeOf(name), rawPayload(payload))
		if err != nil {
			return
		}
		bad := maps.Clone(files)
		bad["t1."+name] = signed
		h.people["t2"].Next(bad)
		delete(bad, "t1.accept")
		delete(bad, "t2.accept")
		h.people["t2"].Next(bad)
		Conclude(h.roster, bad, nil)
	})
}

type rawPayload string

func (p rawPayload) MarshalJSON() ([]byte, error) { return []byte(p), nil }

func FuzzOpenJoin(f *testing.F) {
	h := newHall(f, 1, 1)
	good, err := Join(h.people["t1"].Self, h.people["t1"].Secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := OpenJoin(s, now); err == nil && m.Name != "t1" {
			t.Fatal("an announcement that nobody signed is taken")
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	s, err := NewSecret(rand.NewChaCha8([32]byte{1}), "judge")
	if err != nil {
		f.Fatal(err)
	}
	text, _ := s.MarshalText()
	f.Add(text)
	f.Fuzz(func(t *testing.T, b []byte) { ParseSecret(b) })
}
