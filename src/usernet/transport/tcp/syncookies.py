"""SYN cookies: a handshake of which nothing is remembered (RFC 4987 section 3.6; Linux: syncookies.c).

Where a listener's SYN queue is full (or always, with tcp_syncookies 2), a SYN makes no request. The initial sequence
number of the SYN+ACK says all that is needed to know the peer's acknowledgement by:

    hash(addresses, ports) + the peer's own sequence number + minutes << 24 + (hash(…, minutes) + index of MSS) mod 2^24

The minutes let a cookie live for two of them. What else the SYN offered is in the low six bits of the SYN+ACK's time
stamp, which the peer echoes: its window scale (15 for none), SACK, ECN. Without a time stamp there are none of these.

An acknowledgement is held against this only while the listener's queue has been full lately: an attacker who guesses
cookies must not be able to at all other times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.net.dst import RTAX_FEATURES
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.accecn import ace
from usernet.transport.tcp.const import SEC, SEQ_MASK, TCP_MAX_WSCALE
from usernet.transport.tcp.handshake import create_child
from usernet.transport.tcp.request import RequestSock
from usernet.wire import tcp as wire
from usernet.wire.tcp import RST

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp
    from usernet.wire.tcp import TcpHeader

COOKIEBITS: Final = 24
COOKIEMASK: Final = (1 << COOKIEBITS) - 1
MAX_SYNCOOKIE_AGE: Final = 2
TCP_SYNCOOKIE_PERIOD: Final = 60 * SEC
TCP_SYNCOOKIE_VALID: Final = MAX_SYNCOOKIE_AGE * TCP_SYNCOOKIE_PERIOD

MSSTAB: Final = (536, 1300, 1440, 1460)

# The low bits of the time stamp.
TSBITS: Final = 6
TS_OPT_WSCALE_MASK: Final = 0xF
TS_OPT_SACK: Final = 0x10
TS_OPT_ECN: Final = 0x20


def _keyed(tcp: Tcp, key: bytes, count: int, which: bytes) -> int:
    return tcp.secret_hash(which, key, (count & SEQ_MASK).to_bytes(4, "big"))


def synq_overflow(listener: TcpSock) -> None:
    """The SYN queue is full: cookies are taken for a while (Linux: tcp_synq_overflow). For a group, for all of it."""
    tcp = listener.tcp
    now = tcp.net.loop.now
    if listener.reuseport:
        for member in tcp.listeners.get(listener.num, ()):
            if member.reuseport and member.rcv_saddr == listener.rcv_saddr:
                member.request_queue.synq_overflow = now
    listener.request_queue.synq_overflow = now


def init_sequence(tcp: Tcp, request: RequestSock) -> int:
    """The initial sequence number that says what the SYN said; rounds the request's MSS down to one that can be said
    (Linux: cookie_v4_init_sequence)."""
    mss = request.mss
    index = len(MSSTAB) - 1
    while index and mss < MSSTAB[index]:
        index -= 1
    request.sizes = (MSSTAB[index], *request.sizes[1:])
    key = request.key
    count = tcp.net.loop.now // TCP_SYNCOOKIE_PERIOD
    cookie = _keyed(tcp, key, 0, b"cookie0") + request.rcv_isn + (count << COOKIEBITS)
    return (cookie + ((_keyed(tcp, key, count, b"cookie1") + index) & COOKIEMASK)) & SEQ_MASK


def check_sequence(tcp: Tcp, key: bytes, cookie: int, rcv_isn: int) -> int:
    """The MSS that a cookie says, 0 where it isn't one of ours, or is too old (Linux: __cookie_v4_check)."""
    count = tcp.net.loop.now // TCP_SYNCOOKIE_PERIOD
    bare = (cookie - _keyed(tcp, key, 0, b"cookie0") - rcv_isn) & SEQ_MASK
    age = (count - (bare >> COOKIEBITS)) & (SEQ_MASK >> COOKIEBITS)
    if age >= MAX_SYNCOOKIE_AGE:
        return 0
    index = (bare - _keyed(tcp, key, count - age, b"cookie1")) & COOKIEMASK
    return MSSTAB[index] if index < len(MSSTAB) else 0


def init_timestamp(request: RequestSock, now_ms: int) -> int:
    """The SYN+ACK's time stamp (ms, without the offset): the last one that ends in the options (Linux:
    cookie_init_timestamp). It must not lie ahead of those that follow."""
    options = request.snd_wscale if request.wscale_ok else TS_OPT_WSCALE_MASK
    if request.sack_ok:
        options |= TS_OPT_SACK
    if request.ecn_ok:
        options |= TS_OPT_ECN
    stamp = now_ms >> TSBITS << TSBITS | options
    if stamp > now_ms:
        stamp -= 1 << TSBITS
    return stamp


def _decode_options(tcp: Tcp, request: RequestSock, options: wire.TcpOptions) -> bool:
    """Take the options out of the echoed time stamp; False where one is not ours to have sent (Linux:
    cookie_timestamp_decode)."""
    request.sack_ok = request.wscale_ok = request.ecn_ok = False
    request.snd_wscale = 0
    request.tstamp_ok = options.has_ts
    request.ts_recent = options.tsval
    if not options.has_ts:
        return True
    if not tcp.tcp_timestamps:
        return False
    told = options.tsecr
    if told:
        request.ts_off = tcp.secure_ts_offset(request.saddr, request.daddr)
        told = (told - request.ts_off) & SEQ_MASK
    request.ecn_ok = bool(told & TS_OPT_ECN)
    request.sack_ok = bool(told & TS_OPT_SACK)
    if request.sack_ok and not tcp.tcp_sack:
        return False
    if told & TS_OPT_WSCALE_MASK == TS_OPT_WSCALE_MASK:
        return True
    request.wscale_ok = True
    request.snd_wscale = min(told & TS_OPT_WSCALE_MASK, TCP_MAX_WSCALE)
    return bool(tcp.tcp_window_scaling)


def cookie_check(tcp: Tcp, listener: TcpSock, skb: SKBuff, th: TcpHeader) -> TcpSock | None:
    """An acknowledgement for a listener: the socket of the handshake that it ends, which is to process it; `listener`
    where it ends none; None where it was dropped (Linux: cookie_v4_check)."""
    if not tcp.tcp_syncookies or th[5] & RST:
        return listener
    mib = tcp.net.mib.tcp_ext
    overflow = listener.request_queue.synq_overflow
    if overflow < 0 or tcp.net.loop.now > overflow + TCP_SYNCOOKIE_VALID:
        return listener
    start = skb.transport_header
    key = skb.saddr + skb.daddr + skb.head[start : start + 4]
    mss = check_sequence(tcp, key, (th[3] - 1) & SEQ_MASK, (th[2] - 1) & SEQ_MASK)
    if not mss:
        mib.SyncookiesFailed += 1
        return listener
    mib.SyncookiesRecv += 1
    options = wire.parse_options(skb.head, start + wire.TCP_HLEN, start + th[4])
    request = RequestSock(listener, skb, options)
    request.rcv_isn = (th[2] - 1) & SEQ_MASK
    request.snt_isn = (th[3] - 1) & SEQ_MASK
    if options.ao is not None:
        from usernet.transport.tcp.auth_reply import init_request

        init_request(request, skb)
    request.syncookie = True
    request.sizes = (mss, 0, 0, 0, 0)
    if not _decode_options(tcp, request, options):
        return listener
    if not request.oif and skb.dev is not None and listener.scope_id:
        request.oif = skb.dev.index
    try:
        dst = skb.af.route(request.flow())
    except OSError:
        skb.drop(DropReason.IP_OUTNOROUTES, tcp.net.drops)
        return None
    request.dst = dst
    request.init_window(dst)
    if request.ecn_ok and not (tcp.tcp_ecn or dst.metric(RTAX_FEATURES) & 1):
        request.ecn_ok = False
    # Classic ECN leaves the acknowledgement without flags, accurate ECN reflects the SYN+ACK's mark with it.
    request.accecn_ok = request.ecn_ok and ace(th[5]) > 1
    queue = listener.request_queue.accept_queue
    if queue is None or len(queue) > listener.request_queue.backlog:
        mib.ListenOverflows += 1
        mib.ListenDrops += 1
        skb.drop(DropReason.TCP_LISTEN_OVERFLOW, tcp.net.drops)
        return None
    child = create_child(tcp.net, tcp, request, skb, th[6])
    if child is None:
        mib.ListenDrops += 1
        skb.drop(DropReason.TCP_AOKEYNOTFOUND, tcp.net.drops)
        return None
    # When the SYN+ACK was sent is not known, so there is no round trip to measure.
    child.synack_mstamp = 0
    tcp.hash(child)
    queue.append(child)
    child.listener = listener
    return child
