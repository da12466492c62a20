package fabric

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hyperledger/fabric-protos-go-apiv2/ledger/rwset"
	"github.com/hyperledger/fabric-protos-go-apiv2/ledger/rwset/kvrwset"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"google.golang.org/protobuf/proto"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/chaincode"
)

const proofFormat = "gid-fabric-proof-1"

// Proof shows that peers of several organizations have endorsed a transaction that
// puts a record on a channel, and that a peer has found the transaction valid. It
// can be checked offline, by the organizations' CA certificates. Of the order of
// blocks it shows nothing: ask a peer of your own.
type Proof struct {
	Format      string `json:"format"`
	Channel     string `json:"channel"`
	Chaincode   string `json:"chaincode"`
	Signed      []byte `json:"signed"`      // the CBOR of the signed record
	Transaction []byte `json:"transaction"` // Fabric's common.Envelope
}

// MarshalText implements [ledgeranchor.Proof].
func (p *Proof) MarshalText() ([]byte, error) {
	type plain Proof // which is no text marshaler
	return json.Marshal((*plain)(p))
}

// maxProof bounds a proof's text: a transaction of many records.
const maxProof = 64 << 20

// ParseProof reads a proof's text.
func ParseProof(text []byte) (*Proof, error) {
	if len(text) > maxProof {
		return nil, fmt.Errorf("proof: %d bytes are too many", len(text))
	}
	var p Proof
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	if p.Format != proofFormat {
		return nil, fmt.Errorf("proof: format %q: want %q", p.Format, proofFormat)
	}
	return &p, nil
}

// Prove implements [ledgeranchor.Ledger]. The proof is a [*Proof].
func (l *Ledger) Prove(ctx context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error) {
	s, err := l.stored(ctx, name)
	if err != nil {
		return nil, err
	}
	b, err := l.evaluate(ctx, l.system, "GetTransactionByID", []byte(l.channel), []byte(s.Tx))
	if err != nil {
		return nil, err
	}
	var t peer.ProcessedTransaction
	if err := proto.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("fabric: transaction %s: %w", s.Tx, err)
	}
	if code := peer.TxValidationCode(t.GetValidationCode()); code != peer.TxValidationCode_VALID {
		return nil, fmt.Errorf("fabric: transaction %s is %s", s.Tx, code)
	}
	envelope, err := proto.Marshal(t.GetTransactionEnvelope())
	if err != nil {
		return nil, err
	}
	return &Proof{Format: proofFormat, Channel: l.channel, Chaincode: l.code, Signed: s.Signed, Transaction: envelope}, nil
}

// Verify checks a proof: that at least so many of the organizations, known by their
// MSPs' names and CA certificates, have endorsed that the channel has the record, and
// that a member signed it.
func (p *Proof) Verify(organizations map[string]*x509.CertPool, need int, members *ledgeranchor.Members) (*ledgeranchor.Record, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ledgeranchor.ErrProof, fmt.Errorf(format, args...))
	}
	s, err := ledgeranchor.DecodeSigned(p.Signed)
	if err != nil {
		return nil, bad("%w", err)
	}
	r, err := members.Check(s)
	if err != nil {
		return nil, bad("%w", err)
	}
	t, err := parseTransaction(p.Transaction)
	if err != nil || t == nil {
		return nil, bad("its transaction cannot be read: %v", err)
	}
	if err := p.writes(t, s.Name()); err != nil {
		return nil, bad("%w", err)
	}
	if err := t.endorsed(organizations, need, time.Unix(t.seconds, 0)); err != nil {
		return nil, bad("%w", err)
	}
	return r, nil
}

// endorses checks a peer's signature, and its certificate at the transaction's time.
func endorses(roots *x509.CertPool, certificate, text, signature []byte, at time.Time) error {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return fmt.Errorf("no certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return err
	}
	if !slices.Contains(c.Subject.OrganizationalUnit, "peer") {
		return fmt.Errorf("%q is not a peer", c.Subject.CommonName)
	}
	digest := sha256.Sum256(text)
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || !ecdsa.VerifyASN1(key, digest[:], signature) {
		return fmt.Errorf("the signature of %q does not verify", c.Subject.CommonName)
	}
	return nil
}

// writes checks that what a transaction's endorsers have signed puts the record into
// the state of the proof's chaincode.
func (p *Proof) writes(t *transaction, name ledgeranchor.Hash) error {
	if id := t.action.GetChaincodeId().GetName(); id != p.Chaincode {
		return fmt.Errorf("its transaction is of chaincode %q", id)
	}
	var set rwset.TxReadWriteSet
	if err := proto.Unmarshal(t.action.GetResults(), &set); err != nil {
		return err
	}
	key := chaincode.RecordKey(name)
	for _, ns := range set.GetNsRwset() {
		if ns.GetNamespace() != p.Chaincode {
			continue
		}
		var kv kvrwset.KVRWSet
		if err := proto.Unmarshal(ns.GetRwset(), &kv); err != nil {
			return err
		}
		for _, w := range kv.GetWrites() {
			if w.GetKey() != key {
				continue
			}
			var s chaincode.Stored
			if err := cbor.Unmarshal(w.GetValue(), &s); err != nil {
				return err
			}
			if s.Tx != t.id || !bytes.Equal(s.Signed, p.Signed) {
				return fmt.Errorf("its transaction writes another record of this name")
			}
			return nil
		}
	}
	return fmt.Errorf("its transaction does not write the record")
}
