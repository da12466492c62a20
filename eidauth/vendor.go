package eidauth

import "encoding/binary"

// VendorOption returns the data of the first option with a code among those of an
// enterprise in Vendor-specific Information options (RFC 9915 §21.17), or nil.
func VendorOption(vendors [][]byte, enterprise uint32, code uint16) []byte {
	for _, v := range vendors {
		if len(v) < 4 || binary.BigEndian.Uint32(v) != enterprise {
			continue
		}
		for b := v[4:]; len(b) >= 4; {
			c, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
			if len(b) < 4+n {
				break
			}
			if c == code && n > 0 {
				return b[4 : 4+n]
			}
			b = b[4+n:]
		}
	}
	return nil
}

// AppendVendorOption returns the data of a Vendor-specific Information option with one
// option of an enterprise.
func AppendVendorOption(b []byte, enterprise uint32, code uint16, data []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, enterprise)
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}
