"""The sockets of TCP, UDP and raw protocols, as `ss` asks for them (Linux: inet_diag.c, tcp_diag.c, udp_diag.c,
raw_diag.c).

A request names a protocol, states, ports, and what to tell besides (INET_DIAG_*); a filter (inet_diag_bc.py) may choose
further. AF_INET6 is answered as well: there are none of it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct
from typing import Any, Final, final

from usernet.core.errors import error
from usernet.net.pernet import Net
from usernet.sock.cookies import SockCookies
from usernet.sock.inet import InetSock
from usernet.sock.options import sock_getsockopt
from usernet.sock.sock import SOCK_RAW, Sock, SockNet
from usernet.sock.sockopt import SO_MEMINFO
from usernet.sockets.netlink import inet_diag_bc as bytecode
from usernet.sockets.netlink.request import Messages, Request
from usernet.sockets.netlink.sock_diag import SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, SockDiag
from usernet.transport.raw import Raw
from usernet.transport.tcp.const import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
)
from usernet.transport.tcp.info import pack_info
from usernet.transport.tcp.request import RequestSock
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.tcp.tcp import Tcp
from usernet.transport.tcp.timewait import TimeWaitSock
from usernet.transport.udp_sock import UdpSock
from usernet.wire import netlink as wire

AF_UNSPEC: Final = 0
AF_INET: Final = 2
AF_INET6: Final = 10
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_RAW: Final = 255

INET_DIAG_REQ_BYTECODE: Final = 1
INET_DIAG_REQ_PROTOCOL: Final = 3
INET_DIAG_MEMINFO: Final = 1
INET_DIAG_INFO: Final = 2
INET_DIAG_VEGASINFO: Final = 3
INET_DIAG_CONG: Final = 4
INET_DIAG_TOS: Final = 5
INET_DIAG_TCLASS: Final = 6
INET_DIAG_SKMEMINFO: Final = 7
INET_DIAG_SHUTDOWN: Final = 8
INET_DIAG_DCTCPINFO: Final = 9
INET_DIAG_PROTOCOL: Final = 10
INET_DIAG_MARK: Final = 15
INET_DIAG_BBRINFO: Final = 16
INET_DIAG_CLASS_ID: Final = 17
INET_DIAG_MD5SIG: Final = 18
INET_DIAG_CGROUP_ID: Final = 21
INET_DIAG_SOCKOPT: Final = 22

TCP_BOUND_INACTIVE: Final = 13
NOCOOKIE: Final = 0xFFFFFFFF_FFFFFFFF
MILLISECOND: Final = 1_000_000

_REQUEST: Final = Struct("=BBBBI2s2s16s16sIQ")
_COMPAT: Final = Struct("=BBBB2s2s16s16sIQII")
_MESSAGE: Final = Struct("=BBBBHH16s16sIQIIIII")
_MEMINFO: Final = Struct("=4I")
_MD5SIG: Final = Struct("=BBH16s80s")
_RETRANSMISSION: Final = (ICSK_TIME_RETRANS, ICSK_TIME_REO_TIMEOUT, ICSK_TIME_LOSS_PROBE)

Found = InetSock | TimeWaitSock | RequestSock


@final
class Query:
    """What was asked for. states: bits 1 << state. sport, dport: as integers; 0 for any. src, dst: 16 bytes."""

    __slots__ = ("cookie", "dport", "dst", "ext", "family", "ifindex", "program", "protocol", "sport", "src", "states")

    def __init__(self, request: Request) -> None:
        """Raises OSError EINVAL for what is malformed."""
        data = request.data
        if len(data) < _REQUEST.size:
            raise error(errno.EINVAL)
        (
            self.family, self.protocol, self.ext, _, self.states, sport, dport, self.src, self.dst, self.ifindex,
            self.cookie,
        ) = _REQUEST.unpack_from(data)  # fmt: skip
        self._finish(request, sport, dport, _REQUEST.size)

    def _finish(self, request: Request, sport: bytes, dport: bytes, size: int) -> None:
        self.sport = int.from_bytes(sport, "big")
        self.dport = int.from_bytes(dport, "big")
        attributes = wire.attributes(request.data, size)
        self.program: bytes | None = attributes.get(INET_DIAG_REQ_BYTECODE)
        wide = attributes.get(INET_DIAG_REQ_PROTOCOL)
        if wide is not None and len(wide) >= 4:
            self.protocol = wire.number(wide[:4])

    @staticmethod
    def compat(request: Request) -> Query:
        """Of a request of the old kind (struct inet_diag_req). Raises OSError EINVAL."""
        data = request.data
        if len(data) < _COMPAT.size:
            raise error(errno.EINVAL)
        family, _, _, ext, sport, dport, src, dst, ifindex, cookie, states, _ = _COMPAT.unpack_from(data)
        query = Query.__new__(Query)
        query.family = family
        query.protocol = IPPROTO_TCP if request.type == 18 else 33
        query.ext = ext
        query.states = states
        query.src = src
        query.dst = dst
        query.ifindex = ifindex
        query.cookie = cookie
        query._finish(request, sport, dport, _COMPAT.size)
        return query

    def wants(self, ext: int) -> bool:
        """Whether INET_DIAG_`ext` was asked for."""
        return bool(self.ext >> ext - 1 & 1)


@final
class InetDiag:
    """The internet sockets of one namespace, to NETLINK_SOCK_DIAG."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self._tcp = net.get(Tcp)
        self._raw = net.get(Raw)
        self._sockets = net.get(SockNet)
        self._cookies = net.get(SockCookies)
        diag = net.get(SockDiag)
        diag.register(AF_INET, self.receive)
        diag.register(AF_INET6, self.receive)
        diag.compat = self.receive_compat

    def receive(self, request: Request) -> None:
        """Linux: inet_diag_handler_cmd."""
        query = Query(request)
        if request.type == SOCK_DIAG_BY_FAMILY and request.flags & wire.NLM_F_DUMP:
            if query.program is not None:
                bytecode.audit(query.program)
            request.dump(self._dump(request, query))
            return
        if query.protocol not in (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_RAW):
            raise error(errno.ENOENT)
        if request.type == SOCK_DESTROY:
            # As a kernel without CONFIG_INET_DIAG_DESTROY.
            raise error(errno.EOPNOTSUPP)
        sk = self._find(query)
        request.reply(request.type, self.fill(sk, query, request.sk.admin))

    def receive_compat(self, request: Request) -> None:
        """Linux: inet_diag_rcv_msg_compat."""
        query = Query.compat(request)
        if request.flags & wire.NLM_F_DUMP:
            if query.program is not None:
                bytecode.audit(query.program)
            request.dump(self._dump(request, query))
            return
        if query.protocol != IPPROTO_TCP:
            raise error(errno.ENOENT)
        request.reply(request.type, self.fill(self._find(query), query, request.sk.admin))

    # -- which

    def _candidates(self, protocol: int) -> list[Found]:
        """All sockets of the protocol that are in a table."""
        everyone = self._sockets.sockets
        if protocol == IPPROTO_UDP:
            found: list[Found] = [sk for sk in everyone if isinstance(sk, UdpSock) and sk.key]
            found.sort(key=_place)
            return found
        if protocol == IPPROTO_RAW:
            return [sk for row in self._raw.sockets.values() for sk in row]
        listeners: list[Found] = [sk for sk in everyone if isinstance(sk, TcpSock) and sk.state == TCP_LISTEN]
        listeners.sort(key=_place)
        idle: list[Found] = [sk for sk in everyone if isinstance(sk, TcpSock) and sk.state == TCP_CLOSE and sk.num]
        idle.sort(key=_place)
        return [*listeners, *idle, *self._tcp.table.values()]

    def _selects(self, query: Query, sk: Found) -> bool:
        if query.protocol != IPPROTO_RAW and not query.states >> _state(sk) & 1:
            return False
        if query.family not in (AF_UNSPEC, sk.af.family):
            return False
        sport = sk.num if isinstance(sk, TcpSock) else sk.sport
        if (query.sport and query.sport != sport) or (query.dport and query.dport != sk.dport):
            return False
        if query.program is None:
            return True
        auto = not (isinstance(sk, InetSock) and sk.bound_port)
        saddr = sk.rcv_saddr if isinstance(sk, InetSock) else sk.saddr
        mark = sk.mark & 0xFFFFFFFF
        num = sk.num if isinstance(sk, InetSock) else sk.sport
        entry = bytecode.Entry(sk.af.family, saddr, num, sk.daddr, sk.dport, sk.bound_dev_if, mark, auto)
        return bytecode.run(query.program, entry)

    def _dump(self, request: Request, query: Query) -> Messages:
        if query.protocol not in (IPPROTO_TCP, IPPROTO_UDP, IPPROTO_RAW):
            raise error(errno.ENOENT)
        admin = request.sk.admin
        for sk in self._candidates(query.protocol):
            if self._selects(query, sk):
                yield request.type, self.fill(sk, query, admin)

    def _find(self, query: Query) -> Found:
        """The one socket of the addresses and ports. Raises OSError ENOENT, EINVAL for another family."""
        if query.family not in (AF_INET, AF_INET6):
            raise error(errno.EINVAL)
        for sk in self._matching(query):
            if query.cookie not in (NOCOOKIE, self._cookie(sk)):
                raise error(errno.ENOENT if query.protocol == IPPROTO_TCP else errno.ESTALE)
            return sk
        raise error(errno.ENOENT)

    def _matching(self, query: Query) -> Iterator[Found]:
        local, lport, remote, rport = query.src[:4], query.sport, query.dst[:4], query.dport
        if query.protocol == IPPROTO_UDP:
            # The two are swapped for historical reasons (udp_dump_one).
            local, lport, remote, rport = remote, rport, local, lport
        if query.family != AF_INET:
            return
        candidates = [sk for sk in self._candidates(query.protocol) if sk.sport == lport]
        for sk in candidates:
            if sk.dport == rport and sk.daddr == remote and _local(sk) == local:
                yield sk
        for sk in candidates:
            if not sk.dport and _local(sk) in (local, sk.af.any):
                yield sk

    def _cookie(self, sk: Found) -> int:
        return self._cookies.of(sk) if isinstance(sk, Sock) else 0

    # -- what

    def fill(self, sk: Found, query: Query, admin: bool) -> bytes:
        """A socket as `struct inet_diag_msg`, with the attributes asked for (Linux: inet_sk_diag_fill)."""
        if not isinstance(sk, InetSock):
            return self._fill_mini(sk, admin)
        attributes = _attributes(sk, query, admin)
        timer = retrans = expires = 0
        rqueue, wqueue = sk.rmem_alloc, sk.wmem_alloc
        if isinstance(sk, TcpSock) and sk.state != TCP_CLOSE:
            timer, retrans, expires = _timer(sk)
            attributes += _tcp_attributes(sk, query, admin)
            if sk.state == TCP_LISTEN:
                rqueue, wqueue = len(sk.request_queue.accept_queue or ()), sk.request_queue.backlog
            else:
                rqueue = sk.rcv_nxt - sk.copied_seq & 0xFFFFFFFF
                wqueue = sk.write_seq - sk.snd_una & 0xFFFFFFFF
        return self._header(sk, sk.state, timer, retrans, expires, rqueue, wqueue) + attributes

    def _header(
        self, sk: Found, state: int, timer: int, retrans: int, expires: int, rqueue: int = 0, wqueue: int = 0
    ) -> bytes:  # fmt: skip
        sport = sk.num if isinstance(sk, TcpSock) else sk.sport
        uid = ino = 0
        if isinstance(sk, InetSock):
            uid, ino = sk.uid, sk.ino
        return _MESSAGE.pack(
            sk.af.family, state, timer, retrans & 0xFF, _swap(sport), _swap(sk.dport), _local(sk).ljust(16, b"\0"),
            sk.daddr.ljust(16, b"\0"), sk.bound_dev_if, self._cookie(sk), max(expires, 0) & 0xFFFFFFFF,
            rqueue & 0xFFFFFFFF, wqueue & 0xFFFFFFFF, uid, ino & 0xFFFFFFFF,
        )  # fmt: skip

    def _fill_mini(self, sk: TimeWaitSock | RequestSock, admin: bool) -> bytes:
        """Linux: inet_twsk_diag_fill, inet_req_diag_fill."""
        left = (sk.deadline - self.net.loop.now) // MILLISECOND
        if isinstance(sk, TimeWaitSock):
            header = self._header(sk, sk.substate or TCP_TIME_WAIT, 3, 0, left)
        else:
            header = self._header(sk, TCP_SYN_RECV, 1, sk.num_retrans, left)
        return header + (wire.u32(INET_DIAG_MARK, sk.mark) if admin else b"")


def _place(sk: Any) -> tuple[int, bytes, int, bytes]:
    return sk.num, sk.rcv_saddr, sk.dport, sk.daddr


def _state(sk: Found) -> int:
    if isinstance(sk, TimeWaitSock):
        return sk.substate or TCP_TIME_WAIT
    if isinstance(sk, RequestSock):
        return TCP_SYN_RECV
    if isinstance(sk, TcpSock) and sk.state == TCP_CLOSE:
        return TCP_BOUND_INACTIVE
    return sk.state


def _local(sk: Found) -> bytes:
    return sk.rcv_saddr if isinstance(sk, InetSock) else sk.saddr


def _swap(port: int) -> int:
    return (port & 0xFF) << 8 | port >> 8 & 0xFF


def _timer(sk: TcpSock) -> tuple[int, int, int]:
    """Which timer is armed, how often it ran out, and the ms it still takes."""
    now = sk.loop.now
    if sk.icsk_pending in _RETRANSMISSION:
        return 1, sk.icsk_retransmits, (sk.retransmit_timer.deadline - now) // MILLISECOND
    if sk.icsk_pending == ICSK_TIME_PROBE0:
        return 4, sk.probes_out, (sk.retransmit_timer.deadline - now) // MILLISECOND
    keepalive = sk.keepalive_timer
    if keepalive is not None and keepalive.pending:
        return 2, sk.probes_out, (keepalive.deadline - now) // MILLISECOND
    return 0, 0, 0


def _attributes(sk: InetSock, query: Query, admin: bool) -> bytes:
    """What there is of every socket (Linux: inet_diag_msg_attrs_fill)."""
    parts = [wire.u8(INET_DIAG_SHUTDOWN, sk.shutdown_mask)]
    if query.wants(INET_DIAG_TOS):
        parts.append(wire.u8(INET_DIAG_TOS, sk.tos))
    if admin:
        parts.append(wire.u32(INET_DIAG_MARK, sk.mark))
    if query.wants(INET_DIAG_TCLASS):
        parts.append(wire.u32(INET_DIAG_CLASS_ID, sk.priority))
    parts.append(wire.u64(INET_DIAG_CGROUP_ID, bytecode.CGROUP_ID))
    tcp = isinstance(sk, TcpSock)
    first = (
        sk.recverr | tcp << 1 | sk.freebind << 2 | sk.hdrincl << 3 | sk.mc_loop << 4 | sk.transparent << 5
        | sk.mc_all << 6 | sk.nodefrag << 7
    )  # fmt: skip
    second = sk.bind_address_no_port | sk.recverr_rfc4884 << 1
    parts.append(wire.attribute(INET_DIAG_SOCKOPT, bytes((first, second))))
    if query.wants(INET_DIAG_MEMINFO):
        parts.append(wire.attribute(INET_DIAG_MEMINFO, _MEMINFO.pack(sk.rmem_alloc, sk.wmem_queued, 0, sk.wmem_alloc)))
    if query.wants(INET_DIAG_SKMEMINFO):
        parts.append(wire.attribute(INET_DIAG_SKMEMINFO, sock_getsockopt(sk, SO_MEMINFO, 36)))
    if sk.sock_type == SOCK_RAW:
        parts.append(wire.u8(INET_DIAG_PROTOCOL, sk.protocol))
    return b"".join(parts)


def _tcp_attributes(sk: TcpSock, query: Query, admin: bool) -> bytes:
    parts: list[bytes] = []
    if query.wants(INET_DIAG_INFO):
        parts.append(wire.attribute(INET_DIAG_INFO, pack_info(sk)))
    if query.wants(INET_DIAG_CONG):
        parts.append(wire.string(INET_DIAG_CONG, sk.ca.name))
    if query.wants(INET_DIAG_INFO) and admin and sk.auth is not None and sk.auth.md5:
        keys = [
            _MD5SIG.pack(sk.af.family, key.prefix, len(key.key), key.address.ljust(16, b"\0"), key.key)
            for key in sk.auth.md5
        ]
        parts.append(wire.attribute(INET_DIAG_MD5SIG, b"".join(keys)))
    if sk.state < TCP_TIME_WAIT and query.wants(INET_DIAG_VEGASINFO):
        info = sk.ca.pack_info(sk)
        if info:
            kind = INET_DIAG_DCTCPINFO if sk.ca.name == "dctcp" else INET_DIAG_BBRINFO
            parts.append(wire.attribute(kind, info))
    return b"".join(parts)
