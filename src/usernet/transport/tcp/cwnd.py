"""The congestion window of a sender that does not use it up: idle, or limited by its application (Linux: tcp_output.c).

What was learned of the path grows old while nothing, or less than allowed, is sent: after idleness the window is
restarted (RFC 5681 section 4.1), and unused, it decays and does not grow (RFC 2861). net.ipv4.tcp_newcwv puts RFC 7661
in the place of both (cwv.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.net.dst import RTAX_INITCWND
from usernet.transport.tcp import chrono
from usernet.transport.tcp.congestion.base import CA_EVENT_CWND_RESTART
from usernet.transport.tcp.const import TCP_CA_OPEN, TCP_CLOSE_WAIT, TCP_ESTABLISHED, before

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


def init_cwnd(sk: TcpSock) -> int:
    """The initial window, in segments: the route's, or 10 (RFC 6928; Linux: tcp_init_cwnd)."""
    dst = sk.dst
    cwnd = dst.metric(RTAX_INITCWND) if dst is not None else 0
    return min(cwnd or 10, sk.snd_cwnd_clamp)


def cwnd_restart(sk: TcpSock, delta: int) -> None:
    """After `delta` ns of idleness the window decays, halving each RTO (RFC 5681 section 4.1; tcp_cwnd_restart)."""
    restart = init_cwnd(sk)
    cwnd = sk.snd_cwnd
    sk.ca.cwnd_event(sk, CA_EVENT_CWND_RESTART)
    sk.snd_ssthresh = sk.current_ssthresh()
    restart = min(restart, cwnd)
    delta -= sk.rto
    while delta > 0 and cwnd > restart:
        cwnd >>= 1
        delta -= sk.rto
    sk.snd_cwnd = max(cwnd, restart)
    sk.snd_cwnd_stamp = sk.loop.now
    sk.snd_cwnd_used = 0


def slow_start_after_idle_check(sk: TcpSock) -> None:
    """New data after idleness: restart the window (Linux: tcp_slow_start_after_idle_check)."""
    if not sk.tcp.tcp_slow_start_after_idle or sk.packets_out or sk.ca.has_cong_control:
        return
    if sk.cwv is not None:
        sk.cwv.check(sk, init_cwnd(sk))
        return
    delta = sk.loop.now - sk.lsndtime
    if delta > sk.rto:
        cwnd_restart(sk, delta)


def cwnd_validate(sk: TcpSock, is_cwnd_limited: bool) -> None:
    """Whether the window is used up decides whether it may grow (RFC 2861; Linux: tcp_cwnd_validate)."""
    if (
        not before(sk.snd_una, sk.cwnd_usage_seq)
        or is_cwnd_limited
        or (not sk.is_cwnd_limited and sk.packets_out > sk.max_packets_out)
    ):
        sk.is_cwnd_limited = is_cwnd_limited
        sk.max_packets_out = sk.packets_out
        sk.cwnd_usage_seq = sk.snd_nxt
    now = sk.loop.now
    if sk.cwnd_limited():
        sk.snd_cwnd_used = 0
        sk.snd_cwnd_stamp = now
    else:
        if sk.packets_out > sk.snd_cwnd_used:
            sk.snd_cwnd_used = sk.packets_out
        if sk.cwv is not None:
            sk.cwv.check(sk, init_cwnd(sk))
        elif (
            sk.tcp.tcp_slow_start_after_idle
            and now - sk.snd_cwnd_stamp >= sk.rto
            and not sk.ca.has_cong_control
        ):
            _cwnd_application_limited(sk)
        # All is under way, the window has room for more, and so has the application, but not the send buffer.
        if (
            sk.nospace
            and sk.write_queue.first is None
            and not sk.dead
            and (sk.state == TCP_ESTABLISHED or sk.state == TCP_CLOSE_WAIT)
        ):
            chrono.start(sk, chrono.SNDBUF_LIMITED)


def _cwnd_application_limited(sk: TcpSock) -> None:
    """The window was not used for an RTO: halfway down to what was (RFC 2861; tcp_cwnd_application_limited)."""
    if sk.ca_state == TCP_CA_OPEN and not sk.nospace:
        used = max(sk.snd_cwnd_used, init_cwnd(sk))
        if used < sk.snd_cwnd:
            sk.snd_ssthresh = sk.current_ssthresh()
            sk.snd_cwnd = (sk.snd_cwnd + used) >> 1
        sk.snd_cwnd_used = 0
    sk.snd_cwnd_stamp = sk.loop.now
