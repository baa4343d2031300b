"""Packet sockets: frames as devices receive and send them (Linux: net/packet/af_packet.c; packet(7)).

SOCK_RAW has the link header in its data; SOCK_DGRAM ("cooked") has it in the address. A socket is a tap on the devices:
with ETH_P_ALL it is shown what is sent, too, before the device gets it, so with checksums still to be filled in and
super-segments whole (PACKET_AUXDATA says so). What it sends goes to the device's queue, past every layer between.

With PACKET_RX_RING (packet_ring.py) frames go into memory that the program has mapped, where the surface through which
the socket is used can share some. PACKET_TX_RING is ENOPROTOOPT: a ring that is written without a call would have to
be looked at all the time. So are PACKET_COPY_THRESH and PACKET_VNET_HDR. PACKET_FANOUT is in packet_fanout.py, the
options in packet_sockopt.py.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.core.timer import NEVER
from usernet.core.wait import EPOLLIN, EPOLLRDNORM, Blocking
from usernet.net.families import Families, NetProtoFamily
from usernet.net.packet_type import ETH_P_ALL, PacketTypes, Tap
from usernet.net.pernet import Net
from usernet.netdevice.device import (
    IFF_LOOPBACK,
    IFF_NOARP,
    NET_XMIT_DROP,
    NETDEV_DOWN,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    NetDevice,
)
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    PACKET_LOOPBACK,
    PACKET_OUTGOING,
    SKB_GSO_TCPV4,
    SKB_GSO_TCPV6,
    SKBuff,
)
from usernet.sock.datagram import (
    copy_datagram,
    mark_timestamp,
    receive,
    receive_errqueue,
    sock_recv_cmsgs,
    wants_cmsgs,
)
from usernet.sock.msg import (
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_PEEK,
    MSG_TRUNC,
    MsgHdr,
    Name,
    PacketAddr,
)
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW, Sock
from usernet.sock.timestamping import tsflags_of
from usernet.sockets import packet_sockopt
from usernet.sockets.packet_fanout import Fanout, Fanouts, Rollover
from usernet.sockets.packet_membership import Membership
from usernet.sockets.packet_ring import TP_STATUS_USER, TPACKET_V1, Memory, Ring
from usernet.sockets.packet_sockopt import PACKET_AUXDATA, PACKET_TX_TIMESTAMP, SOL_PACKET
from usernet.wire import ethernet

AF_PACKET: Final = 17
TP_STATUS_CSUMNOTREADY: Final = 1 << 3
TP_STATUS_CSUM_VALID: Final = 1 << 7
TP_STATUS_GSO_TCP: Final = 1 << 8
SIOCINQ: Final = 0x541B
SIOCOUTQ: Final = 0x5411

_RECV_FLAGS: Final = MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_ERRQUEUE
_AUXDATA: Final = Struct("=IIIHHHH")


@final
class PacketFamily(NetProtoFamily):
    """AF_PACKET in one namespace. `sockets`: those that are open, for what happens to devices."""

    def __init__(self, net: Net) -> None:
        self.family = AF_PACKET
        self._net = net
        self.sockets: dict[PacketSock, None] = {}
        self.fanouts = Fanouts(net)
        net.get(DeviceNamespace).subscribe(self.notify)
        net.get(Families).register(self)

    def create(self, sock_type: int, protocol: int) -> PacketSock:
        """protocol: an EtherType in network byte order, as socket(2) has it (`socket.ntohs(ETH_P_ALL)`); 0: nothing is
        received until bind names one. Raises OSError ESOCKTNOSUPPORT."""
        if sock_type not in (SOCK_RAW, SOCK_DGRAM):
            raise error(errno.ESOCKTNOSUPPORT)
        number = (protocol & 0xFF) << 8 | protocol >> 8 & 0xFF
        return PacketSock(self._net, sock_type, number, self)

    def notify(self, event: int, dev: NetDevice) -> None:
        """Linux: packet_notifier."""
        for sk in tuple(self.sockets):
            sk.device_event(event, dev)


@final
class Received:
    """What goes with a frame in the queue: its address, and its length before a filter cut it."""

    __slots__ = ("length", "name", "net_offset")

    def __init__(self, name: PacketAddr, length: int, net_offset: int) -> None:
        self.name = name
        self.length = length
        self.net_offset = net_offset


@final
class PacketSock(Sock):
    """A packet socket. `num`: the EtherType it takes. `ifindex`: the device it is bound to, 0 for all, -1 where that
    is gone. `memory`: has memory that a ring can be in, set by a surface whose programs can map it."""

    def __init__(self, net: Net, sock_type: int, protocol: int, table: PacketFamily) -> None:
        super().__init__(net)
        self.family = AF_PACKET
        self.sock_type = sock_type
        self.num = protocol
        self.ifindex: int = 0
        self.table = table
        self.types = net.get(PacketTypes)
        self.devices = net.get(DeviceNamespace)
        self.tap: Tap | None = None
        self.fanout: Fanout | None = None
        self.rollover: Rollover | None = None
        self.memberships: list[Membership] = []
        self.auxdata: bool = False
        self.origdev: bool = False
        self.ignore_outgoing: bool = False
        self.qdisc_bypass: bool = False
        self.timestamp_source: int = 0
        self.tp_packets: int = 0
        self.tp_drops: int = 0
        self.tp_version: int = TPACKET_V1
        self.tp_reserve: int = 0
        self.memory: Memory | None = None
        self.ring: Ring | None = None
        table.sockets[self] = None
        if protocol:
            self._hook(None)

    # -- being shown packets

    def _hook(self, dev: NetDevice | None) -> None:
        """Be shown packets (Linux: __register_prot_hook)."""
        self._unhook()
        self.tap = Tap(self.deliver, self.num, dev, self)
        if self.fanout is not None:
            self.fanout.link(self)
        else:
            self.types.add_tap(self.tap)

    def _unhook(self) -> None:
        if self.tap is not None:
            if self.fanout is not None:
                self.fanout.unlink(self)
            else:
                self.types.remove_tap(self.tap)
            self.tap = None

    def device_event(self, event: int, dev: NetDevice) -> None:
        """What a device's coming and going does to a socket bound to it."""
        if event == NETDEV_UNREGISTER:
            self.memberships = [entry for entry in self.memberships if entry.dev is not dev]
        if dev.index != self.ifindex:
            return
        if event in (NETDEV_DOWN, NETDEV_UNREGISTER):
            if self.tap is not None:
                self._unhook()
                self.err = errno.ENETDOWN
                self.error_report()
            if event == NETDEV_UNREGISTER:
                self.ifindex = -1
        elif event == NETDEV_UP and self.num:
            self._hook(dev)

    def deliver(self, skb: SKBuff) -> None:
        """A packet that a device received or is to send, `data` at its network header (Linux: packet_rcv)."""
        pkt_type = skb.pkt_type
        if pkt_type == PACKET_LOOPBACK or (self.ignore_outgoing and pkt_type == PACKET_OUTGOING):
            return
        dev: NetDevice = skb.dev
        back = skb.data - skb.mac_header if self.sock_type == SOCK_RAW and dev.has_link_header else 0
        keep = -1
        if self.filter is not None:
            # The filter sees what the application would get.
            skb.data -= back
            skb.len += back
            keep = self.filter.run(skb)
            skb.data += back
            skb.len -= back
            if not keep:
                return
        source = skb.head[skb.mac_header + 6 : skb.mac_header + 12] if dev.has_link_header else b""
        name = PacketAddr(max(skb.protocol, 0), dev.index, dev.link_type, pkt_type, source)
        ring = self.ring
        if ring is not None:
            ring.receive(skb, name, back, keep, _status_of(skb))
            return
        copy = skb.clone()
        copy.push(back)
        copy.cb = Received(name, copy.len, back)
        if keep >= 0:
            copy.trim(keep)
        if not copy.tstamp:
            copy.tstamp = self.loop.now + self.loop.clock.realtime_offset
        copy.seq = self.drops
        reason = self.queue_receive(copy)
        if reason is None:
            self.tp_packets += 1
        else:
            self.tp_drops += 1
            copy.drop(reason, self.net.drops)

    def poll(self) -> int:
        """As `Sock.poll`, and readable while a frame, or block, of the ring is the program's (Linux: packet_poll)."""
        mask = Sock.poll(self)
        if self.ring is not None and self.ring.readable():
            mask |= EPOLLIN | EPOLLRDNORM
        return mask

    # -- addresses

    def bind(self, name: Name) -> None:
        """Take frames of one device (`ifindex`, 0 for all) and EtherType (0: the one it has).

        Raises OSError: EINVAL (also in a fanout group), ENODEV. A device that is down: ENETDOWN as the pending error.
        """
        if not isinstance(name, PacketAddr) or self.fanout is not None:
            raise error(errno.EINVAL)
        dev: NetDevice | None = None
        if name.ifindex:
            dev = self.devices.by_index(name.ifindex)
            if dev is None:
                raise error(errno.ENODEV)
        self.num = name.protocol or self.num
        self.ifindex = name.ifindex
        self._unhook()
        if not self.num:
            return
        if dev is None or dev.up:
            self._hook(dev)
        else:
            self.err = errno.ENETDOWN
            self.error_report()

    def getsockname(self) -> Name:
        dev = self.devices.by_index(self.ifindex)
        if dev is None:
            return PacketAddr(self.num, self.ifindex, 0, 0, b"")
        return PacketAddr(self.num, self.ifindex, dev.link_type, 0, dev.mac)

    # -- receiving

    def recvmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Receive one frame. Raises OSError: EINVAL (another flag than MSG_PEEK, _DONTWAIT, _TRUNC, _ERRQUEUE), the
        pending error (ENETDOWN), EAGAIN."""
        if flags & ~_RECV_FLAGS:
            raise error(errno.EINVAL)
        if flags & MSG_ERRQUEUE:
            skb, size = receive_errqueue(self, msg)
            msg.put_control(SOL_PACKET, PACKET_TX_TIMESTAMP, skb.cb.pack())
            return size
        return receive(self, msg, flags, deadline, self._copy)

    def _copy(self, skb: SKBuff, msg: MsgHdr, flags: int, offset: int) -> int:
        result = copy_datagram(skb, msg, flags, offset)
        received: Received = skb.cb
        msg.name = received.name
        if wants_cmsgs(self):
            sock_recv_cmsgs(self, msg, skb)
        if self.auxdata:
            data = _AUXDATA.pack(_status_of(skb), received.length, skb.len, 0, received.net_offset, 0, 0)
            msg.put_control(SOL_PACKET, PACKET_AUXDATA, data)
        return result

    # -- sending

    def sendmsg(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int] | int:
        """Send one frame (Linux: packet_snd), to the device that the name or bind says.

        Raises OSError: ENXIO (no such device), ENETDOWN, EMSGSIZE, EINVAL (too short for a link header, or cooked and
        no address), ENOBUFS (the device's queue is full), EAGAIN, the pending error.
        """
        name = msg.name
        if name is None:
            dev = self.devices.by_index(self.ifindex)
            proto = self.num
            addr: bytes | None = None
        else:
            if not isinstance(name, PacketAddr):
                raise error(errno.EINVAL)
            dev = self.devices.by_index(name.ifindex)
            proto = name.protocol
            addr = name.addr
        if dev is None:
            raise error(errno.ENXIO)
        if not dev.up:
            raise error(errno.ENETDOWN)
        tsflags = tsflags_of(self, msg.control) if msg.control else self.tsflags
        raw = self.sock_type == SOCK_RAW
        header_len = dev.hard_header_len
        size = msg.iter.length
        longest = dev.mtu + (header_len if raw else 0)
        if size > longest + ethernet.VLAN_HLEN:
            raise error(errno.EMSGSIZE)
        self.raise_error()
        if self.wmem_alloc >= self.sndbuf:
            if flags & MSG_DONTWAIT or self.loop.now >= deadline:
                raise error(errno.EAGAIN)
            return self._send_blocked(msg, flags, deadline)
        if raw:
            if size < header_len or not size:
                raise error(errno.EINVAL, f"frame: expected at least {max(header_len, 1)} bytes, not {size}")
            frame = bytes(msg.iter.read(size))
            if header_len and proto in (0, ETH_P_ALL):
                proto = ethernet.parse(frame, 0)[2]
            # A tag of IEEE 802.1Q is not counted to what the device can take.
            if size > longest and not (header_len and ethernet.parse(frame, 0)[2] == ethernet.ETH_P_8021Q):
                raise error(errno.EMSGSIZE)
        else:
            if size > longest:
                raise error(errno.EMSGSIZE)
            frame = self._link_header(dev, proto, addr, size) + bytes(msg.iter.read(size) if size else b"")
            if not frame:
                raise error(errno.EINVAL, "an empty frame")
        skb = SKBuff(frame)
        skb.mac_header = 0
        skb.network_header = header_len
        skb.protocol = proto
        skb.mark = self.mark
        skb.priority = self.priority
        self.charge_send(skb)
        if tsflags:
            mark_timestamp(self, tsflags, skb)
        if dev.queue_xmit(skb) == NET_XMIT_DROP:
            raise error(errno.ENOBUFS)
        return size

    def _send_blocked(self, msg: MsgHdr, flags: int, deadline: int) -> Blocking[int]:
        yield from self.wait_for_wmem(deadline)
        again = self.sendmsg(msg, flags, deadline)
        if isinstance(again, int):
            return again
        return (yield from again)

    def _link_header(self, dev: NetDevice, proto: int, addr: bytes | None, size: int) -> bytes:
        """Linux: eth_header."""
        if not dev.has_link_header:
            return b""
        if addr is None:
            if not dev.flags & (IFF_LOOPBACK | IFF_NOARP):
                raise error(errno.EINVAL, "a cooked packet needs a link address to be sent to")
            addr = b""
        field = size if proto in (ethernet.ETH_P_802_3, ethernet.ETH_P_802_2) else proto
        return ethernet.build(addr[:6].ljust(6, b"\0"), dev.mac, field)

    # -- the rest

    def ioctl(self, request: int) -> int:
        if request == SIOCINQ:
            skb = self.receive_queue.first
            return skb.len if skb is not None else 0
        if request == SIOCOUTQ:
            return self.wmem_alloc
        raise error(errno.ENOTTY)

    def close(self, deadline: int = NEVER) -> Blocking[None] | None:
        self.dead = True
        self._unhook()
        self.table.fanouts.leave(self)
        self.table.sockets.pop(self, None)
        for entry in self.memberships:
            entry.apply(-1)
        self.memberships.clear()
        ring, self.ring = self.ring, None
        if ring is not None:
            ring.close()
        self.destroy()
        self.state_change()
        return None

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        packet_sockopt.setsockopt(self, level, option, value)

    def getsockopt(self, level: int, option: int, length: int) -> bytes:
        return packet_sockopt.getsockopt(self, level, option, length)

    def getsockopt_from(self, level: int, option: int, value: bytes) -> bytes:
        return packet_sockopt.getsockopt_from(self, level, option, value)


def _status_of(skb: SKBuff) -> int:
    """TP_STATUS_* of a frame for the program."""
    status = TP_STATUS_USER
    if skb.ip_summed == CHECKSUM_PARTIAL:
        status |= TP_STATUS_CSUMNOTREADY
    elif skb.ip_summed == CHECKSUM_UNNECESSARY and skb.pkt_type != PACKET_OUTGOING:
        status |= TP_STATUS_CSUM_VALID
    if skb.gso_size and skb.gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6):
        status |= TP_STATUS_GSO_TCP
    return status
