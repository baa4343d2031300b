"""IPv4 as transports see it: the operations of AF_INET (Linux: ipv4_specific, inet_stream_ops)."""

from __future__ import annotations

from typing import Any, Final, final

from usernet.ip.v4.fib4 import ANY, LOOPBACK, Fib4
from usernet.ip.v4.icmp import Icmp
from usernet.ip.v4.multicast import Multicast
from usernet.ip.v4.options import OptionsInput
from usernet.ip.v4.output import Ip4Output
from usernet.ip.v4.route import Ipv4Routes
from usernet.ip.v4.sockglue import SockGlue
from usernet.net.dst import Dst
from usernet.net.pernet import Net
from usernet.skbuff.skbuff import SKBuff
from usernet.sock.af_ops import AddressFamily, Flow
from usernet.sock.inet import IP_PMTUDISC_DONT, IP_PMTUDISC_WANT, InetSock
from usernet.wire.checksum import pseudo_sum
from usernet.wire.ethernet import ETH_P_IP
from usernet.wire.icmp import ICMP_DEST_UNREACH, ICMP_PORT_UNREACH
from usernet.wire.ipv4 import IP_HLEN, format_addr

AF_INET: Final = 2


@final
class Ipv4Family(AddressFamily):
    """AF_INET in one namespace. A `dst` that comes back here is a `Rtable` that came from `route`."""

    family = AF_INET
    name = "IPv4"
    addr_len = 4
    header_len = IP_HLEN
    any = ANY
    loopback = LOOPBACK
    ethertype = ETH_P_IP

    def __init__(self, net: Net) -> None:
        self._net = net
        self._fib = net.get(Fib4)
        self._routes = net.get(Ipv4Routes)
        self._icmp = net.get(Icmp)
        self._multicast = net.get(Multicast)
        self._out = net.get(Ip4Output)
        self._options = net.get(OptionsInput)
        self.xmit = self._out.xmit
        self.sockglue = net.get(SockGlue)

    def default_pmtudisc(self) -> int:
        return IP_PMTUDISC_DONT if self._icmp.ip_no_pmtu_disc else IP_PMTUDISC_WANT

    def addr_type(self, addr: bytes, dev: Any = None) -> int:
        return self._fib.addr_type(addr, dev)

    def route(self, flow: Flow) -> Dst:
        return self._routes.output(flow)

    def route_reply(self, skb: SKBuff) -> Dst | None:
        oif = 0
        if skb.dev is not None and skb.daddr[0] & 0xF0 == 0xE0:
            oif = skb.dev.index
        try:
            return self._routes.output(Flow(skb.saddr, skb.daddr if not oif else ANY, 0, oif))
        except OSError:
            return None

    def xmit_skb(
        self, skb: SKBuff, dst: Any, saddr: bytes, daddr: bytes, protocol: int, tos: int, ttl: int, dont_fragment: bool,
        sk: InetSock | None = None, options: bytes = b"", local_df: bool = False,
    ) -> int:  # fmt: skip
        return self._out.xmit_skb(skb, dst, saddr, daddr, protocol, tos, ttl, dont_fragment, sk, options, local_df)

    def pseudo_sum(self, saddr: bytes, daddr: bytes, protocol: int, length: int) -> int:
        return pseudo_sum(saddr, daddr, protocol, length)

    def send_error(self, skb: SKBuff, icmp_type: int, code: int, info: int = 0) -> None:
        self._icmp.send(skb, icmp_type, code, info)

    def unreachable_port(self, skb: SKBuff) -> None:
        self._icmp.send(skb, ICMP_DEST_UNREACH, ICMP_PORT_UNREACH)

    def header_of(self, skb: SKBuff) -> tuple[int, int, bytes]:
        head = skb.head
        at = skb.network_header
        hlen = (head[at] & 15) << 2
        return head[at + 1], head[at + 8], head[at + IP_HLEN : at + hlen] if hlen > IP_HLEN else b""

    def reply_options(self, skb: SKBuff) -> bytes:
        return self._options.save(skb) if skb.head[skb.network_header] & 15 > 5 else b""

    def setsockopt(self, sk: InetSock, option: int, value: bytes) -> None:
        self.sockglue.setsockopt(sk, option, value)

    def getsockopt(self, sk: InetSock, option: int, length: int) -> bytes:
        return self.sockglue.getsockopt(sk, option, length)

    def getsockopt_from(self, sk: InetSock, option: int, value: bytes) -> bytes:
        return self.sockglue.getsockopt_from(sk, option, value)

    def source_of(self, skb: SKBuff) -> bytes:
        at = skb.network_header + 12
        return skb.head[at : at + 4]

    def receive_control(self, sk: InetSock, skb: SKBuff) -> list[tuple[int, int, bytes]]:
        return self.sockglue.receive_control(sk, skb)

    def send_control(self, sk: InetSock, level: int, kind: int, data: bytes, flow: Flow) -> int | None:
        return self.sockglue.send_control(sk, level, kind, data, flow)

    def multicast_allowed(self, sk: InetSock, skb: SKBuff) -> bool:
        return self._multicast.allows(sk, skb)

    def drop_memberships(self, sk: InetSock) -> None:
        self._multicast.drop_socket(sk)
        self.sockglue.forget(sk)

    def format(self, addr: bytes) -> str:
        return format_addr(addr)
