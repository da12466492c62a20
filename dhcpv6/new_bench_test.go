package dhcpv6

import (
	"testing"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/idcodec"
	"brightgid/lease"
)

// BenchmarkNewClients has new subscribers ask for their first lease, Solicit and Request, in batches
// and durably, among 100,000 leases, and prints what one takes of processors with all that
// Pebble does for it. Their NIDs are ready: what sealing takes is BenchmarkSeal's.
func BenchmarkNewClients(b *testing.B) {
	m := newManyLab(b, 100_000)
	m.open()
	defer m.close()
	m.loadAll()
	m.h.reg = lease.NewRegistrar(m.near, [32]byte{7}, readySealer(make(idcodec.NID, 200)))
	m.settle()
	const atOnce = 200_000
	var took, used time.Duration
	next, msgs := m.n, make(someMessages, 0, 2*atOnce)
	for b.Loop() {
		msgs = msgs[:0]
		for end := next + atOnce; next < end; next += batchSize {
			for _, typ := range []dhcp6.MessageType{dhcp6.MessageTypeSolicit, dhcp6.MessageTypeRequest} {
				for i := range batchSize {
					msgs = append(msgs, manyAsks(next+i, typ))
				}
			}
		}
		before, began := m.processor(), time.Now()
		m.handle(msgs)
		took += time.Since(began)
		m.settle()
		used += m.processor() - before
	}
	if got, held := m.store.Subscribers(), m.near.Len(); got != uint64(next) || held != next {
		b.Errorf("%d subscribers and %d leases that hold, want %d", got, held, next)
	}
	n := float64(next - m.n)
	b.ReportMetric(used.Seconds()*1e6/n, "CPU-µs/client")
	b.ReportMetric(n/took.Seconds(), "clients/s")
}

// readySealer has an NID ready.
type readySealer idcodec.NID

func (s readySealer) Seal(idcodec.EID) (idcodec.NID, error) { return idcodec.NID(s), nil }

// manyAsks is a message of client i that asks for an address.
func manyAsks(i int, typ dhcp6.MessageType) []byte {
	w := builder{[]byte{byte(typ), 1, 2, 3}}
	w.option(dhcp6.OptionClientID, manyDUID(i))
	if typ == dhcp6.MessageTypeRequest {
		w.option(dhcp6.OptionServerID, serverID)
	}
	w.close(w.openIA(&ia{iaid: 1}, 0, 0))
	return manyRelayed(i, w.b)
}
