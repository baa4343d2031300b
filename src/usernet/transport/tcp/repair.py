"""Repair mode: take a connection apart and put it together again elsewhere, unseen by its peer (tcp(7) TCP_REPAIR;
Linux: tcp_repair_options_est, tcp_send_rcvq, tcp_peek_sndq).

    away    TCP_REPAIR on; read the queues (TCP_REPAIR_QUEUE, then MSG_PEEK) and their sequence numbers (TCP_QUEUE_SEQ),
            what the handshake agreed on (TCP_INFO, TCP_MAXSEG, TCP_TIMESTAMP), the windows (TCP_REPAIR_WINDOW), with
            TCP-AO also TCP_AO_REPAIR; close, which sends nothing
    back    TCP_REPAIR on; TCP_QUEUE_SEQ of both queues; bind; connect, which sends nothing and is established at once;
            TCP_REPAIR_OPTIONS; send into both queues, which counts as sent and as received; windows, time stamp;
            TCP_REPAIR off, upon which a probe tells the peer that someone is there
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final

from usernet.core.errors import error
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.msg import MsgHdr
from usernet.transport.tcp import ao
from usernet.transport.tcp.const import (
    MSEC,
    SEQ_MASK,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_MAX_WSCALE,
    TCPCB_REPAIRED,
    after,
)
from usernet.transport.tcp.data import queue_rcv
from usernet.transport.tcp.mss import current_mss, sync_mss
from usernet.transport.tcp.mtup import mtup_init
from usernet.transport.tcp.output import event_new_data_sent
from usernet.transport.tcp.rcvmem import can_ingest
from usernet.transport.tcp.segment import add_write_queue_tail, init_tso_segs, mark_push, new_segment
from usernet.transport.tcp.synsent import finish_connect
from usernet.transport.tcp.transmit import xmit_probe
from usernet.wire.tcp import (
    ACK,
    TCP_HLEN,
    TCPOLEN_TSTAMP_ALIGNED,
    TCPOPT_MSS,
    TCPOPT_SACK_PERM,
    TCPOPT_TIMESTAMP,
    TCPOPT_WINDOW,
)

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock

TCP_REPAIR: Final = 19
TCP_REPAIR_QUEUE: Final = 20
TCP_QUEUE_SEQ: Final = 21
TCP_REPAIR_OPTIONS: Final = 22
TCP_TIMESTAMP: Final = 24
TCP_REPAIR_WINDOW: Final = 29

TCP_REPAIR_ON: Final = 1
TCP_REPAIR_OFF: Final = 0
TCP_REPAIR_OFF_NO_WP: Final = -1  # without the probe

TCP_NO_QUEUE: Final = 0
TCP_RECV_QUEUE: Final = 1
TCP_SEND_QUEUE: Final = 2
TCP_QUEUES_NR: Final = 3

_OPT: Final = Struct("=II")  # struct tcp_repair_opt: code, value
_WINDOW: Final = Struct("=5I")  # struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
MAX_CHUNK: Final = 65536
"""Bytes that one call puts into the receive queue, at most."""


def can_repair(sk: TcpSock) -> bool:
    """A listener has nothing to repair (Linux: tcp_can_repair_sock). Whoever holds a stack may do all in it."""
    return sk.state != TCP_LISTEN


def set_repair(sk: TcpSock, number: int) -> None:
    """TCP_REPAIR. Raises OSError EPERM (a listener), EINVAL."""
    if not can_repair(sk):
        raise error(errno.EPERM, "TCP_REPAIR: a listener has nothing to repair")
    if number == TCP_REPAIR_ON:
        sk.repair = True
        sk.repair_queue = TCP_NO_QUEUE
        return
    if number not in (TCP_REPAIR_OFF, TCP_REPAIR_OFF_NO_WP):
        raise error(errno.EINVAL, f"TCP_REPAIR: expected -1, 0 or 1, not {number}")
    sk.repair = False
    sk.reuse = False
    if number == TCP_REPAIR_OFF and sk.state == TCP_ESTABLISHED:
        # The answer, whatever it is, is to be taken for a newer window (Linux: tcp_send_window_probe).
        sk.snd_wl1 = (sk.rcv_nxt - 1) & SEQ_MASK
        xmit_probe(sk, urgent=False)


def set_number(sk: TcpSock, option: int, number: int) -> None:
    """TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_TIMESTAMP. Raises OSError EPERM, EINVAL."""
    if option == TCP_QUEUE_SEQ:
        _set_queue_seq(sk, number & SEQ_MASK)
        return
    if not sk.repair:
        raise error(errno.EPERM, "the socket is not in repair mode")
    if option == TCP_TIMESTAMP:
        sk.tsoffset = (number - sk.loop.now // MSEC) & SEQ_MASK
    elif 0 <= number < TCP_QUEUES_NR:
        sk.repair_queue = number
    else:
        raise error(errno.EINVAL, f"TCP_REPAIR_QUEUE: expected 0, 1 or 2, not {number}")


def _set_queue_seq(sk: TcpSock, seq: int) -> None:
    if sk.state != TCP_CLOSE:
        raise error(errno.EPERM, "TCP_QUEUE_SEQ is for a socket that isn't connected")
    if sk.repair_queue == TCP_SEND_QUEUE:
        if sk.rtx_queue.first is not None:
            raise error(errno.EPERM, "TCP_QUEUE_SEQ: the queue is in use")
        sk.write_seq = seq
    elif sk.repair_queue == TCP_RECV_QUEUE:
        if sk.rcv_nxt != sk.copied_seq:
            raise error(errno.EPERM, "TCP_QUEUE_SEQ: the queue is in use")
        sk.rcv_nxt = sk.copied_seq = seq
    else:
        raise error(errno.EINVAL, "TCP_QUEUE_SEQ: choose a queue first")


def set_options(sk: TcpSock, value: bytes) -> None:
    """TCP_REPAIR_OPTIONS: what the handshake agreed on, `struct tcp_repair_opt` after another.

    Raises OSError: EINVAL (not in repair mode, or a value), EPERM (not connected, or data was sent), EFBIG (a scale).
    """
    if not sk.repair:
        raise error(errno.EINVAL, "the socket is not in repair mode")
    if sk.state != TCP_ESTABLISHED or sk.bytes_sent:
        raise error(errno.EPERM, "TCP_REPAIR_OPTIONS is for a connection on which nothing was sent yet")
    for code, number in _OPT.iter_unpack(value[: len(value) // _OPT.size * _OPT.size]):
        if code == TCPOPT_MSS:
            sk.mss_clamp = number & 0xFFFF
            mtup_init(sk)
        elif code == TCPOPT_WINDOW:
            snd_wscale, rcv_wscale = number & 0xFFFF, number >> 16
            if snd_wscale > TCP_MAX_WSCALE or rcv_wscale > TCP_MAX_WSCALE:
                raise error(errno.EFBIG, f"a window scale above {TCP_MAX_WSCALE}")
            sk.snd_wscale, sk.rcv_wscale, sk.wscale_ok = snd_wscale, rcv_wscale, True
        elif code in (TCPOPT_SACK_PERM, TCPOPT_TIMESTAMP):
            if number:
                raise error(errno.EINVAL, f"option {code} has no value")
            if code == TCPOPT_SACK_PERM:
                sk.sack_ok = True
            elif not sk.tstamp_ok:
                sk.tstamp_ok = True
                sk.tcp_header_len += TCPOLEN_TSTAMP_ALIGNED
    sync_mss(sk, sk.pmtu_cookie)


def set_window(sk: TcpSock, value: bytes) -> None:
    """TCP_REPAIR_WINDOW (Linux: tcp_repair_set_window). Raises OSError EPERM, EINVAL."""
    if not sk.repair:
        raise error(errno.EPERM, "the socket is not in repair mode")
    if len(value) != _WINDOW.size:
        raise error(errno.EINVAL, f"TCP_REPAIR_WINDOW: expected {_WINDOW.size} bytes, not {len(value)}")
    snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup = _WINDOW.unpack(value)
    if max_window < snd_wnd or after(snd_wl1, (sk.rcv_nxt + rcv_wnd) & SEQ_MASK) or after(rcv_wup, sk.rcv_nxt):
        raise error(errno.EINVAL, "TCP_REPAIR_WINDOW: windows that can't be")
    sk.snd_wl1, sk.snd_wnd, sk.max_window, sk.rcv_wnd, sk.rcv_wup = snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup
    sk.rcv_promised = -1
    sk.pred_ok = False


def get_window(sk: TcpSock, length: int) -> bytes:
    """TCP_REPAIR_WINDOW. Raises OSError EINVAL, EPERM."""
    if length != _WINDOW.size:
        raise error(errno.EINVAL, f"TCP_REPAIR_WINDOW: expected room for {_WINDOW.size} bytes, not {length}")
    if not sk.repair:
        raise error(errno.EPERM, "the socket is not in repair mode")
    return _WINDOW.pack(sk.snd_wl1, sk.snd_wnd, sk.max_window, sk.rcv_wnd, sk.rcv_wup)


def get_number(sk: TcpSock, option: int) -> int:
    """TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ. Raises OSError EINVAL."""
    if option == TCP_REPAIR:
        return int(sk.repair)
    if option == TCP_REPAIR_QUEUE and sk.repair:
        return sk.repair_queue
    if option == TCP_QUEUE_SEQ and sk.repair_queue:
        return sk.write_seq if sk.repair_queue == TCP_SEND_QUEUE else sk.rcv_nxt
    raise error(errno.EINVAL, "the socket is not in repair mode, or no queue is chosen")


def connect(sk: TcpSock) -> None:
    """A connect() in repair mode: there is the connection, without a word to the peer. All else has been prepared."""
    # Time stamps are in use once TCP_REPAIR_OPTIONS says so.
    sk.tcp_header_len = TCP_HLEN
    if sk.auth is not None and sk.auth.ao is not None:
        info = sk.auth.ao
        if info.current_key is not None:
            sk.tcp_header_len += info.current_key.size
        ao.finish_connect(sk, info, info.risn)
    sk.rcv_tstamp = sk.lsndtime = sk.loop.now
    finish_connect(sk)


def send(sk: TcpSock, msg: MsgHdr) -> int:
    """A send() in repair mode: into the queue that was chosen. Raises OSError EINVAL for none, ENOMEM."""
    if sk.repair_queue == TCP_RECV_QUEUE:
        return _send_rcvq(sk, msg)
    if sk.repair_queue == TCP_NO_QUEUE:
        raise error(errno.EINVAL, "repair mode: choose a queue first")
    mss = current_mss(sk)
    taken = 0
    while msg.iter.length:
        skb = new_segment(sk.write_seq, ACK)
        # No round trip can be measured by it.
        skb.sacked = TCPCB_REPAIRED
        data = msg.iter.read(min(msg.iter.length, mss))
        add_write_queue_tail(sk, skb)
        skb.add_frag(data)
        skb.cb = -1
        size = len(data)
        sk.wmem_queued += size
        sk.write_queue.bytes += size
        sk.write_seq = skb.end_seq = (skb.seq + size) & SEQ_MASK
        skb.gso_segs = 0
        taken += size
    last = sk.write_queue.last
    if last is not None:
        mark_push(sk, last)
    _count_as_sent(sk, mss)
    return taken


def _count_as_sent(sk: TcpSock, mss: int) -> None:
    """All that waits has left, as far as this side is concerned; what was lost is sent again, by the timer (Linux: the
    label `repair` in tcp_write_xmit)."""
    now = sk.loop.now
    sk.wstamp = max(sk.wstamp, now)
    skb = sk.write_queue.first
    while skb is not None:
        skb.tx.mstamp = sk.wstamp
        sk.sent.append(skb.tx)
        init_tso_segs(skb, mss)
        event_new_data_sent(sk, skb)
        skb = sk.write_queue.first


def _send_rcvq(sk: TcpSock, msg: MsgHdr) -> int:
    size = min(msg.iter.length, MAX_CHUNK)
    if not size:
        return 0
    skb = SKBuff()
    skb.add_frag(msg.iter.read(size))
    if not can_ingest(sk):
        sk.net.mib.tcp_ext.TCPRcvQDrop += 1
        raise error(errno.ENOMEM)
    skb.seq = sk.rcv_nxt
    skb.end_seq = (sk.rcv_nxt + size) & SEQ_MASK
    skb.ack_seq = (sk.snd_una - 1) & SEQ_MASK
    skb.tcp_flags = ACK
    queue_rcv(sk, skb)
    return size


def peek_sndq(sk: TcpSock, msg: MsgHdr) -> int:
    """A recv(MSG_PEEK) of the send queue: what is not acknowledged, and what was not sent yet. Raises OSError EINVAL
    where no queue is chosen."""
    if sk.repair_queue == TCP_NO_QUEUE:
        raise error(errno.EINVAL, "repair mode: choose a queue first")
    room = msg.iter.length
    copied = 0
    for queue in (sk.rtx_queue, sk.write_queue):
        for skb in queue:
            for frag in skb.frags or ():
                part = memoryview(frag)[: room - copied]
                msg.iter.write(part)
                copied += len(part)
    return copied
