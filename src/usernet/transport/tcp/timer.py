"""TCP's timers (Linux: net/ipv4/tcp_timer.c).

One timer serves retransmission, loss probe, reordering and window probe, of which only one is ever needed
(`icsk_pending` says which). The second delays acknowledgements; the third keeps alive, and ends FIN-WAIT-2.

RFC 6298 (retransmission), RFC 1122 section 4.2.3.5 (giving up) and 4.2.3.6 (keepalive), RFC 5482 (user time-out).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from usernet.sock.sockopt import SOCK_NO_TXREHASH
from usernet.transport.tcp.ack import set_rto
from usernet.transport.tcp.connect import send_probe0, write_wakeup
from usernet.transport.tcp.const import (
    ICSK_ACK_SCHED,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    MSEC,
    TCP_ATO_MIN,
    TCP_CA_DISORDER,
    TCP_CA_LOSS,
    TCP_CA_RECOVERY,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_INFINITE_SSTHRESH,
    TCP_LISTEN,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIMEOUT_INIT,
    TCP_TIMEWAIT_LEN,
)
from usernet.transport.tcp.fastopen_blackhole import detect_blackhole
from usernet.transport.tcp.mtup import mtu_probing
from usernet.transport.tcp.output import reset_xmit_timer
from usernet.transport.tcp.recovery import enter_loss, reo_timeout
from usernet.transport.tcp.retransmit import retransmit_skb, send_loss_probe
from usernet.transport.tcp.transmit import send_ack, send_active_reset

if TYPE_CHECKING:
    from usernet.skbuff.skbuff import SKBuff
    from usernet.transport.tcp.sock import TcpSock

TCP_THIN_LINEAR_RETRIES = 6


def model_timeout(boundary: int, base: int, maximum: int) -> int:
    """How long (ns) `boundary` retransmissions with exponential back-off from `base` take (tcp_model_timeout)."""
    threshold = max((maximum // base).bit_length() - 1, 0)
    if boundary <= threshold:
        return ((2 << boundary) - 1) * base
    return ((2 << threshold) - 1) * base + (boundary - threshold) * maximum


def retransmits_timed_out(sk: TcpSock, boundary: int, timeout: int) -> bool:
    """Whether retransmitting has gone on for too long: for `timeout` (ns), or, where that is 0, for as long as
    `boundary` retransmissions take (Linux: retransmits_timed_out)."""
    if not sk.icsk_retransmits:
        return False
    if not timeout:
        base = TCP_TIMEOUT_INIT if sk.state in (TCP_SYN_SENT, TCP_SYN_RECV) else sk.rto_min_us() * 1000
        timeout = model_timeout(boundary, base, sk.rto_max)
    elapsed_ms = sk.loop.now // MSEC - sk.retrans_stamp
    return elapsed_ms * MSEC >= timeout // MSEC * MSEC


def write_err(sk: TcpSock) -> None:
    """Give up (Linux: tcp_write_err)."""
    sk.err = sk.err_soft or errno.ETIMEDOUT
    sk.write_queue_purge()
    sk.done()
    sk.net.mib.tcp_ext.TCPAbortOnTimeout += 1
    if not sk.dead:
        sk.error_report()


def orphan_retries(sk: TcpSock, alive: bool) -> int:
    """How often to retry for a socket nobody holds (Linux: tcp_orphan_retries)."""
    retries = sk.tcp.tcp_orphan_retries
    if sk.err_soft and not alive:
        return 0
    if retries == 0 and alive:
        return 8
    return retries


def out_of_resources(sk: TcpSock, do_reset: bool) -> bool:
    """Whether there are too many orphans to keep this one (Linux: tcp_out_of_resources)."""
    tcp = sk.tcp
    shift = 0
    # Those who don't answer, or whose window stays closed, go first.
    if sk.loop.now - sk.lsndtime > 2 * sk.rto_max or not do_reset:
        shift += 1
    if sk.err_soft:
        shift += 1
    if len(tcp.orphans) << shift > tcp.tcp_max_orphans:
        if sk.loop.now - sk.lsndtime <= TCP_TIMEWAIT_LEN or (not sk.snd_wnd and not sk.packets_out):
            do_reset = True
        if do_reset:
            send_active_reset(sk)
        sk.done()
        sk.net.mib.tcp_ext.TCPAbortOnMemory += 1
        return True
    return False


def write_timeout(sk: TcpSock) -> bool:
    """The timer fired: whether to give up, which is done then (Linux: tcp_write_timeout)."""
    tcp = sk.tcp
    expired = False
    if sk.state in (TCP_SYN_SENT, TCP_SYN_RECV):
        if sk.icsk_retransmits:
            sk.dst_negative_advice()
        retry_until = sk.params.syn_retries or tcp.tcp_syn_retries
        limit = retry_until
        if sk.state == TCP_SYN_SENT:
            limit += tcp.tcp_syn_linear_timeouts
        expired = sk.icsk_retransmits >= limit
    else:
        if retransmits_timed_out(sk, tcp.tcp_retries1, 0):
            mtu_probing(sk)
            sk.dst_negative_advice()
        retry_until = tcp.tcp_retries2
        if sk.dead:
            alive = sk.rto < sk.rto_max
            retry_until = orphan_retries(sk, alive)
            do_reset = alive or not retransmits_timed_out(sk, retry_until, 0)
            if out_of_resources(sk, do_reset):
                return True
    if not expired:
        expired = retransmits_timed_out(sk, retry_until, sk.params.user_timeout)
    detect_blackhole(sk, expired)
    if expired:
        write_err(sk)
        return True
    if not sk.sock_flags & SOCK_NO_TXREHASH:
        # Time to look for another path. None depends on a hash of the flow here, but that it is asked for is counted.
        sk.timeout_rehash += 1
        sk.net.mib.tcp_ext.TcpTimeoutRehash += 1
    return False


def update_rto_stats(sk: TcpSock) -> None:
    """One more time-out, perhaps the first of a recovery (Linux: tcp_update_rto_stats)."""
    stats = sk.own_rto_stats()
    if not sk.icsk_retransmits:
        stats.total_rto_recoveries += 1
        stats.rto_stamp = sk.loop.now or 1
    sk.icsk_retransmits += 1
    stats.total_rto += 1


def clamp_rto_to_user_timeout(sk: TcpSock) -> int:
    """The next time-out (ns), cut to when the user's own ends (Linux: tcp_clamp_rto_to_user_timeout)."""
    if not sk.params.user_timeout:
        return sk.rto
    elapsed = sk.loop.now - sk.retrans_stamp * MSEC
    remaining = sk.params.user_timeout - elapsed
    if remaining <= 0:
        return MSEC
    return min(sk.rto, remaining)


def _rtx_probe0_timed_out(sk: TcpSock, head: SKBuff) -> bool:
    """Retransmitting into a closed window: whether the peer has been silent for too long, or the user's time-out is
    over (Linux: tcp_rtx_probe0_timed_out)."""
    now = sk.loop.now
    elapsed = (now // MSEC - (sk.retrans_stamp or head.tx.mstamp // MSEC)) * MSEC
    timeout = 2 * sk.rto_max
    if sk.params.user_timeout:
        # Answers that only say that the window is closed don't put it off.
        if elapsed > sk.params.user_timeout:
            return True
        timeout = min(timeout, sk.params.user_timeout)
    return now - sk.rcv_tstamp > timeout and elapsed > timeout


def retransmit_timer(sk: TcpSock) -> None:
    """The RTO is over (RFC 6298 section 5.4 to 5.7; Linux: tcp_retransmit_timer)."""
    request = sk.tfo.fastopen_rsk
    if request is not None:
        # Nothing else is sent again before the SYN+ACK is acknowledged.
        from usernet.transport.tcp.fastopen_server import synack_timer

        synack_timer(sk, request)
        return
    head = sk.rtx_queue.first
    if not sk.packets_out or head is None:
        return
    mib = sk.net.mib.tcp_ext
    if not sk.snd_wnd and not sk.dead and sk.state not in (TCP_SYN_SENT, TCP_SYN_RECV):
        # The peer shrank its window to nothing: this is as good as a probe, but it isn't congestion.
        if _rtx_probe0_timed_out(sk, head):
            write_err(sk)
            return
        enter_loss(sk)
        retransmit_skb(sk, head, 1)
        sk.dst_reset()
    else:
        mib.TCPTimeouts += 1
        if write_timeout(sk):
            return
        if sk.icsk_retransmits == 0:
            if sk.ca_state == TCP_CA_RECOVERY:
                if sk.sack_ok:
                    mib.TCPSackRecoveryFail += 1
                else:
                    mib.TCPRenoRecoveryFail += 1
            elif sk.ca_state == TCP_CA_LOSS:
                mib.TCPLossFailures += 1
            elif sk.ca_state == TCP_CA_DISORDER or sk.sacked_out:
                if sk.sack_ok:
                    mib.TCPSackFailures += 1
                else:
                    mib.TCPRenoFailures += 1
        enter_loss(sk)
        update_rto_stats(sk)
        head = sk.rtx_queue.first
        if head is not None and retransmit_skb(sk, head, 1) > 0:
            # Local trouble: try again soon, and don't back off for it.
            reset_xmit_timer(sk, ICSK_TIME_RETRANS, TCP_RESOURCE_PROBE_INTERVAL)
            return
    tcp = sk.tcp
    if (
        sk.state == TCP_ESTABLISHED
        and (sk.params.thin_lto or tcp.tcp_thin_linear_timeouts)
        and sk.packets_out < 4
        and sk.snd_ssthresh < TCP_INFINITE_SSTHRESH
        and sk.icsk_retransmits <= TCP_THIN_LINEAR_RETRIES
    ):
        # A thin stream has no dupacks to repair it: its time-outs stay short for a while.
        sk.backoff = 0
        set_rto(sk)
        sk.rto = min(max(sk.rto, sk.rto_min_us() * 1000), sk.rto_max)
    elif sk.state != TCP_SYN_SENT or sk.rto_stats.total_rto > tcp.tcp_syn_linear_timeouts:
        sk.backoff += 1
        sk.rto = min(sk.rto << 1, sk.rto_max)
    reset_xmit_timer(sk, ICSK_TIME_RETRANS, clamp_rto_to_user_timeout(sk))
    if retransmits_timed_out(sk, tcp.tcp_retries1 + 1, 0):
        sk.dst_reset()


def probe_timer(sk: TcpSock) -> None:
    """Time to probe a closed window, or to give up (RFC 9293 section 3.8.6.1; Linux: tcp_probe_timer)."""
    if sk.packets_out or sk.write_queue.first is None:
        sk.probes_out = 0
        sk.probes_tstamp = 0
        return
    now = sk.loop.now
    if not sk.probes_tstamp:
        sk.probes_tstamp = now
    elif sk.params.user_timeout and now - sk.probes_tstamp >= sk.params.user_timeout:
        write_err(sk)
        return
    limit = sk.tcp.tcp_retries2
    if sk.dead:
        alive = sk.probe0_when() < sk.rto_max
        limit = orphan_retries(sk, alive)
        if not alive and sk.backoff >= limit:
            write_err(sk)
            return
        if out_of_resources(sk, True):
            return
    if sk.probes_out >= limit:
        write_err(sk)
    else:
        send_probe0(sk)


def write_timer(sk: TcpSock, now: int) -> None:
    """The retransmission timer fired (Linux: tcp_write_timer_handler)."""
    what = sk.icsk_pending
    if sk.state in (TCP_CLOSE, TCP_LISTEN) or not what:
        return
    if what == ICSK_TIME_REO_TIMEOUT:
        reo_timeout(sk)
    elif what == ICSK_TIME_LOSS_PROBE:
        send_loss_probe(sk)
    elif what == ICSK_TIME_RETRANS:
        sk.icsk_pending = 0
        retransmit_timer(sk)
    elif what == ICSK_TIME_PROBE0:
        sk.icsk_pending = 0
        probe_timer(sk)


def delack_timer(sk: TcpSock, now: int) -> None:
    """The delayed acknowledgement is due (Linux: tcp_delack_timer_handler)."""
    if sk.state in (TCP_CLOSE, TCP_LISTEN) or not sk.ack_pending & ICSK_ACK_SCHED:
        if sk.compressed_ack and sk.state not in (TCP_CLOSE, TCP_LISTEN):
            send_ack(sk)
        return
    if not sk.in_pingpong():
        # Delayed, and no data came to go with it: wait longer next time.
        sk.ack_ato = min(sk.ack_ato << 1, sk.rto)
    else:
        # The application did not answer in time: not so interactive after all.
        sk.exit_pingpong()
        sk.ack_ato = TCP_ATO_MIN
    send_ack(sk)
    sk.net.mib.tcp_ext.DelayedACKs += 1


def comp_sack_timer(sk: TcpSock, now: int) -> None:
    """Compressed acknowledgements are due (Linux: tcp_compressed_ack_kick)."""
    if sk.compressed_ack and sk.state not in (TCP_CLOSE, TCP_LISTEN):
        # The last of them is the acknowledgement that is sent now.
        sk.compressed_ack -= 1
        send_ack(sk)


def keepalive_timer(sk: TcpSock, now: int) -> None:
    """Keep alive, or end FIN-WAIT-2 (Linux: tcp_keepalive_timer)."""
    state = sk.state
    if state == TCP_LISTEN:
        return
    if state == TCP_FIN_WAIT2 and sk.dead:
        if sk.params.linger2 >= 0:
            timeout = sk.fin_time() - TCP_TIMEWAIT_LEN
            if timeout > 0:
                sk.time_wait(TCP_FIN_WAIT2, timeout)
                return
        send_active_reset(sk)
        sk.done()
        return
    if not sk.keepopen or state in (TCP_CLOSE, TCP_SYN_SENT):
        return
    delay = sk.keepalive_time()
    # Under way: retransmission keeps watch.
    if not sk.packets_out and sk.write_queue.first is None:
        elapsed = now - max(sk.ack_lrcvtime, sk.rcv_tstamp)
        if elapsed >= delay:
            timeout = sk.params.user_timeout
            if (timeout and elapsed >= timeout and sk.probes_out > 0) or (
                not timeout and sk.probes_out >= sk.keepalive_probes()
            ):
                send_active_reset(sk)
                write_err(sk)
                return
            if write_wakeup(sk) <= 0:
                sk.net.mib.tcp_ext.TCPKeepAlive += 1
                sk.probes_out += 1
                delay = sk.keepalive_intvl()
            else:
                delay = TCP_RESOURCE_PROBE_INTERVAL
        else:
            delay -= elapsed
    sk.reset_keepalive_timer(delay)
