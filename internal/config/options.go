package config

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Options are DHCPv6 options by their names, or by "option-N", with values of the
// option's type; a value "hex:…" is taken as it is for any.
type Options map[string]any

// Option is an option as it is sent.
type Option struct {
	Code uint16
	Data []byte
}

// optionType encodes a value.
type optionType func(value any) ([]byte, error)

// optionTypes are the options that have names, after IANA's registry: those that a server
// sends when it is asked.
var optionTypes = map[string]struct {
	code   uint16
	encode optionType
}{
	"sip-server-names":    {21, names},         // RFC 3319
	"sip-servers":         {22, addresses},     // RFC 3319
	"dns-servers":         {23, addresses},     // RFC 3646
	"domain-search":       {24, names},         // RFC 3646
	"vendor-options":      {17, vendorOptions}, // RFC 9915 §21.17
	"nis-servers":         {27, addresses},     // RFC 3898
	"nisp-servers":        {28, addresses},     // RFC 3898
	"nis-domain":          {29, name},          // RFC 3898
	"nisp-domain":         {30, name},          // RFC 3898
	"sntp-servers":        {31, addresses},     // RFC 4075
	"bcmcs-server-names":  {33, names},         // RFC 4280
	"bcmcs-servers":       {34, addresses},     // RFC 4280
	"posix-timezone":      {41, text},          // RFC 4833
	"tzdb-timezone":       {42, text},          // RFC 4833
	"lost-server":         {51, name},          // RFC 5223
	"capwap-ac":           {52, addresses},     // RFC 5417
	"ntp-servers":         {56, ntp},           // RFC 5908
	"v6-access-domain":    {57, name},          // RFC 5986
	"sip-ua-cs-domains":   {58, names},         // RFC 6011
	"bootfile-url":        {59, text},          // RFC 5970
	"bootfile-parameters": {60, parameters},    // RFC 5970
	"aftr-name":           {64, name},          // RFC 6334
	"erp-local-domain":    {65, name},          // RFC 6440
	"sol-max-rt":          {82, seconds},       // RFC 9915 §21.24
	"inf-max-rt":          {83, seconds},       // RFC 9915 §21.25
	"dhcp4o6-servers":     {88, addresses},     // RFC 7341
	"captive-portal":      {103, text},         // RFC 8910
	"sztp-redirect":       {136, parameters},   // RFC 8572
	"dots-agent":          {141, name},         // RFC 8973
	"dots-addresses":      {142, addresses},    // RFC 8973
	"encrypted-dns":       {144, encryptedDNS}, // RFC 9463
}

// ownOptions are codes that the server writes itself, or that only clients and relays
// send.
func ownOption(code uint16) bool {
	switch code {
	case 25, 26, 32, 37, 38, 39, 44, 45, 46, 47, 48, 61, 62, 66, 79, 81, 135:
		return true
	}
	return code < 21 && code != 17
}

// maxOption bounds an option's data, so that answers stay within a datagram that crosses
// any link.
const maxOption = 1000

// Encode returns the options in the order of their codes. The error names the option.
func (o Options) Encode() ([]Option, error) {
	var out []Option
	for _, key := range slices.Sorted(maps.Keys(o)) {
		x, err := encodeOption(key, o[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		if slices.ContainsFunc(out, func(y Option) bool { return y.Code == x.Code }) {
			return nil, fmt.Errorf("%s: option %d stands twice", key, x.Code)
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Option) int { return int(a.Code) - int(b.Code) })
	return out, nil
}

// optionOf returns the code of the option that has a key, and its type, nil if that is not known.
func optionOf(key string) (code uint16, encode optionType, err error) {
	if number, ok := strings.CutPrefix(key, "option-"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 {
			return 0, nil, errors.New("want option-1 to option-65535")
		}
		code = uint16(n)
		if ownOption(code) {
			return 0, nil, errors.New("the server writes this option itself, or never sends it")
		}
		for _, t := range optionTypes {
			if t.code == code {
				encode = t.encode
			}
		}
		return code, encode, nil
	}
	if t, ok := optionTypes[key]; ok {
		return t.code, t.encode, nil
	}
	return 0, nil, fmt.Errorf("unknown option; want option-N or one of %s", strings.Join(slices.Sorted(maps.Keys(optionTypes)), ", "))
}

func encodeOption(key string, value any) (x Option, err error) {
	code, encode, err := optionOf(key)
	if err != nil {
		return x, err
	}
	x.Code = code
	if s, ok := value.(string); ok && strings.HasPrefix(s, "hex:") {
		if x.Data, err = hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(s[len("hex:"):])); err != nil {
			return x, errors.New("not hex")
		}
	} else if encode == nil {
		return x, errors.New("its type is not known; write its data as \"hex:…\"")
	} else if x.Data, err = encode(value); err != nil {
		return x, err
	}
	if len(x.Data) > maxOption {
		return x, fmt.Errorf("%d bytes: want %d at most", len(x.Data), maxOption)
	}
	return x, nil
}

// list returns a value's strings: one, or a list.
func list(value any) ([]string, error) {
	one, ok := value.(string)
	if ok {
		return []string{one}, nil
	}
	many, ok := value.([]any)
	if !ok || len(many) == 0 {
		return nil, errors.New("want a text or a list of texts")
	}
	var out []string
	for _, v := range many {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%v: want a text", v)
		}
		out = append(out, s)
	}
	return out, nil
}

func addresses(value any) (b []byte, err error) {
	all, err := list(value)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		a, err := address(s)
		if err != nil {
			return nil, err
		}
		b = append(b, a...)
	}
	return b, nil
}

func address(s string) ([]byte, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return nil, fmt.Errorf("%q is no IPv6 address", s)
	}
	return a.AsSlice(), nil
}

func names(value any) (b []byte, err error) {
	all, err := list(value)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		n, err := domain(s)
		if err != nil {
			return nil, err
		}
		b = append(b, n...)
	}
	return b, nil
}

func name(value any) ([]byte, error) {
	s, ok := value.(string)
	if !ok {
		return nil, errors.New("want a domain name")
	}
	return domain(s)
}

// domain encodes a name as RFC 9915 §10 says.
func domain(s string) ([]byte, error) {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if len(label) < 1 || len(label) > 63 {
			return nil, fmt.Errorf("domain name %q: a label has %d bytes, want 1 to 63", s, len(label))
		}
		b = append(append(b, byte(len(label))), label...)
	}
	if b = append(b, 0); len(b) > 255 {
		return nil, fmt.Errorf("domain name %q: longer than 255 bytes", s)
	}
	return b, nil
}

func text(value any) ([]byte, error) {
	s, ok := value.(string)
	if !ok || s == "" {
		return nil, errors.New("want a text")
	}
	return []byte(s), nil
}

// parameters are texts, each after its length (2).
func parameters(value any) (b []byte, err error) {
	all, err := list(value)
	for _, s := range all {
		b = binary.BigEndian.AppendUint16(b, uint16(min(len(s), maxOption+1)))
		b = append(b, s...)
	}
	return b, err
}

// seconds are RFC 9915's maxima of a client's timeouts, 60 to 86400.
func seconds(value any) ([]byte, error) {
	n, ok := value.(int64)
	if !ok || n < 60 || n > 86400 {
		return nil, errors.New("want 60 to 86400 seconds")
	}
	return binary.BigEndian.AppendUint32(nil, uint32(n)), nil
}

// ntp encodes time sources: addresses, multicast addresses and names (RFC 5908 §4).
func ntp(value any) (b []byte, err error) {
	all, err := list(value)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		code := uint16(1)
		data, err := address(s)
		if err == nil && data[0] == 0xff {
			code = 2
		}
		if err != nil {
			code = 3
			if data, err = domain(s); err != nil {
				return nil, err
			}
		}
		b = binary.BigEndian.AppendUint16(b, code)
		b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
		b = append(b, data...)
	}
	return b, nil
}

// vendorOptions encodes a vendor's options: { enterprise = N, options = { 1 = "text" } }, whose
// values are texts, "hex:…" or lists of addresses.
func vendorOptions(value any) ([]byte, error) {
	t, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("want { enterprise = 32473, options = { 1 = \"text\" } }")
	}
	enterprise, ok := t["enterprise"].(int64)
	if !ok || enterprise < 1 || enterprise > 1<<32-1 {
		return nil, errors.New("enterprise: want an enterprise number (IANA's)")
	}
	inner, ok := t["options"].(map[string]any)
	if !ok || len(inner) == 0 || len(t) != 2 {
		return nil, errors.New("want enterprise and options, and nothing else")
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(enterprise))
	type option struct {
		code uint16
		data []byte
	}
	var all []option
	for key, v := range inner {
		n, err := strconv.ParseUint(key, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("options.%s: want a number from 1 to 65535", key)
		}
		var data []byte
		if s, ok := v.(string); !ok {
			data, err = addresses(v)
		} else if digits, isHex := strings.CutPrefix(s, "hex:"); isHex {
			data, err = hex.DecodeString(strings.NewReplacer(":", "", " ", "").Replace(digits))
		} else {
			data, err = text(v)
		}
		if err != nil {
			return nil, fmt.Errorf("options.%s: %w", key, err)
		}
		all = append(all, option{uint16(n), data})
	}
	slices.SortFunc(all, func(x, y option) int { return int(x.code) - int(y.code) })
	for _, o := range all {
		b = binary.BigEndian.AppendUint16(b, o.code)
		b = binary.BigEndian.AppendUint16(b, uint16(min(len(o.data), maxOption+1)))
		b = append(b, o.data...)
	}
	return b, nil
}

// encryptedDNS encodes one resolver (RFC 9463 §4.1): a table with priority, name,
// addresses, alpn, port and path.
func encryptedDNS(value any) ([]byte, error) {
	t, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("want { priority = 1, name = \"dot.example\", addresses = […], alpn = [\"dot\"] }")
	}
	var addrs, params []byte
	priority := int64(1)
	host := ""
	for _, key := range slices.Sorted(maps.Keys(t)) {
		v := t[key]
		var err error
		switch key {
		case "priority":
			if priority, ok = v.(int64); !ok || priority < 1 || priority > 65535 {
				err = errors.New("want 1 to 65535")
			}
		case "name":
			host, _ = v.(string)
		case "addresses":
			addrs, err = addresses(v)
		case "alpn":
			var ids []string
			if ids, err = list(v); err == nil {
				var all []byte
				for _, id := range ids {
					if len(id) < 1 || len(id) > 255 {
						err = errors.New("an id has 1 to 255 bytes")
					}
					all = append(append(all, byte(len(id))), id...)
				}
				params = parameter(params, 1, all)
			}
		case "port", "path": // after alpn, in the order of their numbers
		default:
			err = errors.New("unknown key")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	if v, ok := t["port"]; ok {
		n, ok := v.(int64)
		if !ok || n < 1 || n > 65535 {
			return nil, errors.New("port: want 1 to 65535")
		}
		params = parameter(params, 3, binary.BigEndian.AppendUint16(nil, uint16(n)))
	}
	if v, ok := t["path"]; ok {
		s, ok := v.(string)
		if !ok || !strings.HasPrefix(s, "/") {
			return nil, errors.New("path: want a path of a DoH server, as \"/dns-query{?dns}\"")
		}
		params = parameter(params, 7, []byte(s))
	}
	n, err := domain(host)
	if err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	b := binary.BigEndian.AppendUint16(nil, uint16(priority))
	b = binary.BigEndian.AppendUint16(b, uint16(len(n)))
	b = append(b, n...)
	if len(addrs) == 0 { // the name only
		if len(params) > 0 {
			return nil, errors.New("alpn, port and path need addresses (RFC 9463 §3.1.6)")
		}
		return b, nil
	}
	if _, ok := t["alpn"]; !ok {
		return nil, errors.New("alpn: want what the resolver speaks, as [\"dot\"]")
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(addrs)))
	b = append(b, addrs...)
	return append(b, params...), nil
}

// parameter appends a service parameter (RFC 9460 §2.2).
func parameter(b []byte, key uint16, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, key)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}
