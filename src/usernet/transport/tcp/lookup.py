"""Who a segment is for, where it belongs to no connection, and which four numbers are free (Linux: inet_hashtables.c,
sock_reuseport.c).

Listeners are found by port; the best match by device and address wins. Of those that match equally well with
SO_REUSEPORT, a group, a program or a hash of the four numbers picks one. With `tcp_migrate_req`, what a member has not
accepted when it closes goes to another member.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from usernet.skbuff.skbuff import SKBuff
from usernet.sock.ports import reuseport_select
from usernet.transport.tcp.const import MSEC, SEQ_MASK, TCP_LISTEN, TCP_TIME_WAIT
from usernet.transport.tcp.request import RequestSock
from usernet.transport.tcp.timewait import TimeWaitSock

if TYPE_CHECKING:
    from usernet.transport.tcp.sock import TcpSock
    from usernet.transport.tcp.tcp import Tcp

_IN6_LOOPBACK: Final = bytes(15) + b"\1"
_MAPPED_LOOPBACK: Final = bytes(10) + b"\xff\xff\x7f"


def four_tuple_free(tcp: Tcp, sk: TcpSock, port: int, asked: bool = False) -> bool:
    """Whether `sk` may connect from `port` to its peer: nobody else does (Linux: __inet_check_established).

    A record in TIME-WAIT gives way where time stamps tell the connections apart (RFC 6191): to a port that was `asked`
    for at once, to one that is being chosen as tcp_tw_reuse has it (Linux: tcp_twsk_unique).
    """
    key = sk.daddr + sk.saddr + sk.dport.to_bytes(2, "big") + port.to_bytes(2, "big")
    entry = tcp.table.get(key)
    if entry is None:
        return True
    if type(entry) is not TimeWaitSock or not entry.ts_recent_stamp:
        return False
    if not asked and not _may_reuse(tcp, entry):
        return False
    # Numbers that can't be the old connection's, and time stamps that go on.
    sk.write_seq = (entry.snd_nxt + 65535 + 2) & SEQ_MASK or 1
    sk.ts_recent = entry.ts_recent
    sk.ts_recent_stamp = entry.ts_recent_stamp
    tcp.net.mib.tcp_ext.TWRecycled += 1
    tcp.forget_timewait(entry)
    return True


def _may_reuse(tcp: Tcp, entry: TimeWaitSock) -> bool:
    """tcp_tw_reuse: 1 for every record, 2 for those of connections with this machine itself; after
    tcp_tw_reuse_delay."""
    if not tcp.tcp_tw_reuse or entry.substate != TCP_TIME_WAIT:
        return False
    if tcp.tcp_tw_reuse == 2 and not (_is_loopback(entry.daddr) or _is_loopback(entry.saddr)):
        return False
    return tcp.net.loop.now // MSEC > entry.entered + tcp.tcp_tw_reuse_delay


def _is_loopback(addr: bytes) -> bool:
    """127.0.0.0/8, ::1, or the former within IPv6."""
    if len(addr) == 4:
        return addr[0] == 127
    return addr == _IN6_LOOPBACK or addr[:13] == _MAPPED_LOOPBACK


def lookup_listener(tcp: Tcp, skb: SKBuff, port: int) -> TcpSock | None:
    """The listener for a segment: the best match by device and address (Linux: inet_lhash2_lookup)."""
    group = tcp.listeners.get(port)
    if group is None:
        return None
    daddr = skb.daddr
    index = skb.dev.index if skb.dev is not None else 0
    best: list[TcpSock] = []
    best_score = -1
    for sk in group:
        if sk.family != skb.af.family:
            continue
        score = 0
        if sk.rcv_saddr != sk.af.any:
            if sk.rcv_saddr != daddr:
                continue
            score += 2
        if sk.bound_dev_if:
            if sk.bound_dev_if != index:
                continue
            score += 1
        if score > best_score:
            best_score = score
            best = [sk]
        elif score == best_score and sk.reuseport:
            best.append(sk)
    if not best:
        return None
    if len(best) > 1 and best[0].reuseport:
        flow = tcp.secret_hash(skb.saddr, daddr, skb.head[skb.transport_header : skb.transport_header + 4])
        chosen: TcpSock = reuseport_select(best, flow, skb)
        return chosen
    return best[0]


def reuseport_group(tcp: Tcp, sk: TcpSock) -> list[TcpSock]:
    """The listeners that share their port with `sk`, and it, in the order that a program counts them in."""
    return [
        other
        for other in tcp.listeners.get(sk.num, ())
        if other.reuseport and other.rcv_saddr == sk.rcv_saddr and other.bound_dev_if == sk.bound_dev_if
    ]


def unlisten(tcp: Tcp, sk: TcpSock) -> None:
    """No more requests for this listener. Those that it has go to another of its group, or are dropped."""
    row = tcp.listeners.get(sk.num)
    if row is not None and sk in row:
        if sk.reuseport:
            # The group's last takes its place, so that the others keep theirs (Linux: __reuseport_detach_sock).
            last = reuseport_group(tcp, sk)[-1]
            row.remove(last)
            if last is not sk:
                row[row.index(sk)] = last
        else:
            row.remove(sk)
        if not row:
            del tcp.listeners[sk.num]
    if sk.request_queue.syn_queue:
        for entry in list(tcp.table.values()):
            if type(entry) is RequestSock and entry.listener is sk:
                heir = migration_target(tcp, sk, entry.key)
                if heir is None:
                    entry.drop()
                else:
                    entry.unqueue()
                    entry.queue(heir)
                    tcp.net.mib.tcp_ext.TCPMigrateReqSuccess += 1


def migration_target(tcp: Tcp, sk: TcpSock, key: bytes) -> TcpSock | None:
    """Who takes over a connection, known by `key`, that the closing listener `sk` has not accepted; None for nobody
    (Linux: reuseport_migrate_sock)."""
    if not sk.reuseport:
        return None
    group = [other for other in reuseport_group(tcp, sk) if other is not sk and other.state == TCP_LISTEN]
    if not group or not tcp.tcp_migrate_req:
        tcp.net.mib.tcp_ext.TCPMigrateReqFailure += 1
        return None
    return group[tcp.secret_hash(key) * len(group) >> 32]
