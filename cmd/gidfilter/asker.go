package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	dhcp6 "github.com/insomniacslk/dhcp/dhcpv6"

	"brightgid/sava"
	"brightgid/trace"
)

// clientDUID returns the DUID-UUID (RFC 6355) by which a filter names itself: made
// of its certificate, so that it is the same at every start.
func clientDUID(id *trace.Identity) []byte {
	hash := sha256.Sum256(id.Certificate.Raw)
	return duidOf([16]byte(hash[:]), 8)
}

// duidOf makes a DUID-UUID of a version (RFC 9562).
func duidOf(uuid [16]byte, version byte) []byte {
	uuid[6], uuid[8] = uuid[6]&0x0f|version<<4, uuid[8]&0x3f|0x80
	return append(binary.BigEndian.AppendUint16(nil, uint16(dhcp6.DUID_UUID)), uuid[:]...)
}

// asker asks a DHCPv6 server about single addresses, by UDP (RFC 5007).
type asker struct {
	conn *net.UDPConn
	duid []byte
}

func newAsker(server netip.AddrPort) (*asker, error) {
	conn, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(server))
	if err != nil {
		return nil, err
	}
	var uuid [16]byte
	if _, err := rand.Read(uuid[:]); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &asker{conn, duidOf(uuid, 4)}, nil
}

// Close closes the socket.
func (a *asker) Close() error { return a.conn.Close() }

// ask sends a query. The server's answer names the address itself.
func (a *asker) ask(addr netip.Addr) error {
	const queryByAddress = 1
	var xid [3]byte
	if _, err := rand.Read(xid[:]); err != nil {
		return err
	}
	lq := append([]byte{queryByAddress}, make([]byte, 16)...) // on whatever link
	lq = option(lq, dhcp6.OptionIAAddr, append(addr.AsSlice(), make([]byte, 8)...))
	b := append([]byte{byte(dhcp6.MessageTypeLeaseQuery)}, xid[:]...)
	b = option(b, dhcp6.OptionClientID, a.duid)
	b = option(b, dhcp6.OptionLQQuery, lq)
	_, err := a.conn.Write(b)
	return err
}

func option(b []byte, code dhcp6.OptionCode, data []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// run hands answers to f until the context ends. The kernel takes only what comes
// from the server's address; an address that was not asked for is of no use to f.
func (a *asker) run(ctx context.Context, f func(sava.ClientData)) error {
	stop := context.AfterFunc(ctx, func() { _ = a.conn.SetReadDeadline(time.Unix(0, 1)) }) // it may be closed
	defer stop()
	b := make([]byte, 64<<10)
	for {
		n, err := a.conn.Read(b)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			select { // a port that is not open yet, or no route
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if n < 4 || dhcp6.MessageType(b[0]) != dhcp6.MessageTypeLeaseQueryReply {
			continue
		}
		_ = sava.EachOption(b[4:n], func(code dhcp6.OptionCode, data []byte) error {
			if code != dhcp6.OptionClientData {
				return nil
			}
			d, err := sava.ParseClientData(data)
			if err == nil {
				f(d)
			}
			return err // the rest of an answer that cannot be read is of no use
		})
	}
}
