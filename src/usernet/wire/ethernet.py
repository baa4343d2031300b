"""Ethernet II and IEEE 802.3 headers: RFC 894, RFC 1042, IEEE 802.3 clause 3, 802.2 LLC.

The outermost header of a frame from a TAP, veth or packet-socket driver. Linux: `eth_type_trans`, `eth_header`,
`include/uapi/linux/if_ether.h`.

    0            6            12     14
    | dst        | src        | proto | payload …

A `proto` of 0x600 or more is an EtherType; below, it is the length of an 802.3 frame and an LLC header follows. Frames
of 802.1Q carry ETH_P_8021Q here and their tag in the payload.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.core.compiled import COMPILED

if TYPE_CHECKING:
    from usernet.core.native import i64

ETH_ALEN: Final = 6
ETH_HLEN: Final = 14
ETH_ZLEN: Final = 60  # shortest frame without its FCS
ETH_DATA_LEN: Final = 1500
ETH_FRAME_LEN: Final = 1514
ETH_MIN_MTU: Final = 68  # RFC 791: every host forwards 68 bytes whole
ETH_MAX_MTU: Final = 0xFFFF
VLAN_HLEN: Final = 4
LLC_HLEN: Final = 3

# EtherTypes
ETH_P_IP: Final = 0x0800
ETH_P_ARP: Final = 0x0806
ETH_P_TEB: Final = 0x6558
ETH_P_RARP: Final = 0x8035
ETH_P_8021Q: Final = 0x8100
ETH_P_IPV6: Final = 0x86DD
ETH_P_PAUSE: Final = 0x8808
ETH_P_SLOW: Final = 0x8809
ETH_P_MPLS_UC: Final = 0x8847
ETH_P_MPLS_MC: Final = 0x8848
ETH_P_PPP_DISC: Final = 0x8863
ETH_P_PPP_SES: Final = 0x8864
ETH_P_PAE: Final = 0x888E
ETH_P_8021AD: Final = 0x88A8
ETH_P_802_EX1: Final = 0x88B5
ETH_P_LLDP: Final = 0x88CC
ETH_P_MACSEC: Final = 0x88E5
ETH_P_1588: Final = 0x88F7
ETH_P_LOOPBACK: Final = 0x9000

ETH_P_802_3_MIN: Final = 0x0600  # at or above: an EtherType; below: an 802.3 length

# Not on the wire: what Linux files frames under that have no EtherType of their own.
ETH_P_802_3: Final = 0x0001
ETH_P_ALL: Final = 0x0003
ETH_P_802_2: Final = 0x0004
ETH_P_SNAP: Final = 0x0005
ETH_P_LOOP: Final = 0x0060

# LLC service access points (IEEE 802.2) and the one control value of unnumbered information
LLC_SAP_NULL: Final = 0x00
LLC_SAP_BSPAN: Final = 0x42  # spanning tree
LLC_SAP_SNAP: Final = 0xAA
LLC_SAP_GLOBAL: Final = 0xFF
LLC_PDU_TYPE_UI: Final = 0x03

BROADCAST: Final = b"\xff\xff\xff\xff\xff\xff"
ZERO_MAC: Final = b"\0\0\0\0\0\0"

_HDR: Final = Struct("!6s6sH")
_LLC: Final = Struct("!BBB")

if COMPILED:

    def parse(b: bytes, o: int) -> tuple[bytes, bytes, int]:
        """`parse(b, o) -> (dst, src, proto)`: the header at byte `o`; the caller has checked that ETH_HLEN bytes are
        there."""
        at: i64 = o
        high: i64 = b[at + 12]
        low: i64 = b[at + 13]
        return b[o : o + 6], b[o + 6 : o + 12], high << 8 | low

else:
    # The method of Struct itself, with no Python frame around it: a third off the price of a call.
    parse = _HDR.unpack_from  # type: ignore[assignment]

build: Final[Callable[[bytes, bytes, int], bytes]] = _HDR.pack
"""`build(dst, src, proto) -> bytes`: ETH_HLEN bytes from two 6-byte addresses and an EtherType or length."""

parse_llc: Final[Callable[[bytes, int], tuple[int, int, int]]] = _LLC.unpack_from
"""`parse_llc(b, o) -> (dsap, ssap, ctrl)`: an 802.2 header at byte `o`, LLC_HLEN bytes, for unnumbered frames."""


def is_multicast(addr: bytes) -> bool:
    """Say whether a MAC address is a group's, broadcast included (Linux: `is_multicast_ether_addr`)."""
    return addr[0] & 1 != 0


def is_broadcast(addr: bytes) -> bool:
    """Say whether a MAC address is ff:ff:ff:ff:ff:ff (Linux: `is_broadcast_ether_addr`)."""
    return addr == BROADCAST


def is_valid_ether_addr(addr: bytes) -> bool:
    """Say whether an interface may have this address: six bytes, not all zero, not a group's (Linux, same name)."""
    return len(addr) == 6 and addr[0] & 1 == 0 and addr != ZERO_MAC


def ipv4_multicast_mac(daddr: bytes) -> bytes:
    """Map an IPv4 group to its MAC: 01:00:5e and the low 23 bits (RFC 1112 section 6.4; Linux: `ip_eth_mc_map`)."""
    return bytes((0x01, 0x00, 0x5E, daddr[1] & 0x7F, daddr[2], daddr[3]))


def ipv6_multicast_mac(daddr: bytes) -> bytes:
    """Map an IPv6 group to its MAC: 33:33 and the low 32 bits (RFC 2464 section 7; Linux: `ipv6_eth_mc_map`)."""
    return b"\x33\x33" + daddr[12:16]


def multicast_ip_to_mac(daddr: bytes) -> bytes:
    """Map an IP group to its MAC.

    Args:
        daddr: the group, 4 bytes for IPv4 or 16 for IPv6.

    Returns:
        Six bytes: RFC 1112 section 6.4, or RFC 2464 section 7.
    """
    return ipv4_multicast_mac(daddr) if len(daddr) == 4 else ipv6_multicast_mac(daddr)


def format_mac(addr: bytes) -> str:
    """Write a MAC address as Linux prints it: `02:00:00:00:00:01`."""
    return addr.hex(":")


def parse_mac(text: str) -> bytes:
    """Read a MAC address.

    Args:
        text: six pairs of hexadecimal digits, separated all by `:` or all by `-`.

    Returns:
        Six bytes.

    Raises:
        ValueError: the text is no such thing.
    """
    if not isinstance(text, str):
        raise TypeError(f"MAC address: expected a str such as '02:00:00:00:00:01', not {text!r}")
    pairs = text.split("-" if "-" in text else ":")
    if len(pairs) == 6 and all(len(pair) == 2 and pair.isascii() and pair.isalnum() for pair in pairs):
        try:
            return bytes.fromhex("".join(pairs))
        except ValueError:
            pass
    raise ValueError(f"not a MAC address: {text!r}; expected six pairs of hexadecimal digits such as 02:00:00:00:00:01")
