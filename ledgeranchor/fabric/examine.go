package fabric

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/hyperledger/fabric-protos-go-apiv2/common"
	"github.com/hyperledger/fabric-protos-go-apiv2/msp"
	"google.golang.org/protobuf/proto"

	"brightgid/ledgeranchor"
)

// eachBlock gives the channel's blocks from a number on, up to the last that the peer has
// now.
func (l *Ledger) eachBlock(ctx context.Context, from uint64) iter.Seq2[*common.Block, error] {
	return func(yield func(*common.Block, error) bool) {
		b, err := l.evaluate(ctx, l.system, "GetChainInfo", []byte(l.channel))
		var info common.BlockchainInfo
		if err == nil {
			err = proto.Unmarshal(b, &info)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		for ; from < info.GetHeight(); from++ {
			b, err := l.evaluate(ctx, l.system, "GetBlockByNumber", []byte(l.channel), strconv.AppendUint(nil, from, 10))
			block := new(common.Block)
			if err == nil {
				err = proto.Unmarshal(b, block)
			}
			if !yield(block, err) || err != nil {
				return
			}
		}
	}
}

// Entries returns the channel's records from a position on, in its order, up to the
// last that the peer has now.
func (l *Ledger) Entries(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		for b, err := range l.eachBlock(ctx, from>>positionBits) {
			if err != nil {
				yield(nil, err)
				return
			}
			x, err := parseBlock(b, l.code)
			if err != nil {
				yield(nil, err)
				return
			}
			if !l.entries(x, from, yield) {
				return
			}
		}
	}
}

// Trust is what one who examines a channel trusts.
type Trust struct {
	Organizations map[string]*x509.CertPool // CA certificates by MSP
	Endorsers     int                       // how many organizations must have endorsed
	Members       *ledgeranchor.Members
}

// ErrChain says that blocks do not fit together, or are others than before.
var ErrChain = errors.New("the channel's blocks are not what they were")

// headerHash is the hash of a block's header, by which the next one names it: SHA-256
// of the ASN.1 of number, previous hash and data hash.
func headerHash(h *common.BlockHeader) (ledgeranchor.Hash, error) {
	b, err := asn1.Marshal(struct {
		Number             *big.Int
		Previous, DataHash []byte
	}{new(big.Int).SetUint64(h.GetNumber()), h.GetPreviousHash(), h.GetDataHash()})
	return sha256.Sum256(b), err
}

// Verify reads the whole channel and checks that its blocks are a chain, that enough
// organizations have endorsed each transaction that brought records, and that members
// signed these. With the head of another time the channel must have been then what it
// was. A head's size is the number of blocks and its root the last one's hash.
func (l *Ledger) Verify(ctx context.Context, trust Trust, old *ledgeranchor.Head) (head *ledgeranchor.Head, records uint64, err error) {
	head = &ledgeranchor.Head{Origin: "fabric:" + l.channel}
	if old != nil && old.Origin != head.Origin {
		return nil, 0, fmt.Errorf("the remembered head is of %q, the channel is %q", old.Origin, head.Origin)
	}
	for b, err := range l.eachBlock(ctx, 0) {
		if err != nil {
			return nil, records, err
		}
		n, err := l.verifyBlock(b, head, trust)
		if err != nil {
			return nil, records, fmt.Errorf("block %d: %w", b.GetHeader().GetNumber(), err)
		}
		records += n
		if old != nil && head.Size == old.Size && head.Root != old.Root {
			return nil, records, fmt.Errorf("%w: block %d is another one", ErrChain, head.Size-1)
		}
	}
	if old != nil && head.Size < old.Size {
		return nil, records, fmt.Errorf("%w: there were %d, and are %d", ErrChain, old.Size, head.Size)
	}
	return head, records, nil
}

// verifyBlock checks a block that must come after a head, and takes the head on.
func (l *Ledger) verifyBlock(b *common.Block, head *ledgeranchor.Head, trust Trust) (records uint64, err error) {
	h := b.GetHeader()
	sum := sha256.New()
	for _, d := range b.GetData().GetData() {
		sum.Write(d)
	}
	switch {
	case h.GetNumber() != head.Size:
		return 0, fmt.Errorf("%w: block %d is wanted", ErrChain, head.Size)
	case head.Size > 0 && !slices.Equal(h.GetPreviousHash(), head.Root[:]):
		return 0, fmt.Errorf("%w: it does not name the block before it", ErrChain)
	case !slices.Equal(sum.Sum(nil), h.GetDataHash()):
		return 0, fmt.Errorf("%w: it does not hold what its header says", ErrChain)
	}
	x, err := parseBlock(b, l.code)
	if err != nil {
		return 0, err
	}
	checked := make(map[string]bool)
	for _, data := range b.GetData().GetData() {
		t, err := parseTransaction(data)
		if err != nil || t == nil || !slices.Contains(x.txs, t.id) || checked[t.id] {
			continue // of no records of ours
		}
		checked[t.id] = true
		if err := t.endorsed(trust.Organizations, trust.Endorsers, time.Unix(t.seconds, 0)); err != nil {
			return 0, fmt.Errorf("transaction %s: %w", t.id, err)
		}
	}
	for _, r := range x.records {
		s, err := ledgeranchor.DecodeSigned(r.signed)
		if err == nil {
			_, err = trust.Members.Check(s)
		}
		if err != nil {
			return records, fmt.Errorf("record %s: %w", r.name, err)
		}
		records++
	}
	head.Root, err = headerHash(h)
	head.Size++
	return records, err
}

// endorsed checks that enough organizations have endorsed a transaction.
func (t *transaction) endorsed(organizations map[string]*x509.CertPool, need int, at time.Time) error {
	by := make(map[string]bool)
	for _, e := range t.endorsements {
		var id msp.SerializedIdentity
		if err := proto.Unmarshal(e.GetEndorser(), &id); err != nil {
			return fmt.Errorf("an endorser: %w", err)
		}
		roots, known := organizations[id.GetMspid()]
		if !known {
			continue
		}
		if err := endorses(roots, id.GetIdBytes(), append(slices.Clone(t.response), e.GetEndorser()...), e.GetSignature(), at); err != nil {
			return fmt.Errorf("the endorsement of %s: %w", id.GetMspid(), err)
		}
		by[id.GetMspid()] = true
	}
	if len(by) < need {
		return fmt.Errorf("%d of the organizations have endorsed it, %d are needed", len(by), need)
	}
	return nil
}
