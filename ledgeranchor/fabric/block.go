package fabric

import (
	"fmt"
	"sync"

	"github.com/hyperledger/fabric-protos-go-apiv2/common"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"google.golang.org/protobuf/proto"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/chaincode"
)

// positionBits are the bits of a position that tell a record's place in its block.
const positionBits = 24

// block is what a ledger needs of a block: the records that its valid transactions
// have brought, in their order.
type block struct {
	number  uint64
	records []brought
	byName  map[ledgeranchor.Hash]int // places among the records
	txs     []string
}

type brought struct {
	name   ledgeranchor.Hash
	tx     string
	signed []byte
}

func (b *block) position(i int) uint64 { return b.number<<positionBits | uint64(i) }

func unmarshalBlock(b []byte, code string) (*block, error) {
	var x common.Block
	if err := proto.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("fabric: a block: %w", err)
	}
	return parseBlock(&x, code)
}

// parseBlock reads a block's records, those that a chaincode's event tells of.
func parseBlock(b *common.Block, code string) (*block, error) {
	x := &block{number: b.GetHeader().GetNumber(), byName: make(map[ledgeranchor.Hash]int)}
	meta := b.GetMetadata().GetMetadata()
	if len(meta) <= int(common.BlockMetadataIndex_TRANSACTIONS_FILTER) {
		return nil, fmt.Errorf("fabric: block %d tells of no validation", x.number)
	}
	valid := meta[common.BlockMetadataIndex_TRANSACTIONS_FILTER]
	for i, data := range b.GetData().GetData() {
		if i >= len(valid) || peer.TxValidationCode(valid[i]) != peer.TxValidationCode_VALID {
			continue
		}
		t, err := parseTransaction(data)
		if err != nil {
			return nil, fmt.Errorf("fabric: block %d, transaction %d: %w", x.number, i, err)
		}
		if t == nil || t.event.GetChaincodeId() != code || t.event.GetEventName() != chaincode.Event {
			continue
		}
		byName := make(map[ledgeranchor.Hash][]byte)
		for _, arg := range t.args {
			if s, err := ledgeranchor.DecodeSigned(arg); err == nil {
				byName[s.Name()] = arg
			}
		}
		x.txs = append(x.txs, t.id)
		for names := t.event.GetPayload(); len(names) >= len(ledgeranchor.Hash{}); names = names[len(ledgeranchor.Hash{}):] {
			name := ledgeranchor.Hash(names[:len(ledgeranchor.Hash{})])
			signed, ok := byName[name]
			if !ok {
				return nil, fmt.Errorf("fabric: block %d: transaction %s tells of record %s and does not bring it", x.number, t.id, name)
			}
			x.byName[name] = len(x.records)
			x.records = append(x.records, brought{name, t.id, signed})
		}
	}
	return x, nil
}

// transaction is an endorsed transaction.
type transaction struct {
	id           string
	seconds      int64    // unix time, as its client says
	args         [][]byte // of the chaincode, without the transaction's name
	response     []byte   // what was endorsed
	action       *peer.ChaincodeAction
	event        *peer.ChaincodeEvent
	endorsements []*peer.Endorsement
}

// parseTransaction reads a transaction's envelope; nil for one of another type.
func parseTransaction(envelope []byte) (*transaction, error) {
	var env common.Envelope
	var payload common.Payload
	var header common.ChannelHeader
	var tx peer.Transaction
	if err := proto.Unmarshal(envelope, &env); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(env.GetPayload(), &payload); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(payload.GetHeader().GetChannelHeader(), &header); err != nil {
		return nil, err
	}
	if common.HeaderType(header.GetType()) != common.HeaderType_ENDORSER_TRANSACTION {
		return nil, nil
	}
	if err := proto.Unmarshal(payload.GetData(), &tx); err != nil {
		return nil, err
	}
	if len(tx.GetActions()) != 1 {
		return nil, fmt.Errorf("%d actions", len(tx.GetActions()))
	}
	var action peer.ChaincodeActionPayload
	var proposal peer.ChaincodeProposalPayload
	var input peer.ChaincodeInvocationSpec
	var response peer.ProposalResponsePayload
	t := &transaction{id: header.GetTxId(), seconds: header.GetTimestamp().GetSeconds(), action: new(peer.ChaincodeAction), event: new(peer.ChaincodeEvent)}
	if err := proto.Unmarshal(tx.GetActions()[0].GetPayload(), &action); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(action.GetChaincodeProposalPayload(), &proposal); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(proposal.GetInput(), &input); err != nil {
		return nil, err
	}
	t.response, t.endorsements = action.GetAction().GetProposalResponsePayload(), action.GetAction().GetEndorsements()
	if err := proto.Unmarshal(t.response, &response); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(response.GetExtension(), t.action); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(t.action.GetEvents(), t.event); err != nil {
		return nil, err
	}
	if args := input.GetChaincodeSpec().GetInput().GetArgs(); len(args) > 0 {
		t.args = args[1:]
	}
	return t, nil
}

// blockCache keeps the last blocks that were read.
type blockCache struct {
	mu   sync.Mutex
	last [32]*block
	next int
}

func (c *blockCache) add(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[c.next%len(c.last)] = b
	c.next++
}

func (c *blockCache) ofTx(tx string) (*block, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.last {
		if b != nil {
			for _, t := range b.txs {
				if t == tx {
					return b, true
				}
			}
		}
	}
	return nil, false
}
