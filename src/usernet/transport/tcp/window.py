"""The receiver's window: how much the peer may send, and how large the buffer behind it grows.

Linux: tcp_select_initial_window, __tcp_select_window, tcp_grow_window, tcp_rcv_space_adjust. RFC 9293 section 3.8.6,
RFC 7323 section 2, RFC 1122 section 4.2.3.3 (silly-window avoidance: the window opens by a segment at least).

The buffer (`rcvbuf`) is counted in memory, the window in bytes of payload. `scaling_ratio` (of 256) says how much of
the memory is payload; it starts at one half, and follows what the segments received are like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp.const import (
    ICSK_ACK_NOMEM,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    MAX_TCP_WINDOW,
    MSEC,
    SEQ_MASK,
    TCP_MAX_WSCALE,
    TCP_MIN_MSS,
    TCP_MSS_DEFAULT,
    TCP_RMEM_TO_WIN_SCALE,
    after,
)
from usernet.wire.tcp import FIN, PSH, SYN, URG

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

TCP_REMNANT: Final = FIN | URG | SYN | PSH


def win_from_space(sk: TcpSock, space: int) -> int:
    """Bytes of payload that `space` bytes of memory hold (Linux: tcp_win_from_space)."""
    return space * sk.scaling_ratio >> 8


def space_from_win(sk: TcpSock, window: int) -> int:
    """The reverse (Linux: tcp_space_from_win)."""
    return (window << 8) // sk.scaling_ratio


def full_space(sk: TcpSock) -> int:
    """The window of an empty buffer (Linux: tcp_full_space)."""
    return sk.rcvbuf * sk.scaling_ratio >> 8


def free_space(sk: TcpSock) -> int:
    """The window that the free part of the buffer makes (Linux: tcp_space)."""
    return (sk.rcvbuf - sk.rmem_alloc) * sk.scaling_ratio >> 8


def receive_window(sk: TcpSock) -> int:
    """What is left of the window last announced (Linux: tcp_receive_window)."""
    window = (sk.rcv_wup + sk.rcv_wnd - sk.rcv_nxt) & SEQ_MASK
    return 0 if window & 0x80000000 else window


def promised_window(sk: TcpSock) -> int:
    """What must be taken: what is left of the largest window that was announced, also where it has shrunk since, for
    the peer may have sent that much (RFC 7323 section 2.4)."""
    window = receive_window(sk)
    if sk.rcv_promised < 0:
        return window
    left = (sk.rcv_promised - sk.rcv_nxt) & SEQ_MASK
    if left & 0x80000000:
        sk.rcv_promised = -1
        return window
    return max(left, window)


def select_initial_window(
    sk: TcpSock | None, space: int, mss: int, clamp: int, wscale_ok: bool, init_rcv_wnd: int, rmem_max: int = 0
) -> tuple[int, int, int]:
    """The first window, the clamp and the scale to announce (Linux: tcp_select_initial_window).

    space, clamp: bytes; clamp 0 for none. init_rcv_wnd: in segments, 0 for no wish. rmem_max: the largest the buffer
    may grow to (default: the socket's own). Returns (window, clamp, scale).
    """
    if clamp == 0:
        clamp = 65535 << TCP_MAX_WSCALE
    space = min(clamp, max(space, 0))
    if space > mss > 0:
        space = space // mss * mss
    # More than 65,535 where the buffer has room for it, though the SYN can't say so: its field is not scaled.
    window = space
    if sk is not None and sk.tcp.tcp_workaround_signed_windows:
        window = min(window, MAX_TCP_WINDOW)
    if init_rcv_wnd:
        window = min(window, init_rcv_wnd * mss)
    wscale = 0
    if wscale_ok:
        if sk is not None:
            rmem_max = max(sk.tcp.tcp_rmem[2], sk.settings.rmem_max)
        space = max(space, rmem_max)
        space = min(space, clamp)
        while space > 65535 and wscale < TCP_MAX_WSCALE:
            space >>= 1
            wscale += 1
    clamp = min(65535 << wscale, clamp)
    return window, clamp, wscale


def choose_window(sk: TcpSock) -> int:
    """The window to announce (Linux: __tcp_select_window)."""
    mss = sk.rcv_mss
    ratio = sk.scaling_ratio
    rcvbuf = sk.rcvbuf
    space = (rcvbuf - sk.rmem_alloc) * ratio >> 8
    allowed = rcvbuf * ratio >> 8
    full = min(sk.window_clamp, allowed)
    if mss > full:
        mss = full
        if mss <= 0:
            return 0
    wscale = sk.rcv_wscale
    if wscale and sk.tcp.tcp_shrink_window:
        return _choose_shrinking(sk, space, allowed, full, mss)
    if space < full >> 1:
        sk.ack_quick = 0
        space = space >> wscale << wscale
        # Less than a sixteenth of the buffer, or than a segment: rather none than a silly one.
        if space < allowed >> 4 or space < mss:
            return 0
    if space > sk.rcv_ssthresh:
        space = sk.rcv_ssthresh
    if wscale:
        unit = (1 << wscale) - 1
        return (space + unit) & ~unit
    window = sk.rcv_wnd
    if window <= space - mss or window > space:
        return space // mss * mss
    if mss == full and space > window + (full >> 1):
        return space
    return window


def _choose_shrinking(sk: TcpSock, space: int, allowed: int, full: int, mss: int) -> int:
    """The window where it may shrink (net.ipv4.tcp_shrink_window): never more than there is memory for."""
    unit = 1 << sk.rcv_wscale
    space &= -unit
    if space < full >> 1:
        sk.ack_quick = 0
        if space < max(allowed >> 4, mss, unit):
            return 0
    if space > sk.rcv_ssthresh:
        # Upwards, for that threshold is no hard limit, as the buffer is.
        space = (sk.rcv_ssthresh + unit - 1) & -unit
    return space


def select_window(sk: TcpSock) -> int:
    """Choose the window, never shrinking what was granted, and give it as the header's field has it
    (Linux: tcp_select_window)."""
    old = sk.rcv_wnd
    rcv_nxt = sk.rcv_nxt
    if sk.ack_pending & ICSK_ACK_NOMEM:
        # What came could not be taken: the peer is to stop.
        sk.pred_ok = False
        sk.rcv_wnd = 0
        sk.rcv_wup = rcv_nxt
        if old:
            sk.net.mib.tcp_ext.TCPToZeroWindowAdv += 1
        return 0
    current = (sk.rcv_wup + old - rcv_nxt) & SEQ_MASK
    if current & 0x80000000:
        current = 0
    new = choose_window(sk)
    wscale = sk.rcv_wscale
    if new < current:
        if not sk.tcp.tcp_shrink_window or not wscale:
            if new == 0:
                sk.net.mib.tcp_ext.TCPWantZeroWindowAdv += 1
            unit = (1 << wscale) - 1
            new = (current + unit) & ~unit
        elif promised_window(sk) <= current:
            sk.rcv_promised = (rcv_nxt + current) & SEQ_MASK
    sk.rcv_wnd = new
    sk.rcv_wup = rcv_nxt
    if not wscale and sk.tcp.tcp_workaround_signed_windows:
        new = min(new, MAX_TCP_WINDOW)
    new = min(new, 65535 << wscale) >> wscale
    if new == 0:
        sk.pred_ok = False
        if old:
            sk.net.mib.tcp_ext.TCPToZeroWindowAdv += 1
    elif old == 0:
        sk.net.mib.tcp_ext.TCPFromZeroWindowAdv += 1
    return new


def set_window_clamp(sk: TcpSock, clamp: int) -> None:
    """Bound the window, and let it follow up to what was granted (Linux: tcp_set_window_clamp)."""
    old = sk.window_clamp
    sk.window_clamp = clamp
    if clamp < old:
        sk.rcv_ssthresh = min(sk.rcv_ssthresh, clamp)
    elif clamp > old:
        sk.rcv_ssthresh = max(min(sk.rcv_wnd, clamp), sk.rcv_ssthresh)


def init_rcv_mss(sk: TcpSock) -> None:
    """A first guess of the peer's segment size (Linux: tcp_initialize_rcv_mss)."""
    hint = min(sk.advmss, sk.mss_cache, sk.rcv_wnd // 2)
    sk.rcv_mss = max(min(hint, TCP_MSS_DEFAULT), TCP_MIN_MSS)


def measure_rcv_mss(sk: TcpSock, skb: SKBuff) -> None:
    """Learn the peer's segment size, and how much of the memory is payload (Linux: tcp_measure_rcv_mss)."""
    last = sk.last_seg_size
    sk.last_seg_size = 0
    length = skb.gso_size or skb.len
    if length >= sk.rcv_mss:
        if length != sk.rcv_mss:
            ratio = min(max((skb.len << TCP_RMEM_TO_WIN_SCALE) // skb.truesize, 1), 255)
            if ratio != sk.scaling_ratio:
                sk.scaling_ratio = ratio
                set_window_clamp(sk, win_from_space(sk, sk.rcvbuf))
                sk.rcvq_space = min(sk.rcvq_space, sk.window_clamp)
        sk.rcv_mss = min(length, sk.advmss)
        # One segment of full size that ends a write: the sender may be waiting for our acknowledgement.
        if skb.tcp_flags & PSH:
            sk.ack_pending |= ICSK_ACK_PUSHED
        return
    # Smaller than before. SACK blocks make the size vary, so judge by the length with the header.
    length += skb.data - skb.transport_header
    if length >= TCP_MSS_DEFAULT + 20 or (length >= TCP_MIN_MSS + 20 and not skb.tcp_flags & TCP_REMNANT):
        length -= sk.tcp_header_len
        sk.last_seg_size = length
        if length == last:
            sk.rcv_mss = length
            return
    if sk.ack_pending & ICSK_ACK_PUSHED:
        sk.ack_pending |= ICSK_ACK_PUSHED2
    sk.ack_pending |= ICSK_ACK_PUSHED


def init_buffer_space(sk: TcpSock) -> None:
    """The connection is established: fix buffers and clamps (Linux: tcp_init_buffer_space)."""
    sk.expand_send_buffer()
    sk.rcvq_mstamp = sk.loop.now
    sk.rcvq_seq = sk.copied_seq
    maximum = full_space(sk)
    if sk.window_clamp >= maximum:
        sk.window_clamp = maximum
        app_win = sk.tcp.tcp_app_win
        if app_win and maximum > 4 * sk.advmss:
            sk.window_clamp = max(maximum - (maximum >> app_win), 4 * sk.advmss)
    app_win = sk.tcp.tcp_app_win
    if app_win and sk.window_clamp > 2 * sk.advmss and sk.window_clamp + sk.advmss > maximum:
        sk.window_clamp = max(2 * sk.advmss, maximum - sk.advmss)
    sk.rcv_ssthresh = min(sk.rcv_ssthresh, sk.window_clamp)
    sk.snd_cwnd_stamp = sk.loop.now
    sk.rcvq_space = min(sk.rcv_ssthresh, sk.rcv_wnd, 10 * sk.advmss)


def grow_window(sk: TcpSock, skb: SKBuff, adjust: bool) -> None:
    """Open the window along with what arrives well packed (Linux: tcp_grow_window)."""
    room = min(sk.window_clamp, free_space(sk)) - sk.rcv_ssthresh
    if room <= 0:
        return
    truesize = skb.truesize
    if win_from_space(sk, truesize) <= skb.len:
        increase = 2 * sk.advmss
    else:
        increase = _grow_small(sk, skb)
    if increase:
        increase = max(increase, 2 * skb.len)
        sk.rcv_ssthresh += min(room, increase)
        sk.ack_quick |= 1


def _grow_small(sk: TcpSock, skb: SKBuff) -> int:
    """Small segments: only while the window is small beside the buffer (Linux: __tcp_grow_window)."""
    truesize = win_from_space(sk, skb.truesize) >> 1
    window = win_from_space(sk, sk.tcp.tcp_rmem[2]) >> 1
    while sk.rcv_ssthresh <= window:
        if truesize <= skb.len:
            return 2 * sk.rcv_mss
        truesize >>= 1
        window >>= 1
    return 0


def clamp_window(sk: TcpSock) -> None:
    """The buffer overflows: grow it while that is allowed, else close the window (Linux: tcp_clamp_window)."""
    sk.ack_quick = 0
    limit = sk.tcp.tcp_rmem[2]
    if sk.rcvbuf < limit and not sk.rcvbuf_locked:
        sk.rcvbuf = min(sk.rmem_alloc, limit)
    if sk.rmem_alloc > sk.rcvbuf:
        sk.rcv_ssthresh = min(sk.window_clamp, 2 * sk.advmss)


def rcv_rtt_update(sk: TcpSock, sample_us: int, win_dep: bool) -> None:
    """The round trip as the receiver sees it (Linux: tcp_rcv_rtt_update): eight times smoothed, in µs."""
    new = sk.rcv_rtt_us
    sample = sample_us or 1
    if new:
        if not win_dep:
            new += sample - (new >> 3)
        else:
            new = min(sample << 3, new)
    else:
        new = sample << 3
    sk.rcv_rtt_us = new


def rcv_rtt_measure(sk: TcpSock) -> None:
    """Without time stamps: how long a window of data takes to arrive (Linux: tcp_rcv_rtt_measure)."""
    now = sk.loop.now
    if sk.rcv_rtt_time:
        if (sk.rcv_nxt - sk.rcv_rtt_seq) & 0x80000000:
            return
        rcv_rtt_update(sk, (now - sk.rcv_rtt_time) // 1000, True)
    sk.rcv_rtt_seq = (sk.rcv_nxt + sk.rcv_wnd) & SEQ_MASK
    sk.rcv_rtt_time = now


def rcv_rtt_measure_ts(sk: TcpSock, skb: SKBuff) -> None:
    """By the time stamp the peer echoes (Linux: tcp_rcv_rtt_measure_ts)."""
    if sk.rx_tsecr == sk.rcv_rtt_last_tsecr:
        return
    sk.rcv_rtt_last_tsecr = sk.rx_tsecr
    if skb.end_seq - skb.seq & SEQ_MASK >= sk.rcv_mss:
        delta = (sk.loop.now // MSEC + sk.tsoffset - sk.rx_tsecr) & SEQ_MASK
        if delta < 0x10000000:
            rcv_rtt_update(sk, max(delta, 1) * 1000 if delta else 1000, False)


def rcvbuf_grow(sk: TcpSock, space: int) -> None:
    """Let the buffer hold what a sender may send that doubles its window each round trip, with what waits out of order
    on top (Linux: tcp_rcvbuf_grow). space: bytes read in the last round trip."""
    old = max(sk.rcvq_space, 1)
    sk.rcvq_space = space
    tcp = sk.tcp
    if not tcp.tcp_moderate_rcvbuf or sk.rcvbuf_locked:
        return
    # What is measured now is of the round trip before.
    window = space << 1
    window += 2 * (window * (space - old) // old)
    if sk.ofo:
        window += (sk.ofo[-1].end_seq - sk.rcv_nxt) & SEQ_MASK
    rcvbuf = min(space_from_win(sk, window), tcp.tcp_rmem[2])
    if rcvbuf > sk.rcvbuf:
        sk.rcvbuf = rcvbuf
        sk.window_clamp = win_from_space(sk, rcvbuf)


def rcv_space_adjust(sk: TcpSock) -> None:
    """Once a round trip: let the buffer follow how fast the application reads (Linux: tcp_rcv_space_adjust)."""
    now = sk.loop.now
    trace = sk.net.trace.tcp_rcv_space_adjust
    if trace.probes:
        trace.fire(sk)
    elapsed_us = (now - sk.rcvq_mstamp) // 1000
    if elapsed_us < (sk.rcv_rtt_us >> 3) or not sk.rcv_rtt_us:
        return
    # What waits in the queue was not read within this round trip by choice of the application.
    copied = ((sk.copied_seq - sk.rcvq_seq) & SEQ_MASK) - ((sk.rcv_nxt - sk.copied_seq) & SEQ_MASK)
    if copied > sk.rcvq_space:
        trace = sk.net.trace.tcp_rcvbuf_grow
        if trace.probes:
            trace.fire(sk, elapsed_us)
        rcvbuf_grow(sk, copied)
    sk.rcvq_seq = sk.copied_seq
    sk.rcvq_mstamp = now


def in_window(seq: int, end_seq: int, start: int, end: int) -> bool:
    """Whether a segment overlaps the window (RFC 9293 section 3.4; Linux: tcp_in_window)."""
    if seq == start:
        return True
    if after(end_seq, start) and (seq - end) & 0x80000000:
        return True
    return seq == end and seq == end_seq
