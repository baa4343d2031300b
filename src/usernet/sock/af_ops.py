"""What a transport asks of the network layer below it: routes, headers, addresses (Linux: inet_connection_sock_af_ops).

TCP and UDP know no address family. Addresses reach them packed, as `bytes` of the family's length; each socket and each
received packet carries its family's `AddressFamily`, and everything that depends on the family is asked of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from usernet.core.native import mypyc_attr
from usernet.net.dst import Dst
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.sock.inet import InetSock

RTN_UNSPEC: Final = 0
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTN_BROADCAST: Final = 3
RTN_MULTICAST: Final = 5
RTN_BLACKHOLE: Final = 6
RTN_UNREACHABLE: Final = 7
RTN_PROHIBIT: Final = 8


class Flow:
    """What a route is looked up by (Linux: `struct flowi`). `saddr` may be the family's `any`: the route chooses.

    oif: device index to leave by, 0 for any. any_source: `saddr` need not be an address of ours (IP_TRANSPARENT,
    IP_FREEBIND, IP_HDRINCL). onlink: only destinations on the link (SO_DONTROUTE). options, priority: what a datagram
    socket's message is sent with besides (Linux: `struct ipcm_cookie`).
    """

    __slots__ = (
        "any_source", "daddr", "dport", "mark", "oif", "onlink", "options", "priority", "protocol", "saddr", "sport",
        "tos",
    )  # fmt: skip

    def __init__(
        self, daddr: bytes, saddr: bytes, protocol: int = 0, oif: int = 0, tos: int = 0, mark: int = 0,
        sport: int = 0, dport: int = 0, any_source: bool = False, onlink: bool = False,
    ) -> None:  # fmt: skip
        self.daddr = daddr
        self.saddr = saddr
        self.protocol = protocol
        self.oif = oif
        self.tos = tos
        self.mark = mark
        self.sport = sport
        self.dport = dport
        self.any_source = any_source
        self.onlink = onlink
        self.options: bytes = b""
        self.priority: int = 0


@mypyc_attr(allow_interpreted_subclasses=True)
class AddressFamily:
    """The operations of one address family in one namespace."""

    family: int = 0
    level: int = 0
    """The level of its own socket options (SOL_IP, SOL_IPV6)."""
    name: str = ""
    addr_len: int = 0
    header_len: int = 0
    any: bytes = b""
    loopback: bytes = b""
    ethertype: int = 0

    def default_pmtudisc(self) -> int:
        """The path MTU discovery of a new socket: IP_PMTUDISC_WANT, or what a sysctl says."""
        return 1

    def addr_type(self, addr: bytes, dev: Any = None) -> int:
        """RTN_LOCAL, RTN_UNICAST, RTN_BROADCAST, RTN_MULTICAST or RTN_UNSPEC (Linux: inet_addr_type)."""
        raise NotImplementedError

    def route(self, flow: Flow) -> Dst:
        """The route of `flow`; `dst.saddr` is the source address to use.

        Raises OSError: ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole, a bad source address).
        """
        raise NotImplementedError

    def route_reply(self, skb: SKBuff) -> Dst | None:
        """The route back to the sender of a received packet, from the address it was sent to; None where none is."""
        raise NotImplementedError

    xmit: Callable[[InetSock, SKBuff, Any], int]
    """`xmit(sk, skb, dst)`: send a transport's packet for a connected socket: build the network header by the socket's
    options and addresses (`sk.saddr`, `sk.daddr`, `sk.tos`, `sk.ttl`, `sk.pmtudisc`, IP options) and give it to the
    output path (Linux: ip_queue_xmit). The packet leaves whole: TCP keeps to the MTU. Returns 0 or NET_XMIT_*."""

    def xmit_skb(
        self, skb: SKBuff, dst: Dst, saddr: bytes, daddr: bytes, protocol: int, tos: int, ttl: int, dont_fragment: bool,
        sk: InetSock | None = None, options: bytes = b"", local_df: bool = False,
    ) -> int:  # fmt: skip
        """Send one packet with a complete transport header: build the network header, fragment where needed (Linux:
        ip_build_and_send_pkt, ip_push_pending_frames).

        ttl: 0 for the default (unicast or multicast). dont_fragment: set DF; a packet larger than the path's MTU then
        raises OSError EMSGSIZE, unless `local_df` allows to fragment it here. Returns 0 or NET_XMIT_*.
        """
        raise NotImplementedError

    def pseudo_sum(self, saddr: bytes, daddr: bytes, protocol: int, length: int) -> int:
        """The partial checksum of the pseudo header (wire/checksum.py: pseudo_sum)."""
        raise NotImplementedError

    def send_error(self, skb: SKBuff, icmp_type: int, code: int, info: int = 0) -> None:
        """Answer a received packet with an ICMP error, if the rules and limits allow (Linux: icmp_send)."""
        raise NotImplementedError

    def unreachable_port(self, skb: SKBuff) -> None:
        """Answer a received packet with "port unreachable"."""
        raise NotImplementedError

    def header_of(self, skb: SKBuff) -> tuple[int, int, bytes]:
        """Of a received packet, whose `network_header` is set: TOS or traffic class, TTL or hop limit, and options."""
        raise NotImplementedError

    def reply_options(self, skb: SKBuff) -> bytes:
        """The network options for the connection that a received packet opens (Linux: tcp_v4_save_options): those it
        came with, turned round, in the form that IP_OPTIONS takes. Empty for a packet without."""
        raise NotImplementedError

    def setsockopt(self, sk: InetSock, option: int, value: bytes) -> None:
        """An option at the family's own level (SOL_IP). Raises OSError ENOPROTOOPT, …"""
        raise NotImplementedError

    def getsockopt(self, sk: InetSock, option: int, length: int) -> bytes:
        raise NotImplementedError

    def getsockopt_from(self, sk: InetSock, option: int, value: bytes) -> bytes:
        """As `getsockopt`, for the few options that read the buffer first, which holds `value`."""
        raise NotImplementedError

    def source_of(self, skb: SKBuff) -> bytes:
        """The source address in the header of a packet whose `network_header` is set."""
        raise NotImplementedError

    def receive_control(self, sk: InetSock, skb: SKBuff) -> list[tuple[int, int, bytes]]:
        """Ancillary data that the socket asked for and `skb` brings (Linux: ip_cmsg_recv)."""
        raise NotImplementedError

    def send_control(self, sk: InetSock, level: int, kind: int, data: bytes, flow: Flow) -> int | None:
        """Apply one item of ancillary data to what is being sent: to `flow`, or, for a TTL, by returning it (Linux:
        ip_cmsg_send). Raises OSError EINVAL for one that isn't known."""
        raise NotImplementedError

    def multicast_allowed(self, sk: InetSock, skb: SKBuff) -> bool:
        """Whether the socket's group memberships and source filters take this multicast packet (ip_mc_sf_allow)."""
        raise NotImplementedError

    def drop_memberships(self, sk: InetSock) -> None:
        """The socket closes: leave its groups (Linux: ip_mc_drop_socket)."""
        raise NotImplementedError

    def format(self, addr: bytes) -> str:
        """The address as people write it."""
        raise NotImplementedError
