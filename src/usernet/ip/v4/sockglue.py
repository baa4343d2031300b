"""The socket options of level SOL_IP, and the ancillary data of IPv4 (ip(7); Linux: net/ipv4/ip_sockglue.c).

Values and ancillary data are bytes in Linux's layout. Options of group memberships go to multicast.py.
"""

from __future__ import annotations

import errno
import sys
from struct import Struct
from typing import Final, final

from usernet.core.errors import error
from usernet.ip.v4.devinet import Devinet
from usernet.ip.v4.fib4 import ANY, Fib4
from usernet.ip.v4.forward import Ip4Forward
from usernet.ip.v4.multicast import IP_MSFILTER, MCAST_MSFILTER, MEMBERSHIP_OPTIONS, Multicast
from usernet.ip.v4.options import OptionsInput, compute_spec_dst
from usernet.ip.v4.output import Ip4Output
from usernet.ip.v4.tos import tos_priority
from usernet.net.pernet import Net
from usernet.netdevice.namespace import DeviceNamespace
from usernet.skbuff.skbuff import CHECKSUM_PARTIAL, SKBuff
from usernet.sock.af_ops import RTN_LOCAL, Flow
from usernet.sock.inet import IP_PMTUDISC_OMIT, InetSock
from usernet.sock.optval import encode_int, encode_int_or_byte
from usernet.sock.sock import SOCK_DGRAM, SOCK_RAW, SOCK_STREAM
from usernet.wire import checksum, ipv4
from usernet.wire.errors import WireError

SOL_IP: Final = 0
IPPROTO_RAW: Final = 255

IP_TOS: Final = 1
IP_TTL: Final = 2
IP_HDRINCL: Final = 3
IP_OPTIONS: Final = 4
IP_ROUTER_ALERT: Final = 5
IP_RECVOPTS: Final = 6
IP_RETOPTS: Final = 7
IP_PKTINFO: Final = 8
IP_PKTOPTIONS: Final = 9
IP_MTU_DISCOVER: Final = 10
IP_RECVERR: Final = 11
IP_RECVTTL: Final = 12
IP_RECVTOS: Final = 13
IP_MTU: Final = 14
IP_FREEBIND: Final = 15
IP_PASSSEC: Final = 18
IP_TRANSPARENT: Final = 19
IP_RECVORIGDSTADDR: Final = 20
IP_ORIGDSTADDR: Final = IP_RECVORIGDSTADDR
IP_MINTTL: Final = 21
IP_NODEFRAG: Final = 22
IP_CHECKSUM: Final = 23
IP_BIND_ADDRESS_NO_PORT: Final = 24
IP_RECVFRAGSIZE: Final = 25
IP_RECVERR_RFC4884: Final = 26
IP_MULTICAST_IF: Final = 32
IP_MULTICAST_TTL: Final = 33
IP_MULTICAST_LOOP: Final = 34
IP_MULTICAST_ALL: Final = 49
IP_UNICAST_IF: Final = 50
IP_LOCAL_PORT_RANGE: Final = 51
IP_PROTOCOL: Final = 52

IP_CMSG_PKTINFO: Final = 1 << 0
IP_CMSG_TTL: Final = 1 << 1
IP_CMSG_TOS: Final = 1 << 2
IP_CMSG_RECVOPTS: Final = 1 << 3
IP_CMSG_RETOPTS: Final = 1 << 4
IP_CMSG_PASSSEC: Final = 1 << 5
IP_CMSG_ORIGDSTADDR: Final = 1 << 6
IP_CMSG_CHECKSUM: Final = 1 << 7
IP_CMSG_RECVFRAGSIZE: Final = 1 << 8

_CMSG_OPTIONS: Final = {
    IP_PKTINFO: IP_CMSG_PKTINFO,
    IP_RECVTTL: IP_CMSG_TTL,
    IP_RECVTOS: IP_CMSG_TOS,
    IP_RECVOPTS: IP_CMSG_RECVOPTS,
    IP_RETOPTS: IP_CMSG_RETOPTS,
    IP_PASSSEC: IP_CMSG_PASSSEC,
    IP_RECVORIGDSTADDR: IP_CMSG_ORIGDSTADDR,
    IP_RECVFRAGSIZE: IP_CMSG_RECVFRAGSIZE,
    IP_CHECKSUM: IP_CMSG_CHECKSUM,
}
"""Options that ask for a kind of ancillary data."""

_FLAGS: Final = {
    IP_FREEBIND: "freebind",
    IP_HDRINCL: "hdrincl",
    IP_MULTICAST_LOOP: "mc_loop",
    IP_MULTICAST_ALL: "mc_all",
    IP_TRANSPARENT: "transparent",
    IP_NODEFRAG: "nodefrag",
    IP_BIND_ADDRESS_NO_PORT: "bind_address_no_port",
    IP_RECVERR: "recverr",
    IP_RECVERR_RFC4884: "recverr_rfc4884",
}
"""Options that are one attribute of the socket."""

_NEEDS_VALUE: Final = (IP_FREEBIND, IP_MULTICAST_LOOP, IP_MULTICAST_ALL, IP_TRANSPARENT, IP_TTL, IP_MINTTL)

_INT: Final = Struct("=i")
_PKTINFO: Final = Struct("=i4s4s")
_SOCKADDR_IN: Final = Struct("=H2s4s8x")
_CMSGHDR: Final = Struct("=Qii")


def _decode(value: bytes) -> int:
    """An int, or one byte; nothing at all counts as 0 (Linux: do_ip_setsockopt)."""
    if len(value) >= 4:
        number: int = _INT.unpack_from(value)[0]
        return number
    return value[0] if value else 0


def _payload_sum(skb: SKBuff) -> bytes:
    """What a received packet holds for the program, summed as Internet checksums are: a `__wsum`, in the order of this
    machine's bytes, of which folding and complementing makes a checksum."""
    total = checksum.csum(skb.head, skb.data, skb.tail)
    offset = skb.tail - skb.data
    for frag in skb.frags or ():
        total = checksum.csum_block_add(total, checksum.csum(frag, 0, len(frag)), offset)
        offset += len(frag)
    # The sum of bytes in the other order is the sum with its bytes swapped (RFC 1071 section 2).
    return int.from_bytes((total % 0xFFFF).to_bytes(2, "big"), sys.byteorder).to_bytes(4, sys.byteorder)


@final
class SockGlue:
    """The SOL_IP options of one namespace's sockets."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._devices = net.get(DeviceNamespace)
        self._devinet = net.get(Devinet)
        self._fib = net.get(Fib4)
        self._multicast = net.get(Multicast)
        self._options = net.get(OptionsInput)
        self._out = net.get(Ip4Output)
        self._forward = net.get(Ip4Forward)

    def forget(self, sk: InetSock) -> None:
        """The socket closes."""
        if sk in self._forward.ra_chain:
            self._forward.ra_chain.remove(sk)

    # -- setting

    def setsockopt(self, sk: InetSock, option: int, value: bytes) -> None:
        """Linux: do_ip_setsockopt. Raises OSError ENOPROTOOPT, EINVAL, EADDRNOTAVAIL, …"""
        if option in MEMBERSHIP_OPTIONS:
            self._multicast.setsockopt(sk, option, value)
            return
        if option in _NEEDS_VALUE and not value:
            raise error(errno.EINVAL, f"SOL_IP option {option}: expected a value, not 0 bytes")
        number = _decode(value)
        if option in _CMSG_OPTIONS:
            if option == IP_RECVFRAGSIZE and sk.sock_type not in (SOCK_RAW, SOCK_DGRAM):
                raise error(errno.EINVAL, "IP_RECVFRAGSIZE: expected a datagram or raw socket")
            flag = _CMSG_OPTIONS[option]
            sk.cmsg_flags = sk.cmsg_flags | flag if number else sk.cmsg_flags & ~flag
        elif option in _FLAGS:
            self._set_flag(sk, option, number)
        elif option == IP_TOS:
            self._set_tos(sk, number)
        elif option == IP_TTL:
            if number != -1 and not 1 <= number <= 255:
                raise error(errno.EINVAL, f"IP_TTL: expected 1 to 255, or -1, not {number}")
            sk.ttl = number
        elif option == IP_MINTTL:
            if not 0 <= number <= 255:
                raise error(errno.EINVAL, f"IP_MINTTL: expected 0 to 255, not {number}")
            sk.min_ttl = number
        elif option == IP_MTU_DISCOVER:
            if not 0 <= number <= IP_PMTUDISC_OMIT:
                raise error(errno.EINVAL, f"IP_MTU_DISCOVER: expected 0 to {IP_PMTUDISC_OMIT}, not {number}")
            sk.pmtudisc = number
        elif option == IP_MULTICAST_TTL:
            self._set_multicast_ttl(sk, value, number)
        elif option == IP_LOCAL_PORT_RANGE:
            low, high = number & 0xFFFF, number >> 16 & 0xFFFF
            if len(value) != 4 or (low and high and low > high):
                raise error(errno.EINVAL, f"IP_LOCAL_PORT_RANGE: expected low, high << 16, not {low}, {high}")
            sk.local_port_range = (low, high)
        elif option == IP_OPTIONS:
            self._set_options(sk, value)
        elif option == IP_UNICAST_IF:
            self._set_unicast_if(sk, value)
        elif option == IP_MULTICAST_IF:
            self._set_multicast_if(sk, value)
        elif option == IP_ROUTER_ALERT:
            self._set_router_alert(sk, bool(number))
        else:
            raise error(errno.ENOPROTOOPT)

    def _set_flag(self, sk: InetSock, option: int, number: int) -> None:
        if option in (IP_HDRINCL, IP_NODEFRAG) and sk.sock_type != SOCK_RAW:
            raise error(errno.ENOPROTOOPT)
        if option in (IP_MULTICAST_ALL, IP_RECVERR_RFC4884) and number not in (0, 1):
            raise error(errno.EINVAL, f"SOL_IP option {option}: expected 0 or 1, not {number}")
        setattr(sk, _FLAGS[option], bool(number))
        if option == IP_RECVERR and not number and sk.error_queue is not None:
            for skb in sk.error_queue.take():
                skb.consume()
            sk.error_queue = None

    @staticmethod
    def _set_tos(sk: InetSock, number: int) -> None:
        tos = number & 0xFF
        if sk.sock_type == SOCK_STREAM:
            # The ECN bits are TCP's own.
            tos = tos & ~3 | sk.tos & 3
        if sk.tos != tos:
            sk.tos = tos
            sk.priority = tos_priority(tos)
            sk.dst = None

    @staticmethod
    def _set_multicast_ttl(sk: InetSock, value: bytes, number: int) -> None:
        if sk.sock_type == SOCK_STREAM or not value:
            raise error(errno.EINVAL, "IP_MULTICAST_TTL: expected a datagram or raw socket, and a value")
        if number == -1:
            number = 1
        if not 0 <= number <= 255:
            raise error(errno.EINVAL, f"IP_MULTICAST_TTL: expected 0 to 255, or -1, not {number}")
        sk.mc_ttl = number

    @staticmethod
    def _set_options(sk: InetSock, value: bytes) -> None:
        if len(value) > ipv4.MAX_IPOPTLEN:
            raise error(errno.EINVAL, f"IP_OPTIONS: expected {ipv4.MAX_IPOPTLEN} bytes at most, not {len(value)}")
        sk.options = SockGlue._checked_options("IP_OPTIONS", value)
        sk.options_changed()

    @staticmethod
    def _checked_options(name: str, value: bytes) -> bytes:
        """Options to send, padded (Linux: ip_options_get). Raises OSError EINVAL."""
        try:
            ipv4.parse_options(value, sending=True, privileged=True)
        except WireError as cause:
            raise error(errno.EINVAL, f"{name}: {cause}") from None
        return ipv4.pad_options(value)

    def _set_unicast_if(self, sk: InetSock, value: bytes) -> None:
        if len(value) != 4:
            raise error(errno.EINVAL, f"IP_UNICAST_IF: expected 4 bytes, in network order, not {len(value)}")
        index = int.from_bytes(value, "big")
        if index:
            if self._devices.by_index(index) is None:
                raise error(errno.EADDRNOTAVAIL, f"IP_UNICAST_IF: no device has index {index}")
            if sk.bound_dev_if:
                raise error(errno.EINVAL, "IP_UNICAST_IF: the socket is bound to a device")
        sk.unicast_if = index

    def _set_multicast_if(self, sk: InetSock, value: bytes) -> None:
        """`struct in_addr`, ip_mreq or ip_mreqn: an address of the device, or its index."""
        if sk.sock_type == SOCK_STREAM or len(value) < 4:
            raise error(errno.EINVAL, "IP_MULTICAST_IF: expected a datagram or raw socket, and an address")
        index = 0
        if len(value) >= 12:
            addr = value[4:8]
            index = _INT.unpack_from(value, 8)[0]
        else:
            addr = value[4:8] if len(value) >= 8 else value[:4]
        if not index:
            if addr == ANY:
                sk.mc_index = 0
                sk.mc_addr = ANY
                return
            ifa = self._devinet.find(addr)
            if ifa is None:
                raise error(errno.EADDRNOTAVAIL, f"IP_MULTICAST_IF: no device has {ipv4.format_addr(addr)}")
            index = ifa.dev.index
        elif self._devices.by_index(index) is None:
            raise error(errno.EADDRNOTAVAIL, f"IP_MULTICAST_IF: no device has index {index}")
        if sk.bound_dev_if and sk.bound_dev_if != index:
            raise error(errno.EINVAL, "IP_MULTICAST_IF: the socket is bound to another device")
        sk.mc_index = index
        sk.mc_addr = addr

    def _set_router_alert(self, sk: InetSock, on: bool) -> None:
        """Linux: ip_ra_control."""
        if sk.sock_type != SOCK_RAW or sk.num == IPPROTO_RAW:
            raise error(errno.EINVAL, "IP_ROUTER_ALERT: expected a raw socket of one protocol")
        chain = self._forward.ra_chain
        if on:
            if sk in chain:
                raise error(errno.EADDRINUSE)
            chain.append(sk)
        elif sk in chain:
            chain.remove(sk)
        else:
            raise error(errno.ENOBUFS)

    # -- getting

    def getsockopt(self, sk: InetSock, option: int, length: int) -> bytes:
        """Linux: do_ip_getsockopt. Raises OSError ENOPROTOOPT, ENOTCONN, EINVAL."""
        if option in _CMSG_OPTIONS:
            number = int(bool(sk.cmsg_flags & _CMSG_OPTIONS[option]))
        elif option in _FLAGS:
            number = int(getattr(sk, _FLAGS[option]))
        elif option == IP_TOS:
            number = sk.tos
        elif option == IP_TTL:
            number = sk.ttl if sk.ttl >= 0 else self._out.ip_default_ttl
        elif option == IP_MINTTL:
            number = sk.min_ttl
        elif option == IP_MTU_DISCOVER:
            number = sk.pmtudisc
        elif option == IP_MULTICAST_TTL:
            number = sk.mc_ttl
        elif option == IP_ROUTER_ALERT:
            number = int(sk in self._forward.ra_chain)
        elif option == IP_LOCAL_PORT_RANGE:
            number = sk.local_port_range[1] << 16 | sk.local_port_range[0]
        elif option == IP_PROTOCOL:
            number = sk.num if sk.sock_type == SOCK_RAW else sk.protocol
        elif option == IP_MTU:
            if sk.dst is None:
                raise error(errno.ENOTCONN)
            number = sk.dst.mtu()
        elif option == IP_UNICAST_IF:
            return sk.unicast_if.to_bytes(4, "big")[: max(length, 0)]
        elif option == IP_MULTICAST_IF:
            return sk.mc_addr[: max(length, 0)]
        elif option == IP_OPTIONS:
            return sk.options[: max(length, 0)]
        elif option == IP_PKTOPTIONS:
            return self._packet_options(sk)[: max(length, 0)]
        else:
            raise error(errno.ENOPROTOOPT)
        if option in (IP_LOCAL_PORT_RANGE, IP_PROTOCOL, IP_MTU):
            return encode_int(number, length)
        return encode_int_or_byte(number, length)

    def getsockopt_from(self, sk: InetSock, option: int, value: bytes) -> bytes:
        """As `getsockopt`, into a buffer that holds `value`: IP_MSFILTER and MCAST_MSFILTER read it first."""
        if option in (IP_MSFILTER, MCAST_MSFILTER):
            return self._multicast.getsockopt(sk, option, value)
        return self.getsockopt(sk, option, len(value))

    @staticmethod
    def _packet_options(sk: InetSock) -> bytes:
        """IP_PKTOPTIONS: the ancillary data that a stream socket would have, in one piece."""
        if sk.sock_type != SOCK_STREAM:
            raise error(errno.ENOPROTOOPT)
        flags = sk.cmsg_flags
        items: list[tuple[int, bytes]] = []
        if flags & IP_CMSG_PKTINFO:
            items.append((IP_PKTINFO, _PKTINFO.pack(sk.mc_index, sk.rcv_saddr, sk.rcv_saddr)))
        if flags & IP_CMSG_TTL:
            items.append((IP_TTL, _INT.pack(sk.mc_ttl)))
        if flags & IP_CMSG_TOS:
            items.append((IP_TOS, _INT.pack(sk.rcv_tos)))
        packed = b""
        for kind, data in items:
            item = _CMSGHDR.pack(_CMSGHDR.size + len(data), SOL_IP, kind) + data
            packed += item + bytes(-len(item) & 7)
        return packed

    # -- ancillary data

    def receive_control(self, sk: InetSock, skb: SKBuff) -> list[tuple[int, int, bytes]]:
        """Linux: ip_cmsg_recv."""
        flags = sk.cmsg_flags
        items: list[tuple[int, int, bytes]] = []
        if not flags:
            return items
        head = skb.head
        at = skb.network_header
        if flags & IP_CMSG_PKTINFO:
            items.append((SOL_IP, IP_PKTINFO, self._pktinfo(skb, head[at + 16 : at + 20])))
        if flags & IP_CMSG_TTL:
            items.append((SOL_IP, IP_TTL, _INT.pack(head[at + 8])))
        if flags & IP_CMSG_TOS:
            items.append((SOL_IP, IP_TOS, head[at + 1 : at + 2]))
        options = head[at + ipv4.IP_HLEN : at + ((head[at] & 15) << 2)]
        if options:
            if flags & IP_CMSG_RECVOPTS:
                items.append((SOL_IP, IP_RECVOPTS, options))
            if flags & IP_CMSG_RETOPTS:
                echoed, _ = self._options.echo(skb, compute_spec_dst(skb.af, skb))
                if echoed:
                    items.append((SOL_IP, IP_RETOPTS, echoed))
        if flags & IP_CMSG_ORIGDSTADDR:
            transport = skb.transport_header
            # All transports have the destination port there.
            port = head[transport + 2 : transport + 4]
            if len(port) == 2:
                items.append((SOL_IP, IP_ORIGDSTADDR, _SOCKADDR_IN.pack(2, port, head[at + 16 : at + 20])))
        if flags & IP_CMSG_CHECKSUM and skb.ip_summed != CHECKSUM_PARTIAL:
            items.append((SOL_IP, IP_CHECKSUM, _payload_sum(skb)))
        return items

    def _pktinfo(self, skb: SKBuff, daddr: bytes) -> bytes:
        """`struct in_pktinfo`: the device, the address an answer should come from, and the one in the header."""
        dev = skb.dev
        index = dev.index if dev is not None else 0
        source = daddr
        if skb.tx_flags:
            # A report on a packet that was sent.
            at = skb.network_header + 12
            source = skb.head[at : at + 4]
        elif self._fib.addr_type(daddr) != RTN_LOCAL:
            source = compute_spec_dst(skb.af, skb)
        elif dev is not None and dev.loopback:
            # This host talks to an address of another device of its own: that is the one meant.
            ifa = self._devinet.find(daddr)
            if ifa is not None:
                index = ifa.dev.index
        return _PKTINFO.pack(index, source, daddr)

    def send_control(self, sk: InetSock, level: int, kind: int, data: bytes, flow: Flow) -> int | None:
        """Linux: ip_cmsg_send. Returns a TTL, where that is what was given. Raises OSError EINVAL."""
        if level != SOL_IP:
            return None
        if kind == IP_PKTINFO:
            if len(data) != _PKTINFO.size:
                raise error(errno.EINVAL, f"IP_PKTINFO: expected {_PKTINFO.size} bytes, not {len(data)}")
            index, source, _ = _PKTINFO.unpack(data)
            if index:
                flow.oif = index
            if source != ANY:
                flow.saddr = source
            return None
        if kind == IP_TTL:
            number = self._control_int("IP_TTL", data, 1)
            return number
        if kind == IP_TOS:
            flow.tos = data[0] if len(data) == 1 else self._control_int("IP_TOS", data, 0)
            flow.priority = tos_priority(flow.tos)
            return None
        if kind == IP_RETOPTS:
            flow.options = self._checked_options("IP_RETOPTS", data[: ipv4.MAX_IPOPTLEN])
            return None
        if kind == IP_PROTOCOL:
            flow.protocol = self._control_int("IP_PROTOCOL", data, 1)
            return None
        raise error(errno.EINVAL, f"ancillary data: SOL_IP has no type {kind} to send")

    @staticmethod
    def _control_int(name: str, data: bytes, low: int) -> int:
        number: int = _INT.unpack(data)[0] if len(data) == 4 else -1
        if not low <= number <= 255:
            raise error(errno.EINVAL, f"{name}: expected an int of {low} to 255")
        return number
