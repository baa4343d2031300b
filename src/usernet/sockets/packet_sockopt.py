"""The options of packet sockets: SOL_PACKET (Linux: packet_setsockopt, packet_getsockopt; packet(7))."""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.core.errors import error
from usernet.sock.options import sock_getsockopt, sock_setsockopt
from usernet.sock.optval import decode_int, encode_int
from usernet.sock.sockopt import SOL_SOCKET
from usernet.sockets.packet_fanout import set_data
from usernet.sockets.packet_membership import change_membership
from usernet.sockets.packet_ring import TPACKET_V3, BlockRing, header_length, set_ring

if TYPE_CHECKING:
    from usernet.sockets.packet import PacketSock

SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_DROP_MEMBERSHIP: Final = 2
PACKET_RX_RING: Final = 5
PACKET_STATISTICS: Final = 6
PACKET_AUXDATA: Final = 8
PACKET_ORIGDEV: Final = 9
PACKET_VERSION: Final = 10
PACKET_HDRLEN: Final = 11
PACKET_RESERVE: Final = 12
PACKET_TX_TIMESTAMP: Final = 16
PACKET_TIMESTAMP: Final = 17
PACKET_FANOUT: Final = 18
PACKET_QDISC_BYPASS: Final = 20
PACKET_ROLLOVER_STATS: Final = 21
PACKET_FANOUT_DATA: Final = 22
PACKET_IGNORE_OUTGOING: Final = 23

_STATS: Final = Struct("=II")
_STATS_V3: Final = Struct("=III")


def setsockopt(sk: PacketSock, level: int, option: int, value: bytes) -> None:
    """SOL_PACKET: ADD_ and DROP_MEMBERSHIP, AUXDATA, ORIGDEV, IGNORE_OUTGOING, TIMESTAMP, RX_RING with VERSION and
    RESERVE, and QDISC_BYPASS, which changes nothing: a queue that is empty is stepped over in any case."""
    if level == SOL_SOCKET:
        sock_setsockopt(sk, option, value)
        return
    if level != SOL_PACKET:
        raise error(errno.ENOPROTOOPT)
    if option in (PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP):
        change_membership(sk, value, option == PACKET_ADD_MEMBERSHIP)
    elif option == PACKET_RX_RING:
        set_ring(sk, value)
    elif option in (PACKET_VERSION, PACKET_RESERVE):
        _set_layout(sk, option, value)
    elif option == PACKET_FANOUT:
        sk.table.fanouts.join(sk, value)
    elif option == PACKET_FANOUT_DATA:
        set_data(sk, value)
    elif option == PACKET_AUXDATA:
        sk.auxdata = decode_int(value) != 0
    elif option == PACKET_ORIGDEV:
        sk.origdev = decode_int(value) != 0
    elif option == PACKET_IGNORE_OUTGOING:
        number = decode_int(value)
        if not 0 <= number <= 1:
            raise error(errno.EINVAL, f"PACKET_IGNORE_OUTGOING: expected 0 or 1, not {number}")
        sk.ignore_outgoing = number != 0
    elif option == PACKET_TIMESTAMP:
        sk.timestamp_source = decode_int(value)
    elif option == PACKET_QDISC_BYPASS:
        sk.qdisc_bypass = decode_int(value) != 0
    else:
        raise error(errno.ENOPROTOOPT)


def getsockopt(sk: PacketSock, level: int, option: int, length: int) -> bytes:
    """As setsockopt, and PACKET_STATISTICS: frames and drops since it was last asked for, and with TPACKET_V3 how
    often the ring was full."""
    if level == SOL_SOCKET:
        return sock_getsockopt(sk, option, length)
    if level != SOL_PACKET:
        raise error(errno.ENOPROTOOPT)
    if length < 0:
        raise error(errno.EINVAL, f"option length: expected 0 or more bytes, not {length}")
    if option == PACKET_STATISTICS:
        drops = sk.tp_drops
        counts = (sk.tp_packets + drops) & 0xFFFFFFFF, drops & 0xFFFFFFFF
        sk.tp_packets = sk.tp_drops = 0
        if sk.tp_version < TPACKET_V3:
            return _STATS.pack(*counts)[:length]
        freezes = 0
        if isinstance(sk.ring, BlockRing):
            freezes, sk.ring.freezes = sk.ring.freezes, 0
        return _STATS_V3.pack(*counts, freezes & 0xFFFFFFFF)[:length]
    if option == PACKET_ROLLOVER_STATS:
        if sk.rollover is None:
            raise error(errno.EINVAL, "PACKET_ROLLOVER_STATS: the socket rolls nothing over")
        return sk.rollover.stats()[:length]
    if option == PACKET_FANOUT:
        # An int, as Linux has it, of which the highest bit is a flag.
        packed = sk.fanout.packed if sk.fanout is not None else 0
        number = packed - ((packed & 0x80000000) << 1)
    elif option == PACKET_VERSION:
        number = sk.tp_version
    elif option == PACKET_RESERVE:
        number = sk.tp_reserve
    elif option == PACKET_HDRLEN:
        number = header_length(bytes(min(length, 4)))
    elif option == PACKET_AUXDATA:
        number = int(sk.auxdata)
    elif option == PACKET_ORIGDEV:
        number = int(sk.origdev)
    elif option == PACKET_IGNORE_OUTGOING:
        number = int(sk.ignore_outgoing)
    elif option == PACKET_TIMESTAMP:
        number = sk.timestamp_source
    elif option == PACKET_QDISC_BYPASS:
        number = int(sk.qdisc_bypass)
    else:
        raise error(errno.ENOPROTOOPT)
    return encode_int(number, length)


def getsockopt_from(sk: PacketSock, level: int, option: int, value: bytes) -> bytes:
    """PACKET_HDRLEN reads the version whose header is asked about."""
    if level == SOL_PACKET and option == PACKET_HDRLEN:
        return encode_int(header_length(value), min(len(value), 4))
    return getsockopt(sk, level, option, len(value))


def _set_layout(sk: PacketSock, option: int, value: bytes) -> None:
    """PACKET_VERSION and PACKET_RESERVE. Raises OSError: EINVAL, EBUSY (there is a ring)."""
    if len(value) != 4:
        raise error(errno.EINVAL, f"option value: expected an int (4 bytes), not {len(value)} bytes")
    number = decode_int(value)
    if number < 0 or (option == PACKET_VERSION and number > TPACKET_V3):
        raise error(errno.EINVAL, f"PACKET_VERSION, PACKET_RESERVE: not {number}")
    if sk.ring is not None:
        raise error(errno.EBUSY)
    if option == PACKET_VERSION:
        sk.tp_version = number
    else:
        sk.tp_reserve = number
