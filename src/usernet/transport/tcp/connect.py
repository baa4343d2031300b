"""Opening and closing from the sender's side, and probing a closed window (Linux: tcp_connect, tcp_send_fin,
tcp_write_wakeup). RFC 9293 sections 3.5, 3.6 and 3.8.6.1.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.transport.tcp import ecn
from usernet.transport.tcp.congestion.base import assign_from_route
from usernet.transport.tcp.const import (
    ICSK_TIME_RETRANS,
    MSEC,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_NAGLE_OFF,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_TIMEOUT_INIT,
    before,
)
from usernet.transport.tcp.mss import current_mss, sync_mss
from usernet.transport.tcp.mtup import mtup_init
from usernet.transport.tcp.output import event_new_data_sent, push_pending_frames, reset_xmit_timer, wnd_end
from usernet.transport.tcp.segment import add_write_queue_tail, fragment, new_segment, set_tso_segs
from usernet.transport.tcp.transmit import transmit_skb, xmit_probe
from usernet.transport.tcp.window import full_space, init_rcv_mss, select_initial_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, AE, CWR, ECE, FIN, PSH, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock


def connect_init(sk: TcpSock) -> None:
    """Prepare the variables of an active open (Linux: tcp_connect_init)."""
    tcp = sk.tcp
    dst = sk.dst
    sk.tcp_header_len = wire.TCP_HLEN
    if tcp.tcp_timestamps:
        sk.tcp_header_len += wire.TCPOLEN_TSTAMP_ALIGNED
    if sk.auth is not None and sk.auth.ao is not None:
        from usernet.transport.tcp.ao import connect_init

        sk.tcp_header_len += connect_init(sk, sk.auth.ao)
    if sk.params.user_mss:
        sk.mss_clamp = sk.params.user_mss
    sk.max_window = 0
    mtup_init(sk)
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
    if not sk.repair:
        sk.rcv_nxt = 0
    sk.rcv_wup = sk.copied_seq = sk.rcv_nxt
    sk.rcv_promised = -1
    sk.rto = TCP_TIMEOUT_INIT
    sk.icsk_retransmits = 0
    sk.clear_retrans()


def connect(sk: TcpSock) -> None:
    """Send the SYN (Linux: tcp_connect). What fails is tried again by the timer.

    Raises OSError EKEYREJECTED where it can't be signed.
    """
    if sk.auth is not None:
        from usernet.transport.tcp.auth import connect_check

        connect_check(sk)
    connect_init(sk)
    assign_from_route(sk)
    if sk.repair:
        from usernet.transport.tcp.repair import connect as connect_repaired

        connect_repaired(sk)
        return
    skb = new_segment(sk.write_seq, SYN)
    skb.tcp_flags |= ecn.send_syn(sk)
    sk.write_seq = skb.end_seq
    sk.retrans_stamp = sk.loop.now // MSEC or 1
    sk.rtx_queue.append(skb)
    sk.wmem_queued += skb.truesize
    sk.packets_out += 1
    if sk.tfo.fastopen_req is None:
        transmit_skb(sk, skb)
    else:
        from usernet.transport.tcp.fastopen_client import send_syn_data

        send_syn_data(sk, skb)
        if sk.tfo.fastopen_req.message is None:
            sk.tfo.fastopen_req = None
    head = sk.write_queue.first
    sk.snd_nxt = sk.pushed_seq = sk.write_seq if head is None else head.seq
    sk.net.mib.tcp.ActiveOpens += 1
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.rto)


def send_synack(sk: TcpSock) -> None:
    """The SYN+ACK of a simultaneous open (Linux: tcp_send_synack): the queued SYN becomes one."""
    skb = sk.rtx_queue.first
    if skb is None or not skb.tcp_flags & SYN:
        return
    if not skb.tcp_flags & ACK:
        skb.tcp_flags = skb.tcp_flags & ~(ECE | CWR | AE) | ACK | ecn.send_synack(sk)
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
            event_new_data_sent(sk, skb)
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
