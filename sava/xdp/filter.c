//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// The fast path of the filter: what package sava's Filter says of a frame, for
// the frames that make up the traffic, and for the Neighbour Discovery of hosts
// that are bound, so that they keep their neighbours while no process runs. What
// may change a binding (DHCPv6, "::", link-local addresses nobody has claimed) is
// handed up to user space and held back until it is judged there.
//
// "make generate" compiles it. It needs kernel 5.18.

#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Apache-2.0";

#define likely(x) __builtin_expect(!!(x), 1)

// Reasons are sava.Reason. The numbers beyond are of this program only.
enum reason {
	VALID = 0,
	NOT_IPV6,
	TRUSTED,
	UNBOUND,
	WRONG_ANCHOR,
	EXPIRED,
	FORGED,
	MARTIAN,
	MALFORMED,
	LIMITED,
	NUM_REASONS,

	HAND_UP = 16, // user space counts what it becomes
	COPY,         // VALID, and user space gets a copy
};

// What the loader sets, for each port.
const volatile __u32 port;            // interface index
const volatile __u32 slot;            // the port's place in paces
const volatile __u32 first_counter;   // and in counters
const volatile __u8 enforce;          // 0: judge and count, but pass everything
const volatile __u8 recover;          // user space wants to see sources that are not bound
const volatile __u8 generic;          // frames from user space come back to this program
const volatile __u8 ticket[16];       // how it knows them then
const volatile __u64 up_interval = 2000000; // ns between frames handed up, on the average
const volatile __u64 up_burst = 800000000; // ns worth of them at once
const volatile __u64 sample_interval = 10000000; // ns between samples of a port's drops

struct binding {
	__u64 until; // jiffies
	__u32 port;  // 0: any
	__u32 vlan;  // outer << 16 | inner
	__u8 mac[6]; // 0: any
	__u16 flags;
	__u64 sum;   // of the key and the fields above
};

#define ANY_VLAN 1

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct in6_addr);
	__type(value, struct binding);
} bindings SEC(".maps");

// Lengths of the delegated prefixes that are bound; 0 ends them. Prefixes stand among
// the bindings under keys of their own, as sava's KeyOf makes them.
#define MAX_LENGTHS 8

struct lengths {
	__u8 bits[MAX_LENGTHS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lengths);
} lengths SEC(".maps");

// The loader makes room for every port.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NUM_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct pace {
	__u64 up;     // when the port's frames that were handed up are paid for
	__u64 sample; // when a drop was sampled last
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); // the loader makes room
	__type(key, __u32);
	__type(value, struct pace);
} paces SEC(".maps");

// Frames for user space: struct event, then the frame. Each port has its own, with
// room for more than it may hand up at once.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 19);
} handed_up SEC(".maps");

// Samples of dropped frames: struct event, then the frame's beginning.
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} drops SEC(".maps");

struct event {
	__u32 port;
	__u32 reason;
	__u32 len; // of the frame; what follows may be less
	__u32 pad;
};

#define MAX_FRAME 2048 // of what is handed up; control messages are shorter
#define SAMPLE 128

// Room to put an event together.
struct room {
	struct event event;
	__u8 frame[1 << 12]; // more than MAX_FRAME, for a bound that the verifier can follow
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct room);
} rooms SEC(".maps");

static __always_inline void count(__u32 reason)
{
	__u32 key = first_counter + reason;
	__u64 *n = bpf_map_lookup_elem(&counters, &key);

	if (n)
		*n += 1;
}

// copy puts the frame, or its beginning, into a ring.
static __always_inline int copy(struct xdp_md *ctx, void *ring, __u32 reason, __u32 most)
{
	__u32 zero = 0, all = bpf_xdp_get_buff_len(ctx), len = all;
	struct room *r = bpf_map_lookup_elem(&rooms, &zero);

	if (!r)
		return -1;
	if (len > most)
		len = most;
	barrier_var(len);
	len &= sizeof(r->frame) - 1;
	if (!len)
		return -1;
	r->event.port = port;
	r->event.reason = reason;
	r->event.len = all;
	r->event.pad = 0;
	if (bpf_xdp_load_bytes(ctx, 0, r->frame, len))
		return -1;
	return bpf_ringbuf_output(ring, r, sizeof(r->event) + len, 0);
}

static __noinline int sample(struct xdp_md *ctx, __u32 reason)
{
	__u32 key = slot;
	struct pace *p = bpf_map_lookup_elem(&paces, &key);
	__u64 now = bpf_ktime_get_ns();

	// Two processors may both pass; a sample more does no harm.
	if (p && now - p->sample >= sample_interval) {
		p->sample = now;
		copy(ctx, &drops, reason, SAMPLE);
	}
	return 0;
}

static __always_inline int verdict(struct xdp_md *ctx, __u32 reason)
{
	count(reason);
	if (reason < UNBOUND)
		return XDP_PASS;
	sample(ctx, reason);
	return enforce ? XDP_DROP : XDP_PASS;
}

// hand_up gives the frame to user space, unless the port has given too many: one
// host must not keep user space from the others. Of a frame that passes by itself,
// the reason being COPY, user space need not know.
static __noinline int hand_up(struct xdp_md *ctx, __u32 reason)
{
	__u32 key = slot;
	struct pace *p = bpf_map_lookup_elem(&paces, &key);
	__u64 now = bpf_ktime_get_ns(), due;

	if (!p)
		return XDP_ABORTED;
	due = p->up > now ? p->up : now;
	if (due - now > up_burst || bpf_xdp_get_buff_len(ctx) > MAX_FRAME ||
	    copy(ctx, &handed_up, reason, MAX_FRAME)) {
		if (reason != COPY)
			count(LIMITED);
	} else {
		__sync_fetch_and_add(&p->up, due + up_interval - p->up);
	}
	return enforce && reason != COPY ? XDP_DROP : XDP_PASS;
}

// A binding in words, as the sum and the comparisons take them.
struct words {
	__u64 until, at, who; // at: port | vlan << 32; who: mac | flags << 48
};

// sum_of seals a binding to its address, as sum in program.go does. Any change of
// a single word changes it, for the factors are odd.
static __always_inline __u64 sum_of(const __u64 *key, const struct words *w)
{
	return (key[0] * 0x9e3779b97f4a7c15ULL + key[1] * 0xc2b2ae3d27d4eb4fULL + w->until * 0x165667b19e3779f9ULL +
		w->at * 0xd6e8feb86659fd93ULL + w->who * 0xff51afd7ed558ccdULL) ^ 0x27d4eb2f165667c5ULL;
}

// find copies the binding of an address, which is at a place in memory and in two
// words. The kernel may give a deleted element to another key while it is being
// read; the sum tells.
static __always_inline int find(const void *at, const __u64 *key, struct words *out)
{
	for (int i = 0; i < 4; i++) {
		const volatile __u64 *b = bpf_map_lookup_elem(&bindings, at);

		if (!b)
			return 0;
		out->until = b[0];
		out->at = b[1];
		out->who = b[2];
		if (sum_of(key, out) == b[3])
			return 1;
	}
	return -1;
}

// find_prefix copies the binding of the delegated prefix that an address is in, by the
// address's first word.
static __noinline int find_prefix(__u64 first, struct words *out)
{
	__u32 zero = 0;
	const volatile struct lengths *l = bpf_map_lookup_elem(&lengths, &zero);

	if (!l || !out)
		return 0;
	for (int i = 0; i < MAX_LENGTHS; i++) {
		__u64 key[2];
		__u32 bits = l->bits[i];
		int found;

		if (!bits || bits > 64)
			break;
		key[0] = bpf_cpu_to_be64(0xffULL << 56 | (__u64)bits << 48);
		key[1] = first & bpf_cpu_to_be64(~0ULL << (64 - bits));
		found = find(key, key, out);
		if (found)
			return found;
	}
	return 0;
}

#define MAC_OF(who) ((who) << 16)

// differs tells why a host may not use an address whose binding is not exactly
// that of a source: perhaps it may.
static __noinline __u32 differs(__u64 until, __u64 at, __u64 who, __u64 here, __u64 mac)
{
	if (bpf_jiffies64() >= until)
		return EXPIRED;
	if (!(__u32)at && !MAC_OF(who))
		return HAND_UP; // leased; user space finds out to whom
	if (((__u32)at && (__u32)at != (__u32)here) || (!(who >> 48 & ANY_VLAN) && at >> 32 != here >> 32) ||
	    (MAC_OF(who) && MAC_OF(who) != MAC_OF(mac)))
		return WRONG_ANCHOR;
	return VALID;
}

// is_link_local tells an address of fe80::/10 by its first word.
static __always_inline int is_link_local(__u64 first)
{
	return (first & bpf_cpu_to_be64(0xffc0ULL << 48)) == bpf_cpu_to_be64(0xfe80ULL << 48);
}

// source judges an address that a host uses as its own: here is its port and VLAN,
// as in words, and mac its link-layer address.
static __always_inline __u32 source(const void *addr, const __u64 *key, __u64 here, __u64 mac)
{
	struct words w;
	__u32 reason;
	int found = find(addr, key, &w);

	if (!found)
		found = find_prefix(key[0], &w);
	switch (found) {
	case 0:
		return is_link_local(key[0]) || recover ? HAND_UP : UNBOUND;
	case 1:
		break;
	default:
		return HAND_UP;
	}
	if (likely(w.at == here && w.who == mac && bpf_jiffies64() < w.until))
		return VALID;
	reason = differs(w.until, w.at, w.who, here, mac);
	return reason != VALID && is_link_local(key[0]) ? HAND_UP : reason; // it may have moved
}

#define DHCP_CLIENT 546
#define DHCP_SERVER 547

#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define MAX_ND_OPTIONS 8 // that are looked at here

// discovery judges a Neighbour Solicitation or Advertisement of a bound host as
// sava's Filter does: it must be whole, name no other link-layer address, and
// advertise an address that the host may have. The message begins at off. It is
// not static so that the verifier follows it once, not from every place.
__noinline __u32 discovery(struct xdp_md *ctx, __u32 off, __u32 end)
{
	struct {
		__u8 type, code;
		__be16 checksum;
		__u8 flags[4];
		struct in6_addr target;
	} m;
	__u8 mac[8] = {}, h[8];
	__u32 vlan = 0, ip = 12, reason;

	if (bpf_xdp_load_bytes(ctx, 6, mac, 6) || bpf_xdp_load_bytes(ctx, ip, h, 2))
		return MALFORMED;
	for (int i = 0; i < 2; i++) {
		if (!(h[0] == 0x81 && h[1] == 0) && !(h[0] == 0x88 && h[1] == 0xa8))
			break;
		if (bpf_xdp_load_bytes(ctx, ip + 2, h, 4))
			return MALFORMED;
		vlan |= ((h[0] & 0xf) << 8 | h[1]) << (i ? 0 : 16);
		h[0] = h[2];
		h[1] = h[3];
		ip += 4;
	}
	ip += 2;
	if (bpf_xdp_load_bytes(ctx, ip, h, 8) || h[7] != 255) // the hop limit
		return MALFORMED;
	if (end - off < sizeof(m) || bpf_xdp_load_bytes(ctx, off, &m, sizeof(m)) || m.code || m.target.s6_addr[0] == 0xff)
		return MALFORMED;
	off += sizeof(m);
	for (int i = 0; off != end; i++) {
		if (i == MAX_ND_OPTIONS)
			return HAND_UP;
		if (end - off < 8 || bpf_xdp_load_bytes(ctx, off, h, 8) || !h[1] || end - off < h[1] * 8)
			return MALFORMED;
		if (h[0] == 1 || h[0] == 2) { // source and target link-layer address
			__u8 d = h[1] ^ 1;

			for (int k = 0; k < 6; k++)
				d |= h[2 + k] ^ mac[k];
			if (d)
				return WRONG_ANCHOR;
		}
		off += h[1] * 8;
	}
	if (m.type == ND_ADVERTISEMENT) {
		__u64 target[2], who;

		__builtin_memcpy(target, &m.target, sizeof(target));
		__builtin_memcpy(&who, mac, sizeof(who));
		reason = source(target, target, (__u64)vlan << 32 | port, who);
		if (reason != VALID)
			return reason;
	}
	return COPY;
}

#define MAX_HEADERS 16 // as many as user space follows

// upper judges what a bound host sends, by the headers behind its IPv6 header, which
// ends at off. What is in the frame behind the packet is padding.
static __noinline __u32 upper(struct xdp_md *ctx, __u32 off)
{
	__u32 end, next, fragment = 0;
	__u8 h[8];

	if (bpf_xdp_load_bytes(ctx, off - sizeof(struct ipv6hdr), h, 8))
		return MALFORMED;
	end = off + (h[4] << 8 | h[5]);
	next = h[6];
	for (int i = 0; i < MAX_HEADERS; i++) {
		if (off > end)
			return MALFORMED;
		switch (next) {
		case IPPROTO_ICMPV6:
			if (end - off < 4 || bpf_xdp_load_bytes(ctx, off, h, 4))
				return MALFORMED;
			if (h[0] < 133 || h[0] > 137)
				return VALID;
			if (h[0] == 134 || h[0] == 137)
				return MARTIAN; // a router is on a trusted port
			if (fragment)
				return MALFORMED;
			return h[0] == ND_SOLICITATION || h[0] == ND_ADVERTISEMENT ? discovery(ctx, off, end) : HAND_UP;
		case IPPROTO_UDP:
			if (end - off < 4 || bpf_xdp_load_bytes(ctx, off, h, 4))
				return VALID; // too short to say anything to anybody
			next = h[2] << 8 | h[3];
			if ((h[0] << 8 | h[1]) == DHCP_SERVER && (next == DHCP_CLIENT || next == DHCP_SERVER))
				return MARTIAN;
			return next == DHCP_SERVER ? HAND_UP : VALID;
		case IPPROTO_HOPOPTS:
			if (i)
				return MALFORMED;
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case 135: // mobility
		case 139: // HIP
		case 140: // shim6
		case IPPROTO_AH:
		case IPPROTO_FRAGMENT:
			if (end - off < 8 || bpf_xdp_load_bytes(ctx, off, h, 8))
				return MALFORMED;
			if (next == IPPROTO_AH) {
				off += (h[1] + 2) * 4;
			} else if (next == IPPROTO_FRAGMENT) {
				if (fragment)
					return MALFORMED;
				fragment = 1;
				if (h[2] | (h[3] & 0xf8))
					return VALID; // its head was judged, or is not to be had
				off += 8;
			} else {
				off += (h[1] + 1) * 8;
			}
			break;
		default:
			return VALID;
		}
		next = h[0];
	}
	return MALFORMED;
}

static __always_inline __u32 judge(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct ipv6hdr *ip;
	__u64 src[2], mac;
	__u32 vlan = 0, off = sizeof(*eth), len, plain = 0, reason;
	__u16 proto;

	if ((void *)(eth + 1) > end)
		return MALFORMED;
	mac = *(__u32 *)eth->h_source | (__u64)*(__u16 *)(eth->h_source + 4) << 32;
	proto = eth->h_proto;
	if (proto != bpf_htons(ETH_P_IPV6)) {
		for (int i = 0; i < 2; i++) {
			__be16 *tag = data + off; // tag control information, then the protocol

			if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
				break;
			if ((void *)(tag + 2) > end)
				return MALFORMED;
			vlan |= (bpf_ntohs(tag[0]) & 0xfff) << (i ? 0 : 16);
			proto = tag[1];
			off += 4;
		}
		if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD))
			return MALFORMED;
		if (proto != bpf_htons(ETH_P_IPV6))
			return NOT_IPV6;
	}
	ip = data + off;
	if ((void *)(ip + 1) > end || ip->version != 6)
		return MALFORMED;
	off += sizeof(*ip);
	len = bpf_ntohs(ip->payload_len);
	if (!len)
		return HAND_UP;
	if (end - (void *)(ip + 1) < len && bpf_xdp_get_buff_len(ctx) - off < len)
		return MALFORMED; // nor is the rest in another buffer
	__builtin_memcpy(src, &ip->saddr, sizeof(src));
	if (mac & 1 || *(__u8 *)&ip->saddr == 0xff)
		return MARTIAN;
	if (!src[0]) {
		if (!src[1])
			return HAND_UP; // "::"
		if (src[1] == bpf_cpu_to_be64(1) || (__u32)src[1] == bpf_htonl(0xffff))
			return MARTIAN;
	}
	// Most packets are plain: their source is all that counts. That is found out
	// before the lookup, over which the program can keep little.
	if (ip->nexthdr == IPPROTO_TCP) {
		plain = 1;
	} else if (ip->nexthdr == IPPROTO_UDP && len >= 4) {
		__be16 *ports = (void *)(ip + 1);

		plain = (void *)(ports + 2) <= end && ports[0] != bpf_htons(DHCP_SERVER) && ports[1] != bpf_htons(DHCP_SERVER);
	}
	reason = source(&ip->saddr, src, (__u64)vlan << 32 | port, mac);
	if (reason != VALID || plain)
		return reason;
	return upper(ctx, off);
}

// readmit lets a frame pass that user space has sent back, where the kernel runs
// this program again on such frames. In front of it is an Ethernet header of the
// type for local experiments (IEEE 802), and the ticket.
#define TICKET_LEN (ETH_HLEN + 16)

static __always_inline int readmit(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	__u8 *t = data + sizeof(*eth), d = 0;

	if (data + TICKET_LEN > end || eth->h_proto != bpf_htons(0x88b5))
		return 0;
	for (int i = 0; i < 16; i++)
		d |= t[i] ^ ticket[i];
	return !d && !bpf_xdp_adjust_head(ctx, TICKET_LEN);
}

// gid_access is for the ports of hosts.
SEC("xdp.frags")
int gid_access(struct xdp_md *ctx)
{
	__u32 reason;

	if (generic && readmit(ctx))
		return XDP_PASS;
	reason = judge(ctx);
	if (reason == HAND_UP)
		return hand_up(ctx, reason);
	if (reason == COPY) {
		count(VALID);
		return hand_up(ctx, reason);
	}
	return verdict(ctx, reason);
}

static __always_inline int trusted(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct ipv6hdr *ip;
	__u32 off = sizeof(*eth);
	__u16 proto;
	__be16 *ports;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	proto = eth->h_proto;
	for (int i = 0; i < 2; i++) {
		__be16 *tag = data + off;

		if (proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 2) > end)
			return XDP_PASS;
		proto = tag[1];
		off += 4;
	}
	ip = data + off;
	ports = (void *)(ip + 1);
	if (proto != bpf_htons(ETH_P_IPV6) || (void *)(ports + 2) > end)
		return XDP_PASS;
	if (ip->nexthdr == IPPROTO_UDP && ports[1] == bpf_htons(DHCP_CLIENT))
		return hand_up(ctx, HAND_UP);
	if (ip->nexthdr == IPPROTO_ICMPV6 && *(__u8 *)ports == ND_ADVERTISEMENT)
		return hand_up(ctx, COPY);
	return XDP_PASS;
}

// gid_trusted is for ports that are not checked. What DHCPv6 servers and relays
// say to hosts is handed up, so that a binding is there before its host knows of
// it. Of Neighbour Advertisements, which may answer for an address that is asked
// for, user space gets a copy.
SEC("xdp.frags")
int gid_trusted(struct xdp_md *ctx)
{
	if (generic && readmit(ctx))
		return XDP_PASS;
	count(TRUSTED);
	return trusted(ctx);
}

// gid_pass sends frames back from user space.
SEC("xdp")
int gid_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

// gid_clock writes the kernel's two clocks, jiffies and the monotonic one in
// nanoseconds, into the packet: user space tells bindings' ends in jiffies, which
// cost nothing to read, and has to learn how long one is.
SEC("xdp")
int gid_clock(struct xdp_md *ctx)
{
	__u64 *out = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (out + 2 > end)
		return XDP_ABORTED;
	out[0] = bpf_jiffies64();
	out[1] = bpf_ktime_get_ns();
	return XDP_PASS;
}

// gid_lookup is what the benchmark measures gid_access against: the least that a
// filter with this map can do.
SEC("xdp")
int gid_lookup(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip = data + sizeof(struct ethhdr);
	struct in6_addr src;

	if ((void *)(ip + 1) > end)
		return XDP_DROP;
	src = ip->saddr;
	return bpf_map_lookup_elem(&bindings, &src) ? XDP_PASS : XDP_DROP;
}
