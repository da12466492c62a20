// Package embedded is the ledger of one machine: a transparency log on its disk
// (tessera, in the format of C2SP tlog-tiles), with signed checkpoints, and an index
// beside it that can be made anew from the log at any time.
//
// Several processes may have it open and append: a lock in the log's directory puts
// them in order, and each batch is looked for in the log before it is added.
package embedded

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"brightgid/ledgeranchor"
)

// Files of a ledger's directory.
const (
	logDir    = "log"       // the log itself, which may be published as it is
	keyFile   = "log.key"   // its signing key (C2SP signed-note), mode 0600
	vkeyFile  = "log.vkey"  // the public part
	rootsFile = "roots.pem" // certificates of members, or of those who issue theirs
	lockFile  = "append.lock"
	begunFile = "begun" // is there as soon as the log is
	indexDir  = "index" // may be deleted
)

// Timers and sizes of the log.
const (
	batchAge           = time.Millisecond       // until a batch that is not full is written; the committer gathers already
	batchSize          = 1024                   // records that are written and integrated at once
	checkpointInterval = 100 * time.Millisecond // the least that tessera allows
	maxCommit          = 8192                   // records of one commit

	// proofPoll is how often a checkpoint is looked for that covers a record.
	proofPoll = 10 * time.Millisecond
)

// Errors of Open.
var (
	// ErrTampered says that a log's files do not fit its checkpoint.
	ErrTampered = errors.New("the log was tampered with")

	// ErrInUse says that this process has the ledger open already.
	ErrInUse = errors.New("this process has the ledger open already")
)

// Create makes a ledger's directory: an empty log with a key of its own, under a
// name (its origin, such as "isp.example/gid-ledger") that no other log may have.
func Create(dir, origin string, roots []*x509.Certificate) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return fmt.Errorf("the log's name %q: %w", origin, err)
	}
	var certs []byte
	for _, c := range roots {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	for _, f := range []struct {
		name string
		text string
		mode os.FileMode
	}{{keyFile, skey + "\n", 0o600}, {vkeyFile, vkey + "\n", 0o644}, {rootsFile, string(certs), 0o644}} {
		w, err := os.OpenFile(filepath.Join(dir, f.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if err != nil {
			return err
		}
		_, err = w.WriteString(f.text)
		if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Options are what Open needs.
type Options struct {
	Log *slog.Logger // nil for none
	Now func() time.Time
}

// Ledger is an embedded ledger. It implements [ledgeranchor.Ledger].
type Ledger struct {
	*Reader
	dir      string
	index    *index
	now      func() time.Time
	log      *slog.Logger
	lock     *os.File
	appender *tessera.Appender
	reader   tessera.LogReader
	stop     context.CancelFunc
	shutdown func(context.Context) error

	writing sync.Mutex // the process's own part of the lock
	known   uint64     // positions that were read, and whose members are known; the lock must be held

	requests  chan *request
	committed sync.WaitGroup
	closing   sync.RWMutex // held for reading by those who send requests
	closed    bool
}

// request is a call of Append.
type request struct {
	records []*ledgeranchor.Record
	entries [][]byte
	names   []ledgeranchor.Hash
	done    chan error
	places  []ledgeranchor.Receipt
}

var (
	openMu sync.Mutex
	opened = make(map[string]bool)

	quiet sync.Once
)

// Open opens a ledger to append to it, and checks that its log is whole: every
// entry is read and hashed anew. [ErrTampered] tells when it is not.
func Open(ctx context.Context, dir string, o Options) (_ *Ledger, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	quiet.Do(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) }) // tessera's errors are returned as well
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	openMu.Lock()
	busy := opened[path]
	opened[path] = true
	openMu.Unlock()
	if busy {
		return nil, fmt.Errorf("ledger %s: %w", dir, ErrInUse)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &Ledger{dir: path, now: o.Now, log: o.Log, stop: stop, requests: make(chan *request, 64)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("ledger %s: %w", dir, err), l.release())
		}
	}()
	skey, err := readKey(filepath.Join(path, keyFile))
	if err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	verifier, roots, err := ReadTrust(filepath.Join(path, vkeyFile), filepath.Join(path, rootsFile))
	if err != nil {
		return nil, err
	}
	if signer.Name() != verifier.Name() || signer.KeyHash() != verifier.KeyHash() {
		return nil, fmt.Errorf("%s is not the key of %s", vkeyFile, keyFile)
	}
	if l.lock, err = os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600); err != nil {
		return nil, err
	}
	if l.index, err = openIndex(filepath.Join(path, indexDir)); err != nil {
		return nil, err
	}
	l.Reader = NewReader(client.FileFetcher{Root: filepath.Join(path, logDir)}, verifier, roots)
	unlock, err := l.exclusive()
	if err != nil {
		return nil, err
	}
	defer unlock()
	begun := filepath.Join(path, begunFile)
	if _, err := os.Stat(begun); err == nil {
		if err := l.Reader.CheckFiles(ctx); err != nil {
			return nil, err
		}
	}
	driver, err := posix.New(ctx, posix.Config{Path: filepath.Join(path, logDir)})
	if err != nil {
		return nil, err
	}
	l.appender, l.shutdown, l.reader, err = tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithBatching(batchSize, batchAge).
		WithCheckpointInterval(checkpointInterval).WithCheckpointRepublishInterval(24*time.Hour))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(begun, nil, 0o600); err != nil {
		return nil, err
	}
	// With the lock held nothing comes into the log, so that the index, once it has
	// caught up, is current.
	l.known = l.index.size()
	if err := l.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := l.loadMembers(ctx); err != nil {
		return nil, err
	}
	l.committed.Go(func() { l.commit(ctx) })
	return l, nil
}

func readKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if m := info.Mode().Perm(); m&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o, and others may read the log's key: chmod 0600", path, m)
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return strings.TrimSpace(string(b)), err
}

// ReadTrust reads what a reader of a log has to trust: the log's public key and
// the roots of its members.
func ReadTrust(vkeyPath, rootsPath string) (note.Verifier, []*x509.Certificate, error) {
	b, err := os.ReadFile(vkeyPath)
	if err != nil {
		return nil, nil, err
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", vkeyPath, err)
	}
	text, err := os.ReadFile(rootsPath)
	if err != nil {
		return nil, nil, err
	}
	var roots []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return v, roots, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", rootsPath, err)
		}
		roots = append(roots, c)
	}
}

// exclusive waits until nobody else appends, in this process or another, whose lock
// ends with it.
func (l *Ledger) exclusive() (unlock func(), err error) {
	l.writing.Lock()
	for {
		if err := unix.Flock(int(l.lock.Fd()), unix.LOCK_EX); err == nil {
			return func() {
				_ = unix.Flock(int(l.lock.Fd()), unix.LOCK_UN) // closing it would as well
				l.writing.Unlock()
			}, nil
		} else if !errors.Is(err, unix.EINTR) {
			l.writing.Unlock()
			return nil, fmt.Errorf("locking the ledger: %w", err)
		}
	}
}

// release gives up all that the ledger holds.
func (l *Ledger) release() error {
	var errs []error
	l.stop()
	if l.index != nil {
		errs = append(errs, l.index.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	openMu.Lock()
	delete(opened, l.dir)
	openMu.Unlock()
	return errors.Join(errs...)
}

// Close implements [ledgeranchor.Ledger]. It waits for appends that have begun.
func (l *Ledger) Close() error {
	l.closing.Lock()
	if l.closed {
		l.closing.Unlock()
		return nil
	}
	l.closed = true
	close(l.requests)
	l.closing.Unlock()
	l.committed.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(l.shutdown(ctx), l.release())
}

// Append implements [ledgeranchor.Ledger].
func (l *Ledger) Append(ctx context.Context, records ...*ledgeranchor.Signed) ([]ledgeranchor.Receipt, error) {
	if len(records) == 0 {
		return nil, nil
	}
	if len(records) > ledgeranchor.MaxBatch {
		return nil, fmt.Errorf("%d records at once: %d at most", len(records), ledgeranchor.MaxBatch)
	}
	decoded, err := l.members.CheckAll(records, l.now())
	if errors.Is(err, ledgeranchor.ErrAuthor) { // another process may have taken the author's certificate
		if err := l.lookAgain(ctx); err != nil {
			return nil, err
		}
		decoded, err = l.members.CheckAll(records, l.now())
	}
	if err != nil {
		return nil, err
	}
	r := &request{records: decoded, done: make(chan error, 1), places: make([]ledgeranchor.Receipt, len(records))}
	for _, s := range records {
		b, err := s.Encode()
		if err != nil {
			return nil, err
		}
		r.entries, r.names = append(r.entries, b), append(r.names, s.Name())
	}
	l.closing.RLock()
	if l.closed {
		l.closing.RUnlock()
		return nil, os.ErrClosed
	}
	select {
	case l.requests <- r:
		l.closing.RUnlock()
	case <-ctx.Done():
		l.closing.RUnlock()
		return nil, ctx.Err()
	}
	select {
	case err := <-r.done:
		if err != nil {
			return nil, err
		}
		return r.places, nil
	case <-ctx.Done():
		return nil, ctx.Err() // it may be appended yet; to try again does no harm
	}
}

// commit gathers requests and appends what they hold, until there are no more.
func (l *Ledger) commit(ctx context.Context) {
	for r := range l.requests {
		batch, n := []*request{r}, len(r.entries)
	gather:
		for n < maxCommit {
			select {
			case r, ok := <-l.requests:
				if !ok {
					break gather
				}
				batch, n = append(batch, r), n+len(r.entries)
			default:
				break gather
			}
		}
		err := l.append(ctx, batch)
		if err != nil {
			l.log.Error("records were not appended", "records", n, "error", err)
		}
		for _, r := range batch {
			r.done <- err
		}
	}
}

// append adds the records of requests that the log does not have. It is done, and
// all in the index, when it returns.
func (l *Ledger) append(ctx context.Context, batch []*request) error {
	unlock, err := l.exclusive()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	begun := l.index.size()
	fresh := make(map[ledgeranchor.Hash]uint64)
	var futures []tessera.IndexFuture
	var added []ledgeranchor.Hash
	var records []*ledgeranchor.Record
	for _, r := range batch {
		for i, name := range r.names {
			at, known := fresh[name]
			if !known {
				if at, known, err = l.position(ctx, name); err != nil {
					return err
				}
			}
			if known {
				r.places[i] = ledgeranchor.Receipt{Position: at, Known: true}
				continue
			}
			fresh[name] = 0 // until the log tells
			f := l.appender.Add(ctx, tessera.NewEntry(r.entries[i]))
			futures = append(futures, f)
			added, records = append(added, name), append(records, r.records[i])
			if r.records[i].Kind == ledgeranchor.KindCertificate {
				_, _ = f() // it must come before its author's records; its error is seen below
			}
		}
	}
	// The log keeps the order of a batch of its own, but not that of two.
	names, inOrder := make([]ledgeranchor.Hash, len(added)), make([]*ledgeranchor.Record, len(added))
	places := make([]uint64, len(futures))
	for i, f := range futures { // all of them: none may come when the lock is given back
		got, e := f()
		err = errors.Join(err, e)
		places[i] = got.Index
	}
	if err != nil {
		return err // what has come into the log, catchUp finds
	}
	for i, at := range places {
		k := at - begun
		if k >= uint64(len(names)) || inOrder[k] != nil {
			return fmt.Errorf("the log has put a record at %d, not from %d on: another program writes to it without its lock", at, begun)
		}
		names[k], inOrder[k] = added[i], records[i]
		fresh[added[i]] = at
	}
	for _, r := range batch {
		for i, name := range r.names {
			if at, here := fresh[name]; here {
				r.places[i].Position = at
			}
		}
	}
	l.known = begun + uint64(len(names))
	return l.index.add(begun, names, inOrder)
}

// position finds a record by its name.
func (l *Ledger) position(ctx context.Context, name ledgeranchor.Hash) (at uint64, known bool, err error) {
	for at := range l.index.positions(nameKey(name), 0, math.MaxUint64) {
		e, err := l.at(ctx, at)
		if err != nil {
			return 0, false, err
		}
		if e.Signed.Name() == name {
			return at, true, nil
		}
	}
	return 0, false, nil
}

// catchUp indexes what the log has and the index has not: what another process
// appended, or one that was killed. The lock must be held.
func (l *Ledger) catchUp(ctx context.Context) error {
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil {
		return err
	}
	if had := l.index.size(); had > size {
		return fmt.Errorf("%w: it has %d records and had %d", ErrTampered, size, had)
	}
	for l.known < size {
		var names []ledgeranchor.Hash
		var records []*ledgeranchor.Record
		from := l.known
		for at := from; at < min(size, from+maxCommit); at++ {
			e, err := l.read(ctx, at, size)
			if err != nil {
				return err
			}
			names, records = append(names, e.Signed.Name()), append(records, e.Record)
		}
		if err := l.index.add(from, names, records); err != nil {
			return err
		}
		l.known = from + uint64(len(names))
	}
	return nil
}

// lookAgain indexes what other processes have appended.
func (l *Ledger) lookAgain(ctx context.Context) error {
	unlock, err := l.exclusive()
	if err != nil {
		return err
	}
	defer unlock()
	return l.catchUp(ctx)
}

// current has the index cover all that other processes have appended.
func (l *Ledger) current(ctx context.Context) error {
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil || l.index.size() >= size {
		return err
	}
	return l.lookAgain(ctx)
}

// loadMembers learns the certificates of those who have written to the log.
func (l *Ledger) loadMembers(ctx context.Context) error {
	for e, err := range l.Find(ctx, ledgeranchor.Query{Kind: ledgeranchor.KindCertificate}) {
		if err != nil {
			return err
		}
		if _, err := l.members.Check(e.Signed); err != nil {
			return fmt.Errorf("%w: %w", ErrTampered, err)
		}
	}
	return nil
}

// Get implements [ledgeranchor.Ledger].
func (l *Ledger) Get(ctx context.Context, name ledgeranchor.Hash) (*ledgeranchor.Entry, error) {
	at, err := l.Position(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.at(ctx, at)
}

func (l *Ledger) at(ctx context.Context, position uint64) (*ledgeranchor.Entry, error) {
	size, err := l.reader.IntegratedSize(ctx)
	if err != nil {
		return nil, err
	}
	return l.read(ctx, position, size)
}

// Find implements [ledgeranchor.Ledger].
func (l *Ledger) Find(ctx context.Context, q ledgeranchor.Query) iter.Seq2[*ledgeranchor.Entry, error] {
	return func(yield func(*ledgeranchor.Entry, error) bool) {
		if err := errors.Join(q.Check(), l.current(ctx)); err != nil {
			yield(nil, err)
			return
		}
		for at, err := range l.positions(ctx, &q) {
			if err != nil {
				yield(nil, err)
				return
			}
			e, err := l.at(ctx, at)
			if err == nil && !q.Wants(e.Record) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// positions returns where the records may be that a query asks for, in the order of
// their times.
func (l *Ledger) positions(ctx context.Context, q *ledgeranchor.Query) iter.Seq2[uint64, error] {
	from, until := uint64(0), uint64(math.MaxUint64)
	if !q.From.IsZero() {
		from = uint64(max(0, q.From.UnixMilli()))
	}
	if !q.Until.IsZero() {
		until = uint64(max(0, q.Until.UnixMilli()))
	}
	var key uint64
	switch { // the key that the fewest records have
	case q.Address.IsValid():
		key = addressKey(ledgeranchor.AddressOf(q.Address))
	case !q.Message.IsZero():
		key = messageKey(q.Message)
	case !q.Warrant.IsZero():
		key = warrantKey(q.Warrant)
	case q.Kind != "" && q.Kind != ledgeranchor.KindHop:
		key = kindKey(q.Kind)
	default:
		return l.scan(ctx, q)
	}
	return func(yield func(uint64, error) bool) {
		for at := range l.index.positions(key, from, until) {
			if !yield(at, ctx.Err()) || ctx.Err() != nil {
				return
			}
		}
	}
}

// scan reads the whole log for the records that a query asks for.
func (l *Ledger) scan(ctx context.Context, q *ledgeranchor.Query) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		var found []place
		size := l.index.size()
		for at := range size {
			e, err := l.read(ctx, at, size)
			if err != nil {
				yield(0, err)
				return
			}
			if q.Wants(e.Record) {
				found = append(found, place{e.Record.Time, at})
			}
		}
		slices.SortFunc(found, place.compare)
		for _, p := range found {
			if !yield(p.position, nil) {
				return
			}
		}
	}
}

// Position returns the position of a record, or [ledgeranchor.ErrNotFound].
func (l *Ledger) Position(ctx context.Context, name ledgeranchor.Hash) (uint64, error) {
	if err := l.current(ctx); err != nil {
		return 0, err
	}
	at, known, err := l.position(ctx, name)
	if err == nil && !known {
		err = ledgeranchor.ErrNotFound
	}
	return at, err
}

// Prove implements [ledgeranchor.Ledger]. The proof is a [*ledgeranchor.LogProof].
func (l *Ledger) Prove(ctx context.Context, name ledgeranchor.Hash) (ledgeranchor.Proof, error) {
	at, err := l.Position(ctx, name)
	if err != nil {
		return nil, err
	}
	return l.Reader.Prove(ctx, at)
}

// hashBundle returns the leaf hashes of a bundle of entries.
func hashBundle(bundle []byte) ([][]byte, error) {
	var b api.EntryBundle
	if err := b.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, len(b.Entries))
	for i, e := range b.Entries {
		hashes[i] = rfc6962.DefaultHasher.HashLeaf(e)
	}
	return hashes, nil
}

// CheckFiles reads the whole log and checks that its entries and tiles are those
// that its checkpoint commits to.
func (r *Reader) CheckFiles(ctx context.Context) error {
	quiet.Do(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })
	if err := fsck.New(r.verifier.Name(), r.verifier, r.fetcher, hashBundle, fsck.Opts{N: 2}).Check(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrTampered, err)
	}
	return nil
}
