package lease_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"brightgid/lease"
	"brightgid/lease/leasetest"
)

func FuzzParseRecord(f *testing.F) {
	l := leasetest.Lease(1, time.Unix(1e9, 0))
	f.Add(lease.AppendRecord(nil, &l))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := lease.ParseRecord(netip.IPv6Loopback(), b)
		if err == nil && !bytes.Equal(lease.AppendRecord(nil, &l), b) {
			t.Fatalf("%x is read as %+v, which is written as %x", b, l, lease.AppendRecord(nil, &l))
		}
	})
}
