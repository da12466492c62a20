package ceremony

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"brightgid/idcodec"
	"brightgid/trace"
)

// Files are the members' signed files, by their names: NAME.deal, NAME.verdict,
// NAME.answer, NAME.open, NAME.accept.
type Files map[string]string

// MaxFile is the length in bytes of a member's longest file.
const MaxFile = maxText

// The rounds, by the endings of their files.
const (
	roundDeal    = "deal"
	roundVerdict = "verdict"
	roundAnswer  = "answer"
	roundOpen    = "open"
	roundAccept  = "accept"
)

var rounds = []string{roundDeal, roundVerdict, roundAnswer, roundOpen, roundAccept}

// IsFile reports whether a name is one of a member's files, whoever the member is.
func IsFile(name string) bool {
	i := strings.LastIndexByte(name, '.')
	return i > 0 && slices.Contains(rounds, name[i+1:]) && trusteeName.MatchString(name[:i])
}

func typeOf(round string) string { return "gid-ceremony-" + round + "-1+jws" }

type deal struct {
	Ceremony    string              `json:"ceremony"`
	Commitments idcodec.Commitments `json:"commitments"`
	Sealed      map[string][]byte   `json:"sealed"` // HPKE of a sub-share, by trustee
}

type verdict struct {
	Ceremony   string            `json:"ceremony"`
	Deals      map[string]string `json:"deals"`      // SHA-256 of each deal's file, by dealer
	Complaints []string          `json:"complaints"` // dealers whose sub-share does not hold
}

type answer struct {
	Ceremony  string            `json:"ceremony"`
	SubShares map[string][]byte `json:"sub_shares"` // by trustee who complained
}

type opening struct {
	Ceremony string              `json:"ceremony"`
	Public   idcodec.Commitments `json:"public"`
}

// accept is a trustee's word that it has read the same as all others. With it go the
// sub-shares of dealers whose part is to be rebuilt.
type accept struct {
	Ceremony  string            `json:"ceremony"`
	Files     map[string]string `json:"files"` // SHA-256 of each file read, by name
	SubShares map[string][]byte `json:"sub_shares"`
}

// Participant takes a member's steps.
type Participant struct {
	Roster *Roster
	Secret *Secret
	Self   *trace.Identity
	Share  *idcodec.Share // of an old trustee who deals in a resharing

	// Without names members that are not waited for any longer. All who go on
	// without them must say the same.
	Without []string
}

// Status is where a ceremony is.
type Status struct {
	Waiting []string // files that have not come
	Notes   []string // what is to be known: complaints, and who was left out for what
	Key     *idcodec.EscrowKey
	Dealers []string // whose parts the key is made of
}

// Done reports whether the ceremony has ended.
func (s *Status) Done() bool { return s.Key != nil }

// Step is what a participant does next.
type Step struct {
	Status
	File    string // to be written and given to all; empty for none
	Content string
	Share   *idcodec.Share // when the ceremony has ended, for a trustee
}

// ErrCheat says that a member's file shows that the member, or who carried it, cheats.
var ErrCheat = errors.New("the files are not in order")

// Next looks at the files and says what is to be done. It is called again when more
// files have come.
func (p *Participant) Next(files Files) (*Step, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b, err := read(p.Roster, files, p.Without)
	if err != nil {
		return nil, err
	}
	s := &Step{}
	round, payload, err := p.next(b)
	s.Status = b.status
	if err != nil || payload == nil {
		if err == nil && s.Done() && b.r.index(p.Secret.Name) > 0 {
			s.Share, err = p.share(b)
		}
		return s, err
	}
	s.File = p.Secret.Name + "." + round
	s.Content, err = trace.Sign(p.Self, typeOf(round), payload)
	return s, err
}

// Conclude says where a ceremony is for who only reads its files. It needs no secret.
func Conclude(r *Roster, files Files, without []string) (*Status, error) {
	b, err := read(r, files, without)
	if err != nil {
		return nil, err
	}
	err = b.conclude()
	return &b.status, err
}

// check holds the participant against the roster.
func (p *Participant) check() error {
	for _, list := range [][]Member{p.Roster.Trustees, p.Roster.Dealers} {
		for i := range list {
			if m := &list[i]; m.Name == p.Secret.Name {
				seal, err := p.Secret.sealKey()
				if err != nil {
					return err
				}
				if m.Fingerprint() != trace.Fingerprint(p.Self.Certificate) || string(m.SealTo) != string(seal.PublicKey().Bytes()) {
					return fmt.Errorf("%w: %q stands there with another certificate or key than this secret's", ErrRoster, m.Name)
				}
				return nil
			}
		}
	}
	return fmt.Errorf("%w: %q does not stand on it", ErrRoster, p.Secret.Name)
}

// board is what the files say.
type board struct {
	r       *Roster
	files   Files
	without []string
	status  Status

	deals    map[string]*deal
	verdicts map[string]*verdict
	answers  map[string]*answer
	opens    map[string]*opening
	accepts  map[string]*accept

	badDeal   map[string]string // why a dealer's deal counts for nothing
	qualified []string          // dealers, in the order of the roster
	public    map[string]idcodec.Commitments
}

// read reads all files. Each must be signed by its member and be of this ceremony.
func read(r *Roster, files Files, without []string) (*board, error) {
	b := &board{
		r: r, files: files, without: without, deals: make(map[string]*deal), verdicts: make(map[string]*verdict), answers: make(map[string]*answer),
		opens: make(map[string]*opening), accepts: make(map[string]*accept), badDeal: make(map[string]string), public: make(map[string]idcodec.Commitments),
	}
	for _, n := range without {
		if !b.isMember(n) {
			return nil, fmt.Errorf("%w: %q does not stand on it", ErrRoster, n)
		}
	}
	for _, list := range [][]Member{r.dealers(), r.Trustees} {
		for i := range list {
			if err := b.readMember(&list[i]); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

func (b *board) isMember(name string) bool {
	is := func(m Member) bool { return m.Name == name }
	return slices.ContainsFunc(b.r.Trustees, is) || slices.ContainsFunc(b.r.Dealers, is)
}

func (b *board) readMember(m *Member) error {
	c, err := m.certificate()
	if err != nil {
		return err
	}
	for _, round := range rounds {
		name := m.Name + "." + round
		text, ok := b.files[name]
		if !ok {
			continue
		}
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%w: %s: %s", ErrCheat, name, fmt.Sprintf(format, args...))
		}
		if len(text) > MaxFile {
			return bad("%d bytes are too many", len(text))
		}
		var ceremony string
		open := func(v any, id *string) error {
			_, err := trace.Open(text, typeOf(round), []*x509.Certificate{c}, b.r.Created, v)
			ceremony = *id
			return err
		}
		switch round {
		case roundDeal:
			x := &deal{}
			err = open(x, &x.Ceremony)
			ceremony, b.deals[m.Name] = x.Ceremony, x
		case roundVerdict:
			x := &verdict{}
			err = open(x, &x.Ceremony)
			ceremony, b.verdicts[m.Name] = x.Ceremony, x
		case roundAnswer:
			x := &answer{}
			err = open(x, &x.Ceremony)
			ceremony, b.answers[m.Name] = x.Ceremony, x
		case roundOpen:
			x := &opening{}
			err = open(x, &x.Ceremony)
			ceremony, b.opens[m.Name] = x.Ceremony, x
		case roundAccept:
			x := &accept{}
			err = open(x, &x.Ceremony)
			ceremony, b.accepts[m.Name] = x.Ceremony, x
		}
		if err != nil {
			return bad("%v", err)
		}
		if ceremony != b.r.Hash() {
			return bad("it is of another ceremony, %.16s…; this is %.16s…", ceremony, b.r.Hash())
		}
	}
	return nil
}

// await returns whether all members of a list have sent a round's file, or are done
// without.
func (b *board) await(list []Member, round string, has func(name string) bool) bool {
	all := true
	for i := range list {
		n := list[i].Name
		if !has(n) && !slices.Contains(b.without, n) {
			b.status.Waiting = append(b.status.Waiting, n+"."+round)
			all = false
		}
	}
	return all
}

func (b *board) note(format string, args ...any) {
	b.status.Notes = append(b.status.Notes, fmt.Sprintf(format, args...))
}

// has reports whether a map has a member's file.
func has[T any](m map[string]T) func(string) bool {
	return func(n string) bool { _, ok := m[n]; return ok }
}

// dealt are the dealers whose deals are here and who are not done without.
func (b *board) dealt() []string {
	var out []string
	for _, m := range b.r.dealers() {
		if b.deals[m.Name] != nil && !slices.Contains(b.without, m.Name) {
			out = append(out, m.Name)
		}
	}
	return out
}

// next returns the round and the content of the participant's next file, if there is
// one to write.
func (p *Participant) next(b *board) (round string, payload any, err error) {
	me := p.Secret.Name
	deals := slices.ContainsFunc(b.r.dealers(), func(m Member) bool { return m.Name == me })
	receives := b.r.index(me) > 0
	if deals && b.deals[me] == nil && !slices.Contains(b.without, me) {
		d, err := p.deal(b)
		return roundDeal, d, err
	}
	if !b.await(b.r.dealers(), roundDeal, has(b.deals)) {
		return "", nil, nil
	}
	if receives && b.verdicts[me] == nil {
		v, err := p.verdict(b)
		return roundVerdict, v, err
	}
	if !b.await(b.r.Trustees, roundVerdict, has(b.verdicts)) {
		return "", nil, nil
	}
	complaints, err := b.judge()
	if err != nil {
		return "", nil, err
	}
	if of := complaints[me]; len(of) > 0 && b.answers[me] == nil && b.badDeal[me] == "" {
		a, err := p.answer(b, of)
		return roundAnswer, a, err
	}
	if !b.qualify(complaints) {
		return "", nil, nil
	}
	if b.r.old == nil {
		if slices.Contains(b.qualified, me) && b.opens[me] == nil {
			d, err := p.Secret.dealer(b.r, nil)
			if err != nil {
				return "", nil, err
			}
			return roundOpen, &opening{b.r.Hash(), d.Reveal()}, nil
		}
		if !b.awaitOpens() {
			return "", nil, nil
		}
	}
	if receives {
		a, err := p.accept(b)
		if err != nil {
			return "", nil, err
		}
		if old := b.accepts[me]; old == nil || !maps.Equal(old.Files, a.Files) || len(old.SubShares) < len(a.SubShares) {
			return roundAccept, a, nil
		}
	}
	return "", nil, b.finish()
}

// deal makes the participant's deal.
func (p *Participant) deal(b *board) (*deal, error) {
	r := b.r
	if r.old != nil {
		if p.Share == nil {
			return nil, fmt.Errorf("to deal in a resharing, the old share of %q is needed", p.Secret.Name)
		}
		if p.Share.Name() != p.Secret.Name || p.Share.Key() != r.old.ID() {
			return nil, fmt.Errorf("the share is of %q and escrow key %s; want that of %q and %s", p.Share.Name(), p.Share.Key(), p.Secret.Name, r.old.ID())
		}
	}
	d, err := p.Secret.dealer(r, p.Share)
	if err != nil {
		return nil, err
	}
	x := &deal{Ceremony: r.Hash(), Commitments: d.Commitments(), Sealed: make(map[string][]byte)}
	if r.old != nil && !x.Commitments.DealsShareOf(r.old.Trustees()[r.oldIndex(p.Secret.Name)-1]) {
		return nil, fmt.Errorf("the share of %q does not match its verification key: it is of another ceremony, or was replaced by a resharing", p.Secret.Name)
	}
	for i := range r.Trustees {
		t := &r.Trustees[i]
		sub, err := d.SubShare(uint16(i + 1)).MarshalBinary()
		if err != nil {
			return nil, err
		}
		to, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(t.SealTo)
		if err != nil {
			return nil, err
		}
		if x.Sealed[t.Name], err = hpke.Seal(to, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(r, p.Secret.Name, t.Name), sub); err != nil {
			return nil, err
		}
		clear(sub)
	}
	return x, nil
}

func sealInfo(r *Roster, dealer, trustee string) []byte {
	return []byte("gid-ceremony-1\x00" + r.Hash() + "\x00" + dealer + "\x00" + trustee)
}

// sub opens the sub-share that a dealer has sealed to the participant, and holds it
// against the dealer's commitments.
func (p *Participant) sub(b *board, dealer string) (s idcodec.SubShare, err error) {
	seal, err := p.Secret.sealKey()
	if err != nil {
		return s, err
	}
	k, err := hpke.NewDHKEMPrivateKey(seal)
	if err != nil {
		return s, err
	}
	plain, err := hpke.Open(k, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(b.r, dealer, p.Secret.Name), b.deals[dealer].Sealed[p.Secret.Name])
	if err != nil {
		return s, errors.New("it does not open")
	}
	defer clear(plain)
	if s, err = idcodec.ParseSubShare(plain); err != nil {
		return s, err
	}
	if !b.deals[dealer].Commitments.Holds(b.r.index(p.Secret.Name), s) {
		return s, errors.New("it does not match the commitments")
	}
	return s, nil
}

// verdict looks at all deals.
func (p *Participant) verdict(b *board) (*verdict, error) {
	v := &verdict{Ceremony: b.r.Hash(), Deals: make(map[string]string), Complaints: []string{}}
	for _, n := range b.dealt() {
		v.Deals[n] = trace.Hash(b.files[n+"."+roundDeal])
		if b.deals[n].wrong(b.r, n) != "" {
			continue // everybody sees it
		}
		if _, err := p.sub(b, n); err != nil {
			v.Complaints = append(v.Complaints, n)
		}
	}
	return v, nil
}

// wrong says what everybody can see to be wrong with a deal.
func (d *deal) wrong(r *Roster, dealer string) string {
	if len(d.Commitments) != r.Threshold {
		return fmt.Sprintf("it deals for a threshold of %d, not %d", len(d.Commitments), r.Threshold)
	}
	for i := range r.Trustees {
		if len(d.Sealed[r.Trustees[i].Name]) == 0 {
			return fmt.Sprintf("it has nothing for %q", r.Trustees[i].Name)
		}
	}
	if r.old != nil && !d.Commitments.DealsShareOf(r.old.Trustees()[r.oldIndex(dealer)-1]) {
		return "what it deals out is not the dealer's share of the escrow key"
	}
	return ""
}

// judge compares the verdicts and returns who complains of whom.
func (b *board) judge() (map[string][]string, error) {
	complaints := make(map[string][]string)
	var first string
	for i := range b.r.Trustees {
		n := b.r.Trustees[i].Name
		v := b.verdicts[n]
		if v == nil || slices.Contains(b.without, n) {
			continue
		}
		if first == "" {
			first = n
		}
		for _, m := range b.r.dealers() {
			mine, theirs := b.verdicts[first].Deals[m.Name], v.Deals[m.Name]
			switch {
			case mine != theirs && mine != "" && theirs != "":
				return nil, fmt.Errorf("%w: %q and %q have read different deals of %q, who has signed both or whose file was exchanged", ErrCheat, first, n, m.Name)
			case mine != theirs:
				return nil, fmt.Errorf("%w: %q and %q do not agree on whether %q takes part; all are to say the same with --without", ErrCheat, first, n, m.Name)
			}
		}
		for _, dealer := range v.Complaints {
			if v.Deals[dealer] != "" && !slices.Contains(complaints[dealer], n) {
				complaints[dealer] = append(complaints[dealer], n)
			}
		}
	}
	if first == "" {
		return nil, fmt.Errorf("%w: there is no verdict", ErrCheat)
	}
	for _, m := range b.r.dealers() {
		n := m.Name
		h := b.verdicts[first].Deals[n]
		switch {
		case h == "":
			b.badDeal[n] = "it has not dealt"
			b.note("%s takes no part in dealing", n)
		case b.deals[n] == nil || h != trace.Hash(b.files[n+"."+roundDeal]):
			return nil, fmt.Errorf("%w: %s.deal is not the file that the others have read", ErrCheat, n)
		default:
			if why := b.deals[n].wrong(b.r, n); why != "" {
				b.badDeal[n] = why
				b.note("%s is left out: its deal is wrong: %s", n, why)
			} else if len(complaints[n]) >= b.r.Threshold {
				b.badDeal[n] = "too many complain"
				b.note("%s is left out: %s complain of it", n, strings.Join(complaints[n], ", "))
			}
		}
	}
	return complaints, nil
}

// answer publishes the sub-shares of those who complain.
func (p *Participant) answer(b *board, of []string) (*answer, error) {
	d, err := p.Secret.dealer(b.r, p.Share)
	if err != nil {
		return nil, err
	}
	a := &answer{Ceremony: b.r.Hash(), SubShares: make(map[string][]byte)}
	for _, n := range of {
		if a.SubShares[n], err = d.SubShare(b.r.index(n)).MarshalBinary(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// answered returns the sub-share that a dealer has published for a trustee, if it
// holds.
func (b *board) answered(dealer, trustee string) (idcodec.SubShare, bool) {
	a := b.answers[dealer]
	if a == nil {
		return idcodec.SubShare{}, false
	}
	s, err := idcodec.ParseSubShare(a.SubShares[trustee])
	return s, err == nil && b.deals[dealer].Commitments.Holds(b.r.index(trustee), s)
}

// qualify decides who counts as a dealer, when all answers are there.
func (b *board) qualify(complaints map[string][]string) bool {
	var asked []Member
	for _, m := range b.r.dealers() {
		if len(complaints[m.Name]) > 0 && b.badDeal[m.Name] == "" {
			asked = append(asked, m)
		}
	}
	if !b.await(asked, roundAnswer, has(b.answers)) {
		return false
	}
	for _, m := range b.r.dealers() {
		n := m.Name
		for _, t := range complaints[n] {
			if b.badDeal[n] != "" {
				break
			}
			if _, ok := b.answered(n, t); !ok {
				b.badDeal[n] = "no answer that holds"
				b.note("%s is left out: %s complains of it, and it gives no answer that holds", n, t)
			} else {
				b.note("%s complains of %s, whose answer holds; one of them is wrong", t, n)
			}
		}
		if b.badDeal[n] == "" {
			b.qualified = append(b.qualified, n)
		}
	}
	return true
}

// awaitOpens waits for the parts of the public key.
func (b *board) awaitOpens() bool {
	var list []Member
	for _, m := range b.r.Trustees {
		if slices.Contains(b.qualified, m.Name) {
			list = append(list, m)
		}
	}
	return b.await(list, roundOpen, has(b.opens))
}

// subOf returns the participant's sub-share of a dealer, as dealt or as answered.
func (p *Participant) subOf(b *board, dealer string) (idcodec.SubShare, error) {
	if s, err := p.sub(b, dealer); err == nil {
		return s, nil
	}
	if s, ok := b.answered(dealer, p.Secret.Name); ok {
		return s, nil
	}
	return idcodec.SubShare{}, fmt.Errorf("%w: %q has no sub-share of %q", ErrCheat, p.Secret.Name, dealer)
}

// read lists the files that a ceremony's end depends on.
func (b *board) considered() map[string]string {
	out := make(map[string]string)
	for name, text := range b.files {
		i := strings.LastIndexByte(name, '.')
		if i > 0 && name[i+1:] != roundAccept && b.isMember(name[:i]) && !slices.Contains(b.without, name[:i]) {
			out[name] = trace.Hash(text)
		}
	}
	return out
}

// accept says what was read, and brings the sub-shares of dealers who have to be
// rebuilt: of those who are done without and have not opened, and of those of whom it
// is proven that they have opened falsely. A sub-share is never brought for the asking.
func (p *Participant) accept(b *board) (*accept, error) {
	a := &accept{Ceremony: b.r.Hash(), Files: b.considered(), SubShares: make(map[string][]byte)}
	if b.r.old != nil {
		return a, nil
	}
	for _, n := range b.qualified {
		s, err := p.subOf(b, n)
		if err != nil {
			return nil, err
		}
		o := b.opens[n]
		if o == nil || len(o.Public) != b.r.Threshold || !o.Public.HoldsRevealed(b.r.index(p.Secret.Name), s) || b.provenFalse(n) {
			if a.SubShares[n], err = s.MarshalBinary(); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

// exposed returns the sub-shares of a dealer that trustees have brought and that hold
// against what the dealer committed to.
func (b *board) exposed(dealer string) (indices []uint16, subs []idcodec.SubShare) {
	for i := range b.r.Trustees {
		a := b.accepts[b.r.Trustees[i].Name]
		if a == nil {
			continue
		}
		s, err := idcodec.ParseSubShare(a.SubShares[dealer])
		if err == nil && b.deals[dealer].Commitments.Holds(uint16(i+1), s) {
			indices, subs = append(indices, uint16(i+1)), append(subs, s)
		}
	}
	return indices, subs
}

// provenFalse reports whether somebody has shown a sub-share that the dealer committed
// to and that is not of the polynomial that it opened.
func (b *board) provenFalse(dealer string) bool {
	o := b.opens[dealer]
	if o == nil {
		return false
	}
	indices, subs := b.exposed(dealer)
	for i := range subs {
		if len(o.Public) != b.r.Threshold || !o.Public.HoldsRevealed(indices[i], subs[i]) {
			return true
		}
	}
	return false
}

// conclude goes through the rounds for who only reads.
func (b *board) conclude() error {
	if !b.await(b.r.dealers(), roundDeal, has(b.deals)) || !b.await(b.r.Trustees, roundVerdict, has(b.verdicts)) {
		return nil
	}
	complaints, err := b.judge()
	if err != nil {
		return err
	}
	if !b.qualify(complaints) || b.r.old == nil && !b.awaitOpens() {
		return nil
	}
	return b.finish()
}

// finish makes the key, when all have accepted the same.
func (b *board) finish() error {
	need := b.r.Threshold
	if b.r.old != nil {
		need = b.r.old.Threshold()
	}
	if len(b.qualified) < need {
		return fmt.Errorf("%w: only %d dealers are left (%s), %d are needed; begin anew without the others", ErrCheat, len(b.qualified), strings.Join(b.qualified, ", "), need)
	}
	if !b.await(b.r.Trustees, roundAccept, has(b.accepts)) {
		return nil
	}
	want := b.considered()
	for i := range b.r.Trustees {
		n := b.r.Trustees[i].Name
		if a := b.accepts[n]; a != nil && !slices.Contains(b.without, n) && !maps.Equal(a.Files, want) {
			return fmt.Errorf("%w: %q has read other files than are here: %s", ErrCheat, n, firstOther(a.Files, want))
		}
	}
	if b.r.old != nil {
		return b.finishResharing(need)
	}
	var revealed []idcodec.Commitments
	for _, n := range b.qualified {
		c, err := b.part(n)
		if err != nil || c == nil {
			return err
		}
		revealed = append(revealed, c)
	}
	var err error
	b.status.Key, err = idcodec.JoinKey(b.r.names(), revealed)
	b.status.Dealers = b.qualified
	return err
}

// part returns a dealer's part of the public key: opened, or rebuilt. nil says that
// sub-shares to rebuild it have not come yet.
func (b *board) part(dealer string) (idcodec.Commitments, error) {
	o := b.opens[dealer]
	if o != nil && !b.provenFalse(dealer) && len(o.Public) == b.r.Threshold {
		return o.Public, nil
	}
	why := "it has not opened"
	if o != nil {
		why = "it has opened falsely"
	}
	indices, subs := b.exposed(dealer)
	if len(indices) < b.r.Threshold {
		waits := false
		for i := range b.r.Trustees {
			n := b.r.Trustees[i].Name
			if n != dealer && !slices.Contains(b.without, n) && !slices.Contains(indices, uint16(i+1)) {
				b.status.Waiting = append(b.status.Waiting, n+"."+roundAccept+" (once more, to rebuild the part of "+dealer+")")
				waits = true
			}
		}
		if !waits {
			return nil, fmt.Errorf("%w: %s: %s, and there are too few to rebuild its part; begin anew without it", ErrCheat, dealer, why)
		}
		return nil, nil
	}
	b.note("%s: %s; its part was rebuilt by the others and is known to them", dealer, why)
	return idcodec.Rebuild(b.r.Threshold, indices, subs)
}

// reshared are the first old trustees by index that are needed, of those qualified.
func (b *board) reshared(need int) (dealers []string, indices []uint16) {
	sorted := slices.Clone(b.qualified)
	slices.SortFunc(sorted, func(x, y string) int { return int(b.r.oldIndex(x)) - int(b.r.oldIndex(y)) })
	for _, n := range sorted[:need] {
		dealers, indices = append(dealers, n), append(indices, b.r.oldIndex(n))
	}
	return dealers, indices
}

func (b *board) finishResharing(need int) (err error) {
	dealers, indices := b.reshared(need)
	var revealed []idcodec.Commitments
	for _, n := range dealers {
		revealed = append(revealed, b.deals[n].Commitments)
	}
	b.status.Key, err = idcodec.RejoinKey(b.r.old, b.r.names(), indices, revealed)
	b.status.Dealers = dealers
	return err
}

// share adds up the participant's share.
func (p *Participant) share(b *board) (*idcodec.Share, error) {
	index := b.r.index(p.Secret.Name)
	var subs []idcodec.SubShare
	for _, n := range b.status.Dealers {
		s, err := p.subOf(b, n)
		if err != nil {
			return nil, err
		}
		subs = append(subs, s)
	}
	if b.r.old == nil {
		return b.status.Key.JoinShare(index, subs)
	}
	_, indices := b.reshared(b.r.old.Threshold())
	return b.status.Key.RejoinShare(index, indices, subs)
}

// firstOther names a file in which two lists differ.
func firstOther(theirs, mine map[string]string) string {
	var all []string
	for n := range theirs {
		all = append(all, n)
	}
	for n := range mine {
		if _, ok := theirs[n]; !ok {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	for _, n := range all {
		switch {
		case theirs[n] == "":
			return n + " it had not"
		case mine[n] == "":
			return n + " is not here"
		case theirs[n] != mine[n]:
			return n + " is another"
		}
	}
	return "nothing"
}
