"""SO_TIMESTAMPING: when a packet came, was queued, left, and was acknowledged (Linux: __skb_tstamp_tx and
__sock_recv_timestamp; Documentation/networking/timestamping.rst).

A packet that is sent carries what its socket asked for in `tx_flags`. The device reports it when it is given to the
queueing discipline (SCM_TSTAMP_SCHED) and when the driver has taken it (SCM_TSTAMP_SND); TCP reports when the byte
asked about is acknowledged (SCM_TSTAMP_ACK). A report is an entry in the error queue: ee_info says which of these,
ee_data is the key (SOF_TIMESTAMPING_OPT_ID), and its data is the packet, from the link header on, or nothing
(SOF_TIMESTAMPING_OPT_TSONLY), or the state of the connection (SOF_TIMESTAMPING_OPT_STATS).

All stamps are the stack's own: no driver here stamps in hardware.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.core.errors import error
from usernet.skbuff.skbuff import SCM_TSTAMP_SCHED, SCM_TSTAMP_SND, SKBTX_SCHED_TSTAMP, SKBTX_SW_TSTAMP, SKBuff
from usernet.sock.errqueue import SO_EE_ORIGIN_TIMESTAMPING, ExtendedError, queue_error
from usernet.sock.msg import Control, MsgHdr
from usernet.sock.sockopt import (
    SO_TIMESTAMP,
    SO_TIMESTAMP_NEW,
    SO_TIMESTAMPING,
    SO_TIMESTAMPING_NEW,
    SOCK_TSTAMP_NEW,
    SOF_TIMESTAMPING_OPT_ID,
    SOF_TIMESTAMPING_OPT_RX_FILTER,
    SOF_TIMESTAMPING_OPT_STATS,
    SOF_TIMESTAMPING_OPT_TSONLY,
    SOF_TIMESTAMPING_RX_SOFTWARE,
    SOF_TIMESTAMPING_SOFTWARE,
    SOF_TIMESTAMPING_TX_RECORD_MASK,
    SOF_TIMESTAMPING_TX_SCHED,
    SOF_TIMESTAMPING_TX_SOFTWARE,
    SOL_SOCKET,
)

if TYPE_CHECKING:
    from usernet.sock.sock import Sock

__all__ = ("SCM_TSTAMP_ACK", "SCM_TSTAMP_SCHED", "SCM_TSTAMP_SND", "tx_flags")

SCM_TSTAMP_ACK: Final = 2
SCM_TIMESTAMPING_OPT_STATS: Final = 54
SCM_TS_OPT_ID: Final = 81
SOCKCM_FLAG_TS_OPT_ID: Final = 1 << 31
SCM_RIGHTS: Final = 1
SCM_CREDENTIALS: Final = 2
SO_MARK: Final = 36
SO_PRIORITY: Final = 12

_TIME: Final = Struct("=qq")
_TIMES: Final = Struct("=6q")
_UINT: Final = Struct("=I")


def tx_flags(tsflags: int) -> int:
    """The packet's flags for what the socket asks (Linux: __sock_tx_timestamp)."""
    flags = SKBTX_SW_TSTAMP if tsflags & SOF_TIMESTAMPING_TX_SOFTWARE else 0
    return flags | SKBTX_SCHED_TSTAMP if tsflags & SOF_TIMESTAMPING_TX_SCHED else flags


def tsflags_of(sk: Sock, control: list[Control] | None) -> int:
    """SOF_TIMESTAMPING_* of a call that sends with the ancillary data `control`, of which only SOL_SOCKET's counts
    (Linux: sock_cmsg_send). Raises OSError EINVAL."""
    tsflags = sk.tsflags
    for level, kind, data in control or ():
        if level == SOL_SOCKET:
            if kind in (SO_TIMESTAMPING, SO_TIMESTAMPING_NEW):
                tsflags = per_call(tsflags, data)
            elif kind in (SO_MARK, SO_PRIORITY):
                if len(data) != 4:
                    raise error(errno.EINVAL, f"ancillary data: expected 4 bytes for type {kind}, not {len(data)}")
            elif kind not in (SCM_RIGHTS, SCM_CREDENTIALS):
                raise error(errno.EINVAL, f"ancillary data: SOL_SOCKET has no type {kind} to send")
    return tsflags


def per_call(tsflags: int, data: bytes) -> int:
    """A socket's SOF_TIMESTAMPING_* with what one call wants recorded instead. Raises OSError EINVAL."""
    if len(data) != 4:
        raise error(errno.EINVAL, f"SO_TIMESTAMPING: expected 4 bytes, not {len(data)}")
    wanted: int = _UINT.unpack(data)[0]
    if wanted & ~SOF_TIMESTAMPING_TX_RECORD_MASK:
        raise error(errno.EINVAL, f"SO_TIMESTAMPING: a call can choose of {SOF_TIMESTAMPING_TX_RECORD_MASK:#x} only")
    return tsflags & ~SOF_TIMESTAMPING_TX_RECORD_MASK | wanted


def with_key(sk: Sock, tsflags: int, data: bytes) -> int:
    """SOF_TIMESTAMPING_* of a datagram whose key one call chooses (SCM_TS_OPT_ID): the key is in the bits above 31.

    Raises OSError EINVAL: not 4 bytes, or the socket has no SOF_TIMESTAMPING_OPT_ID.
    """
    if len(data) != 4 or not sk.tsflags & SOF_TIMESTAMPING_OPT_ID:
        raise error(errno.EINVAL, "SCM_TS_OPT_ID: expected 4 bytes, and OPT_ID on the socket")
    key: int = _UINT.unpack(data)[0]
    return tsflags & 0x7FFFFFFF | SOCKCM_FLAG_TS_OPT_ID | key << 32


def tstamp_tx(sk: Sock, skb: SKBuff, kind: int, ack_skb: SKBuff | None = None) -> None:
    """Report that `skb` passed (SCM_TSTAMP_*). ack_skb: what acknowledged it, where something did."""
    tsflags = sk.tsflags
    stats: bytes | None = None
    if tsflags & SOF_TIMESTAMPING_OPT_TSONLY:
        if tsflags & SOF_TIMESTAMPING_OPT_STATS:
            stats = sk.timestamping_opt_stats(skb, ack_skb)
        quoted = SKBuff(stats or b"")
    else:
        quoted = skb.clone()
    quoted.tx_flags = skb.tx_flags
    quoted.tstamp = sk.loop.now + sk.loop.clock.realtime_offset
    key = sk.timestamping_key(skb.tskey) if tsflags & SOF_TIMESTAMPING_OPT_ID else 0
    entry = ExtendedError(errno.ENOMSG, SO_EE_ORIGIN_TIMESTAMPING, 0, 0, kind, key, None, None)
    entry.opt_stats = stats is not None
    if not queue_error(sk, entry, quoted):
        quoted.consume()


def recv_timestamp(sk: Sock, msg: MsgHdr, stamp: int, opt_stats: bytes | None = None, report: bool = False) -> None:
    """SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING (Linux: __sock_recv_timestamp).

    stamp: when the packet came or passed, ns since 1970; 0 where that is not known. opt_stats: the state of the
    connection, with a report. report: whether this is one, from the error queue.
    """
    option = sk.rcvtstamp
    if option:
        if not stamp:
            stamp = sk.loop.now + sk.loop.clock.realtime_offset
        seconds, rest = divmod(stamp, 1_000_000_000)
        if option in (SO_TIMESTAMP, SO_TIMESTAMP_NEW):
            rest //= 1000
        msg.put_control(SOL_SOCKET, option, _TIME.pack(seconds, rest))
    tsflags = sk.tsflags
    if (
        stamp
        and tsflags & SOF_TIMESTAMPING_SOFTWARE
        and (report or tsflags & SOF_TIMESTAMPING_RX_SOFTWARE or not tsflags & SOF_TIMESTAMPING_OPT_RX_FILTER)
    ):
        seconds, rest = divmod(stamp, 1_000_000_000)
        kind = SO_TIMESTAMPING_NEW if sk.sock_flags & SOCK_TSTAMP_NEW else SO_TIMESTAMPING
        # Three stamps: software, one that is no longer used, the device's own.
        msg.put_control(SOL_SOCKET, kind, _TIMES.pack(seconds, rest, 0, 0, 0, 0))
        if opt_stats:
            msg.put_control(SOL_SOCKET, SCM_TIMESTAMPING_OPT_STATS, opt_stats)
