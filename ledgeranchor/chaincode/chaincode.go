// Package chaincode keeps ledger records in the state of a Hyperledger Fabric
// channel. Each organization's peer runs it with its own organization's idea of whom
// to trust; where those differ, endorsements do, and nothing is committed.
package chaincode

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hyperledger/fabric-chaincode-go/v2/pkg/cid"
	"github.com/hyperledger/fabric-chaincode-go/v2/shim"
	"github.com/hyperledger/fabric-protos-go-apiv2/peer"

	"brightgid/ledgeranchor"
)

// Transactions.
const (
	// Append takes signed records, one an argument, and returns for each
	// whether the channel had it: a byte of 1 or 0.
	Append = "append"

	// Get takes a name, 32 bytes, and returns a [Stored].
	Get = "get"

	// Find takes a [FindRequest] and returns a [FindResponse], both in CBOR.
	Find = "find"
)

// Event is the name of the event of a transaction that has appended records. Its
// payload is their names, 32 bytes each, without those that were there before.
const Event = "records"

// maxPage is how many records one Find returns.
const maxPage = 500

// Stored is a record in the channel's state, in CBOR an array.
type Stored struct {
	_      struct{} `cbor:",toarray"`
	Tx     string   // the transaction that brought it
	Signed []byte   // the CBOR of the signed record
}

// FindRequest asks for records in the order of their times.
type FindRequest struct {
	Kind     string `cbor:"1,keyasint,omitempty"`
	Address  []byte `cbor:"2,keyasint,omitempty"`
	Warrant  []byte `cbor:"3,keyasint,omitempty"`
	Message  []byte `cbor:"4,keyasint,omitempty"`
	From     uint64 `cbor:"5,keyasint,omitempty"` // unix milliseconds
	Until    uint64 `cbor:"6,keyasint,omitempty"` // 0 for no end
	Bookmark string `cbor:"7,keyasint,omitempty"` // of the response before
}

// FindResponse is a page of records. They are those that the narrowest of the
// request's conditions gives; the asker looks at the others.
type FindResponse struct {
	Records  []Stored `cbor:"1,keyasint"`
	Bookmark string   `cbor:"2,keyasint"` // of the next page; "" at the end
}

// Refusal is what a transaction that is refused says, in JSON.
type Refusal struct {
	Index   int               `json:"index"`
	Name    ledgeranchor.Hash `json:"name"`
	Code    string            `json:"code"` // see ledgeranchor.ErrorOf
	Message string            `json:"message"`
}

// Organization is a member of the channel, and what its members may write.
type Organization struct {
	MSP   string
	Roles []string
	Roots []*x509.Certificate // of those who may write for it, or who issue their certificates
}

// Contract implements shim.Chaincode.
type Contract struct {
	orgs map[string]Organization
	now  func() time.Time
}

// New returns the chaincode of a channel with organizations. now is the peer's
// clock: records of a time to come are refused by it, and by nothing that a client
// says.
func New(orgs []Organization, now func() time.Time) (*Contract, error) {
	c := &Contract{orgs: make(map[string]Organization), now: now}
	for _, o := range orgs {
		if _, twice := c.orgs[o.MSP]; twice || o.MSP == "" {
			return nil, fmt.Errorf("organization %q: want each once, with the name of its MSP", o.MSP)
		}
		for _, r := range o.Roles {
			if !ledgeranchor.IsRole(r) {
				return nil, fmt.Errorf("organization %q: role %q: want one of %s", o.MSP, r, strings.Join(ledgeranchor.Roles(), ", "))
			}
		}
		if len(o.Roots) == 0 {
			return nil, fmt.Errorf("organization %q has no roots", o.MSP)
		}
		c.orgs[o.MSP] = o
	}
	return c, nil
}

// Init implements shim.Chaincode.
func (*Contract) Init(shim.ChaincodeStubInterface) *peer.Response { return shim.Success(nil) }

// Invoke implements shim.Chaincode.
func (c *Contract) Invoke(stub shim.ChaincodeStubInterface) *peer.Response {
	args := stub.GetArgs()
	if len(args) == 0 {
		return shim.Error("no transaction is named")
	}
	var out []byte
	var err error
	switch name, args := string(args[0]), args[1:]; name {
	case Append:
		out, err = c.append(stub, args)
	case Get:
		out, err = get(stub, args)
	case Find:
		out, err = find(stub, args)
	default:
		err = fmt.Errorf("no transaction is called %.40q", name)
	}
	var refused *ledgeranchor.RecordError
	switch {
	case err == nil:
		return shim.Success(out)
	case errors.As(err, &refused):
		text, err := json.Marshal(Refusal{refused.Index, refused.Name, ledgeranchor.ErrorCode(refused.Err), refused.Err.Error()})
		if err != nil {
			return shim.Error(err.Error())
		}
		return shim.Error(string(text))
	}
	return shim.Error(err.Error())
}

// Keys of the state. Those of a sort are followed by what is looked for and the
// time, in hex, so that ranges are in the order of time; then by the record's name, so
// that no two transactions write the same key but for the same record.
const (
	recordKeys      = "r"
	certificateKeys = "c"
	requestKeys     = "q" // message: content
	addressKeys     = "a"
	warrantKeys     = "w"
	messageKeys     = "m"
	kindKeys        = "k"
	timeKeys        = "t"
)

func key(sort string, value []byte) string { return sort + hex.EncodeToString(value) + "/" }

// RecordKey is the key of a record in the state.
func RecordKey(name ledgeranchor.Hash) string { return key(recordKeys, name[:]) }

func timeKey(sort string, value []byte, time uint64) string {
	return key(sort, value) + fmt.Sprintf("%016x", time)
}

var present = []byte{1}

// append checks and stores records.
func (c *Contract) append(stub shim.ChaincodeStubInterface, args [][]byte) ([]byte, error) {
	if len(args) < 1 || len(args) > ledgeranchor.MaxBatch {
		return nil, fmt.Errorf("%d records: want 1 to %d", len(args), ledgeranchor.MaxBatch)
	}
	msp, err := cid.GetMSPID(stub)
	if err != nil {
		return nil, fmt.Errorf("who asks cannot be read: %w", err)
	}
	org, known := c.orgs[msp]
	if !known {
		return nil, fmt.Errorf("%s is no organization that may write here", msp)
	}
	b := batch{
		stub: stub, org: org, others: c.orgs, members: ledgeranchor.NewMembers(org.Roots), now: c.now(), tx: stub.GetTxID(),
		seen: make(map[ledgeranchor.Hash]bool), requests: make(map[ledgeranchor.Hash]ledgeranchor.Hash),
	}
	records := make([]taken, len(args))
	for i, arg := range args {
		s, err := ledgeranchor.DecodeSigned(arg)
		if err != nil {
			return nil, &ledgeranchor.RecordError{Index: i, Err: err}
		}
		r, err := ledgeranchor.Decode(s.Record)
		if err != nil {
			return nil, &ledgeranchor.RecordError{Index: i, Name: s.Name(), Err: err}
		}
		records[i] = taken{s.Name(), s, r, arg}
	}
	// Each call of the peer is a message to it and back; so all that is needed is
	// asked for at once, and all that is written is written at once.
	if err := b.read(records); err != nil {
		return nil, err
	}
	stub.StartWriteBatch()
	had := make([]byte, len(args))
	var fresh []byte
	for i, x := range records {
		name := x.name
		known, err := b.take(x)
		if err != nil {
			return nil, &ledgeranchor.RecordError{Index: i, Name: name, Err: err}
		}
		if known {
			had[i] = 1
		} else {
			fresh = append(fresh, name[:]...)
		}
	}
	if len(fresh) > 0 {
		if err := stub.SetEvent(Event, fresh); err != nil {
			return nil, err
		}
	}
	return had, stub.FinishWriteBatch()
}

// taken is a record of a transaction.
type taken struct {
	name    ledgeranchor.Hash
	signed  *ledgeranchor.Signed
	record  *ledgeranchor.Record
	encoded []byte
}

// batch is the records of a transaction. A transaction does not see what it has
// written itself.
type batch struct {
	stub     shim.ChaincodeStubInterface
	org      Organization
	others   map[string]Organization
	members  *ledgeranchor.Members
	now      time.Time
	tx       string
	state    map[string][]byte // what was read
	seen     map[ledgeranchor.Hash]bool
	requests map[ledgeranchor.Hash]ledgeranchor.Hash // content by message
}

// read reads all of the state that records need.
func (b *batch) read(records []taken) error {
	var keys []string
	wanted := make(map[string]bool)
	want := func(k string) {
		if !wanted[k] {
			wanted[k] = true
			keys = append(keys, k)
		}
	}
	for _, x := range records {
		want(RecordKey(x.name))
		if x.record.Kind != ledgeranchor.KindCertificate {
			want(key(certificateKeys, x.record.Author[:]))
		}
		if x.record.Hop != nil {
			want(key(requestKeys, x.record.Message[:]))
		}
	}
	values, err := b.stub.GetMultipleStates(keys...)
	if err != nil {
		return err
	}
	if len(values) != len(keys) {
		return fmt.Errorf("the peer answers %d of %d keys", len(values), len(keys))
	}
	b.state = make(map[string][]byte, len(keys))
	for i, k := range keys {
		b.state[k] = values[i]
	}
	return nil
}

func (b *batch) take(x taken) (known bool, err error) {
	name, s, r := x.name, x.signed, x.record
	if err := b.introduce(r); err != nil {
		return false, err
	}
	if _, err := b.members.Check(s); err != nil {
		if r.Kind == ledgeranchor.KindCertificate && errors.Is(err, ledgeranchor.ErrAuthor) {
			err = b.foreign(r.Body, r.At(), err)
		}
		return false, err
	}
	if role, _ := ledgeranchor.RoleFor(r.Kind); role != "" && !slices.Contains(b.org.Roles, role) {
		return false, fmt.Errorf("%w: %s may not write a %s", ledgeranchor.ErrRole, b.org.MSP, r.Kind)
	}
	if r.At().After(b.now.Add(ledgeranchor.MaxSkew)) {
		return false, fmt.Errorf("%w: %s", ledgeranchor.ErrFuture, r.At().Format(time.RFC3339))
	}
	if len(b.state[RecordKey(name)]) > 0 || b.seen[name] {
		return true, nil
	}
	b.seen[name] = true
	if r.Hop != nil {
		if err := b.follow(r); err != nil {
			return false, err
		}
	}
	return false, b.store(name, r, x.encoded)
}

// introduce makes the author of a record known, by the certificate on the channel.
func (b *batch) introduce(r *ledgeranchor.Record) error {
	if _, known := b.members.Certificate(r.Author); known || r.Kind == ledgeranchor.KindCertificate {
		return nil
	}
	der := b.state[key(certificateKeys, r.Author[:])]
	if len(der) == 0 {
		return fmt.Errorf("%w: %s has not put its certificate on the ledger", ledgeranchor.ErrAuthor, r.Author)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := b.members.Add(cert, r.At()); err != nil {
		return b.foreign(der, r.At(), err)
	}
	return nil
}

// foreign tells of an author whom the organization does not know, for a reason, that
// it is another's.
func (b *batch) foreign(der []byte, at time.Time, reason error) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return reason
	}
	for _, o := range b.others {
		if o.MSP != b.org.MSP && ledgeranchor.NewMembers(o.Roots).Add(cert, at) == nil {
			return fmt.Errorf("%w: %q is of %s, not of %s", ledgeranchor.ErrForeign, cert.Subject.CommonName, o.MSP, b.org.MSP)
		}
	}
	return reason
}

// follow holds a hop against the message's journey: Request, then Delivery and
// Confirmation of the same content.
func (b *batch) follow(r *ledgeranchor.Record) error {
	at := key(requestKeys, r.Message[:])
	content, begun := b.requests[r.Message]
	if !begun {
		stored := b.state[at]
		if begun = len(stored) == len(content); begun {
			content = ledgeranchor.Hash(stored)
		}
	}
	switch {
	case begun && content != r.Hop.Content:
		return fmt.Errorf("%w: %s", ledgeranchor.ErrContent, r.Message)
	case !begun && r.Hop.Stage != ledgeranchor.StageRequest:
		return fmt.Errorf("%w: a %s of %s", ledgeranchor.ErrOrder, r.Hop.Stage, r.Message)
	case !begun:
		b.requests[r.Message] = r.Hop.Content
		return b.stub.PutState(at, r.Hop.Content[:])
	}
	return nil
}

func (b *batch) store(name ledgeranchor.Hash, r *ledgeranchor.Record, encoded []byte) error {
	value, err := cbor.Marshal(Stored{Tx: b.tx, Signed: encoded})
	if err != nil {
		return err
	}
	if err := b.stub.PutState(key(recordKeys, name[:]), value); err != nil {
		return err
	}
	if r.Kind == ledgeranchor.KindCertificate {
		if err := b.stub.PutState(key(certificateKeys, r.Author[:]), r.Body); err != nil {
			return err
		}
	}
	index := func(sort string, value []byte) error {
		return b.stub.PutState(timeKey(sort, value, r.Time)+hex.EncodeToString(name[:]), present)
	}
	errs := []error{index(timeKeys, nil)}
	for _, a := range r.Addresses {
		errs = append(errs, index(addressKeys, a[:]))
	}
	if !r.Warrant.IsZero() {
		errs = append(errs, index(warrantKeys, r.Warrant[:]))
	}
	if !r.Message.IsZero() {
		errs = append(errs, index(messageKeys, r.Message[:]))
	}
	if r.Kind != ledgeranchor.KindHop {
		errs = append(errs, index(kindKeys, []byte(r.Kind)))
	}
	return errors.Join(errs...)
}

func get(stub shim.ChaincodeStubInterface, args [][]byte) ([]byte, error) {
	if len(args) != 1 || len(args[0]) != len(ledgeranchor.Hash{}) {
		return nil, errors.New("want a name of 32 bytes")
	}
	stored, err := stub.GetState(key(recordKeys, args[0]))
	if err == nil && stored == nil {
		err = &ledgeranchor.RecordError{Name: ledgeranchor.Hash(args[0]), Err: ledgeranchor.ErrNotFound}
	}
	return stored, err
}

func find(stub shim.ChaincodeStubInterface, args [][]byte) ([]byte, error) {
	if len(args) != 1 {
		return nil, errors.New("want a request")
	}
	var q FindRequest
	if err := cbor.Unmarshal(args[0], &q); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	sort, value := timeKeys, []byte(nil)
	switch { // what the fewest records have
	case len(q.Address) > 0:
		sort, value = addressKeys, q.Address
	case len(q.Message) > 0:
		sort, value = messageKeys, q.Message
	case len(q.Warrant) > 0:
		sort, value = warrantKeys, q.Warrant
	case q.Kind != "" && q.Kind != string(ledgeranchor.KindHop):
		sort, value = kindKeys, []byte(q.Kind)
	}
	end := key(sort, value) + "~" // behind every digit
	if q.Until > 0 {
		end = timeKey(sort, value, q.Until+1)
	}
	rows, meta, err := stub.GetStateByRangeWithPagination(timeKey(sort, value, q.From), end, maxPage, q.Bookmark)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := FindResponse{Bookmark: meta.GetBookmark()}
	if meta.GetFetchedRecordsCount() < maxPage {
		out.Bookmark = ""
	}
	for rows.HasNext() {
		row, err := rows.Next()
		if err != nil {
			return nil, err
		}
		name := row.GetKey()[len(row.GetKey())-2*len(ledgeranchor.Hash{}):]
		b, err := stub.GetState(recordKeys + name + "/")
		if err != nil {
			return nil, err
		}
		var s Stored
		if err := cbor.Unmarshal(b, &s); err != nil {
			return nil, fmt.Errorf("record %s: %w", name, err)
		}
		out.Records = append(out.Records, s)
	}
	return cbor.Marshal(out)
}
