package request

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// Address returns the client's address as the address headers tell it, ""
// if they don't: IPv4 in dotted form, IPv6 cut to its /64 and written in
// full. Without trusted proxies a header counts only if it holds exactly one
// address, since everything before the last hop is hearsay.
func (rd *Reader) Address(r *http.Request) string {
	for _, h := range rd.addressHeaders {
		if a, ok := rd.forwarded(strings.Join(r.Header[h], ",")); ok {
			return canonicalAddress(a)
		}
	}
	return ""
}

// Client returns the address that policies see and attempts are counted for:
// that of the peer, unless the peer is a trusted proxy whose header tells a
// better one. Unlike Address, which is what Better Auth keeps with a session,
// it can't be chosen by whoever sends the request.
func (rd *Reader) Client(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && rd.trusts(peer.Addr().Unmap()) {
		if a := rd.Address(r); a != "" {
			return a
		}
	}
	return rd.Peer(r)
}

// Peer returns the address of whoever is at the other end of the connection, in
// the form of Address.
func (rd *Reader) Peer(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	if peer.Addr().Is4() { // there is one way to write it
		return r.RemoteAddr[:strings.LastIndexByte(r.RemoteAddr, ':')]
	}
	return canonicalAddress(peer.Addr().Unmap().WithZone(""))
}

// Forwarded returns the client's address as a proxy tells it that has proven to
// be one: the nearest that is not of a trusted proxy, in the form of Address. It
// is "" if there is none; then all that is left is hearsay.
func (rd *Reader) Forwarded(list string) string {
	hops := strings.Split(list, ",")
	for i := len(hops) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil || a.Zone() != "" {
			return ""
		}
		if a = a.Unmap(); !rd.trusts(a) {
			return canonicalAddress(a)
		}
	}
	return ""
}

// forwarded finds the client in a list of hops, nearest last.
func (rd *Reader) forwarded(list string) (netip.Addr, bool) {
	if strings.TrimSpace(list) == "" {
		return netip.Addr{}, false
	}
	hops := strings.Split(list, ",")
	if len(rd.proxies) == 0 && len(hops) > 1 {
		return netip.Addr{}, false
	}
	var client netip.Addr
	for i := len(hops) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil || a.Zone() != "" {
			return netip.Addr{}, false
		}
		client = a.Unmap()
		if !rd.trusts(client) {
			return client, true
		}
	}
	// Every hop is a proxy of ours: the outermost one is as far as we see.
	return client, true
}

func (rd *Reader) trusts(a netip.Addr) bool {
	for _, p := range rd.proxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func canonicalAddress(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	b := a.As16()
	return fmt.Sprintf("%02x%02x:%02x%02x:%02x%02x:%02x%02x:0000:0000:0000:0000",
		b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7])
}

// ParsePrefix reads a network, or an address as the network of one.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}
