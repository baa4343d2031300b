"""The ECN field of IP headers, as a router sets it: RFC 3168 sections 5 and 23, RFC 1624 for the checksum of IPv4.

The two low bits of the TOS byte, or of the traffic class: 0 not capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced.
"""

from __future__ import annotations

from typing import Final

ECN_MASK: Final = 3
ECN_CE: Final = 3


def with_ce(b: bytes | bytearray | memoryview, o: int) -> bytes | None:
    """Mark a packet as one that met congestion (Linux: INET_ECN_set_ce).

    b, o: the buffer, and where in it the IP header begins. Returns the bytes to write there, which are none where it is
    marked already; None where the packet is not ECN-capable, or no IP.
    """
    if len(b) < o + 20:
        return None
    first, second = b[o], b[o + 1]
    version = first >> 4
    if version == 4:
        ecn = second & ECN_MASK
        if ecn == 0:
            return None
        if ecn == ECN_CE:
            return b""
        change = ECN_CE - ecn
        # The one's complement sum grows by what the word of the TOS byte does, and the checksum is its complement.
        check = (b[o + 10] << 8 | b[o + 11]) - change
        if check < 0:
            check += 0xFFFF
        return bytes((first, second | ECN_CE)) + bytes(b[o + 2 : o + 10]) + check.to_bytes(2, "big")
    if version == 6:
        ecn = second >> 4 & ECN_MASK
        if ecn == 0:
            return None
        return b"" if ecn == ECN_CE else bytes((first, second | ECN_CE << 4))
    return None
