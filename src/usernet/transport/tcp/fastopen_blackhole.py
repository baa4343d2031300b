"""When a client gives Fast Open up for a while: what lies on the way swallows it (Linux: tcp_fastopen.c,
tcp_fastopen_active_*).

Some middleboxes let a Fast Open's handshake through and then drop the server's data. Three things tell of one: a FIN or
a reset beyond data that never came, and three time-outs in a row. Then no SYN of the namespace carries a cookie or data
for tcp_fastopen_blackhole_timeout_sec, the next time for twice as long, up to 64 times; a connection with Fast Open
that brings data from another host takes it all back. 0, Linux's default, never gives up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.transport.tcp.const import SEC
from usernet.wire.tcp import FIN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp

MAX_DOUBLINGS: Final = 6


def active_disable(tcp: Tcp) -> None:
    """A black hole was seen (Linux: tcp_fastopen_active_disable)."""
    if not tcp.tcp_fastopen_blackhole_timeout_sec:
        return
    tcp.tfo_disable_stamp = tcp.net.loop.now
    tcp.tfo_disable_times += 1
    tcp.net.mib.tcp_ext.TCPFastOpenBlackhole += 1


def active_should_disable(sk: TcpSock) -> bool:
    """Whether a SYN must be an ordinary one now. The first one after the time shows whether the way is good again
    (Linux: tcp_fastopen_active_should_disable)."""
    tcp = sk.tcp
    timeout = tcp.tcp_fastopen_blackhole_timeout_sec
    times = tcp.tfo_disable_times
    if not timeout or not times:
        return False
    if tcp.net.loop.now < tcp.tfo_disable_stamp + (timeout * SEC << min(times - 1, MAX_DOUBLINGS)):
        return True
    sk.own_tfo().syn_fastopen_ch = True
    return False


def ofo_check(sk: TcpSock) -> None:
    """A connection ends: a FIN alone, out of order, tells of a black hole; data of another host's, that there is none
    any more (Linux: tcp_fastopen_active_disable_ofo_check)."""
    if not sk.tfo.syn_fastopen:
        return
    if not sk.data_segs_in:
        if sk.ofo and len(sk.ofo) == 1 and sk.ofo[0].tcp_flags & FIN:
            active_disable(sk.tcp)
    elif sk.tfo.syn_fastopen_ch and sk.tcp.tfo_disable_times:
        dst = sk.dst
        if dst is None or not dst.dev.loopback:
            sk.tcp.tfo_disable_times = 0


def detect_blackhole(sk: TcpSock, expired: bool) -> None:
    """A time-out: the third one, or the last where that comes before, tells of a black hole (Linux:
    tcp_fastopen_active_detect_blackhole)."""
    tfo = sk.tfo
    if not (tfo.syn_fastopen or tfo.syn_data or tfo.syn_data_acked):
        return
    timeouts = sk.icsk_retransmits
    if timeouts == 2 or (timeouts < 2 and expired):
        active_disable(sk.tcp)
        sk.net.mib.tcp_ext.TCPFastOpenActiveFail += 1
