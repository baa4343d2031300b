"""The base of internet sockets: addresses, ports and options of the network layer (Linux: `struct inet_sock`)."""

from __future__ import annotations

from typing import Any, Final

from usernet.net.dst import Dst
from usernet.net.pernet import Net
from usernet.sock.af_ops import AddressFamily, Flow
from usernet.sock.msg import SockAddr
from usernet.sock.sock import Sock

IP_PMTUDISC_DONT: Final = 0
IP_PMTUDISC_WANT: Final = 1
IP_PMTUDISC_DO: Final = 2
IP_PMTUDISC_PROBE: Final = 3
IP_PMTUDISC_INTERFACE: Final = 4
IP_PMTUDISC_OMIT: Final = 5


class InetSock(Sock):
    """An internet socket. Addresses are packed; ports in host order; 0 and the family's `any` where not set.

    rcv_saddr: what it is bound to, and receives at. saddr: what it sends from. They differ for multicast binds.
    """

    __slots__ = (
        "af", "bind_address_no_port", "bound_addr", "bound_port", "cmsg_flags", "daddr", "dport", "family", "freebind",
        "hdrincl", "ip_id", "local_port_range", "mc_addr", "mc_all", "mc_index", "mc_loop", "mc_ttl", "memberships",
        "min_ttl", "nodefrag", "num", "options", "pmtudisc", "protocol", "rcv_saddr", "rcv_tos", "recverr",
        "recverr_rfc4884", "saddr", "scope_id", "sock_type", "sport", "tos", "transparent", "ttl", "unicast_if",
    )  # fmt: skip

    def __init__(self, net: Net, af: AddressFamily, sock_type: int, protocol: int) -> None:
        super().__init__(net)
        self.af = af
        self.family = af.family
        self.sock_type = sock_type
        self.protocol = protocol
        # What packets look at comes first, beside that of `Sock`.
        self.saddr: bytes = af.any
        self.daddr: bytes = af.any
        self.sport: int = 0
        self.dport: int = 0
        self.tos: int = 0
        self.ttl: int = -1
        """IP_TTL, -1 for the system's default."""
        self.min_ttl: int = 0
        self.pmtudisc: int = af.default_pmtudisc()
        self.options: bytes = b""
        """IP options to send (IP_OPTIONS)."""
        self.ip_id: int = 0
        self.bound_addr: bool = False
        self.bound_port: bool = False
        self.mc_loop: bool = True
        self.mc_all: bool = True
        self.recverr: bool = False
        self.recverr_rfc4884: bool = False
        self.hdrincl: bool = False
        self.nodefrag: bool = False
        self.freebind: bool = False
        self.transparent: bool = False
        self.bind_address_no_port: bool = False
        self.rcv_saddr: bytes = af.any
        self.num: int = 0
        """The local port as bound; `sport` is what is sent (they differ only in raw sockets)."""
        self.scope_id: int = 0
        self.rcv_tos: int = 0
        """Of the segment that completed the handshake of a passive open."""
        self.mc_ttl: int = 1
        self.mc_index: int = 0
        self.mc_addr: bytes = af.any
        self.memberships: tuple[Any, ...] = ()
        self.local_port_range: tuple[int, int] = (0, 0)
        self.unicast_if: int = 0
        self.cmsg_flags: int = 0
        """Which ancillary data the socket wants with what it receives: the address family's own bits."""

    def flow(self, daddr: bytes, dport: int = 0) -> Flow:
        """The flow of this socket to `daddr`."""
        return Flow(
            daddr,
            self.saddr,
            self.protocol,
            self.bound_dev_if,
            self.tos,
            self.mark,
            self.sport,
            dport,
            self.freebind or self.transparent or self.hdrincl,
            self.dontroute,
        )

    def options_changed(self) -> None:
        """`options` are others now: what depends on their length is computed anew."""

    def route(self) -> Dst:
        """The route to `daddr`, cached for as long as it holds (Linux: __sk_dst_check, inet_csk_rebuild_header).

        Raises what `AddressFamily.route` raises.
        """
        dst = self.dst
        if dst is None or not dst.valid():
            self.dst = None
            dst = self.dst = self.af.route(self.flow(self.daddr, self.dport))
        return dst

    def sockname(self) -> SockAddr:
        """The local address (Linux: inet_getname)."""
        addr = self.rcv_saddr if self.rcv_saddr != self.af.any else self.saddr
        return SockAddr(self.family, addr, self.sport, self.scope_id)
