"""One segment leaves: its header, and the packet that shares the queued payload (Linux: __tcp_transmit_skb).

Also the segments that are in no queue: acknowledgements, window probes, resets. The checksum is left to the device.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from usernet.core.timer import NEVER
from usernet.net.pacing import PACING_UNLIMITED, SK_PACING_FQ
from usernet.skbuff.skbuff import (
    CHECKSUM_PARTIAL,
    SKB_GSO_TCP_ACCECN,
    SKB_GSO_TCP_ECN,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKBuff,
)
from usernet.transport.tcp import accecn_option, ecn
from usernet.transport.tcp.completion import TxMark, attach
from usernet.transport.tcp.congestion.base import CA_EVENT_TX_START
from usernet.transport.tcp.const import MSEC, SEC, SEQ_MASK, TCP_CLOSE, after, before
from usernet.transport.tcp.mss import advertise_mss, options_size
from usernet.transport.tcp.rate import rate_skb_sent
from usernet.transport.tcp.segment import TxInfo
from usernet.transport.tcp.window import select_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, CWR, PSH, RST, SYN, URG
from usernet.wire.tcp_accecn import build_accecn, insert_accecn

if TYPE_CHECKING:
    from usernet.net.dst import Dst
    from usernet.transport.tcp.auth import Signer
    from usernet.transport.tcp.sock import TcpSock


NET_XMIT_CN: Final = 2
AF_INET: Final = 2


def time_stamp(sk: TcpSock) -> int:
    """The time stamp to send: milliseconds, from a random origin for each peer (RFC 7323 section 5.4)."""
    return (sk.loop.now // MSEC + sk.tsoffset) & SEQ_MASK


def established_header(sk: TcpSock, seq: int, flags: int, window: int, check: int, urg_ptr: int) -> bytes:
    """The header of a segment on a synchronised connection, with time stamp and SACK blocks."""
    dsack = sk.duplicate_sack
    state = sk.ecn if sk.ecn_flags & ecn.TCP_ECN_MODE_ACCECN else None
    if dsack is None and not sk.selective_acks and state is None:
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
        count = min(len(blocks), 3 if stamps is not None else 4)
        fields = -1
        if state is not None:
            fields, count = accecn_option.established_fit(sk, state, count)
        options = wire.build_sack(blocks[:count], stamps)
        if state is not None:
            if fields >= 0:
                options = insert_accecn(options, build_accecn(fields, state.received_bytes))
            accecn_option.option_sent(sk, state, fields >= 0)
        sk.duplicate_sack = None
    return wire.build(sk.sport, sk.dport, seq, sk.rcv_nxt, flags, window, check, urg_ptr, options)


def syn_options(sk: TcpSock, how: Signer | None) -> bytes:
    """The options of a SYN, signed as `how` says (Linux: tcp_syn_options)."""
    tcp = sk.tcp
    stamps = (time_stamp(sk), sk.ts_recent) if tcp.tcp_timestamps else None
    signature = b""
    if how is not None:
        from usernet.transport.tcp.md5 import Md5Key

        signature = how.option
        if isinstance(how.key, Md5Key):
            # SACK is worth more, and there is no room for both.
            stamps = None
    wscale = sk.rcv_wscale if tcp.tcp_window_scaling else -1
    request = sk.tfo.fastopen_req
    if request is None or request.cookie is None:
        return wire.build_syn_options(advertise_mss(sk), wscale, bool(tcp.tcp_sack), stamps, signature=signature)
    options = wire.build_syn_options(
        advertise_mss(sk), wscale, bool(tcp.tcp_sack), stamps, request.cookie, request.cookie_exp, signature
    )
    if len(options) > 40:
        return wire.build_syn_options(advertise_mss(sk), wscale, bool(tcp.tcp_sack), stamps, signature=signature)
    tfo = sk.own_tfo()
    tfo.syn_fastopen = True
    tfo.syn_fastopen_exp = request.cookie_exp
    return options


def synack_options(sk: TcpSock, how: Signer | None) -> bytes:
    """The options of the SYN+ACK of a simultaneous open: what both sides can (RFC 9293 section 3.5)."""
    stamps = (time_stamp(sk), sk.ts_recent) if sk.tstamp_ok else None
    wscale = sk.rcv_wscale if sk.wscale_ok else -1
    signature = b"" if how is None else how.option
    options = wire.build_syn_options(advertise_mss(sk), wscale, sk.sack_ok, stamps)
    if ecn.mode_accecn(sk.ecn_flags) and sk.icsk_retransmits < 2 and sk.tcp.tcp_ecn_option:
        options = accecn_option.add_to_syn(options, sk.sack_ok, sk.tstamp_ok, sk.wscale_ok, len(signature))
    return signature + options


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
    prior_wstamp = sk.wstamp
    if prior_wstamp < now:
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
        if sk.ecn_flags:
            flags |= ecn.send(sk, length > 0 and (seq - sk.snd_nxt) & 0x80000000 == 0, flags)
        if sk.rcv_wup == sk.rcv_nxt and not sk.rmem_alloc and sk.rcv_wnd >= sk.rcv_ssthresh:
            # Nothing was received since the window was last chosen.
            wscale = sk.rcv_wscale
            window = min(sk.rcv_wnd + (1 << wscale) - 1, 65535 << wscale) >> wscale
        else:
            window = select_window(sk)
        if (
            sk.tstamp_ok
            and not sk.urg_mode
            and sk.duplicate_sack is None
            and not sk.selective_acks
            and sk.auth is None
            and not sk.ecn_flags & ecn.TCP_ECN_MODE_ACCECN
        ):
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
            header = _full_header(sk, skb, flags, window)
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
            packet.gso_type = SKB_GSO_TCPV4 if sk.family == AF_INET else SKB_GSO_TCPV6
            if flags & CWR:
                packet.gso_type |= SKB_GSO_TCP_ECN if ecn.mode_rfc3168(sk.ecn_flags) else SKB_GSO_TCP_ACCECN
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
    mark: TxMark | None = skb.tx.mark
    if mark is not None:
        attach(mark, packet, dst.dev.scatter_gather, dst.dev.loopback)
    sk.charge_send(packet)
    if sk.pacing_status == SK_PACING_FQ:
        packet.tstamp = sk.wstamp
    result = sk.af.xmit(sk, packet, dst)
    if result:
        result = local_congestion(sk, result)
        if result:
            return result
    tx: TxInfo = skb.tx
    last = sk.sent.last
    if last is not None and last.mstamp == sk.wstamp and (skb.end_seq - last.skb.end_seq) & 0x80000000:
        # A retransmission after newer data of the same batch, which is one instant on the stack's clock. Where times
        # are equal the sequence numbers tell which was sent first, so this one's is later; else the delivery of that
        # data would prove the retransmission lost.
        sk.wstamp += 1
    tx.mstamp = sk.wstamp
    sk.sent.append(tx)
    rate_skb_sent(sk, skb, tx)
    if sk.pacing_status:
        _pace(sk, length, prior_wstamp)
    return 0


def _pace(sk: TcpSock, size: int, prior_wstamp: int) -> None:
    """When the next segment may leave: after the time that this one's `size` bytes of data take at the pacing rate
    (Linux: tcp_update_skb_after_send)."""
    rate = sk.pacing_rate
    # The first ten packets go as they come: there is no estimate of the path yet.
    if rate and rate != PACING_UNLIMITED and sk.data_segs_out >= 10:
        duration = size * SEC // rate
        # What was sent late is caught up on, but by no more than half.
        sk.wstamp += duration - min(duration >> 1, sk.wstamp - prior_wstamp)


def _syn_header(sk: TcpSock, skb: SKBuff) -> bytes:
    """The header of a SYN, or of a simultaneous open's SYN+ACK."""
    flags = skb.tcp_flags
    how: Signer | None = None
    if sk.auth is not None:
        from usernet.transport.tcp.auth import signer

        how = signer(sk, skb.seq, flags)
    options = synack_options(sk, how) if flags & ACK else syn_options(sk, how)
    sk.rcv_wup = sk.rcv_nxt
    check = _checksum_base(sk, wire.TCP_HLEN + len(options) + skb.len)
    acknowledged = sk.rcv_nxt if flags & ACK else 0
    window = min(sk.rcv_wnd, 65535)
    header = wire.build(sk.sport, sk.dport, skb.seq, acknowledged, flags, window, check, 0, options)
    if how is None:
        return header
    return how.sign(header, wire.TCP_HLEN, sk.saddr, sk.daddr, skb.frags or (), skb.len)


def _full_header(sk: TcpSock, skb: SKBuff, flags: int, window: int) -> bytes:
    """A header with whatever it may need: an urgent pointer, SACK blocks, no time stamp, a signature."""
    seq = skb.seq
    length = skb.len
    urg_ptr = _urgent_pointer(sk, seq) if sk.urg_mode else 0
    if urg_ptr:
        flags |= URG
    if sk.auth is not None:
        from usernet.transport.tcp.auth import signed_header

        return signed_header(sk, seq, flags, window, urg_ptr, skb.frags or (), length)
    if sk.duplicate_sack is None and not sk.selective_acks and not sk.ecn_flags & ecn.TCP_ECN_MODE_ACCECN:
        size = sk.tcp_header_len
    else:
        size = wire.TCP_HLEN + options_size(sk)
    return established_header(sk, seq, flags, window, _checksum_base(sk, size + length), urg_ptr)


def _urgent_pointer(sk: TcpSock, seq: int) -> int:
    """The urgent pointer of a segment that begins at `seq`; 0 where nothing urgent is ahead."""
    if before(seq, sk.snd_up):
        if before(sk.snd_up, (seq + 0x10000) & SEQ_MASK):
            return (sk.snd_up - seq) & SEQ_MASK
        if after((seq + 0xFFFF) & SEQ_MASK, sk.snd_nxt):
            return 0xFFFF
    return 0


def local_congestion(sk: TcpSock, result: int) -> int:
    """The device's queue had no place for a packet, or hardly any: slow down. Returns what became of the packet."""
    from usernet.transport.tcp.recovery import enter_cwr

    if result > 0:
        enter_cwr(sk)
        if result == NET_XMIT_CN:
            return 0
    return result


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


def send_ack(sk: TcpSock, flags: int = 0) -> None:
    """Send a bare acknowledgement, with more flags where that is asked for (Linux: __tcp_send_ack)."""
    if sk.state == TCP_CLOSE:
        return
    _send_control(sk, acceptable_seq(sk), ACK | flags)


def send_ack_up_to(sk: TcpSock, rcv_nxt: int) -> None:
    """Acknowledge what arrived before `rcv_nxt`, though more is here: a delayed acknowledgement that is to be told from
    the one after it (DCTCP; Linux: __tcp_send_ack with a `rcv_nxt`). It changes nothing of what is pending."""
    if sk.state == TCP_CLOSE:
        return
    pending = sk.ack_pending, sk.ack_quick, sk.delack_timer.deadline
    now = sk.rcv_nxt
    window = select_window(sk)
    try:
        sk.rcv_nxt = rcv_nxt
        _send_control(sk, acceptable_seq(sk), ACK, window)
    finally:
        sk.rcv_nxt = now
        sk.ack_pending, sk.ack_quick, deadline = pending
        sk.delack_timer.deadline = deadline


def acceptable_seq(sk: TcpSock) -> int:
    """The sequence number for a segment without data: `snd_nxt`, or the edge of a window that was shrunk."""
    wnd_end = (sk.snd_una + sk.snd_wnd) & SEQ_MASK
    if not before(wnd_end, sk.snd_nxt) or (sk.wscale_ok and (sk.snd_nxt - wnd_end) & SEQ_MASK < (1 << sk.rcv_wscale)):
        return sk.snd_nxt
    return wnd_end


def _send_control(sk: TcpSock, seq: int, flags: int, window: int = -1) -> int:
    """Send a segment that is in no queue: an ACK, a probe, a reset. window: the header's field, where it is chosen
    already. Returns as `transmit_skb`."""
    try:
        dst = sk.route()
    except OSError as failure:
        return -(failure.errno or errno.EHOSTUNREACH)
    if window < 0:
        window = select_window(sk)
    if sk.ecn_flags:
        flags |= ecn.send(sk, False, flags)
    urg_ptr = _urgent_pointer(sk, seq) if sk.urg_mode else 0
    if urg_ptr:
        # Urgent data that the window holds back is announced all the same.
        flags |= URG
    if sk.auth is not None:
        from usernet.transport.tcp.auth import signed_header

        packet = SKBuff(signed_header(sk, seq, flags, window, urg_ptr, (), 0))
    else:
        size = wire.TCP_HLEN + options_size(sk)
        packet = SKBuff(established_header(sk, seq, flags, window, _checksum_base(sk, size), urg_ptr))
    event_ack_sent(sk)
    sk.segs_out += 1
    sk.net.mib.tcp.OutSegs += 1
    result = _send(sk, packet, dst)
    return local_congestion(sk, result) if result else 0


def send_active_reset(sk: TcpSock) -> None:
    """Reset the connection (Linux: tcp_send_active_reset)."""
    net = sk.net
    net.mib.tcp.OutRsts += 1
    if _send_control(sk, acceptable_seq(sk), ACK | RST):
        net.mib.tcp_ext.TCPAbortFailed += 1
    if net.trace.tcp_send_reset.probes:
        net.trace.tcp_send_reset.fire(sk, None)


def xmit_probe(sk: TcpSock, urgent: bool) -> int:
    """A segment with an old sequence number: the peer must answer with an ACK (Linux: tcp_xmit_probe_skb).

    Returns as `transmit_skb`.
    """
    seq = sk.snd_una if urgent else (sk.snd_una - 1) & SEQ_MASK
    sk.net.mib.tcp_ext.TCPWinProbe += 1
    return _send_control(sk, seq, ACK)
