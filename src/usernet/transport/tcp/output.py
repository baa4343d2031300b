"""TCP output: from the write queue to the network layer (Linux: net/ipv4/tcp_output.c).

    sendmsg → push → write_xmit: one super-segment after the other, as far as the congestion window, the receiver's
    window, Nagle, pacing and the queue below allow → transmit_skb: header, checksum left to the device → the family's
    xmit. What was sent stays in the retransmission queue until it is acknowledged.

Queued segments hold payload only; a header is built for each transmission, on a packet of its own that shares the
payload by reference. RFC 9293 section 3.8, RFC 1122 section 4.2.3.4 (silly windows), RFC 5681.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, final

from usernet.core.timer import NEVER
from usernet.skbuff.queue import SKBuffQueue
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKB_GSO_TCPV4, SKB_GSO_TCPV6, SKB_OVERHEAD, SKBuff
from usernet.transport.tcp.congestion.base import CA_EVENT_CWND_RESTART, CA_EVENT_TX_START
from usernet.transport.tcp.const import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    MSEC,
    SEQ_MASK,
    TCP_CA_CWR,
    TCP_CA_LOSS,
    TCP_CA_RECOVERY,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_MSS_DEFAULT,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    after,
    before,
)
from usernet.transport.tcp.rate import rate_skb_sent
from usernet.transport.tcp.window import full_space, init_rcv_mss, select_initial_window, select_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG

if TYPE_CHECKING:
    from usernet.net.dst import Dst
    from usernet.transport.tcp.sock import TcpSock

GSO_MAX_PAYLOAD: Final = 65535 - 40 - 60 - 1
MAX_SKB_FRAGS: Final = 256
NET_XMIT_CN: Final = 2
_AF_INET: Final = 2


@final
class TxInfo:
    """What is remembered of a sent segment (Linux: tcp_skb_cb.tx): when it was last sent (ns), and the state of
    delivery then, from which the delivery rate is sampled when it is acknowledged (rate.py). `eor` forbids to join it
    with what follows (MSG_EOR). `next`, `prev` link it in the order of sending (`SentQueue`)."""

    __slots__ = (
        "app_limited", "delivered", "delivered_mstamp", "eor", "first_tx_mstamp", "in_flight", "listed", "mstamp", "next",
        "prev", "skb",
    )  # fmt: skip

    def __init__(self, skb: SKBuff) -> None:
        self.skb = skb
        self.mstamp: int = 0
        self.delivered: int = 0
        self.delivered_mstamp: int = 0
        self.first_tx_mstamp: int = 0
        self.app_limited: bool = False
        self.in_flight: int = 0
        self.eor: bool = False
        self.next: TxInfo | None = None
        self.prev: TxInfo | None = None
        self.listed: bool = False


@final
class SentQueue:
    """Segments under way in the order in which they were last sent, the oldest first (Linux: tsorted_sent_queue)."""

    __slots__ = ("first", "last")

    def __init__(self) -> None:
        self.first: TxInfo | None = None
        self.last: TxInfo | None = None

    def append(self, tx: TxInfo) -> None:
        """`tx` was sent now: to the end, wherever it was."""
        if tx.listed:
            if self.last is tx:
                return
            self.remove(tx)
        tx.prev = self.last
        if self.last is None:
            self.first = tx
        else:
            self.last.next = tx
        self.last = tx
        tx.listed = True

    def insert_after(self, position: TxInfo, tx: TxInfo) -> None:
        """`tx` was part of the segment of `position`, which is in the queue."""
        following = position.next
        tx.prev = position
        tx.next = following
        position.next = tx
        if following is None:
            self.last = tx
        else:
            following.prev = tx
        tx.listed = True

    def remove(self, tx: TxInfo) -> None:
        """Nothing happens where it is not in the queue."""
        if not tx.listed:
            return
        if tx.prev is None:
            self.first = tx.next
        else:
            tx.prev.next = tx.next
        if tx.next is None:
            self.last = tx.prev
        else:
            tx.next.prev = tx.prev
        tx.next = tx.prev = None
        tx.listed = False


def new_segment(seq: int, flags: int) -> SKBuff:
    """An empty segment for the write queue."""
    skb = SKBuff()
    skb.seq = seq
    skb.end_seq = (seq + 1) & SEQ_MASK if flags & (SYN | FIN) else seq
    skb.tcp_flags = flags
    skb.sacked = 0
    skb.gso_segs = 1
    skb.ip_summed = CHECKSUM_PARTIAL
    skb.cb = -1
    skb.tx = TxInfo(skb)
    return skb


# -- maximum segment size


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
    blocks = len(sk.selective_acks) + (sk.duplicate_sack is not None)
    if blocks:
        room = (40 - size - 4) // 8
        size += 4 + 8 * min(blocks, room)
    return size


def current_mss(sk: TcpSock) -> int:
    """The MSS (bytes of payload) of a segment sent now (Linux: tcp_current_mss)."""
    mss = sk.mss_cache
    dst = sk.dst
    if dst is not None:
        mtu = dst.mtu()
        if mtu != sk.pmtu_cookie:
            mss = sync_mss(sk, mtu)
    if sk.selective_acks or sk.duplicate_sack is not None:
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


# -- headers


def time_stamp(sk: TcpSock) -> int:
    """The time stamp to send: milliseconds, from a random origin for each peer (RFC 7323 section 5.4)."""
    return (sk.loop.now // MSEC + sk.tsoffset) & SEQ_MASK


def established_header(sk: TcpSock, seq: int, flags: int, window: int, check: int, urg_ptr: int) -> bytes:
    """The header of a segment on a synchronised connection, with time stamp and SACK blocks."""
    dsack = sk.duplicate_sack
    if dsack is None and not sk.selective_acks:
        if sk.tstamp_ok and not urg_ptr:
            return wire.build_ts(
                sk.sport, sk.dport, seq, sk.rcv_nxt, flags, window, check, time_stamp(sk), sk.ts_recent
            )
        options = b""
        if sk.tstamp_ok:
            options = wire.build_sack((), (time_stamp(sk), sk.ts_recent))
    else:
        stamps = (time_stamp(sk), sk.ts_recent) if sk.tstamp_ok else None
        blocks = [dsack, *sk.selective_acks] if dsack is not None else list(sk.selective_acks)
        options = wire.build_sack(blocks[: 3 if stamps is not None else 4], stamps)
        sk.duplicate_sack = None
    return wire.build(sk.sport, sk.dport, seq, sk.rcv_nxt, flags, window, check, urg_ptr, options)


def syn_options(sk: TcpSock) -> bytes:
    """The options of a SYN (Linux: tcp_syn_options)."""
    tcp = sk.tcp
    stamps = (time_stamp(sk), sk.ts_recent) if tcp.tcp_timestamps else None
    wscale = sk.rcv_wscale if tcp.tcp_window_scaling else -1
    return wire.build_syn_options(advertise_mss(sk), wscale, bool(tcp.tcp_sack), stamps)


def synack_options(sk: TcpSock) -> bytes:
    """The options of the SYN+ACK of a simultaneous open: what both sides can (RFC 9293 section 3.5)."""
    stamps = (time_stamp(sk), sk.ts_recent) if sk.tstamp_ok else None
    wscale = sk.rcv_wscale if sk.wscale_ok else -1
    return wire.build_syn_options(advertise_mss(sk), wscale, sk.sack_ok, stamps)


def _checksum_base(sk: TcpSock, length: int) -> int:
    """The pseudo header's partial sum for a segment of `length` bytes: the addresses' part is kept on the socket."""
    return (sk.pseudo_base + length) % 0xFFFF


def _send(sk: TcpSock, skb: SKBuff, dst: Dst) -> int:
    """Hand a packet with its TCP header to the network layer."""
    skb.transport_header = 0
    skb.ip_summed = CHECKSUM_PARTIAL
    skb.csum_start = 0
    skb.csum_offset = wire.TCP_CHECK_OFFSET
    skb.priority = sk.priority
    skb.mark = sk.mark
    return sk.af.xmit(sk, skb, dst)


def transmit_skb(sk: TcpSock, skb: SKBuff) -> int:
    """Send a segment of the write or the retransmission queue (Linux: __tcp_transmit_skb).

    Returns 0, above 0 (NET_XMIT_DROP) where the device's queue is full, or a negative errno where it can't be sent now;
    it stays queued all the same.
    """
    now = sk.loop.now
    if sk.wstamp < now:
        sk.wstamp = now
    dst = sk.dst
    if dst is None or not dst.valid():
        try:
            dst = sk.route()
        except OSError as failure:
            return -(failure.errno or errno.EHOSTUNREACH)
    flags = skb.tcp_flags
    seq = skb.seq
    length = skb.len
    segments = skb.gso_segs if length else 1
    if flags & SYN:
        header = _syn_header(sk, skb)
    else:
        if segments > 1:
            # A receiver merges segments up to a PSH: so it need not wait for more. Not for single ones, whose
            # acknowledgement may well wait.
            flags |= PSH
        if sk.rcv_wup == sk.rcv_nxt and not sk.rmem_alloc and sk.rcv_wnd >= sk.rcv_ssthresh:
            # Nothing was received since the window was last chosen.
            wscale = sk.rcv_wscale
            window = min(sk.rcv_wnd + (1 << wscale) - 1, 65535 << wscale) >> wscale
        else:
            window = select_window(sk)
        if sk.tstamp_ok and not sk.urg_mode and sk.duplicate_sack is None and not sk.selective_acks:
            header = wire.build_ts(
                sk.sport,
                sk.dport,
                seq,
                sk.rcv_nxt,
                flags,
                window,
                (sk.pseudo_base + 32 + length) % 0xFFFF,
                (now // MSEC + sk.tsoffset) & SEQ_MASK,
                sk.ts_recent,
            )
        else:
            header = _full_header(sk, seq, flags, window, length)
    packet = SKBuff(header)
    packet.transport_header = packet.csum_start = 0
    packet.ip_summed = CHECKSUM_PARTIAL
    packet.csum_offset = wire.TCP_CHECK_OFFSET
    if length:
        frags = skb.frags
        packet.frags = frags[:] if frags is not None else None
        packet.data_len = length
        packet.len += length
        packet.truesize += length
        if segments > 1:
            packet.gso_size = skb.gso_size
            packet.gso_segs = segments
            packet.gso_type = SKB_GSO_TCPV4 if sk.family == _AF_INET else SKB_GSO_TCPV6
        sk.data_segs_out += segments
        sk.bytes_sent += length
        if sk.packets_out == 0:
            sk.ca.cwnd_event(sk, CA_EVENT_TX_START)
        sk.lsndtime = now
        # A reply within the delayed-ACK time of the last segment received: the connection is interactive.
        if now - sk.ack_lrcvtime < sk.ack_ato:
            sk.inc_pingpong()
    if flags & ACK and (sk.ack_pending or sk.ack_quick or sk.compressed_ack):
        event_ack_sent(sk)
    sk.segs_out += segments
    if (sk.snd_nxt - skb.end_seq) & 0x80000000 or seq == skb.end_seq:
        sk.net.mib.tcp.OutSegs += segments
    sk.charge_send(packet)
    result = sk.af.xmit(sk, packet, dst)
    if result:
        result = _local_congestion(sk, result)
        if result:
            return result
    tx: TxInfo = skb.tx
    tx.mstamp = sk.wstamp
    sk.sent.append(tx)
    rate_skb_sent(sk, skb, tx)
    return 0


def _syn_header(sk: TcpSock, skb: SKBuff) -> bytes:
    """The header of a SYN, or of a simultaneous open's SYN+ACK."""
    flags = skb.tcp_flags
    options = synack_options(sk) if flags & ACK else syn_options(sk)
    sk.rcv_wup = sk.rcv_nxt
    check = _checksum_base(sk, wire.TCP_HLEN + len(options) + skb.len)
    acknowledged = sk.rcv_nxt if flags & ACK else 0
    window = min(sk.rcv_wnd, 65535)
    return wire.build(sk.sport, sk.dport, skb.seq, acknowledged, flags, window, check, 0, options)


def _full_header(sk: TcpSock, seq: int, flags: int, window: int, length: int) -> bytes:
    """A header with whatever it may need: an urgent pointer, SACK blocks, no time stamp."""
    urg_ptr = 0
    if sk.urg_mode and before(seq, sk.snd_up):
        if before(sk.snd_up, (seq + 0x10000) & SEQ_MASK):
            urg_ptr = (sk.snd_up - seq) & SEQ_MASK
            flags |= URG
        elif after((seq + 0xFFFF) & SEQ_MASK, sk.snd_nxt):
            urg_ptr = 0xFFFF
            flags |= URG
    if sk.duplicate_sack is None and not sk.selective_acks:
        size = sk.tcp_header_len
    else:
        size = wire.TCP_HLEN + options_size(sk)
    return established_header(sk, seq, flags, window, _checksum_base(sk, size + length), urg_ptr)


def _local_congestion(sk: TcpSock, result: int) -> int:
    """The device's queue had no place for a packet, or hardly any: slow down. Returns what became of the packet."""
    from usernet.transport.tcp.recovery import enter_cwr

    if result > 0:
        enter_cwr(sk)
        if result == NET_XMIT_CN:
            return 0
    return result


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


def init_cwnd(sk: TcpSock) -> int:
    """The initial window, in segments: the route's, or 10 (RFC 6928; Linux: tcp_init_cwnd)."""
    dst = sk.dst
    cwnd = dst.metric(11) if dst is not None else 0  # RTAX_INITCWND
    return min(cwnd or 10, sk.snd_cwnd_clamp)


def event_ack_sent(sk: TcpSock) -> None:
    """A segment that acknowledges all so far leaves (Linux: tcp_event_ack_sent)."""
    if sk.compressed_ack:
        sk.net.mib.tcp_ext.TCPAckCompressed += sk.compressed_ack
        sk.compressed_ack = 0
        if sk.comp_sack_timer is not None:
            sk.comp_sack_timer.cancel()
    if sk.ack_quick:
        sk.ack_quick = sk.ack_quick - 1
        if sk.ack_quick == 0:
            # Leaving quick-ACK mode: deflate the time-out.
            sk.ack_ato = 40 * MSEC
    sk.ack_pending = 0
    sk.delack_timer.deadline = NEVER


def send_ack(sk: TcpSock) -> None:
    """Send a bare acknowledgement (Linux: __tcp_send_ack)."""
    if sk.state == TCP_CLOSE:
        return
    _send_control(sk, acceptable_seq(sk), ACK)


def acceptable_seq(sk: TcpSock) -> int:
    """The sequence number for a segment without data: `snd_nxt`, or the edge of a window that was shrunk."""
    wnd_end = (sk.snd_una + sk.snd_wnd) & SEQ_MASK
    if not before(wnd_end, sk.snd_nxt) or (sk.wscale_ok and (sk.snd_nxt - wnd_end) & SEQ_MASK < (1 << sk.rcv_wscale)):
        return sk.snd_nxt
    return wnd_end


def _send_control(sk: TcpSock, seq: int, flags: int) -> int:
    """Send a segment that is in no queue: an ACK, a probe, a reset. Returns as `transmit_skb`."""
    try:
        dst = sk.route()
    except OSError as failure:
        return -(failure.errno or errno.EHOSTUNREACH)
    window = select_window(sk)
    size = wire.TCP_HLEN + options_size(sk)
    packet = SKBuff(established_header(sk, seq, flags, window, _checksum_base(sk, size), 0))
    event_ack_sent(sk)
    sk.segs_out += 1
    sk.net.mib.tcp.OutSegs += 1
    result = _send(sk, packet, dst)
    return _local_congestion(sk, result) if result else 0


def send_active_reset(sk: TcpSock) -> None:
    """Reset the connection (Linux: tcp_send_active_reset)."""
    net = sk.net
    net.mib.tcp.OutRsts += 1
    _send_control(sk, acceptable_seq(sk), ACK | RST)
    if net.trace.tcp_send_reset.probes:
        net.trace.tcp_send_reset.fire(sk, None)


def xmit_probe(sk: TcpSock, urgent: bool) -> int:
    """A segment with an old sequence number: the peer must answer with an ACK (Linux: tcp_xmit_probe_skb).

    Returns as `transmit_skb`.
    """
    seq = sk.snd_una if urgent else (sk.snd_una - 1) & SEQ_MASK
    sk.net.mib.tcp_ext.TCPWinProbe += 1
    return _send_control(sk, seq, ACK)


# -- segmentation and queues


def set_tso_segs(skb: SKBuff, mss: int) -> int:
    """Say in how many segments of `mss` bytes the packet leaves; returns that (Linux: tcp_set_skb_tso_segs)."""
    if skb.len <= mss:
        skb.gso_size = 0
        skb.gso_segs = 1
        return 1
    segments = -(-skb.len // mss)
    skb.gso_size = mss
    skb.gso_segs = segments
    return segments


def init_tso_segs(skb: SKBuff, mss: int) -> int:
    """As `set_tso_segs`, where the number may be stale (Linux: tcp_init_tso_segs)."""
    segments = skb.gso_segs
    if not segments or (segments > 1 and skb.gso_size != mss) or (segments == 1 and skb.len > mss):
        return set_tso_segs(skb, mss)
    return segments


def add_write_queue_tail(sk: TcpSock, skb: SKBuff) -> None:
    """Queue a new segment to be sent (Linux: tcp_skb_entail, tcp_add_write_queue_tail)."""
    sk.write_queue.append(skb)
    sk.wmem_queued += skb.truesize
    if sk.nonagle & TCP_NAGLE_PUSH:
        sk.nonagle &= ~TCP_NAGLE_PUSH


def adjust_pcount(sk: TcpSock, skb: SKBuff, decrease: int) -> None:
    """A segment that is under way now counts `decrease` packets less (Linux: tcp_adjust_pcount)."""
    sk.packets_out -= decrease
    sacked = skb.sacked
    if sacked & TCPCB_SACKED_ACKED:
        sk.sacked_out -= decrease
    if sacked & TCPCB_SACKED_RETRANS:
        sk.retrans_out -= decrease
    if sacked & TCPCB_LOST:
        sk.lost_out -= decrease
    if not sk.sack_ok and decrease > 0:
        sk.sacked_out -= min(sk.sacked_out, decrease)


def fragment(sk: TcpSock, queue: SKBuffQueue, skb: SKBuff, length: int, mss: int) -> SKBuff:
    """Cut a queued segment to `length` bytes; what is behind them becomes the next in `queue` (Linux: tcp_fragment)."""
    old_count = skb.gso_segs
    rest = SKBuff()
    rest.ip_summed = CHECKSUM_PARTIAL
    rest.frags = skb.slice(length, skb.len)
    size = skb.len - length
    rest.len = rest.data_len = size
    rest.truesize = size + SKB_OVERHEAD
    kept = skb.slice(0, length)
    skb.frags = kept
    skb.len = skb.data_len = length
    sk.wmem_queued += length + SKB_OVERHEAD + rest.truesize - skb.truesize
    skb.truesize = length + SKB_OVERHEAD
    queue.resized(-size)
    rest.seq = (skb.seq + length) & SEQ_MASK
    rest.end_seq = skb.end_seq
    skb.end_seq = rest.seq
    flags = skb.tcp_flags
    skb.tcp_flags = flags & ~(FIN | PSH)
    rest.tcp_flags = flags
    rest.sacked = skb.sacked
    # Neither ends any more where the socket's page does (sendmsg.py).
    rest.cb = skb.cb = -1
    tx: TxInfo = skb.tx
    rest_tx = TxInfo(rest)
    rest_tx.mstamp = tx.mstamp
    rest_tx.delivered = tx.delivered
    rest_tx.delivered_mstamp = tx.delivered_mstamp
    rest_tx.first_tx_mstamp = tx.first_tx_mstamp
    rest_tx.app_limited = tx.app_limited
    rest_tx.in_flight = tx.in_flight
    rest_tx.eor = tx.eor
    tx.eor = False
    rest.tx = rest_tx
    if tx.listed:
        sk.sent.insert_after(tx, rest_tx)
    set_tso_segs(skb, mss)
    set_tso_segs(rest, mss)
    if queue is sk.rtx_queue:
        decrease = old_count - skb.gso_segs - rest.gso_segs
        if decrease:
            adjust_pcount(sk, skb, decrease)
    queue.insert_after(skb, rest)
    return rest


def trim_head(sk: TcpSock, skb: SKBuff, size: int) -> None:
    """Cut acknowledged bytes off the front of a segment that is under way (Linux: tcp_trim_head)."""
    skb.pull_front(size)
    if skb.queue is not None:
        skb.queue.resized(-size)
    skb.seq = (skb.seq + size) & SEQ_MASK
    skb.truesize -= size
    sk.wmem_queued -= size
    if skb.gso_segs > 1:
        set_tso_segs(skb, skb.gso_size)


# -- when to send


def wnd_end(sk: TcpSock) -> int:
    """The right edge of the window the peer granted."""
    return (sk.snd_una + sk.snd_wnd) & SEQ_MASK


def packets_in_flight(sk: TcpSock) -> int:
    """Packets that are in the network as far as is known (Linux: tcp_packets_in_flight)."""
    return sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out


def tso_segs(sk: TcpSock, mss: int) -> int:
    """How many segments a super-segment should have: what the pacing rate sends in a millisecond, and more on short
    paths, at least tcp_min_tso_segs (Linux: tcp_tso_autosize, tcp_tso_segs)."""
    tcp = sk.tcp
    size = sk.pacing_rate >> 10
    shift = sk.min_rtt_us() >> tcp.tcp_tso_rtt_log
    if shift < 32:
        size += 65536 >> shift
    size = min(size, GSO_MAX_PAYLOAD)
    segments = max(size // mss, sk.ca.min_tso_segs(sk) or tcp.tcp_min_tso_segs)
    return min(segments, GSO_MAX_PAYLOAD // mss or 1)


def _mss_split_point(sk: TcpSock, skb: SKBuff, mss: int, max_segs: int, nonagle: int) -> int:
    """How many bytes of the segment may be sent now, in whole MSS where possible (Linux: tcp_mss_split_point)."""
    window = (sk.snd_una + sk.snd_wnd - skb.seq) & SEQ_MASK
    max_len = mss * max_segs
    if max_len <= window and skb is not sk.write_queue.last:
        return max_len
    needed = min(skb.len, window)
    if max_len <= needed:
        return max_len
    partial = needed % mss
    # The part of an MSS at the end is Nagle's to judge.
    if nagle_check(partial != 0, sk, nonagle):
        return needed - partial
    return needed


def minshall_check(sk: TcpSock) -> bool:
    """Whether a small segment is under way (Minshall's variant of Nagle's algorithm)."""
    return after(sk.snd_sml, sk.snd_una) and not after(sk.snd_sml, sk.snd_nxt)


def nagle_check(partial: bool, sk: TcpSock, nonagle: int) -> bool:
    """Whether Nagle's algorithm holds the segment back (RFC 1122 section 4.2.3.4; Linux: tcp_nagle_check)."""
    return partial and (
        bool(nonagle & TCP_NAGLE_CORK) or (not nonagle and sk.packets_out != 0 and minshall_check(sk))
    )


def _nagle_test(sk: TcpSock, skb: SKBuff, mss: int, nonagle: int) -> bool:
    """Whether the segment may go as far as Nagle's algorithm is asked."""
    if nonagle & TCP_NAGLE_PUSH:
        return True
    if sk.urg_mode or skb.tcp_flags & FIN:
        return True
    return not nagle_check(skb.len < mss, sk, nonagle)


def _tso_should_defer(sk: TcpSock, skb: SKBuff, max_segs: int, limited: list[bool]) -> bool:
    """Whether to wait for a larger super-segment (Linux: tcp_tso_should_defer). limited: [by cwnd, by the window]."""
    if sk.ca_state >= TCP_CA_RECOVERY:
        return False
    now = sk.loop.now
    if now - sk.wstamp > MSEC:
        return False
    send_win = (sk.snd_una + sk.snd_wnd - skb.seq) & SEQ_MASK
    cong_win = (sk.snd_cwnd - packets_in_flight(sk)) * sk.mss_cache
    limit = min(send_win, cong_win)
    if limit >= max_segs * sk.mss_cache:
        return False
    if skb is not sk.write_queue.last and limit >= skb.len:
        return False
    divisor = sk.tcp.tcp_tso_win_divisor
    if divisor:
        if limit >= min(sk.snd_wnd, sk.snd_cwnd * sk.mss_cache) // divisor:
            return False
    elif limit > 3 * sk.mss_cache:
        return False
    head = sk.rtx_queue.first
    if head is None:
        return False
    # The next ACK should come soon enough to be worth waiting for.
    srtt = (sk.srtt_us >> 3) * 1000
    if head.tx.mstamp + srtt - now > min(srtt >> 1, MSEC):
        return False
    if cong_win < send_win:
        if cong_win <= skb.len:
            limited[0] = True
            return True
    elif send_win <= skb.len:
        limited[1] = True
        return True
    return not (skb.tcp_flags & FIN or skb.tx.eor)


def _event_new_data_sent(sk: TcpSock, skb: SKBuff) -> None:
    """A segment was sent for the first time (Linux: tcp_event_new_data_sent)."""
    prior = sk.packets_out
    sk.snd_nxt = skb.end_seq
    sk.write_queue.unlink(skb)
    sk.rtx_queue.append(skb)
    if sk.highest_sack is None:
        sk.highest_sack = skb
    segments = skb.gso_segs
    sk.packets_out += segments
    if not prior or sk.icsk_pending == ICSK_TIME_LOSS_PROBE:
        rearm_rto(sk)
    sk.net.mib.tcp_ext.TCPOrigDataSent += segments


def rearm_rto(sk: TcpSock) -> None:
    """Restart the retransmission timer, or stop it where nothing is under way (RFC 6298 section 5; tcp_rearm_rto)."""
    if not sk.packets_out:
        sk.clear_xmit_timer()
        return
    rto = sk.rto
    if sk.icsk_pending == ICSK_TIME_REO_TIMEOUT or sk.icsk_pending == ICSK_TIME_LOSS_PROBE:
        delta = rto_delta(sk)
        rto = max(delta, 1)
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, rto)


def rto_delta(sk: TcpSock) -> int:
    """Time (ns) until the RTO of the oldest segment, which may be past (Linux: tcp_rto_delta_us)."""
    head = sk.rtx_queue.first
    if head is None:
        return sk.rto
    mstamp: int = head.tx.mstamp
    return mstamp + sk.rto - sk.loop.now


def reset_xmit_timer(sk: TcpSock, what: int, when: int) -> None:
    """Arm the retransmission timer `when` ns from now for `what`, behind what pacing holds back."""
    now = sk.loop.now
    if sk.wstamp > now:
        when += sk.wstamp - now
    sk.icsk_pending = what
    sk.retransmit_timer.mod(now + min(when, sk.rto_max))


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
        if (
            sk.tcp.tcp_slow_start_after_idle
            and now - sk.snd_cwnd_stamp >= sk.rto
            and not sk.ca.has_cong_control
        ):
            _cwnd_application_limited(sk)


def _cwnd_application_limited(sk: TcpSock) -> None:
    """The window was not used for an RTO: halfway down to what was (RFC 2861; tcp_cwnd_application_limited)."""
    if sk.ca_state == 0 and not sk.nospace:
        used = max(sk.snd_cwnd_used, init_cwnd(sk))
        if used < sk.snd_cwnd:
            sk.snd_ssthresh = sk.current_ssthresh()
            sk.snd_cwnd = (sk.snd_cwnd + used) >> 1
        sk.snd_cwnd_used = 0
    sk.snd_cwnd_stamp = sk.loop.now


def slow_start_after_idle_check(sk: TcpSock) -> None:
    """New data after idleness: restart the window (Linux: tcp_slow_start_after_idle_check)."""
    if not sk.tcp.tcp_slow_start_after_idle or sk.packets_out or sk.ca.has_cong_control:
        return
    delta = sk.loop.now - sk.lsndtime
    if delta > sk.rto:
        cwnd_restart(sk, delta)


def small_queue_full(sk: TcpSock, skb: SKBuff, factor: int) -> bool:
    """Whether enough of this socket waits in the device's queue (TCP small queues; Linux: tcp_small_queue_check)."""
    queued = sk.wmem_alloc
    if not queued:
        return False
    limit = min(max(2 * skb.truesize, sk.pacing_rate >> 10), sk.tcp.tcp_limit_output_bytes) << factor
    if queued > limit:
        # A retransmission queue that is empty, or a single segment: never wait for nothing.
        if sk.rtx_queue.first is None:
            return False
        sk.tsq_throttled = True
        return True
    return False


def pacing_check(sk: TcpSock) -> bool:
    """Whether internal pacing holds the next segment back (Linux: tcp_pacing_check)."""
    if not sk.pacing_needed or sk.wstamp <= sk.loop.now:
        return False
    timer = sk.pacing_timer
    if timer is None:
        timer = sk.new_pacing_timer()
    if not timer.pending:
        timer.mod(sk.wstamp)
    return True


def write_xmit(sk: TcpSock, mss: int, nonagle: int, push_one: int) -> bool:
    """Send what may be sent (Linux: tcp_write_xmit). push_one: 0, 1 for one segment, 2 for one past the window (TLP).

    True where nothing is under way though something waits: a probe timer is needed.
    """
    sent = 0
    is_cwnd_limited = False
    limited = [False, False]
    max_segs = tso_segs(sk, mss)
    queue = sk.write_queue
    while True:
        skb = queue.first
        if skb is None:
            break
        if sk.pacing_needed and pacing_check(sk):
            break
        length = skb.len
        segments = init_tso_segs(skb, mss)
        in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
        cwnd = sk.snd_cwnd
        if in_flight >= cwnd:
            if push_one != 2:
                break
            quota = 1
        else:
            # At most half the window in one go, so that there is always something to be acknowledged.
            quota = min(max(cwnd >> 1, 1), cwnd - in_flight, max_segs)
        window = sk.snd_una + sk.snd_wnd
        end = skb.end_seq if length <= mss else skb.seq + mss
        if (window - end) & 0x80000000:
            limited[1] = True
            break
        if (
            skb.next is not None
            and length == mss * segments
            and segments <= quota
            and not (window - skb.end_seq) & 0x80000000
            and not sk.urg_mode
        ):
            # A whole super-segment, with more behind it, and room for all of it: nothing to weigh.
            limit = length
        elif segments == 1:
            if not _nagle_test(sk, skb, mss, nonagle if skb is queue.last else TCP_NAGLE_PUSH):
                break
            limit = mss
        elif not push_one and _tso_should_defer(sk, skb, max_segs, limited):
            is_cwnd_limited = is_cwnd_limited or limited[0]
            break
        else:
            limit = mss if sk.urg_mode else _mss_split_point(sk, skb, mss, quota, nonagle)
        if length > limit:
            fragment(sk, queue, skb, limit, mss)
        if sk.wmem_alloc and small_queue_full(sk, skb, 0):
            break
        if transmit_skb(sk, skb):
            break
        _event_new_data_sent(sk, skb)
        if skb.len < mss * skb.gso_segs:
            sk.snd_sml = skb.end_seq
        sent += skb.gso_segs
        if push_one:
            break
    sk.rwnd_limited = limited[1]
    if packets_in_flight(sk) >= sk.snd_cwnd:
        is_cwnd_limited = True
    if sent or is_cwnd_limited:
        cwnd_validate(sk, is_cwnd_limited)
    if sent:
        if sk.ca_state == TCP_CA_CWR or sk.ca_state == TCP_CA_RECOVERY:
            sk.prr_out += sent
        if push_one != 2:
            schedule_loss_probe(sk, advancing=False)
        return False
    return not sk.packets_out and queue.first is not None


def push_pending_frames(sk: TcpSock, mss: int, nonagle: int) -> None:
    """Send what waits; where all is stuck, start probing (Linux: __tcp_push_pending_frames)."""
    if sk.state == TCP_CLOSE:
        return
    if write_xmit(sk, mss, nonagle, 0):
        sk.check_probe_timer()


def push_pending(sk: TcpSock) -> None:
    """As above, by the socket's own settings (Linux: tcp_push_pending_frames)."""
    if sk.write_queue.first is not None:
        push_pending_frames(sk, current_mss(sk), sk.nonagle)


# -- tail loss probe


def schedule_loss_probe(sk: TcpSock, advancing: bool) -> bool:
    """Arm a probe for two round trips from now, where the tail might be lost (RFC 8985 section 7.2)."""
    tcp = sk.tcp
    if sk.fastopen_pending or sk.ca_state not in (0, TCP_CA_CWR):
        return False
    if tcp.tcp_early_retrans not in (3, 4) or not sk.packets_out or not sk.sack_ok:
        return False
    if sk.srtt_us:
        timeout_us = sk.srtt_us >> 2
        if sk.packets_out == 1:
            timeout_us += max(sk.ack_rto_min_us(), tcp.tcp_rto_min_us)
        else:
            timeout_us += 2_000
        timeout = timeout_us * 1000
    else:
        timeout = 1_000_000_000
    # Never later than the RTO would be.
    if advancing:
        rto_left = sk.rto
    else:
        rto_left = rto_delta(sk)
    if rto_left > 0:
        timeout = min(timeout, rto_left)
    reset_xmit_timer(sk, ICSK_TIME_LOSS_PROBE, timeout)
    return True


def send_loss_probe(sk: TcpSock) -> None:
    """The probe: one new segment, or the last one again (RFC 8985 section 7.3; Linux: tcp_send_loss_probe)."""
    mss = current_mss(sk)
    if sk.tlp_high_seq:
        rearm_rto(sk)
        return
    sk.tlp_retrans = False
    head = sk.write_queue.first
    if head is not None and _snd_wnd_test(sk, head, mss):
        before_count = sk.packets_out
        write_xmit(sk, mss, TCP_NAGLE_OFF, 2)
        if sk.packets_out > before_count:
            _probe_sent(sk)
            return
    skb = sk.rtx_queue.last
    if skb is None:
        # Everything was acknowledged in between.
        sk.clear_xmit_timer()
        return
    count = skb.gso_segs
    if count > 1 and skb.len > (count - 1) * mss:
        skb = fragment(sk, sk.rtx_queue, skb, (count - 1) * mss, mss)
    if retransmit_skb_once(sk, skb, 1):
        rearm_rto(sk)
        return
    sk.tlp_retrans = True
    _probe_sent(sk)


def _probe_sent(sk: TcpSock) -> None:
    sk.tlp_high_seq = sk.snd_nxt
    sk.net.mib.tcp_ext.TCPLossProbes += 1
    # No further probe until the RTO.
    sk.icsk_pending = 0
    rearm_rto(sk)


def _snd_wnd_test(sk: TcpSock, skb: SKBuff, mss: int) -> bool:
    end = skb.end_seq if skb.len <= mss else (skb.seq + mss) & SEQ_MASK
    return not after(end, wnd_end(sk))


# -- retransmission


def retransmit_skb_once(sk: TcpSock, skb: SKBuff, segs: int) -> int:
    """Send a segment again, at most `segs` packets of it (Linux: __tcp_retransmit_skb).

    Returns 0, or a negative errno where it can't be sent now.
    """
    if before(skb.seq, sk.snd_una):
        if before(skb.end_seq, sk.snd_una):
            return -errno.EINVAL
        if skb.tcp_flags & SYN:
            skb.tcp_flags &= ~SYN
            skb.seq = (skb.seq + 1) & SEQ_MASK
        else:
            trim_head(sk, skb, (sk.snd_una - skb.seq) & SEQ_MASK)
    mss = current_mss(sk)
    room = sk.snd_una + sk.snd_wnd - skb.seq
    room = (room + 0x80000000 & SEQ_MASK) - 0x80000000
    if room <= 0:
        # A window shrunk to nothing: only the first segment, as a probe.
        if skb.seq != sk.snd_una:
            return -errno.EAGAIN
        room = mss
    length = mss * segs
    if length > room:
        length = room // mss * mss or room
    if skb.len > length:
        fragment(sk, sk.rtx_queue, skb, length, mss)
    else:
        decrease = skb.gso_segs - set_tso_segs(skb, mss)
        if decrease:
            adjust_pcount(sk, skb, decrease)
        if skb.len < mss and sk.tcp.tcp_retrans_collapse:
            _try_collapse(sk, skb, mss)
    segments = skb.gso_segs
    mib = sk.net.mib
    mib.tcp.RetransSegs += segments
    if skb.tcp_flags & SYN:
        mib.tcp_ext.TCPSynRetrans += 1
    sk.total_retrans += segments
    sk.bytes_retrans += skb.len
    failure = transmit_skb(sk, skb)
    skb.sacked |= TCPCB_EVER_RETRANS
    trace = sk.net.trace.tcp_retransmit_skb
    if failure:
        mib.tcp_ext.TCPRetransFail += segments
        return failure
    if trace.probes:
        trace.fire(sk, skb)
    return 0


def _try_collapse(sk: TcpSock, skb: SKBuff, mss: int) -> None:
    """Join the small segments behind `skb` to it, up to an MSS (Linux: tcp_retrans_try_collapse)."""
    if skb.gso_segs > 1 or skb.tcp_flags & SYN or skb.sacked & TCPCB_SACKED_ACKED:
        return
    queue = sk.rtx_queue
    while True:
        following = skb.next
        if (
            following is None
            or following.gso_segs > 1
            or following.sacked & TCPCB_SACKED_ACKED
            or skb.tcp_flags & FIN
            or skb.tx.eor
            or skb.len + following.len > mss
            or not following.len
            or after(following.end_seq, wnd_end(sk))
        ):
            return
        size = following.len
        queue.unlink(following)
        sk.sent.remove(following.tx)
        if sk.retransmit_hint is following:
            sk.retransmit_hint = skb
        if sk.highest_sack is following:
            sk.highest_sack = skb.next
        for part in following.frags or ():
            skb.add_frag(part)
        queue.resized(size)
        skb.end_seq = following.end_seq
        skb.tcp_flags |= following.tcp_flags
        skb.sacked |= following.sacked & TCPCB_EVER_RETRANS
        skb.tx.eor = following.tx.eor
        sk.wmem_queued -= SKB_OVERHEAD
        adjust_pcount(sk, following, following.gso_segs)


def retransmit_skb(sk: TcpSock, skb: SKBuff, segs: int) -> int:
    """Send again and mark it so (Linux: tcp_retransmit_skb)."""
    failure = retransmit_skb_once(sk, skb, segs)
    if not failure:
        # It may count as retransmitted still: an undo takes the loss back, but not the retransmission.
        if not skb.sacked & TCPCB_SACKED_RETRANS:
            sk.retrans_out += skb.gso_segs
        skb.sacked |= TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS
    if not sk.retrans_stamp:
        sk.retrans_stamp = sk.loop.now // MSEC or 1
    if sk.undo_retrans < 0:
        sk.undo_retrans = 0
    sk.undo_retrans += skb.gso_segs
    return failure


def xmit_retransmit_queue(sk: TcpSock) -> None:
    """Retransmit what is marked lost, oldest first, as the window allows (Linux: tcp_xmit_retransmit_queue)."""
    if not sk.packets_out:
        return
    skb = sk.retransmit_hint or sk.rtx_queue.first
    hole: SKBuff | None = None
    rearm = False
    max_segs = tso_segs(sk, current_mss(sk))
    mib = sk.net.mib.tcp_ext
    while skb is not None:
        if pacing_check(sk):
            break
        if hole is None:
            sk.retransmit_hint = skb
        segs = sk.snd_cwnd - packets_in_flight(sk)
        if segs <= 0:
            break
        segs = min(segs, max_segs)
        sacked = skb.sacked
        if sk.retrans_out >= sk.lost_out:
            break
        if not sacked & TCPCB_LOST:
            if hole is None and not sacked & (TCPCB_SACKED_RETRANS | TCPCB_SACKED_ACKED):
                hole = skb
            skb = skb.next
            continue
        if sacked & (TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS):
            skb = skb.next
            continue
        if small_queue_full(sk, skb, 1):
            break
        if retransmit_skb(sk, skb, segs):
            break
        if sk.ca_state == TCP_CA_LOSS:
            mib.TCPSlowStartRetrans += skb.gso_segs
        else:
            mib.TCPFastRetrans += skb.gso_segs
        if sk.ca_state == TCP_CA_CWR or sk.ca_state == TCP_CA_RECOVERY:
            sk.prr_out += skb.gso_segs
        if skb is sk.rtx_queue.first and sk.icsk_pending != ICSK_TIME_REO_TIMEOUT:
            rearm = True
        skb = skb.next
    if rearm:
        reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto)


# -- opening and closing


def connect_init(sk: TcpSock) -> None:
    """Prepare the variables of an active open (Linux: tcp_connect_init)."""
    tcp = sk.tcp
    dst = sk.dst
    sk.tcp_header_len = wire.TCP_HLEN
    if tcp.tcp_timestamps:
        sk.tcp_header_len += wire.TCPOLEN_TSTAMP_ALIGNED
    if sk.user_mss:
        sk.mss_clamp = sk.user_mss
    sk.max_window = 0
    sk.mtup.init(sk)
    assert dst is not None
    sync_mss(sk, dst.mtu())
    if not sk.window_clamp:
        sk.window_clamp = dst.metric(3)  # RTAX_WINDOW
    sk.advmss = sk.mss_clamp_of(dst.advmss())
    init_rcv_mss(sk)
    if sk.rcvbuf_locked and (sk.window_clamp > full_space(sk) or sk.window_clamp == 0):
        sk.window_clamp = full_space(sk)
    window, clamp, wscale = select_initial_window(
        sk,
        full_space(sk),
        sk.advmss - (sk.tcp_header_len - wire.TCP_HLEN),
        sk.window_clamp,
        bool(tcp.tcp_window_scaling),
        dst.metric(14),  # RTAX_INITRWND
    )
    sk.rcv_wnd = window
    sk.window_clamp = clamp
    sk.rcv_wscale = wscale
    sk.rcv_ssthresh = sk.rcv_wnd
    sk.err = 0
    sk.snd_wnd = 0
    sk.snd_wl1 = 0
    sk.snd_una = sk.snd_sml = sk.snd_up = sk.snd_nxt = sk.write_seq
    sk.rcv_nxt = 0
    sk.rcv_wup = sk.copied_seq = 0
    sk.rto = sk.rto_init
    sk.icsk_retransmits = 0
    sk.clear_retrans()


def connect(sk: TcpSock) -> None:
    """Send the SYN (Linux: tcp_connect). Raises nothing: what fails is tried again by the timer."""
    connect_init(sk)
    skb = new_segment(sk.write_seq, SYN)
    sk.write_seq = skb.end_seq
    sk.retrans_stamp = sk.loop.now // MSEC or 1
    sk.rtx_queue.append(skb)
    sk.wmem_queued += skb.truesize
    sk.packets_out += 1
    transmit_skb(sk, skb)
    sk.snd_nxt = sk.write_seq
    sk.pushed_seq = sk.write_seq
    sk.net.mib.tcp.ActiveOpens += 1
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto)


def send_synack(sk: TcpSock) -> None:
    """The SYN+ACK of a simultaneous open (Linux: tcp_send_synack): the queued SYN becomes one."""
    skb = sk.rtx_queue.first
    if skb is None or not skb.tcp_flags & SYN:
        return
    if not skb.tcp_flags & ACK:
        skb.tcp_flags |= ACK
    transmit_skb(sk, skb)


def send_fin(sk: TcpSock) -> None:
    """Queue a FIN behind all data, and push (Linux: tcp_send_fin)."""
    tail = sk.write_queue.last
    if tail is not None:
        tail.tcp_flags |= FIN
        tail.end_seq = (tail.end_seq + 1) & SEQ_MASK
        sk.write_seq = (sk.write_seq + 1) & SEQ_MASK
    else:
        skb = new_segment(sk.write_seq, ACK | FIN)
        sk.write_seq = skb.end_seq
        add_write_queue_tail(sk, skb)
    push_pending_frames(sk, current_mss(sk), TCP_NAGLE_OFF)


def write_wakeup(sk: TcpSock) -> int:
    """Probe a closed window, or keep alive: with the next data where the window has room for some (tcp_write_wakeup).

    Returns 0, above 0 where the device's queue is full, or a negative errno where nothing could be sent.
    """
    if sk.state == TCP_CLOSE:
        return -errno.EPIPE
    skb = sk.write_queue.first
    if skb is not None and before(skb.seq, wnd_end(sk)):
        mss = current_mss(sk)
        room = (wnd_end(sk) - skb.seq) & SEQ_MASK
        if before(sk.pushed_seq, skb.end_seq):
            sk.pushed_seq = skb.end_seq
        if room < (skb.end_seq - skb.seq) & SEQ_MASK or skb.len > mss:
            size = min(room, mss)
            skb.tcp_flags |= PSH
            if skb.len > size:
                fragment(sk, sk.write_queue, skb, size, mss)
        elif not skb.gso_segs:
            set_tso_segs(skb, mss)
        skb.tcp_flags |= PSH
        failure = transmit_skb(sk, skb)
        if not failure:
            _event_new_data_sent(sk, skb)
        return failure
    if sk.urg_mode and between_urgent(sk):
        xmit_probe(sk, urgent=True)
    return xmit_probe(sk, urgent=False)


def between_urgent(sk: TcpSock) -> bool:
    """Whether the urgent pointer is just ahead, so that the peer must be told of it."""
    return 0 < (sk.snd_up - sk.snd_una) & SEQ_MASK <= 0xFFFF


def send_probe0(sk: TcpSock) -> None:
    """Probe a zero window, and plan the next probe, later each time (RFC 9293 section 3.8.6.1; tcp_send_probe0)."""
    failure = write_wakeup(sk)
    if sk.packets_out or sk.write_queue.first is None:
        # Nothing to probe for any more.
        sk.probes_out = 0
        sk.backoff = 0
        sk.probes_tstamp = 0
        return
    sk.probes_out += 1
    if failure <= 0:
        if sk.backoff < sk.tcp.tcp_retries2:
            sk.backoff += 1
        timeout = sk.probe0_when()
    else:
        # Not sent for local congestion: try again soon, for it is no sign of the peer's.
        timeout = TCP_RESOURCE_PROBE_INTERVAL
    timeout = sk.clamp_probe0_to_user_timeout(timeout)
    sk.arm_probe0(timeout)


def sockets_can_send(state: int) -> bool:
    """Whether a state lets the application send."""
    return state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_SYN_SENT, TCP_SYN_RECV)

