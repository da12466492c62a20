// Package fabric is the ledger that several organizations share: a channel of
// Hyperledger Fabric with the chaincode of package chaincode.
package fabric

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hyperledger/fabric-gateway/pkg/client"
	"github.com/hyperledger/fabric-gateway/pkg/identity"
	"github.com/hyperledger/fabric-protos-go-apiv2/gateway"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"brightgid/ledgeranchor"
	"brightgid/ledgeranchor/chaincode"
)

// Timers.
const (
	endorseWithin  = 15 * time.Second
	submitWithin   = 10 * time.Second
	commitWithin   = 30 * time.Second
	evaluateWithin = 10 * time.Second
	retryFirst     = 50 * time.Millisecond
	retryMost      = 2 * time.Second

	// giveUp ends the attempts of an Append whose context has no deadline.
	giveUp = 2 * time.Minute
)

// maxMessage is more than a block of the channel is long.
const maxMessage = 100 << 20

// Config says how to reach a channel, and as whom.
type Config struct {
	Peers       []string       // gateways of the own organization, host:port; another is taken when one is lost
	PeerRoots   *x509.CertPool // of their TLS certificates
	MSP         string         // the own organization's
	Certificate *x509.Certificate
	Key         crypto.PrivateKey
	Channel     string
	Chaincode   string
}

// Ledger implements [ledgeranchor.Ledger] on a channel. A position is the number of
// a block times 2^24, and the place of the record in the block.
type Ledger struct {
	conn     *grpc.ClientConn
	gateway  *client.Gateway
	network  *client.Network
	contract *client.Contract
	system   *client.Contract // qscc, which tells of blocks
	channel  string
	code     string
	blocks   blockCache
	reading  singleflight.Group
}

// Open connects to a channel. It does not wait for a peer to answer.
func Open(c Config) (*Ledger, error) {
	if len(c.Peers) == 0 {
		return nil, errors.New("fabric: no peer is given")
	}
	id, err := identity.NewX509Identity(c.MSP, c.Certificate)
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	sign, err := identity.NewPrivateKeySign(c.Key)
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	r := manual.NewBuilderWithScheme("peers")
	var state resolver.State
	for _, p := range c.Peers {
		host, _, ok := strings.Cut(p, ":")
		if !ok {
			return nil, fmt.Errorf("fabric: peer %q: want host:port", p)
		}
		state.Addresses = append(state.Addresses, resolver.Address{Addr: p, ServerName: host})
	}
	r.InitialState(state)
	conn, err := grpc.NewClient("peers:///", grpc.WithResolvers(r),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: c.PeerRoots, MinVersion: tls.VersionTLS13})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	gw, err := client.Connect(id, client.WithSign(sign), client.WithClientConnection(conn),
		client.WithEndorseTimeout(endorseWithin), client.WithSubmitTimeout(submitWithin),
		client.WithCommitStatusTimeout(commitWithin), client.WithEvaluateTimeout(evaluateWithin))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fabric: %w", err), conn.Close())
	}
	l := &Ledger{conn: conn, gateway: gw, network: gw.GetNetwork(c.Channel), channel: c.Channel, code: c.Chaincode}
	l.contract, l.system = l.network.GetContract(c.Chaincode), l.network.GetContract("qscc")
	return l, nil
}

// Close implements [ledgeranchor.Ledger].
func (l *Ledger) Close() error { return errors.Join(l.gateway.Close(), l.conn.Close()) }

// Step is where a transaction fails.
type Step string

// Steps of a transaction.
const (
	Endorsing  Step = "endorsement" // the peers' chaincode refused it, or too few peers answered
	Ordering   Step = "ordering"    // no orderer took it
	Committing Step = "commit"      // the peers found it invalid, or nobody told
)

// Error is a transaction that failed.
type Error struct {
	Step Step
	Tx   string
	Code string // of an invalid transaction, Fabric's validation code
	Err  error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("fabric: %s of transaction %.16s: ", e.Step, e.Tx)
	if e.Code != "" {
		text += e.Code
	}
	if e.Err != nil {
		text += e.Err.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Append implements [ledgeranchor.Ledger]: the records go in one transaction, and
// when it returns the transaction is committed. What fails for want of a peer or an
// orderer, or because another transaction was faster, is tried again; a record is one
// record, so that an attempt whose end is not known does no harm.
func (l *Ledger) Append(ctx context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error) {
	if len(records) == 0 {
		return nil, nil
	}
	if len(records) > ledgeranchor.MaxBatch {
		return nil, fmt.Errorf("%d records at once: %d at most", len(records), ledgeranchor.MaxBatch)
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, giveUp)
		defer cancel()
	}
	args := make([][]byte, len(records))
	for i, s := range records {
		b, err := s.Encode()
		if err != nil {
			return nil, &ledgeranchor.RecordError{Index: i, Name: s.Name(), Err: err}
		}
		args[i] = b
	}
	wait := retryFirst
	for {
		tx, block, had, err := l.submit(ctx, args)
		if err == nil {
			return l.receipts(ctx, records, tx, block, had)
		}
		if !again(err) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (the last attempt: %w)", ctx.Err(), err)
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, retryMost)
	}
}

// submit makes one attempt.
func (l *Ledger) submit(ctx context.Context, args [][]byte, opts ...client.ProposalOption) (tx string, block uint64, had []byte, err error) {
	proposal, err := l.contract.NewProposal(chaincode.Append, append(opts, client.WithBytesArguments(args...))...)
	if err != nil {
		return "", 0, nil, err
	}
	tx = proposal.TransactionID()
	endorsed, err := proposal.EndorseWithContext(ctx)
	if err != nil {
		if refused := refusal(err); refused != nil {
			return tx, 0, nil, refused
		}
		return tx, 0, nil, &Error{Step: Endorsing, Tx: tx, Err: detailed(err)}
	}
	had = endorsed.Result()
	commit, err := endorsed.SubmitWithContext(ctx)
	if err != nil {
		return tx, 0, nil, &Error{Step: Ordering, Tx: tx, Err: detailed(err)}
	}
	s, err := commit.StatusWithContext(ctx)
	if err != nil {
		return tx, 0, nil, &Error{Step: Committing, Tx: tx, Err: detailed(err)}
	}
	if !s.Successful {
		return tx, 0, nil, &Error{Step: Committing, Tx: tx, Code: s.Code.String()}
	}
	return tx, s.BlockNumber, had, nil
}

// refusal returns the chaincode's own refusal of a record, if an error is one.
func refusal(err error) error {
	for _, text := range messages(err) {
		_, text, ok := strings.Cut(text, "{")
		if !ok {
			continue
		}
		var r chaincode.Refusal
		if json.NewDecoder(strings.NewReader("{"+text)).Decode(&r) != nil {
			continue
		}
		if of := ledgeranchor.ErrorOf(r.Code); of != nil {
			return &ledgeranchor.RecordError{Index: r.Index, Name: r.Name, Err: &refusedError{of, r.Message}}
		}
	}
	return nil
}

// refusedError is an error that a peer has described.
type refusedError struct {
	of   error
	text string
}

func (e *refusedError) Error() string { return e.text }
func (e *refusedError) Unwrap() error { return e.of }

// messages returns what the peers have said beside an error.
func messages(err error) []string {
	var out []string
	for _, d := range status.Convert(err).Details() {
		if x, ok := d.(*gateway.ErrorDetail); ok {
			out = append(out, x.GetMessage())
		}
	}
	return out
}

// detailed adds to an error what the peers have said.
func detailed(err error) error {
	if m := messages(err); len(m) > 0 {
		return fmt.Errorf("%w: %s", err, strings.Join(m, "; "))
	}
	return err
}

// again reports whether an attempt that failed may end well the next time.
func again(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case peer.TxValidationCode_MVCC_READ_CONFLICT.String(), peer.TxValidationCode_PHANTOM_READ_CONFLICT.String():
		return true // another transaction was faster
	case "":
	default:
		return false
	}
	if e.Step != Endorsing {
		return true
	}
	switch status.Code(e.Err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.FailedPrecondition, codes.ResourceExhausted, codes.Unknown:
		// Aborted is also "failed to endorse", by a peer that is lost;
		// FailedPrecondition and Unknown are a network that is not whole yet.
		return true
	}
	return false
}

// receipts tells the places of records that a transaction has brought or met.
func (l *Ledger) receipts(ctx context.Context, records []*ledgeranchor.Signed, tx string, block uint64, had []byte) ([]ledgeranchor.Receipt, error) {
	if len(had) != len(records) {
		return nil, fmt.Errorf("fabric: transaction %s tells of %d records, and had %d", tx, len(had), len(records))
	}
	var out []ledgeranchor.Receipt
	for i, s := range records {
		name := s.Name()
		in := tx
		if had[i] != 0 {
			stored, err := l.stored(ctx, name)
			switch {
			case err == nil:
				in = stored.Tx
			case !errors.Is(err, ledgeranchor.ErrNotFound): // or it is twice in this transaction
				return nil, err
			}
		}
		r, err := l.place(ctx, name, in, block)
		if err != nil {
			return nil, err
		}
		r.Known = had[i] != 0
		out = append(out, r)
	}
	return out, nil
}

// evaluate asks a peer, and another when it does not answer.
func (l *Ledger) evaluate(ctx context.Context, c *client.Contract, name string, args ...[]byte) ([]byte, error) {
	wait := retryFirst
	for attempt := 0; ; attempt++ {
		b, err := c.EvaluateWithContext(ctx, name, client.WithBytesArguments(args...))
		if err == nil {
			return b, nil
		}
		if refused := refusal(err); refused != nil {
			return nil, refused
		}
		if code := status.Code(err); attempt >= 8 || code != codes.Unavailable && code != codes.DeadlineExceeded {
			return nil, fmt.Errorf("fabric: %w", detailed(err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMost)
	}
}

func (l *Ledger) stored(ctx context.Context, name ledgeranchor.Hash) (*chaincode.Stored, error) {
	b, err := l.evaluate(ctx, l.contract, chaincode.Get, name[:])
	if errors.Is(err, ledgeranchor.ErrNotFound) {
		return nil, ledgeranchor.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var s chaincode.Stored
	return &s, cbor.Unmarshal(b, &s)
}

// Get implements [ledgeranchor.Ledger].
func (l *Ledger) Get(ctx context.Context, name ledgeranchor.Hash) (*ledgeranchor.Entry, error) {
	s, err := l.stored(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.entry(ctx, s)
}

func (l *Ledger) entry(ctx context.Context, s *chaincode.Stored) (*ledgeranchor.Entry, error) {
	e, err := decode(s.Signed)
	if err != nil {
		return nil, err
	}
	e.Receipt, err = l.place(ctx, e.Signed.Name(), s.Tx, 0)
	return e, err
}

func decode(signed []byte) (*ledgeranchor.Entry, error) {
	s, err := ledgeranchor.DecodeSigned(signed)
	if err != nil {
		return nil, fmt.Errorf("fabric: what the channel has: %w", err)
	}
	r, err := ledgeranchor.Decode(s.Record)
	if err != nil {
		return nil, fmt.Errorf("fabric: what the channel has: %w", err)
	}
	return &ledgeranchor.Entry{Signed: s, Record: r}, nil
}

// Find implements [ledgeranchor.Ledger].
func (l *Ledger) Find(ctx context.Context, q ledgeranchor.Query) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		if err := q.Check(); err != nil {
			yield(nil, err)
			return
		}
		r := chaincode.FindRequest{Kind: string(q.Kind)}
		if q.Address.IsValid() {
			a := ledgeranchor.AddressOf(q.Address)
			r.Address = a[:]
		}
		if !q.Warrant.IsZero() {
			r.Warrant = q.Warrant[:]
		}
		if !q.Message.IsZero() {
			r.Message = q.Message[:]
		}
		if !q.From.IsZero() {
			r.From = uint64(max(0, q.From.UnixMilli()))
		}
		if !q.Until.IsZero() {
			r.Until = uint64(max(1, q.Until.UnixMilli()))
		}
		for {
			page, err := l.page(ctx, r)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range page.Records {
				e, err := l.entry(ctx, &page.Records[i])
				if err == nil && !q.Wants(e.Record) {
					continue
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
			if page.Bookmark == "" {
				return
			}
			r.Bookmark = page.Bookmark
		}
	}
}

func (l *Ledger) page(ctx context.Context, r chaincode.FindRequest) (*chaincode.FindResponse, error) {
	request, err := cbor.Marshal(r)
	if err != nil {
		return nil, err
	}
	b, err := l.evaluate(ctx, l.contract, chaincode.Find, request)
	if err != nil {
		return nil, err
	}
	var page chaincode.FindResponse
	if err := cbor.Unmarshal(b, &page); err != nil {
		return nil, fmt.Errorf("fabric: a page of records: %w", err)
	}
	return &page, nil
}

// Follow implements [ledgeranchor.Ledger].
func (l *Ledger) Follow(ctx context.Context, from uint64) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		next := from >> positionBits
		for {
			blocks, err := l.network.BlockEvents(ctx, client.WithStartBlock(next))
			if err != nil && status.Code(err) != codes.Unavailable {
				yield(nil, fmt.Errorf("fabric: %w", detailed(err)))
				return
			}
			if err == nil {
				for b := range blocks { // until the peer is lost
					x, err := parseBlock(b, l.code)
					if err != nil {
						yield(nil, err)
						return
					}
					if !l.entries(x, from, yield) {
						return
					}
					next = x.number + 1
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryFirst):
			}
		}
	}
}

// entries gives the records of a block from a position on, and reports whether to go
// on.
func (l *Ledger) entries(x *block, from uint64, yield func(*ledgeranchor.Entry, error) bool) bool {
	for i, r := range x.records {
		if x.position(i) < from {
			continue
		}
		e, err := decode(r.signed)
		if err == nil {
			e.Receipt = l.receipt(x, i)
		}
		if !yield(e, err) || err != nil {
			return false
		}
	}
	return true
}

// place finds where a transaction has brought a record. A number other than 0 is a
// guess of which block it is in.
func (l *Ledger) place(ctx context.Context, name ledgeranchor.Hash, tx string, number uint64) (ledgeranchor.Receipt, error) {
	x, ok := l.blocks.ofTx(tx)
	if !ok {
		// Many transactions are in one block, which is read once for all.
		digits := strconv.AppendUint(nil, number, 10)
		of := string(digits)
		if number == 0 {
			of = tx
		}
		got, err, _ := l.reading.Do(of, func() (any, error) {
			if x, ok := l.blocks.ofTx(tx); ok {
				return x, nil
			}
			var b []byte
			var err error
			if number > 0 {
				b, err = l.evaluate(ctx, l.system, "GetBlockByNumber", []byte(l.channel), digits)
			} else {
				b, err = l.evaluate(ctx, l.system, "GetBlockByTxID", []byte(l.channel), []byte(tx))
			}
			if err != nil {
				return nil, err
			}
			x, err := unmarshalBlock(b, l.code)
			if err == nil {
				l.blocks.add(x)
			}
			return x, err
		})
		if err != nil {
			return ledgeranchor.Receipt{}, err
		}
		x = got.(*block)
	}
	if i, ok := x.byName[name]; ok {
		return l.receipt(x, i), nil
	}
	if number > 0 {
		return l.place(ctx, name, tx, 0)
	}
	return ledgeranchor.Receipt{}, fmt.Errorf("fabric: transaction %s, in block %d, has not brought record %s", tx, x.number, name)
}

func (l *Ledger) receipt(x *block, i int) ledgeranchor.Receipt {
	return ledgeranchor.Receipt{Position: x.position(i), Block: x.number, Tx: x.records[i].tx, Channel: l.channel}
}
