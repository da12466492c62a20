package ledgeranchor

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"
)

var sealID = WarrantID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

// The values were computed by another program, from docs/formats.md.
func TestTagsAndCommitmentsAreAsPublished(t *testing.T) {
	address := TagOf(sealID, netip.MustParsePrefix("2001:db8:1:0:c7e2:7e0b:911e:c94b/128"))
	prefix := TagOf(sealID, netip.MustParsePrefix("2001:db8:7::/56"))
	if got := hex.EncodeToString(address[:]); got != "8216977ccf6c12a074acc13aaeaf5863" {
		t.Errorf("the address's tag is %s", got)
	}
	if got := hex.EncodeToString(prefix[:]); got != "fd60f8ea4a00da711625941083ba4d68" {
		t.Errorf("the prefix's tag is %s", got)
	}
	c := Commit(sealID, []Sealed{{Tag: address, From: 1777636800, Until: 1777637100}, {Tag: prefix, From: 1777636800, Until: 1777640400}})
	if c.String() != "da7f691505534fa02c96bbe56b656e2f16a272c21a9f4dbae5b1cb8a3df5c109" {
		t.Errorf("the commitment is %s", c)
	}
}

func TestBodiesSurviveTheirEncodingAndNoOtherIsTaken(t *testing.T) {
	terms := Terms{SealUntil: 1777636800000, Targets: Hash{1}}
	b, err := terms.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{Version: 1, Kind: KindWarrant, Time: 1, Author: Hash{1}, Warrant: Hash{2}, Count: 1, Body: b}
	if got := r.Terms(); got == nil || *got != terms || !got.Until().Equal(time.UnixMilli(1777636800000)) {
		t.Errorf("terms: %+v", got)
	}
	r.Body = make([]byte, 32)
	if r.Terms() != nil {
		t.Error("a hash is read as terms")
	}
	targets := make([]Sealed, 2*PublicationSize+1)
	for i := range targets {
		targets[i] = Sealed{Tag: Tag{byte(i), byte(i >> 8)}, From: uint64(i), Until: uint64(i) + 1}
	}
	bodies, err := Publish(sealID, targets)
	if err != nil || len(bodies) != 3 {
		t.Fatalf("%d parts, %v", len(bodies), err)
	}
	var all published
	for _, i := range []int{2, 0, 1, 1} {
		r := &Record{Version: 1, Kind: KindPublication, Time: 1, Author: Hash{1}, Warrant: Hash{2}, Refs: []Hash{{3}}, Body: bodies[i]}
		if _, err := r.Encode(); err != nil {
			t.Fatalf("part %d: %v", i, err)
		}
		p, err := r.Publication()
		if err != nil {
			t.Fatal(err)
		}
		if err := all.take(p); err != nil {
			t.Fatal(err)
		}
	}
	if !all.whole() || Commit(all.id, all.targets()) != Commit(sealID, targets) {
		t.Error("the parts are not the whole")
	}
	if err := all.take(&Publication{Version: 1, Parts: 3, ID: WarrantID{9}, Targets: targets[:1]}); err == nil {
		t.Error("a part of another publication is taken")
	}
	if _, err := Publish(sealID, nil); !errors.Is(err, ErrOversized) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := Publish(sealID, make([]Sealed, maxParts*PublicationSize+1)); !errors.Is(err, ErrOversized) {
		t.Errorf("too much: %v", err)
	}

	v := Revocation{What: RevokedCertificate, Reason: "stolen"}
	if b, err = v.Encode(); err != nil {
		t.Fatal(err)
	}
	r = &Record{Version: 1, Kind: KindRevocation, Time: 1, Author: Hash{1}, Warrant: Hash{2}, Body: b}
	if _, err := r.Encode(); err != nil {
		t.Error(err)
	}
	if got, err := r.Revocation(); err != nil || *got != v {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"no body": nil, "another thing": {0x83, 1, 0x61, 'x', 0x60}, "another version": {0x83, 2, 0x67, 'w', 'a', 'r', 'r', 'a', 'n', 't', 0x60},
		"a longer encoding": append([]byte{0x98, 3}, b[1:]...),
	} {
		r.Body = bad
		if _, err := r.Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

func FuzzBodies(f *testing.F) {
	a, _ := (&Terms{SealUntil: 5}).Encode()
	b, _ := (&Revocation{What: RevokedWarrant, Reason: "x"}).Encode()
	c, _ := Publish(sealID, []Sealed{{From: 1, Until: 2}})
	f.Add(a)
	f.Add(b)
	f.Add(c[0])
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, k := range []Kind{KindWarrant, KindRevocation, KindPublication} {
			r := &Record{Version: 1, Kind: k, Time: 1, Author: Hash{1}, Warrant: Hash{2}, Refs: []Hash{{3}}, Body: body}
			r.Terms()
			if p, err := r.Publication(); err == nil && k == KindPublication {
				new(published).take(p)
			}
			if x, err := r.Encode(); err == nil {
				if _, err := Decode(x); err != nil {
					t.Fatalf("%s: what was encoded is not read: %v", k, err)
				}
			}
		}
	})
}
