package main

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gidfilter": main})
}

// The scripts use the command as a user does, on captures made here.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command waits a second for races at its end
			return writeCapture(filepath.Join(e.WorkDir, "capture.pcap"))
		},
	})
}

// writeCapture writes frames of an honest host, of one that takes its address,
// of one that invents some, and one that is no frame.
func writeCapture(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		return err
	}
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	write := func(data []byte) error {
		at = at.Add(time.Second)
		return w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(data), Length: len(data)}, data)
	}
	for _, x := range []struct{ mac, src string }{
		{"02:00:00:00:00:0a", "2001:db8:1::a"},
		{"02:00:00:00:00:0b", "2001:db8:1::a"},
		{"02:00:00:00:00:0b", "2001:db8:1::dead"},
		{"02:00:00:00:00:0c", "2001:db8:1::c"}, // its lease is over
		{"02:00:00:00:00:0d", "2001:db8:1::d"}, // its lease was declined
		{"02:00:00:00:00:0e", "2001:db8:1::e"}, // its lease names no link-layer address
	} {
		mac, err := net.ParseMAC(x.mac)
		if err != nil {
			return err
		}
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
			SrcIP: netip.MustParseAddr(x.src).AsSlice(), DstIP: netip.MustParseAddr("2001:db8:ff::1").AsSlice()}
		udp := &layers.UDP{SrcPort: 1000, DstPort: 53}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			return err
		}
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, ip, udp, gopacket.Payload("x")); err != nil {
			return err
		}
		if err := write(b.Bytes()); err != nil {
			return err
		}
	}
	return write([]byte{1, 2, 3})
}
