"""ARP for IPv4 on Ethernet: RFC 826, RFC 5227.

The payload of an ETH_P_ARP frame. Linux: `arp_create`, `arp_process`, `include/uapi/linux/if_arp.h`.

    0       2       4      5      6    8          14     18         24     28
    | htype | ptype | hlen | plen | op | sha      | spa  | tha      | tpa  |

The addresses stand where this layout puts them only if hlen is 6 and plen is 4. The caller looks at htype, ptype, hlen
and plen before it believes the last four values (Linux does so in `arp_rcv` and `arp_process`).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, TypeAlias

ARP_HLEN: Final = 28

ARPHRD_ETHER: Final = 1
ARPHRD_IEEE802: Final = 6

ARPOP_REQUEST: Final = 1
ARPOP_REPLY: Final = 2
ARPOP_RREQUEST: Final = 3
ARPOP_RREPLY: Final = 4
ARPOP_InREQUEST: Final = 8
ARPOP_InREPLY: Final = 9
ARPOP_NAK: Final = 10

_HDR: Final = Struct("!HHBBH6s4s6s4s")
_pack: Final = _HDR.pack

ArpHeader: TypeAlias = tuple[int, int, int, int, int, bytes, bytes, bytes, bytes]

parse: Final[Callable[[bytes, int], ArpHeader]] = _HDR.unpack_from
"""`parse(b, o) -> (htype, ptype, hlen, plen, op, sha, spa, tha, tpa)`: the caller has checked for ARP_HLEN bytes."""


def build(op: int, sha: bytes, spa: bytes, tha: bytes, tpa: bytes) -> bytes:
    """Build an ARP packet for IPv4 on Ethernet.

    Args:
        op: an ARPOP_ value.
        sha: sender's MAC, 6 bytes.
        spa: sender's IPv4 address, 4 bytes; zero in a probe (RFC 5227 section 1.1).
        tha: target's MAC, 6 bytes; zero where it is what is asked for.
        tpa: target's IPv4 address, 4 bytes.

    Returns:
        ARP_HLEN bytes.
    """
    return _pack(1, 0x0800, 6, 4, op, sha, spa, tha, tpa)
