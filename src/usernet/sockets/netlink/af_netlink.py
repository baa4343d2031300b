"""Netlink sockets (Linux: net/netlink/af_netlink.c; netlink(7)).

Each protocol of the family is a `NetlinkTable`: the sockets that have a port in it, who is in which group, and the
function that takes what is sent to port 0, the kernel's. A request is carried out while it is sent; its answers wait in
the sender's receive queue. A long row of answers (a dump) is made in pieces, the next one when the last was read, so
that it needs no more memory than one piece. A socket that doesn't read what it is told loses it, and is told that, by
ENOBUFS.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLOUT, Blocking, Wait, WaitQueue
from usernet.net.families import Families, NetProtoFamily
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.datagram import SCM_CREDENTIALS, copy_datagram, receive
from usernet.sock.msg import MSG_DONTWAIT, MSG_OOB, MsgHdr, Name, NetlinkAddr
from usernet.sock.options import sock_getsockopt, sock_setsockopt
from usernet.sock.optval import decode_int, encode_int
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW, Sock
from usernet.sock.sockopt import SOCK_PASSCRED, SOL_SOCKET
from usernet.sockets.netlink import request as requests
from usernet.sockets.netlink.request import Dump, Handler, Messages, Request

AF_NETLINK: Final = 16
NETLINK_ROUTE: Final = 0
NETLINK_SOCK_DIAG: Final = 4
NETLINK_GENERIC: Final = 16

SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_DROP_MEMBERSHIP: Final = 2
NETLINK_PKTINFO: Final = 3
NETLINK_BROADCAST_ERROR: Final = 4
NETLINK_NO_ENOBUFS: Final = 5
NETLINK_LISTEN_ALL_NSID: Final = 8
NETLINK_LIST_MEMBERSHIPS: Final = 9
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12

DUMP_SIZE: Final = 3776
"""Bytes of one piece of a dump (Linux: NLMSG_GOODSIZE), unless the reader has shown a larger buffer."""

DUMP_SIZE_MAX: Final = 32448
"""Bytes of one piece of a dump at most (Linux: SKB_WITH_OVERHEAD(32768))."""

_PUMP_SIZE: Final = 1 << 18
"""Who offers room for this much shows nothing of its buffers: it just wants any message whole."""

_U32: Final = Struct("=I")
_UCRED: Final = Struct("=iII")
_FLAGS: Final = {
    NETLINK_PKTINFO: "pktinfo",
    NETLINK_BROADCAST_ERROR: "broadcast_error",
    NETLINK_NO_ENOBUFS: "no_enobufs",
    NETLINK_LISTEN_ALL_NSID: "listen_all_nsid",
    NETLINK_CAP_ACK: "cap_ack",
    NETLINK_EXT_ACK: "ext_ack",
    NETLINK_GET_STRICT_CHK: "strict",
}


@final
class NetlinkTable:
    """One netlink protocol of a namespace. groups: how many multicast groups it has. handler: called with each request;
    None where the kernel takes none. `members`: by group, who wants to hear."""

    def __init__(self, number: int, groups: int, handler: Handler | None) -> None:
        self.number = number
        self.groups = max(groups, 32)
        self.handler = handler
        self.sockets: dict[int, NetlinkSock] = {}
        self.members: dict[int, dict[NetlinkSock, None]] = {}
        self._rover: int = 0xFFFFEFFF

    def has_listeners(self, group: int) -> bool:
        return group in self.members

    def choose_port(self, wanted: int) -> int:
        """A free port: the one wanted, else one from the top (Linux: netlink_autobind)."""
        while wanted in self.sockets or not wanted:
            wanted = self._rover
            self._rover = self._rover - 1 if self._rover > 0x80000000 else 0xFFFFEFFF
        return wanted

    def broadcast(self, group: int, message: bytes, sender: NetlinkSock | None = None, skip: int = 0) -> bool:
        """Tell a group, but not `sender`, nor the socket at port `skip`. False where someone who minds
        (NETLINK_BROADCAST_ERROR) could not be told (Linux: netlink_broadcast)."""
        told = True
        for sk in tuple(self.members.get(group, ())):
            if sk is sender or (skip and sk.portid == skip):
                continue
            skb = SKBuff(message)
            if sk.filter is not None and not sk.filter.run(skb):
                continue
            if sk.congested or sk.rmem_alloc > sk.rcvbuf:
                sk.overrun()
                told = told and not sk.broadcast_error
            else:
                sk.take(skb, sender.portid if sender is not None else 0, group)
        return told


@final
class NetlinkFamily(NetProtoFamily):
    """AF_NETLINK in one namespace; `tables` by protocol number."""

    def __init__(self, net: Net) -> None:
        self.family = AF_NETLINK
        self._net = net
        self.tables: dict[int, NetlinkTable] = {}
        net.get(Families).register(self)

    def register(self, number: int, groups: int, handler: Handler | None) -> NetlinkTable:
        """The kernel's side of a protocol (Linux: netlink_kernel_create)."""
        table = self.tables[number] = NetlinkTable(number, groups, handler)
        return table

    def create(self, sock_type: int, protocol: int) -> NetlinkSock:
        """Raises OSError: ESOCKTNOSUPPORT, EPROTONOSUPPORT."""
        if sock_type not in (SOCK_RAW, SOCK_DGRAM):
            raise error(errno.ESOCKTNOSUPPORT)
        table = self.tables.get(protocol)
        if table is None:
            raise error(errno.EPROTONOSUPPORT)
        return NetlinkSock(self._net, table, sock_type)


@final
class NetlinkSock(Sock):
    """A netlink socket. portid: its address, 0 until it has one. owner: the port it would like, its process's number.
    admin: whether it may change anything."""

    def __init__(self, net: Net, table: NetlinkTable, sock_type: int) -> None:
        super().__init__(net)
        self.family = AF_NETLINK
        self.sock_type = sock_type
        self.protocol = table.number
        self.table = table
        self.owner: int = 1
        self.admin: bool = True
        self.portid: int = 0
        self.dst_portid: int = 0
        self.dst_group: int = 0
        self.groups: set[int] = set()
        self.congested: bool = False
        """Something was lost, and what came before it is not all read (Linux: NETLINK_S_CONGESTED)."""
        self.space = WaitQueue()
        """Those who wait for room in this one's receive queue."""
        self.running: Dump | None = None
        self.dumps_started: int = 0
        self.max_recvmsg_len: int = 0
        self.pktinfo: bool = False
        self.broadcast_error: bool = False
        self.no_enobufs: bool = False
        self.listen_all_nsid: bool = False
        self.cap_ack: bool = False
        self.ext_ack: bool = False
        self.strict: bool = False

    # -- addresses

    def _insert(self, port: int) -> None:
        if port in self.table.sockets:
            raise error(errno.EADDRINUSE)
        self.portid = port
        self.table.sockets[port] = self

    def _autobind(self) -> None:
        if not self.portid:
            self._insert(self.table.choose_port(self.owner))

    def bind(self, name: Name) -> None:
        """Take a port (0: any), and join the groups of the address, leaving the others of the first 32.

        Raises OSError: EINVAL (another family, another port than it has), EADDRINUSE.
        """
        if not isinstance(name, NetlinkAddr):
            raise error(errno.EINVAL)
        if self.portid:
            if name.portid != self.portid:
                raise error(errno.EINVAL)
        elif name.portid:
            self._insert(name.portid)
        else:
            self._autobind()
        for group in range(1, 33):
            self._set_member(group, bool(name.groups >> group - 1 & 1))

    def connect(self, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
        """Where to send what is sent without an address. Raises OSError EINVAL, EPERM (as sendmsg)."""
        if not name.family:
            self.dst_portid = self.dst_group = 0
            return None
        if not isinstance(name, NetlinkAddr):
            raise error(errno.EINVAL)
        self._check_destination(name.portid, name.groups)
        self._autobind()
        self.dst_portid = name.portid
        self.dst_group = _first(name.groups)
        return None

    def getsockname(self) -> Name:
        return NetlinkAddr(self.portid, sum(1 << group - 1 for group in self.groups if group <= 32))

    def getpeername(self) -> Name:
        return NetlinkAddr(self.dst_portid, _mask(self.dst_group))

    def _check_destination(self, port: int, groups: int) -> None:
        """To others than the kernel only an administrator sends: they may take it for the kernel's word."""
        if (port or groups) and not self.admin:
            raise error(errno.EPERM)

    def _set_member(self, group: int, member: bool) -> None:
        members = self.table.members
        if member:
            self.groups.add(group)
            members.setdefault(group, {})[self] = None
        elif group in self.groups:
            self.groups.remove(group)
            row = members[group]
            del row[self]
            if not row:
                del members[group]

    # -- sending

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send to the kernel (port 0), to another socket, or to a group.

        Raises OSError: EOPNOTSUPP (MSG_OOB), ENODATA (nothing to send), EINVAL (no netlink address), EPERM (not to the
        kernel, and no administrator), EMSGSIZE, ECONNREFUSED (nobody is there), EAGAIN (no room there), EFAULT.
        """
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        size = msg.iter.length
        if not size:
            raise error(errno.ENODATA)
        name = msg.name
        if name is None:
            port = self.dst_portid
            group = self.dst_group
        elif isinstance(name, NetlinkAddr):
            self._check_destination(name.portid, name.groups)
            port = name.portid
            group = _first(name.groups)
        else:
            raise error(errno.EINVAL)
        self._autobind()
        if size > self.sndbuf - 32:
            raise error(errno.EMSGSIZE)
        data = bytes(msg.iter.read(size))
        if group:
            self.table.broadcast(group, data, self, port)
        if port:
            return self._unicast(port, data, group, NEVER if not flags & MSG_DONTWAIT else self.loop.now, deadline)
        handler = self.table.handler
        if handler is None:
            raise error(errno.ECONNREFUSED)
        requests.receive(self, data, handler)
        return size

    def _unicast(self, port: int, data: bytes, group: int, limit: int, deadline: int) -> Blocking[int] | int:
        to = self.table.sockets.get(port)
        if to is None or (to.dst_portid and to.dst_portid != self.portid):
            # One who is connected hears only from whom it is connected to.
            raise error(errno.ECONNREFUSED)
        skb = SKBuff(data)
        if to.filter is not None and not to.filter.run(skb):
            return len(data)
        if to.congested or to.rmem_alloc > to.rcvbuf:
            if self.loop.now >= min(limit, deadline):
                raise error(errno.EAGAIN)
            return self._unicast_blocked(to, port, data, group, deadline)
        to.take(skb, self.portid, group)
        return len(data)

    def _unicast_blocked(self, to: NetlinkSock, port: int, data: bytes, group: int, deadline: int) -> Blocking[int]:
        while not to.dead and (to.congested or to.rmem_alloc > to.rcvbuf):
            if self.loop.now >= deadline:
                raise error(errno.EAGAIN)
            yield Wait((to.space,), EPOLLOUT, deadline)
        again = self._unicast(port, data, group, NEVER, deadline)
        if isinstance(again, int):
            return again
        return (yield from again)

    # -- what the kernel sends

    def take(self, skb: SKBuff, sender: int, group: int) -> None:
        """A message for this socket, for which it has room."""
        skb.cb = (sender, group)
        self.charge_receive(skb)
        self.receive_queue.append(skb)
        self.data_ready()

    def unicast_from_kernel(self, message: bytes) -> None:
        """An answer, or an acknowledgement."""
        skb = SKBuff(message)
        if self.filter is not None and not self.filter.run(skb):
            return
        if self.congested or self.rmem_alloc > self.rcvbuf:
            self.overrun()
        else:
            self.take(skb, 0, 0)

    def overrun(self) -> None:
        """Something for this socket had no place (Linux: netlink_overrun)."""
        if not self.no_enobufs and not self.congested:
            self.congested = True
            self.err = errno.ENOBUFS
            self.error_report()
        self.drops += 1

    def start_dump(self, request: Request, messages: Messages, flags: int) -> None:
        """Linux: netlink_dump_start."""
        if self.running is not None:
            raise error(errno.EBUSY)
        self.running = Dump(request, messages, flags)
        self._continue_dump()
        self.dumps_started += 1

    def _continue_dump(self) -> None:
        """Queue the next piece of the dump (Linux: netlink_dump). Raises OSError ENOBUFS where there is no room."""
        dump = self.running
        assert dump is not None
        if self.rmem_alloc >= self.rcvbuf:
            raise error(errno.ENOBUFS)
        data, last = dump.fill(self.portid, max(self.max_recvmsg_len, DUMP_SIZE), self.ext_ack)
        if last:
            self.running = None
        skb = SKBuff(data)
        if self.filter is None or self.filter.run(skb):
            self.take(skb, 0, 0)

    # -- receiving

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Receive one datagram, which may be several messages.

        Raises OSError: EOPNOTSUPP (MSG_OOB), ENOBUFS (something was lost), EAGAIN.
        """
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        return receive(self, msg, flags, deadline, self._copy)

    def _copy(self, skb: SKBuff, msg: MsgHdr, flags: int, offset: int) -> int:
        room = msg.iter.length
        if self.max_recvmsg_len < room < _PUMP_SIZE:
            self.max_recvmsg_len = min(room, DUMP_SIZE_MAX)
        result = copy_datagram(skb, msg, flags, offset)
        sender: int
        group: int
        sender, group = skb.cb
        msg.name = NetlinkAddr(sender, _mask(group))
        if self.pktinfo:
            msg.put_control(SOL_NETLINK, NETLINK_PKTINFO, _U32.pack(group))
        if self.sock_flags & SOCK_PASSCRED:
            msg.put_control(SOL_SOCKET, SCM_CREDENTIALS, _UCRED.pack(sender, 0, 0))
        if self.running is not None and self.rmem_alloc <= self.rcvbuf >> 1:
            try:
                self._continue_dump()
            except OSError as problem:
                self.err = problem.errno or errno.ENOBUFS
                self.error_report()
        if self.receive_queue.first is None:
            self.congested = False
        if not self.congested and self.space.active:
            self.space.wake_all(EPOLLOUT)
        return result

    # -- the rest

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        self.dead = True
        self.running = None
        for group in tuple(self.groups):
            self._set_member(group, False)
        if self.portid:
            self.table.sockets.pop(self.portid, None)
        self.destroy()
        self.space.wake_all(-1)
        self.state_change()
        return None

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        """SOL_NETLINK: see docs/sockets.md. NETLINK_LISTEN_ALL_NSID changes nothing: there is one namespace."""
        if level == SOL_SOCKET:
            sock_setsockopt(self, option, value)
            return
        if level != SOL_NETLINK:
            raise error(errno.ENOPROTOOPT)
        # Shorter than an int counts as 0 here (netlink_setsockopt).
        number = decode_int(value) & 0xFFFFFFFF if len(value) >= 4 else 0
        if option in (NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP):
            if not 0 < number <= self.table.groups:
                raise error(errno.EINVAL, f"group: expected 1 to {self.table.groups}, not {number}")
            self._set_member(number, option == NETLINK_ADD_MEMBERSHIP)
            return
        flag = _FLAGS.get(option)
        if flag is None:
            raise error(errno.ENOPROTOOPT)
        setattr(self, flag, bool(number))
        if option == NETLINK_NO_ENOBUFS and number:
            self.congested = False
            self.space.wake_all(EPOLLOUT)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        """As setsockopt, and NETLINK_LIST_MEMBERSHIPS: the groups as a bit map."""
        if level == SOL_SOCKET:
            return sock_getsockopt(self, option, length)
        if level != SOL_NETLINK:
            raise error(errno.ENOPROTOOPT)
        if length < 0:
            raise error(errno.EINVAL, f"option length: expected 0 or more bytes, not {length}")
        if option == NETLINK_LIST_MEMBERSHIPS:
            bits = sum(1 << group - 1 for group in self.groups)
            return bits.to_bytes((self.table.groups + 31) // 32 * 4, "little")[: length & ~3]
        flag = _FLAGS.get(option)
        if flag is None or option == NETLINK_LISTEN_ALL_NSID:
            raise error(errno.ENOPROTOOPT)
        if length < 4:
            raise error(errno.EINVAL, f"option length: expected an int (4 bytes), not {length}")
        return encode_int(int(getattr(self, flag)), length)


def _first(mask: int) -> int:
    """The lowest group of a mask, counted from 1; 0 for none (ffs(3))."""
    return (mask & -mask).bit_length()


def _mask(group: int) -> int:
    return 1 << group - 1 if 0 < group <= 32 else 0
