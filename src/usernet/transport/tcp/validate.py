"""Whether a segment is acceptable, before anything else is made of it (Linux: tcp_validate_incoming): time stamps and
PAWS (RFC 7323), sequence numbers (RFC 9293 section 3.4), RST and SYN (RFC 5961).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.tcp import ecn
from usernet.transport.tcp.const import (
    FLAG_TS_PROGRESS,
    SEC,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_LAST_ACK,
    TCP_PAWS_MSL,
    TCP_PAWS_WINDOW,
    TCP_PAWS_WRAP,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    after,
    before,
)
from usernet.transport.tcp.delack import send_dupack
from usernet.transport.tcp.fastopen_blackhole import active_disable
from usernet.transport.tcp.window import promised_window
from usernet.wire import tcp as wire
from usernet.wire.tcp import ACK, FIN, RST, SYN

if TYPE_CHECKING:
    from usernet.transport.tcp.request import RequestSock
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.timewait import TimeWaitSock


def replace_ts_recent(sk: TcpSock, seq: int) -> int:
    """Keep the time stamp of a segment at the left edge (RFC 7323 section 4.3; Linux: tcp_replace_ts_recent).

    Returns FLAG_TS_PROGRESS where it is a later one, else 0.
    """
    if sk.saw_tstamp and not after(seq, sk.rcv_wup):
        # An acknowledgement that was overtaken must not take the clock back.
        if (sk.rx_tsval - sk.ts_recent) & 0x80000000 == 0 or sk.loop.now - sk.ts_recent_stamp >= TCP_PAWS_WRAP * SEC:
            progress = (sk.rx_tsval - sk.ts_recent) & SEQ_MASK
            sk.ts_recent = sk.rx_tsval
            sk.ts_recent_stamp = sk.loop.now
            return FLAG_TS_PROGRESS if 0 < progress < 0x80000000 else 0
    return 0


def paws_reject(ts_recent: int, stamp: int, tsval: int, now: int, window: int = 0, rst: bool = False) -> bool:
    """Whether a segment is from the past (RFC 7323 section 5; Linux: tcp_paws_check, tcp_paws_reject).

    stamp, now: ns. window: how far (ms) its time stamp may lie back all the same. rst: it resets, which a peer that has
    lost its clock must be able to do once no older segment can be under way.
    """
    if (ts_recent - tsval + 0x80000000) & SEQ_MASK <= window + 0x80000000:
        return False
    age = now - stamp
    if age >= TCP_PAWS_WRAP * SEC or (rst and age >= TCP_PAWS_MSL * SEC):
        return False
    return ts_recent != 0


def _disordered_ack(sk: TcpSock, skb: SKBuff, window: int) -> DropReason | None:
    """Why a segment that fails PAWS is no bare acknowledgement that was merely overtaken; None where it is one, and
    good. window: as it came (Linux: tcp_disordered_ack_check)."""
    seq = skb.seq
    if not skb.tcp_flags & ACK or seq != skb.end_seq:
        return DropReason.TCP_RFC7323_PAWS
    if seq != sk.rcv_nxt:
        return DropReason.TCP_RFC7323_PAWS_ACK if before(seq, sk.rcv_nxt) else DropReason.TCP_RFC7323_PAWS
    if skb.ack_seq != sk.snd_una:
        return DropReason.TCP_RFC7323_PAWS
    # One that would move the window could be an old one, which takes room back that was given since.
    window <<= sk.snd_wscale
    if after(seq, sk.snd_wl1) or (seq == sk.snd_wl1 and (window > sk.snd_wnd or not window)):
        return DropReason.TCP_RFC7323_PAWS
    behind = (sk.ts_recent - sk.rx_tsval) & SEQ_MASK
    return None if behind <= sk.rto * 1024 // SEC else DropReason.TCP_RFC7323_PAWS


def parse_options(sk: TcpSock, skb: SKBuff, doff: int) -> DropReason | None:
    """Read a segment's time stamp and SACK blocks into the socket (Linux: tcp_parse_options). Returns why it must be
    dropped, where it brings a signature that nobody asked for, or malformed options."""
    sk.rx_sacks = None
    if sk.ecn is not None:
        sk.ecn.rx_option = None
    if doff == wire.TCP_HLEN:
        sk.saw_tstamp = False
        return None
    start = skb.transport_header + wire.TCP_HLEN
    if doff == wire.TCP_HLEN + wire.TCPOLEN_TSTAMP_ALIGNED and sk.tstamp_ok:
        stamps = wire.parse_ts(skb.head, start)
        if stamps is not None:
            sk.rx_tsval, sk.rx_tsecr = stamps
            sk.saw_tstamp = True
            return None
    options = wire.parse_options(skb.head, start, skb.transport_header + doff)
    if sk.tstamp_ok and options.has_ts:
        sk.saw_tstamp = True
        sk.rx_tsval = options.tsval
        sk.rx_tsecr = options.tsecr
    else:
        sk.saw_tstamp = False
    if sk.sack_ok:
        sk.rx_sacks = options.sacks
    if sk.ecn is not None:
        sk.ecn.rx_option = options.accecn
    # For a socket with keys this was done before anything else (auth_input.py).
    if not options.auth or sk.auth is not None:
        return None
    from usernet.transport.tcp import auth_input

    return auth_input.inbound_hash(sk, skb, doff)


def oow_rate_limited(sk: TcpSock, skb: SKBuff, paws: bool = False) -> bool:
    """Whether answering an unacceptable segment would feed a loop of acknowledgements (Linux: tcp_oow_rate_limited)."""
    if skb.seq != skb.end_seq and not skb.tcp_flags & SYN:
        return False
    return sk.oow_limited(paws)


def _sequence(sk: TcpSock, seq: int, end_seq: int, fin: int) -> DropReason | None:
    """Whether a segment is acceptable (RFC 9293 section 3.10.7.4, first; Linux: tcp_sequence)."""
    if before(end_seq, sk.rcv_wup):
        return DropReason.TCP_OLD_SEQUENCE
    edge = (sk.rcv_nxt + promised_window(sk)) & SEQ_MASK
    if after((end_seq - fin) & SEQ_MASK, edge):
        if after(seq, edge):
            return DropReason.TCP_INVALID_SEQUENCE
        # Beyond the window in part (a FIN alone takes no room): only where nothing waits to be read.
        if sk.receive_queue.first is not None:
            return DropReason.TCP_INVALID_END_SEQUENCE
    return None


def _reset_check(sk: TcpSock, skb: SKBuff) -> bool:
    """A reset one below what is expected, after the peer's FIN: some stacks send it so (Linux: tcp_reset_check)."""
    return skb.seq == (sk.rcv_nxt - 1) & SEQ_MASK and sk.state in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING)


def tcp_reset(sk: TcpSock, skb: SKBuff) -> None:
    """The peer reset the connection (Linux: tcp_reset)."""
    trace = sk.net.trace.tcp_receive_reset
    if trace.probes:
        trace.fire(sk)
    state = sk.state
    if state == TCP_SYN_SENT:
        sk.err = errno.ECONNREFUSED
    elif state == TCP_CLOSE_WAIT:
        sk.err = errno.EPIPE
    elif state == TCP_CLOSE:
        return
    else:
        sk.err = errno.ECONNRESET
    sk.write_queue_purge()
    sk.done()
    if not sk.dead:
        sk.error_report()


def validate_incoming(sk: TcpSock, skb: SKBuff, doff: int, window: int, syn_inerr: bool) -> DropReason | None:
    """Check a segment before anything else; None where it is good (Linux: tcp_validate_incoming)."""
    flags = skb.tcp_flags
    mib = sk.net.mib
    reason = parse_options(sk, skb, doff)
    if reason is not None:
        return reason
    if sk.saw_tstamp and paws_reject(
        sk.ts_recent, sk.ts_recent_stamp, sk.rx_tsval, sk.loop.now, TCP_PAWS_WINDOW
    ):
        # A reset is taken even so.
        why = None if flags & RST else _disordered_ack(sk, skb, window)
        if why is not None:
            if flags & SYN:
                return _syn_challenge(sk, syn_inerr, 0)
            if why is DropReason.TCP_RFC7323_PAWS_ACK:
                # Common, and nothing to tell anyone of.
                mib.tcp_ext.PAWSOldAck += 1
                return why
            mib.tcp_ext.PAWSEstab += 1
            if not oow_rate_limited(sk, skb, True):
                send_dupack(sk, skb)
            return why
    reason = _sequence(sk, skb.seq, skb.end_seq, flags & FIN)
    if reason is not None:
        if not flags & RST:
            if flags & SYN:
                return _syn_challenge(sk, syn_inerr, 0)
            if reason is not DropReason.TCP_OLD_SEQUENCE:
                mib.tcp_ext.BeyondWindow += 1
            if not oow_rate_limited(sk, skb):
                send_dupack(sk, skb)
        elif _reset_check(sk, skb):
            tcp_reset(sk, skb)
            return DropReason.TCP_RESET
        return reason
    if flags & RST:
        # RFC 5961 section 3.2: exactly what is expected, or the right edge of what was received out of order.
        if skb.seq == sk.rcv_nxt or _reset_check(sk, skb):
            tcp_reset(sk, skb)
            return DropReason.TCP_RESET
        if sk.sack_ok and sk.selective_acks:
            edge = sk.selective_acks[0][1]
            for _, end in sk.selective_acks[1:]:
                if after(end, edge):
                    edge = end
            if skb.seq == edge:
                tcp_reset(sk, skb)
                return DropReason.TCP_RESET
        if sk.tfo.syn_fastopen and not sk.data_segs_in and sk.state == TCP_ESTABLISHED:
            active_disable(sk.tcp)
        sk.send_challenge_ack()
        return DropReason.TCP_RESET
    if flags & SYN:
        reflected = ecn.challenged(sk, skb) if sk.ecn_flags else 0
        if (
            sk.state == TCP_SYN_RECV
            and not sk.dead
            and flags & ACK
            and (skb.seq + 1) & SEQ_MASK == skb.end_seq == sk.rcv_nxt
            and skb.ack_seq == sk.snd_nxt
        ):
            # The second half of a simultaneous open.
            return None
        return _syn_challenge(sk, syn_inerr, reflected)
    return None


def _syn_challenge(sk: TcpSock, syn_inerr: bool, reflected: int) -> DropReason:
    """A SYN on a synchronised connection: challenge, with more flags where ECN wants some (RFC 5961 section 4.2)."""
    mib = sk.net.mib
    if syn_inerr:
        mib.tcp.InErrs += 1
    mib.tcp_ext.TCPSYNChallenge += 1
    sk.send_challenge_ack(reflected)
    return DropReason.TCP_INVALID_SYN


def inbound_hash(
    sk: TcpSock | TimeWaitSock, skb: SKBuff, doff: int, request: RequestSock | None = None
) -> DropReason | None:
    """Why a segment must be dropped for its signature or for its lack of one, None where it is good: what auth_input.py
    says, which is loaded when a segment is signed, or should be."""
    start = skb.transport_header
    if (
        sk.auth is None
        and (request is None or not request.used_ao)
        and wire.parse_auth_options(skb.head, start + wire.TCP_HLEN, start + doff) == (0, 0)
    ):
        return None
    from usernet.transport.tcp import auth_input

    return auth_input.inbound_hash(sk, skb, doff, request)
