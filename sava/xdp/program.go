package xdp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"brightgid/sava"
)

// maxLocalBindings is the room for link-local addresses beside the leased ones.
const maxLocalBindings = 1 << 13

// pinned are the maps that outlive a process, and with it the programs.
var pinned = []string{objectsMapBindings, objectsMapLengths}

// Port is an interface at which frames come in.
type Port struct {
	Index   uint32
	Name    string
	Trusted bool // not checked
}

// Options are what Load needs.
type Options struct {
	Ports   []Port
	Generic bool   // do not try the driver's own XDP
	Enforce bool   // false: judge and count, but let everything pass
	Recover bool   // hand up frames from sources that are not bound
	Limit   int    // bindings; 0 means sava.DefaultLimit
	Pin     string // directory in a BPF file system that outlives the process; "" for none
}

// Program is the programs at the ports and their maps. It is a [sava.Mirror].
type Program struct {
	ports    []attached
	bindings *ebpf.Map
	lengths  *ebpf.Map // of bound prefixes
	counters *ebpf.Map
	handedUp []*ringbuf.Reader // of each port
	drops    *ringbuf.Reader
	pass     *ebpf.Program
	clock    clock
	ticket   [16]byte
	pin      string

	lengthsMu sync.Mutex
	closers   []interface{ Close() error }

	// Injected and InjectErrors count frames that were sent back to their
	// ports.
	Injected, InjectErrors atomic.Uint64
}

type attached struct {
	Port
	generic bool
	program *ebpf.Program
	link    link.Link
}

// Mode tells how the program of a port is attached: native in the driver, or
// generic.
func (p *Program) Mode(i int) string {
	if p.ports[i].generic {
		return "generic"
	}
	return "native"
}

// Load attaches programs to ports, natively where the driver can, and takes over
// what an earlier process pinned.
func Load(o Options) (_ *Program, err error) {
	if o.Limit == 0 {
		o.Limit = sava.DefaultLimit
	}
	p := &Program{pin: o.Pin}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if _, err := rand.Read(p.ticket[:]); err != nil {
		return nil, err
	}
	spec, err := loadObjects()
	if err != nil {
		return nil, err
	}
	spec.Maps[objectsMapBindings].MaxEntries = uint32(o.Limit + maxLocalBindings)
	spec.Maps[objectsMapCounters].MaxEntries = uint32(int(sava.NumReasons) * len(o.Ports))
	spec.Maps[objectsMapPaces].MaxEntries = uint32(len(o.Ports))
	if o.Pin != "" {
		if err := os.MkdirAll(o.Pin, 0o700); err != nil {
			return nil, err
		}
		for _, name := range pinned {
			spec.Maps[name].Pinning = ebpf.PinByName
		}
	}
	common := make(map[string]*ebpf.Map)
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") || name == objectsMapHandedUp {
			continue // of each program its own
		}
		if common[name], err = ebpf.NewMapWithOptions(m, ebpf.MapOptions{PinPath: o.Pin}); err != nil {
			if errors.Is(err, ebpf.ErrMapIncompatible) {
				err = fmt.Errorf("%w (was --limit changed? gidfilter detach removes the old map)", err)
			}
			return nil, fmt.Errorf("BPF map %s: %w", name, explain(err, o.Pin))
		}
		p.closers = append(p.closers, common[name])
	}
	p.bindings, p.lengths, p.counters = common[objectsMapBindings], common[objectsMapLengths], common[objectsMapCounters]
	for i, port := range o.Ports {
		if err := p.attach(o, spec, common, i, port); err != nil {
			return nil, fmt.Errorf("interface %s: %w", port.Name, err)
		}
	}
	if o.Pin != "" {
		if err := p.unpinOthers(); err != nil {
			return nil, err
		}
	}
	reader, err := p.program(spec, common, objectsProgGidClock, nil)
	if err != nil {
		return nil, err
	}
	if p.clock, err = readClock(reader); err != nil {
		return nil, err
	}
	if p.pass, err = p.program(spec, common, objectsProgGidPass, nil); err != nil {
		return nil, err
	}
	if p.drops, err = ringbuf.NewReader(common[objectsMapDrops]); err != nil {
		return nil, err
	}
	return p, nil
}

// explain adds what to do about the errors that operators meet.
func explain(err error, pin string) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (root, or CAP_BPF and CAP_NET_ADMIN, is needed)", err)
	case pin != "" && (errors.Is(err, unix.EINVAL) || strings.Contains(err.Error(), "not on a bpf filesystem")):
		return fmt.Errorf("%w (is %s in a BPF file system? mount -t bpf bpf /sys/fs/bpf)", err, pin)
	}
	return err
}

// program loads one program with its constants, over given maps.
func (p *Program) program(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map, name string, constants map[string]any) (*ebpf.Program, error) {
	one := spec.Copy()
	for other := range one.Programs {
		if other != name {
			delete(one.Programs, other)
		}
	}
	for v, value := range constants {
		if err := one.Variables[v].Set(value); err != nil {
			return nil, fmt.Errorf("%s: %w", v, err)
		}
	}
	for _, m := range one.Maps {
		m.Pinning = ebpf.PinNone
	}
	c, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: maps})
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses the XDP program: %w", explain(err, ""))
	}
	defer c.Close()
	prog := c.DetachProgram(name)
	p.closers = append(p.closers, prog)
	return prog, nil
}

func (p *Program) attach(o Options, spec *ebpf.CollectionSpec, common map[string]*ebpf.Map, slot int, port Port) error {
	name := objectsProgGidAccess
	if port.Trusted {
		name = objectsProgGidTrusted
	}
	// A ring of its own, for a port that fills one must not keep others out.
	ring, err := ebpf.NewMap(spec.Maps[objectsMapHandedUp])
	if err != nil {
		return explain(err, "")
	}
	p.closers = append(p.closers, ring)
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return err
	}
	p.handedUp = append(p.handedUp, reader)
	own := maps.Clone(common)
	own[objectsMapHandedUp] = ring
	load := func(generic bool) (*ebpf.Program, error) {
		constants := map[string]any{
			objectsVarPort: port.Index, objectsVarSlot: uint32(slot), objectsVarFirstCounter: uint32(slot * int(sava.NumReasons)), objectsVarTicket: p.ticket,
			objectsVarEnforce: flag(o.Enforce), objectsVarGeneric: flag(generic), objectsVarRecover: flag(o.Recover),
		}
		if port.Trusted {
			constants[objectsVarUpInterval] = uint64(0) // a network that is trusted may say what it likes
		}
		return p.program(spec, own, name, constants)
	}
	modes := []bool{false, true} // native, then generic
	if o.Generic {
		modes = modes[1:]
	}
	for _, generic := range modes {
		old, err := p.inherited(port, generic)
		if err != nil {
			return err
		}
		if old == nil {
			continue
		}
		prog, err := load(generic)
		if err != nil {
			return err
		}
		// The new program takes the old one's place between two frames.
		if err := old.Update(prog); err != nil {
			return err
		}
		p.ports = append(p.ports, attached{port, generic, prog, old})
		return nil
	}
	for _, generic := range modes {
		prog, err := load(generic)
		if err != nil {
			return err
		}
		l, err := p.attachFresh(prog, port, generic)
		if err == nil {
			p.ports = append(p.ports, attached{port, generic, prog, l})
			return nil
		}
		if generic || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, ebpf.ErrNotSupported) {
			return attachError(err)
		}
	}
	return nil
}

func attachError(err error) error {
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w (another XDP program is there already; see ip link)", err)
	}
	return explain(err, "")
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// linkPath returns where a port's link is pinned.
func (p *Program) linkPath(port Port, generic bool) string {
	mode := "native-"
	if generic {
		mode = "generic-"
	}
	return filepath.Join(p.pin, mode+port.Name)
}

// inherited returns the link that an earlier process left at a port; nil for
// none. One of an interface that is no more is removed.
func (p *Program) inherited(port Port, generic bool) (link.Link, error) {
	if p.pin == "" {
		return nil, nil
	}
	path := p.linkPath(port, generic)
	old, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	info, err := old.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), old.Close())
	}
	if x := info.XDP(); x == nil || x.Ifindex != port.Index {
		return nil, errors.Join(old.Unpin(), old.Close())
	}
	p.closers = append(p.closers, old)
	return old, nil
}

func (p *Program) attachFresh(prog *ebpf.Program, port Port, generic bool) (link.Link, error) {
	flags := link.XDPDriverMode
	if generic {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: int(port.Index), Flags: flags})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, l)
	if p.pin != "" {
		if err := l.Pin(p.linkPath(port, generic)); err != nil {
			return nil, explain(err, p.pin)
		}
	}
	return l, nil
}

// unpinOthers removes what an earlier process pinned at ports that are not ours.
func (p *Program) unpinOthers() error {
	names, err := os.ReadDir(p.pin)
	if err != nil {
		return err
	}
	keep := make(map[string]bool)
	for _, name := range pinned {
		keep[name] = true
	}
	for _, a := range p.ports {
		keep[filepath.Base(p.linkPath(a.Port, a.generic))] = true
	}
	for _, n := range names {
		if !keep[n.Name()] {
			if err := os.Remove(filepath.Join(p.pin, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Detach removes what is pinned in a directory: nothing is filtered any more.
func Detach(pin string) (ports []string, err error) {
	names, err := os.ReadDir(pin)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		mode, port, ok := strings.Cut(n.Name(), "-")
		if !slices.Contains(pinned, n.Name()) && (!ok || mode != "native" && mode != "generic") {
			return ports, fmt.Errorf("%s: not a pin of gidfilter's", filepath.Join(pin, n.Name()))
		}
		if err := os.Remove(filepath.Join(pin, n.Name())); err != nil {
			return ports, err
		}
		if ok {
			ports = append(ports, port)
		}
	}
	return ports, os.Remove(pin)
}

// Close gives up what the process holds. What is pinned goes on.
func (p *Program) Close() error {
	var errs []error
	for _, r := range p.handedUp {
		errs = append(errs, r.Close())
	}
	if p.drops != nil {
		errs = append(errs, p.drops.Close())
	}
	for _, c := range slices.Backward(p.closers) {
		errs = append(errs, c.Close())
	}
	p.closers = nil
	return errors.Join(errs...)
}

const anyVLAN = 1 // of flags

// sum seals a binding to its address, as sum_of in filter.c does.
func sum(key *[16]byte, b *objectsBinding) uint64 {
	return (binary.LittleEndian.Uint64(key[:8])*0x9e3779b97f4a7c15 + binary.LittleEndian.Uint64(key[8:])*0xc2b2ae3d27d4eb4f +
		b.Until*0x165667b19e3779f9 + (uint64(b.Port)|uint64(b.Vlan)<<32)*0xd6e8feb86659fd93 +
		(uint64(binary.LittleEndian.Uint32(b.Mac[:]))|uint64(binary.LittleEndian.Uint16(b.Mac[4:]))<<32|uint64(b.Flags)<<48)*0xff51afd7ed558ccd) ^ 0x27d4eb2f165667c5
}

// seal makes the kernel's form of a binding.
func (c *clock) seal(addr netip.Addr, b sava.Binding) (key [16]byte, v objectsBinding) {
	key = addr.As16()
	v = objectsBinding{Port: b.Port, Vlan: b.VLAN, Mac: b.MAC, Until: c.jiffiesAt(b.Until)}
	if b.AnyVLAN {
		v.Flags = anyVLAN
	}
	v.Sum = sum(&key, &v)
	return key, v
}

// Bind implements [sava.Mirror].
func (p *Program) Bind(addr netip.Addr, b sava.Binding) error {
	if prefix, ok := sava.PrefixOf(addr); ok {
		if err := p.addLength(uint8(prefix.Bits())); err != nil {
			return err
		}
	}
	key, v := p.clock.seal(addr, b)
	return p.bindings.Update(&key, &v, ebpf.UpdateAny)
}

// addLength has the programs look for prefixes of a length. They go on to when none is
// bound any more.
func (p *Program) addLength(bits uint8) error {
	p.lengthsMu.Lock()
	defer p.lengthsMu.Unlock()
	var all [sava.MaxLengths]uint8
	if err := p.lengths.Lookup(uint32(0), &all); err != nil {
		return err
	}
	for i, b := range all {
		switch b {
		case bits:
			return nil
		case 0:
			all[i] = bits
			return p.lengths.Update(uint32(0), &all, ebpf.UpdateAny)
		}
	}
	return sava.ErrLengths
}

// Unbind implements [sava.Mirror].
func (p *Program) Unbind(addr netip.Addr) error {
	key := addr.As16()
	if err := p.bindings.Delete(&key); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// Adopt calls f with every binding that an earlier process left in the kernel, and
// returns how many f took. Others, those that are over, and those at ports that
// are no more are removed.
func (p *Program) Adopt(now time.Time, f func(addr netip.Addr, b sava.Binding, now time.Time) error) (kept int, err error) {
	var key [16]byte
	var v objectsBinding
	type kernelBinding struct {
		key [16]byte
		objectsBinding
	}
	var all []kernelBinding // first, for f changes the map
	it := p.bindings.Iterate()
	for it.Next(&key, &v) {
		all = append(all, kernelBinding{key, v})
	}
	if err := it.Err(); err != nil {
		return 0, err
	}
	for _, k := range all {
		key, v := k.key, k.objectsBinding
		b := sava.Binding{
			Anchor: sava.Anchor{Port: v.Port, VLAN: v.Vlan, MAC: v.Mac}, AnyVLAN: v.Flags&anyVLAN != 0,
			Until: p.clock.timeOf(v.Until),
		}
		gone := b.Port != 0 && !slices.ContainsFunc(p.ports, func(a attached) bool { return a.Index == b.Port })
		if gone || v.Sum != sum(&key, &v) || !now.Before(b.Until) || f(netip.AddrFrom16(key), b, now) != nil {
			if err := p.bindings.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return kept, err
			}
			continue
		}
		kept++
	}
	return kept, nil
}

// Counters returns how many frames of each reason a port has seen, by its place
// in Options.
func (p *Program) Counters(port int) (n [sava.NumReasons]uint64, err error) {
	for r := range n {
		var perCPU []uint64
		if err := p.counters.Lookup(uint32(port*int(sava.NumReasons)+r), &perCPU); err != nil {
			return n, err
		}
		for _, c := range perCPU {
			n[r] += c
		}
	}
	return n, nil
}

// Event is a frame that a program gave to user space.
type Event struct {
	Port   uint32
	Reason sava.Reason // of a sample, why it was dropped
	Copy   bool        // the frame itself has passed and was counted
	Len    int         // of the frame
	Data   []byte      // the frame, or the beginning of one; valid during the call
}

const eventLen = 16 // struct event

const copied = 17 // COPY in filter.c

// HandedUp calls f with every frame that is for user space to judge, until the
// context ends. Frames of one port come in their order; f is called for several
// ports at once.
func (p *Program) HandedUp(ctx context.Context, f func(Event)) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range p.handedUp {
		g.Go(func() error { return read(ctx, r, f) })
	}
	return g.Wait()
}

// Drops calls f with samples of dropped frames, until the context ends.
func (p *Program) Drops(ctx context.Context, f func(Event)) error { return read(ctx, p.drops, f) }

func read(ctx context.Context, r *ringbuf.Reader, f func(Event)) error {
	// A deadline would wait for the read that it is to end.
	stop := context.AfterFunc(ctx, func() { _ = r.Flush() }) // it fails when the ring is closed, and so reading ends
	defer stop()
	var rec ringbuf.Record
	for {
		err := r.ReadInto(&rec)
		if ctx.Err() != nil || errors.Is(err, ringbuf.ErrClosed) {
			return nil
		}
		if errors.Is(err, ringbuf.ErrFlushed) {
			continue
		}
		if err != nil {
			return err
		}
		b := rec.RawSample
		if len(b) < eventLen {
			return fmt.Errorf("an event of %d bytes", len(b))
		}
		e := Event{
			Port: binary.NativeEndian.Uint32(b), Reason: sava.Reason(binary.NativeEndian.Uint32(b[4:])),
			Len: int(binary.NativeEndian.Uint32(b[8:])),
		}
		e.Copy = e.Reason == copied
		e.Data = b[eventLen:min(len(b), eventLen+e.Len)]
		f(e)
	}
}

// xdpMD is struct xdp_md.
type xdpMD struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }

// liveFrames is BPF_F_TEST_XDP_LIVE_FRAMES.
const liveFrames = 1 << 1

// Inject sends a frame on its way as if it had come in at a port just now and
// passed.
func (p *Program) Inject(port uint32, frame []byte) error {
	i := slices.IndexFunc(p.ports, func(a attached) bool { return a.Index == port })
	if i < 0 {
		return fmt.Errorf("no port %d", port)
	}
	if p.ports[i].generic {
		// The program sees the frame again, and knows it by its ticket.
		const experimental = 0x88b5
		b := make([]byte, 12, 14+len(p.ticket)+len(frame))
		b = binary.BigEndian.AppendUint16(b, experimental)
		b = append(b, p.ticket[:]...)
		frame = append(b, frame...)
	}
	_, err := p.pass.Run(&ebpf.RunOptions{
		Data: frame, Context: &xdpMD{DataEnd: uint32(len(frame)), IngressIfindex: port}, Repeat: 1, Flags: liveFrames, BatchSize: 1,
	})
	if err != nil {
		p.InjectErrors.Add(1)
		return err
	}
	p.Injected.Add(1)
	return nil
}
