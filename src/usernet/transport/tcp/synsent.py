"""A segment in SYN-SENT: the answer to our SYN, or a simultaneous open (RFC 9293 section 3.10.7.3; Linux:
tcp_rcv_synsent_state_process).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usernet.net.dst import RTAX_QUICKACK
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp import ecn
from usernet.transport.tcp.ack import tcp_ack
from usernet.transport.tcp.connect import send_synack
from usernet.transport.tcp.const import (
    FLAG_SLOWPATH,
    ICSK_ACK_SCHED,
    MSEC,
    SEQ_MASK,
    TCP_DELACK_MAX,
    TCP_ESTABLISHED,
    TCP_MAX_QUICKACKS,
    TCP_MAX_WSCALE,
    TCP_SYN_RECV,
    TCP_TIMEOUT_MIN_US,
    after,
    before,
)
from usernet.transport.tcp.cwnd import init_cwnd
from usernet.transport.tcp.data import data_queue, fast_path_check
from usernet.transport.tcp.delack import enter_quickack_mode
from usernet.transport.tcp.metrics import init_metrics
from usernet.transport.tcp.mss import sync_mss
from usernet.transport.tcp.mtup import mtup_init
from usernet.transport.tcp.output import push_pending
from usernet.transport.tcp.transmit import send_ack
from usernet.transport.tcp.validate import paws_reject, tcp_reset
from usernet.transport.tcp.window import init_buffer_space, init_rcv_mss
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.wire.tcp import TcpHeader


def finish_connect(sk: TcpSock) -> None:
    """The handshake of an active open is done (Linux: tcp_finish_connect)."""
    sk.set_state(TCP_ESTABLISHED)
    sk.ack_lrcvtime = sk.loop.now
    init_transfer(sk)
    # A keepalive counts from here.
    if sk.keepopen:
        sk.reset_keepalive_timer(sk.keepalive_time())
    fast_path_check(sk)


def init_transfer(sk: TcpSock) -> None:
    """Prepare for data (Linux: tcp_init_transfer, tcp_init_metrics)."""
    mtup_init(sk)
    init_metrics(sk)
    dst = sk.dst
    if dst is not None:
        sk.dst_quick_ack = bool(dst.metric(RTAX_QUICKACK))
    # RFC 5681 section 3.1: after a lost SYN the window starts at one. Linux: after two, as a second is little to wait.
    sk.snd_cwnd = 1 if sk.total_retrans > 1 and sk.undo_active else init_cwnd(sk)
    sk.init_congestion_control()
    if sk.tcp.tcp_newcwv and not sk.ca.has_cong_control:
        from usernet.transport.tcp.cwv import CwndValidation

        sk.cwv = CwndValidation(sk)
    if not sk.buffers_ready:
        sk.buffers_ready = True
        init_buffer_space(sk)
    sk.snd_cwnd_stamp = sk.loop.now


def undo_spurious_syn(sk: TcpSock) -> None:
    """The first SYN, or SYN+ACK, is what the peer echoes the time stamp of: none was lost, so the window need not start
    at one (Linux: tcp_try_undo_spurious_syn)."""
    stamp = sk.retrans_stamp
    if sk.undo_active and stamp and sk.saw_tstamp and (sk.rx_tsecr - sk.tsoffset) & SEQ_MASK == stamp & SEQ_MASK:
        sk.undo_marker = 0
        sk.undo_active = False


def _synsent_reset(sk: TcpSock, skb: SKBuff) -> None:
    """An acknowledgement of what was never sent, in SYN-SENT: answer with a reset (RFC 9293 section 3.10.7.3)."""
    sk.tcp.send_reset(skb, sk)


def rcv_synsent(sk: TcpSock, skb: SKBuff, th: TcpHeader) -> None:
    """A segment in SYN-SENT (RFC 9293 section 3.10.7.3; Linux: tcp_rcv_synsent_state_process)."""
    ack, doff, flags, window = th[3], th[4], th[5], th[6]
    drops = sk.net.drops
    mib = sk.net.mib.tcp_ext
    start = skb.transport_header + wire.TCP_HLEN
    options = wire.parse_options(skb.head, start, skb.transport_header + doff)
    saw_tstamp = options.has_ts and bool(sk.tcp.tcp_timestamps)
    sk.saw_tstamp = saw_tstamp
    sk.rx_tsval = options.tsval
    sk.rx_tsecr = options.tsecr
    sk.rx_sacks = None
    if flags & ACK:
        if not after(ack, sk.snd_una) or after(ack, sk.snd_nxt):
            # An old duplicate, or a stranger. After our first retransmission, try again soon.
            if sk.icsk_retransmits == 0:
                sk.retransmit_timer.mod(sk.loop.now + TCP_TIMEOUT_MIN_US * 1000)
            if not flags & RST:
                _synsent_reset(sk, skb)
            skb.drop(DropReason.TCP_INVALID_ACK_SEQUENCE, drops)
            return
        if saw_tstamp and options.tsecr and not _echo_possible(sk, options.tsecr):
            mib.PAWSActive += 1
            if not flags & RST:
                _synsent_reset(sk, skb)
            skb.drop(DropReason.TCP_RFC7323_TSECR, drops)
            return
        if flags & RST:
            tcp_reset(sk, skb)
            skb.drop(DropReason.TCP_RESET, drops)
            return
        if not flags & SYN:
            skb.drop(DropReason.TCP_FLAGS, drops)
            return
        if sk.ecn_flags:
            if sk.ecn is not None:
                sk.ecn.rx_option = options.accecn
            ecn.receive_synack(sk, skb)
        sk.snd_wl1 = skb.seq
        undo_spurious_syn(sk)
        # The window of a SYN is never scaled.
        sk.rcv_nxt = (skb.seq + 1) & SEQ_MASK
        sk.sack_ok = options.sack_ok and bool(sk.tcp.tcp_sack)
        tcp_ack(sk, skb, window, FLAG_SLOWPATH)
        sk.rcv_wup = (skb.seq + 1) & SEQ_MASK
        sk.snd_wnd = window
        _take_syn_options(sk, options, saw_tstamp, True)
        sk.copied_seq = sk.rcv_nxt
        if sk.auth is not None and sk.auth.ao is not None:
            from usernet.transport.tcp import ao

            ao.finish_connect(sk, sk.auth.ao, skb.seq)
        finish_connect(sk)
        fastopen = sk.tfo.syn_fastopen or sk.tfo.syn_data
        failed = False
        if fastopen:
            from usernet.transport.tcp.fastopen_client import rcv_synack

            failed = rcv_synack(sk, skb, options, doff)
        sk.state_change()
        if failed:
            skb.consume()
            if sk.write_queue.first is not None:
                push_pending(sk)
            return
        if (
            sk.write_queue.first is not None
            or (sk.tfo.fastopen_req is not None and sk.tfo.fastopen_req.pending)
            or sk.request_queue.defer_accept
            or sk.in_pingpong()
        ) and not flags & FIN:
            # Data will follow, which carries the acknowledgement.
            sk.ack_pending |= ICSK_ACK_SCHED
            enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
            sk.delack_timer.mod(sk.loop.now + TCP_DELACK_MAX)
            skb.consume()
            if sk.write_queue.first is not None:
                push_pending(sk)
            return
        if not fastopen and (skb.len > doff or flags & FIN):
            skb.seq = (skb.seq + 1) & SEQ_MASK
            data_queue(sk, skb, doff)
        else:
            skb.consume()
        send_ack(sk, ecn.reflect(sk) if sk.ecn_flags else 0)
        return
    if flags & RST:
        skb.drop(DropReason.TCP_RESET, drops)
        return
    if saw_tstamp and sk.ts_recent_stamp and paws_reject(
        sk.ts_recent, sk.ts_recent_stamp, options.tsval, sk.loop.now
    ):
        skb.drop(DropReason.TCP_RFC7323_PAWS, drops)
        return
    if flags & SYN:
        # Both open at the same time (RFC 9293 section 3.5, figure 8).
        if sk.auth is not None and sk.auth.ao is not None:
            from usernet.transport.tcp import ao

            ao.finish_connect(sk, sk.auth.ao, skb.seq)
        if sk.ecn_flags:
            ecn.receive_syn(sk, skb)
        sk.set_state(TCP_SYN_RECV)
        sk.sack_ok = options.sack_ok and bool(sk.tcp.tcp_sack)
        sk.rcv_nxt = (skb.seq + 1) & SEQ_MASK
        sk.copied_seq = sk.rcv_nxt
        sk.rcv_wup = (skb.seq + 1) & SEQ_MASK
        sk.snd_wnd = window
        sk.snd_wl1 = skb.seq
        sk.max_window = window
        _take_syn_options(sk, options, saw_tstamp, False)
        send_synack(sk)
        skb.consume()
        return
    skb.drop(DropReason.TCP_FLAGS, drops)


def _echo_possible(sk: TcpSock, tsecr: int) -> bool:
    """Whether the echoed time stamp lies between the first SYN and now. `retrans_stamp` is never 0, so it may be 1 too
    late at the origin of the clock."""
    now = sk.loop.now // MSEC
    echoed = (tsecr - sk.tsoffset) & SEQ_MASK
    return not before(echoed, (sk.retrans_stamp - 1) & SEQ_MASK) and not after(echoed, now & SEQ_MASK)


def _take_syn_options(sk: TcpSock, options: wire.TcpOptions, saw_tstamp: bool, synack: bool) -> None:
    """What the peer's SYN says of itself: scale, time stamps, MSS."""
    if options.wscale >= 0 and sk.tcp.tcp_window_scaling:
        sk.wscale_ok = True
        sk.snd_wscale = min(options.wscale, TCP_MAX_WSCALE)
    else:
        sk.wscale_ok = False
        sk.snd_wscale = sk.rcv_wscale = 0
        sk.window_clamp = min(sk.window_clamp, 65535)
    if saw_tstamp:
        sk.tstamp_ok = True
        sk.tcp_header_len = wire.TCP_HLEN + wire.TCPOLEN_TSTAMP_ALIGNED
        if synack:
            sk.advmss -= wire.TCPOLEN_TSTAMP_ALIGNED
        sk.ts_recent = options.tsval
        sk.ts_recent_stamp = sk.loop.now
    else:
        sk.tstamp_ok = False
        sk.tcp_header_len = wire.TCP_HLEN
    mss = options.mss or 536
    if sk.params.user_mss and sk.params.user_mss < mss:
        mss = sk.params.user_mss
    sk.mss_clamp = mss
    mtup_init(sk)
    sync_mss(sk, sk.pmtu_cookie)
    init_rcv_mss(sk)
