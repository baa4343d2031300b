"""The maximum segment size: from the path's MTU, the peer's wish, the window and the options (Linux: tcp_sync_mss,
tcp_current_mss). RFC 9293 section 3.7.1, RFC 6691.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.transport.tcp import accecn_option
from usernet.transport.tcp.const import TCP_MSS_DEFAULT
from usernet.wire import tcp as wire

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

TCP_ECN_MODE_ACCECN: Final = 16
"""As in ecn.py."""


def mtu_to_mss(sk: TcpSock, pmtu: int) -> int:
    """The largest payload in a packet of `pmtu` bytes, options taken off (Linux: tcp_mtu_to_mss)."""
    mss = pmtu - sk.af.header_len - wire.TCP_HLEN
    if mss > sk.mss_clamp:
        mss = sk.mss_clamp
    mss -= len(sk.options)
    mss = max(mss, sk.tcp.tcp_min_snd_mss)
    return mss - (sk.tcp_header_len - wire.TCP_HLEN)


def mss_to_mtu(sk: TcpSock, mss: int) -> int:
    """The reverse (Linux: tcp_mss_to_mtu)."""
    return mss + sk.tcp_header_len + len(sk.options) + sk.af.header_len


def bound_to_half_wnd(sk: TcpSock, size: int) -> int:
    """No segment above half the largest window ever seen, so that two fit (RFC 1122; Linux: tcp_bound_to_half_wnd)."""
    largest = sk.max_window
    cutoff = largest >> 1 if largest > TCP_MSS_DEFAULT else largest
    if cutoff and size > cutoff:
        return max(cutoff, 68 - sk.tcp_header_len)
    return size


def sync_mss(sk: TcpSock, pmtu: int) -> int:
    """The path's MTU is `pmtu`: recompute the MSS (Linux: tcp_sync_mss)."""
    mtup = sk.mtup
    if mtup.search_high > pmtu:
        mtup.search_high = pmtu
    mss = bound_to_half_wnd(sk, mtu_to_mss(sk, pmtu))
    sk.pmtu_cookie = pmtu
    if mtup.enabled:
        mss = min(mss, mtu_to_mss(sk, mtup.search_low))
    sk.mss_cache = mss
    return mss


def options_size(sk: TcpSock) -> int:
    """Bytes of options on a segment sent now (Linux: tcp_established_options)."""
    size = wire.TCPOLEN_TSTAMP_ALIGNED if sk.tstamp_ok else 0
    if sk.auth is not None:
        from usernet.transport.tcp.auth import option_size

        size += option_size(sk)
    blocks = len(sk.selective_acks) + (sk.duplicate_sack is not None)
    room = (40 - size - 4) // 8
    blocks = min(blocks, max(room, 0))
    if blocks:
        size += 4 + 8 * blocks
    if sk.ecn_flags & TCP_ECN_MODE_ACCECN and sk.ecn is not None:
        size += accecn_option.growth(sk, sk.ecn, size, blocks)
    return size


def current_mss(sk: TcpSock) -> int:
    """The MSS (bytes of payload) of a segment sent now (Linux: tcp_current_mss)."""
    mss = sk.mss_cache
    dst = sk.dst
    if dst is not None:
        mtu = dst.mtu()
        if mtu != sk.pmtu_cookie:
            mss = sync_mss(sk, mtu)
    if (
        sk.selective_acks
        or sk.duplicate_sack is not None
        or sk.auth is not None
        or sk.ecn_flags & TCP_ECN_MODE_ACCECN
    ):
        mss -= options_size(sk) + wire.TCP_HLEN - sk.tcp_header_len
    return mss


def advertise_mss(sk: TcpSock) -> int:
    """The MSS to announce (Linux: tcp_advertise_mss)."""
    mss = sk.advmss
    dst = sk.dst
    if dst is not None:
        metric = dst.advmss()
        if metric < mss:
            mss = metric
            sk.advmss = mss
    return mss
