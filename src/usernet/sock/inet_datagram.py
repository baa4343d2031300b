"""The base of internet sockets of datagrams: UDP, raw and ping (Linux: net/ipv4/datagram.c, and what udp.c, raw.c and
ping.c do alike).

Addresses, routing of one datagram, its hand-over to the network layer with the errors that come back at once, and the
queueing and copying out of what is received.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLERR, EPOLLPRI, Blocking
from usernet.net.dst import Dst
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import RTN_MULTICAST, Flow
from usernet.sock.datagram import (
    SOL_IP,
    SOL_IPV6,
    copy_datagram,
    local_error,
    mark_timestamp,
    sock_recv_cmsgs,
    wants_cmsgs,
)
from usernet.sock.inet import (
    IP_PMTUDISC_DO,
    IP_PMTUDISC_DONT,
    IP_PMTUDISC_INTERFACE,
    IP_PMTUDISC_OMIT,
    IP_PMTUDISC_PROBE,
    IP_PMTUDISC_WANT,
    InetSock,
)
from usernet.sock.msg import (
    MSG_DONTROUTE,
    MSG_DONTWAIT,
    SEND_SHUTDOWN,
    SHUT_RDWR,
    MsgHdr,
    Name,
    SockAddr,
)
from usernet.sock.sockopt import (
    SO_MARK,
    SO_PRIORITY,
    SO_TIMESTAMPING,
    SO_TIMESTAMPING_NEW,
    SOCK_SELECT_ERR_QUEUE,
    SOL_SOCKET,
)
from usernet.sock.timestamping import SCM_TS_OPT_ID, per_call, with_key

TCP_ESTABLISHED: Final = 1
TCP_CLOSE: Final = 7
SIOCINQ: Final = 0x541B
SIOCOUTQ: Final = 0x5411
SCM_RIGHTS: Final = 1
SCM_CREDENTIALS: Final = 2
NET_XMIT_DROP: Final = 1

DONT_FRAGMENT: Final = frozenset((IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE))
"""IP_MTU_DISCOVER's ways that set DF on what fits the path (Linux: ip_dont_fragment, and PROBE)."""
LOCAL_DF: Final = frozenset((IP_PMTUDISC_WANT, IP_PMTUDISC_DONT, IP_PMTUDISC_OMIT))
"""Those that fragment here what doesn't (Linux: ip_sk_ignore_df)."""

_UINT: Final = Struct("=I")


class DatagramSock(InetSock):
    """What UDP, raw and ping sockets do alike."""

    def hash(self) -> None:
        """The socket's addresses changed: file it anew where received packets find it."""

    def unhash(self) -> None:
        """Take it out of where received packets find it."""

    def autobind(self) -> None:
        """Give it a local port, where it needs one and has none."""

    # -- addresses

    def connect(self, name: Name, flags: int, deadline: int) -> Blocking[None] | None:
        """Fix the peer (Linux: ip4_datagram_connect); AF_UNSPEC takes it back.

        Raises OSError: EAFNOSUPPORT, EACCES (broadcast without SO_BROADCAST), EAGAIN (no free port), and what
        `AddressFamily.route` raises.
        """
        if name.family == 0:
            self.disconnect()
            return None
        af = self.af
        if not isinstance(name, SockAddr) or name.family != af.family:
            raise error(errno.EAFNOSUPPORT)
        self.autobind()
        self.dst = None
        daddr = af.loopback if name.addr == af.any else name.addr
        flow = self.flow(daddr, name.port)
        self.choose_device(flow)
        dst = af.route(flow)
        if dst.broadcast and not self.broadcast:
            raise error(errno.EACCES, "sending to a broadcast address needs SO_BROADCAST")
        self.unhash()
        source = flow.saddr if flow.saddr != af.any else dst.saddr
        if self.saddr == af.any:
            self.saddr = source
        if self.rcv_saddr == af.any:
            self.rcv_saddr = source
        self.daddr = daddr
        self.dport = name.port
        self.scope_id = name.scope_id
        self.state = TCP_ESTABLISHED
        self.dst = dst
        self.hash()
        return None

    def disconnect(self) -> None:
        """Forget the peer, and the addresses that were not asked for by bind (Linux: __udp_disconnect)."""
        self.unhash()
        any_addr = self.af.any
        self.state = TCP_CLOSE
        self.daddr = any_addr
        self.dport = 0
        self.bound_dev_if = 0
        self.dst = None
        if not self.bound_addr:
            self.saddr = self.rcv_saddr = any_addr
        if not self.bound_port:
            self.release_port()
        self.hash()

    def release_port(self) -> None:
        """Give back a local port that was not asked for by bind."""

    def getsockname(self) -> Name:
        return self.sockname()

    def getpeername(self) -> Name:
        """Raises OSError ENOTCONN, also where the peer has no port (Linux: inet_getname)."""
        if self.state != TCP_ESTABLISHED or not self.dport:
            raise error(errno.ENOTCONN)
        return SockAddr(self.family, self.daddr, self.dport, self.scope_id)

    # -- sending

    def choose_device(self, flow: Flow) -> None:
        """IP_MULTICAST_IF and IP_UNICAST_IF, where the flow names no device itself (Linux: in udp_sendmsg)."""
        if self.mc_index or self.unicast_if or self.mc_addr != self.af.any:
            if self.af.addr_type(flow.daddr) == RTN_MULTICAST:
                if not flow.oif:
                    flow.oif = self.mc_index
                if flow.saddr == self.af.any:
                    flow.saddr = self.mc_addr
            elif not flow.oif:
                flow.oif = self.unicast_if

    def send_control(self, msg: MsgHdr, flow: Flow) -> tuple[int, int]:
        """Apply a message's ancillary data at SOL_SOCKET and the family's level to `flow` (Linux: ip_cmsg_send).

        Returns the TTL (-1 where none was given) and SOF_TIMESTAMPING_* for this message. Raises OSError EINVAL.
        """
        ttl = -1
        tsflags = self.tsflags
        for level, kind, data in msg.control or ():
            if level == SOL_SOCKET:
                if kind == SO_MARK and len(data) == 4:
                    flow.mark = _UINT.unpack(data)[0]
                elif kind == SO_PRIORITY and len(data) == 4:
                    flow.priority = _UINT.unpack(data)[0]
                elif kind in (SO_TIMESTAMPING, SO_TIMESTAMPING_NEW):
                    tsflags = per_call(tsflags, data)
                elif kind == SCM_TS_OPT_ID:
                    tsflags = with_key(self, tsflags, data)
                elif kind not in (SCM_RIGHTS, SCM_CREDENTIALS):
                    raise error(errno.EINVAL, f"ancillary data: SOL_SOCKET has no type {kind} to send")
            elif level in (SOL_IP, SOL_IPV6):
                given = self.af.send_control(self, level, kind, data, flow)
                if given is not None:
                    ttl = given
        return ttl, tsflags

    def send_flow(self, daddr: bytes, dport: int, flags: int) -> Flow:
        """The flow of one datagram; 0.0.0.0 means this machine, as everywhere."""
        flow = self.flow(self.af.loopback if daddr == self.af.any else daddr, dport)
        flow.options = self.options
        flow.priority = self.priority
        if flags & MSG_DONTROUTE:
            flow.onlink = True
        return flow

    def send_route(self, flow: Flow) -> Dst:
        """Raises OSError EACCES (broadcast without SO_BROADCAST), and what `AddressFamily.route` raises."""
        try:
            dst = self.af.route(flow)
        except OSError as cause:
            if cause.errno == errno.ENETUNREACH:
                self.net.mib.ip.OutNoRoutes += 1
            raise
        if dst.broadcast and not self.broadcast:
            raise error(errno.EACCES, "sending to a broadcast address needs SO_BROADCAST")
        return dst

    def check_send(self, flags: int, deadline: int) -> bool:
        """Whether there is room to send now; False where the call has to wait for it (Linux: sock_alloc_send_pskb).

        Raises OSError: the pending error, EPIPE after shutdown, EAGAIN where the call may not wait.
        """
        self.raise_error()
        if self.shutdown_mask & SEND_SHUTDOWN:
            raise error(errno.EPIPE)
        if self.wmem_alloc < self.sndbuf:
            return True
        if flags & MSG_DONTWAIT or self.loop.now >= deadline:
            raise error(errno.EAGAIN)
        return False

    def send_blocked(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int]:
        """Wait for room, and start the send over."""
        yield from self.wait_for_wmem(deadline)
        again = self.sendmsg(msg, flags, deadline)
        if isinstance(again, int):
            return again
        return (yield from again)

    def transmit(
        self, skb: SKBuff, dst: Dst, saddr: bytes, daddr: bytes, dport: int, tos: int, ttl: int, tsflags: int,
        options: bytes,
    ) -> bool:  # fmt: skip
        """Give a datagram with its transport header to the network layer. False where the device's queue was full.

        ttl: -1 for the socket's. tsflags: SOF_TIMESTAMPING_* of this datagram.
        Raises OSError: EMSGSIZE, ENOBUFS (a full queue, where IP_RECVERR is on), what the network layer raises.
        """
        pmtudisc = self.pmtudisc
        if tsflags:
            mark_timestamp(self, tsflags, skb)
        if ttl < 0:
            ttl = self.mc_ttl if dst.multicast else max(self.ttl, 0)
        if pmtudisc == IP_PMTUDISC_INTERFACE and skb.len + self.af.header_len > dst.dev.mtu and not skb.gso_size:
            skb.drop(DropReason.PKT_TOO_BIG, self.net.drops)
            local_error(self, errno.EMSGSIZE, daddr, dport, dst.dev.mtu)
            raise error(errno.EMSGSIZE)
        try:
            verdict = self.af.xmit_skb(
                skb, dst, saddr, daddr, self.protocol, tos, ttl, pmtudisc in DONT_FRAGMENT, self, options,
                pmtudisc in LOCAL_DF,
            )  # fmt: skip
        except OSError as cause:
            if cause.errno == errno.EMSGSIZE:
                local_error(self, errno.EMSGSIZE, daddr, dport, dst.mtu())
            raise
        if verdict == NET_XMIT_DROP:
            # Only who asked for errors is told that the queue was full (Linux: udp_send_skb, raw_sendmsg).
            if self.recverr:
                raise error(errno.ENOBUFS)
            return False
        return True

    def update_pmtu(self, daddr: bytes, mtu: int) -> None:
        """The path to `daddr` takes only `mtu` bytes, says an ICMP error about a packet of this socket (Linux:
        ipv4_sk_update_pmtu)."""
        dst = self.dst
        if dst is None or daddr != self.daddr:
            try:
                dst = self.af.route(self.flow(daddr))
            except OSError:
                return
        dst.update_pmtu(mtu)

    # -- receiving

    def filter_and_queue(self, skb: SKBuff) -> None:
        """Queue a received packet, `data` at what the application is to get (Linux: sock_queue_rcv_skb)."""
        if self.filter is not None:
            keep = self.filter.run(skb)
            if not keep:
                self.drops += 1
                skb.drop(DropReason.SOCKET_FILTER, self.net.drops)
                return
            skb.trim(keep)
        skb.seq = self.drops
        reason = self.queue_receive(skb)
        if reason is not None:
            skb.drop(reason, self.net.drops)

    def copy_packet(self, skb: SKBuff, msg: MsgHdr, flags: int, offset: int) -> int:
        """recvmsg's copying out, for protocols without ports."""
        result = copy_datagram(skb, msg, flags, offset)
        msg.name = SockAddr(self.family, skb.saddr, 0)
        if wants_cmsgs(self):
            sock_recv_cmsgs(self, msg, skb)
        if self.cmsg_flags:
            for level, kind, data in self.af.receive_control(self, skb):
                msg.put_control(level, kind, data)
        return result

    # -- the rest

    def shutdown(self, how: int) -> None:
        """Linux: inet_shutdown. On a socket without a peer it works, and says ENOTCONN all the same."""
        if not 0 <= how <= SHUT_RDWR:
            raise error(errno.EINVAL, f"shutdown: expected 0 to 2, not {how}")
        self.shutdown_mask |= how + 1
        self.state_change()
        if self.state == TCP_CLOSE:
            raise error(errno.ENOTCONN)

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        self.dead = True
        self.unhash()
        self.release_port()
        self.af.drop_memberships(self)
        self.shutdown_mask = 3
        self.state = TCP_CLOSE
        self.destroy()
        self.state_change()
        return None

    def poll(self) -> int:
        mask = super().poll()
        if mask & EPOLLERR and self.sock_flags & SOCK_SELECT_ERR_QUEUE:
            mask |= EPOLLPRI
        return mask

    def ioctl(self, request: int) -> int:
        """SIOCINQ: bytes of the first datagram; SIOCOUTQ: bytes being sent, with their overhead."""
        if request == SIOCINQ:
            skb = self.receive_queue.first
            return skb.len if skb is not None else 0
        if request == SIOCOUTQ:
            return self.wmem_alloc
        raise error(errno.ENOTTY)

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if level == SOL_SOCKET:
            from usernet.sock.options import sock_setsockopt

            sock_setsockopt(self, option, value)
        elif level == self.sol():
            self.af.setsockopt(self, option, value)
        else:
            raise error(errno.ENOPROTOOPT)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        if level == SOL_SOCKET:
            from usernet.sock.options import sock_getsockopt

            return sock_getsockopt(self, option, length)
        if level != self.sol():
            raise error(errno.ENOPROTOOPT)
        return self.af.getsockopt(self, option, length)

    def getsockopt_from(self, level: int, option: int, value: bytes) -> bytes:
        if level != self.sol():
            return self.getsockopt(level, option, len(value))
        return self.af.getsockopt_from(self, option, value)

    def sol(self) -> int:
        """The level of the family's own options."""
        return SOL_IP if self.af.addr_len == 4 else SOL_IPV6
