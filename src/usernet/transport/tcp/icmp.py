"""ICMP errors about segments of a connection (Linux: tcp_v4_err, tcp_v4_mtu_reduced, tcp_ld_RTO_revert).

    Tcp.error finds the socket, and that the sequence number quoted is under way (RFC 5927) → icmp_error.

RFC 1122 section 4.2.3.9, RFC 5461 (soft errors), RFC 1191 (path MTU), RFC 6069 (a connectivity disruption).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from usernet.sock.inet import (
    IP_PMTUDISC_DO,
    IP_PMTUDISC_DONT,
    IP_PMTUDISC_INTERFACE,
    IP_PMTUDISC_OMIT,
    IP_PMTUDISC_WANT,
)
from usernet.transport.tcp.ack import set_rto
from usernet.transport.tcp.const import (
    ICSK_TIME_RETRANS,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIMEOUT_INIT,
)
from usernet.transport.tcp.mss import sync_mss
from usernet.transport.tcp.output import reset_xmit_timer
from usernet.transport.tcp.recovery import simple_retransmit
from usernet.transport.tcp.timer import retransmit_timer

if TYPE_CHECKING:
    from usernet.net.protocols import ErrorReport
    from usernet.transport.tcp.sock import TcpSock

_DEAF: Final = (IP_PMTUDISC_DONT, IP_PMTUDISC_INTERFACE, IP_PMTUDISC_OMIT)
_UNREACHABLE: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH)
_DEST_UNREACH: Final = 3
_NET_OR_HOST: Final = (0, 1)


def icmp_error(sk: TcpSock, report: ErrorReport, seq: int) -> None:
    """An error about the segment at `seq`, which is under way."""
    if sk.state == TCP_CLOSE or report.quench or report.redirect:
        return
    if report.mtu:
        mtu_reduced(sk, report.mtu)
        return
    if (
        report.errno in _UNREACHABLE
        and report.icmp_type == _DEST_UNREACH
        and report.icmp_code in _NET_OR_HOST
        and sk.tfo.fastopen_rsk is None
    ):
        revert_rto(sk, seq)
        if sk.state == TCP_CLOSE:
            return
    if sk.state == TCP_SYN_SENT or (
        sk.state == TCP_SYN_RECV and not (sk.fastopen_pending and sk.listener is None)
    ):
        sk.err = report.errno
        sk.write_queue_purge()
        sk.done()
        if not sk.dead:
            sk.error_report()
        return
    # An established connection is only told, and only where it asked (RFC 1122 section 4.2.3.9).
    if sk.recverr and not sk.dead:
        sk.err = report.errno
        sk.error_report()
    else:
        sk.err_soft = report.errno


def mtu_reduced(sk: TcpSock, mtu: int) -> None:
    """The path takes only `mtu` bytes: smaller segments, and what is too large again, at once (tcp_v4_mtu_reduced)."""
    if sk.state in (TCP_LISTEN, TCP_CLOSE):
        return
    try:
        dst = sk.route()
    except OSError:
        return
    dst.update_pmtu(mtu)
    known = dst.mtu()
    if mtu < known and (
        sk.pmtudisc == IP_PMTUDISC_DO or (sk.pmtudisc == IP_PMTUDISC_WANT and not dst.mtu_locked())
    ):
        # Not believed, and yet it may be so: what the connection ends with, should it get no further.
        sk.err_soft = errno.EMSGSIZE
    if sk.pmtudisc not in _DEAF and sk.pmtu_cookie > known:
        sync_mss(sk, known)
        simple_retransmit(sk)


def revert_rto(sk: TcpSock, seq: int) -> None:
    """A router has no way to the peer, so the time-out was none of congestion: take the last doubling back (RFC 6069
    section 4; tcp_ld_RTO_revert)."""
    head = sk.rtx_queue.first
    if seq != sk.snd_una or not sk.icsk_retransmits or not sk.backoff or head is None:
        return
    sk.backoff -= 1
    if sk.srtt_us:
        set_rto(sk)
    else:
        sk.rto = TCP_TIMEOUT_INIT
    sk.rto = min(sk.rto << sk.backoff, sk.rto_max)
    remaining = head.tx.mstamp + sk.rto - sk.loop.now
    if remaining > 0:
        reset_xmit_timer(sk, ICSK_TIME_RETRANS, remaining)
    else:
        sk.icsk_pending = 0
        retransmit_timer(sk)
