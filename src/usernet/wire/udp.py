"""UDP headers: RFC 768, RFC 8200 section 8.1.

What follows the IP header of a packet of protocol 17. Linux: `__udp4_lib_rcv`, `udp_send_skb`,
`include/uapi/linux/udp.h`.

    0       2       4        6       8
    | sport | dport | length | check | payload …

`length` counts header and payload. A `check` of 0 says that the sender computed none; a sum that comes out as 0 is sent
as 0xFFFF. A `length` of 0 is a jumbogram's over IPv6 (RFC 2675) and wrong over IPv4.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.core.compiled import COMPILED

if TYPE_CHECKING:
    from usernet.core.native import i64

UDP_HLEN: Final = 8
UDP_CHECK_OFFSET: Final = 6  # for `csum_offset` of devices that fill the field
UDP_MAX_LENGTH: Final = 0xFFFF

_HDR: Final = Struct("!HHHH")

if COMPILED:

    def _load16(b: bytes, o: i64) -> i64:
        high: i64 = b[o]
        low: i64 = b[o + 1]
        return high << 8 | low

    def parse(b: bytes, o: int) -> tuple[int, int, int, int]:
        """`parse(b, o) -> (sport, dport, length, check)`: the caller has checked for UDP_HLEN bytes."""
        at: i64 = o
        return _load16(b, at), _load16(b, at + 2), _load16(b, at + 4), _load16(b, at + 6)

else:
    parse = _HDR.unpack_from  # type: ignore[assignment]

build: Final[Callable[[int, int, int, int], bytes]] = _HDR.pack
"""`build(sport, dport, length, check) -> bytes`: UDP_HLEN bytes; `length` counts the header."""
