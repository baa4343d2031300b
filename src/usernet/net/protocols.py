"""Transport protocols by number, as the network layers find them (Linux: `struct net_protocol`, inet_add_protocol).

One table serves every address family: a received packet carries its family's operations (`skb.af`) and its packed
addresses, so a transport registers once and knows no family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, final

from usernet.core.native import mypyc_attr
from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.net.pernet import Net


@final
class ErrorReport:
    """An ICMP error as the transport that caused it is told of it, with the family's types already translated.

    errno: what a socket reports; fatal: whether it ends a connection (Linux: icmp_err_convert).
    origin, icmp_type, icmp_code, info: for the error queue (`struct sock_extended_err`); info is the MTU for
    "fragmentation needed". mtu: 0 unless it is that. redirect: the report is a redirect, and no error.
    offender: packed address of the one who reported. saddr, daddr: of the packet complained of, so saddr is ours.
    skb: that packet, as far as it was quoted, with `data` and `transport_header` at its transport header.
    quoted: bytes of it, by the ICMP header, behind which there may be an extension; 0 where that tells none (RFC 4884).
    """

    __slots__ = (
        "af", "daddr", "errno", "fatal", "icmp_code", "icmp_type", "info", "mtu", "offender", "origin", "quench",
        "quoted", "redirect", "saddr", "skb",
    )  # fmt: skip

    def __init__(
        self, af: Any, errno: int, fatal: bool, origin: int, icmp_type: int, icmp_code: int, info: int, mtu: int,
        offender: bytes, saddr: bytes, daddr: bytes, skb: SKBuff,
    ) -> None:  # fmt: skip
        self.af = af
        self.errno = errno
        self.fatal = fatal
        self.origin = origin
        self.icmp_type = icmp_type
        self.icmp_code = icmp_code
        self.info = info
        self.mtu = mtu
        self.offender = offender
        self.saddr = saddr
        self.daddr = daddr
        self.skb = skb
        self.quoted: int = 0
        self.redirect = False
        self.quench = False


@mypyc_attr(allow_interpreted_subclasses=True)
class NetProtocol:
    """A transport protocol towards the network layer."""

    def early_demux(self, skb: SKBuff) -> bool:
        """Find the socket of a packet before it is routed: set `skb.sk` and, where the socket has one that holds,
        `skb.dst`. `transport_header` is set, and the addresses. True where it found one."""
        return False

    def receive(self, skb: SKBuff) -> None:
        """Take a packet for this machine, `data` at the transport header, the network header still before it."""
        raise NotImplementedError(f"{type(self).__name__} must define receive()")

    def error(self, report: ErrorReport) -> bool:
        """An ICMP error about a packet of this protocol. False where no socket of ours can have sent it."""
        return False


@final
class Protocols:
    """The transport protocols of one namespace, and the raw sockets, which see packets before them."""

    def __init__(self, net: Net) -> None:
        self.table: dict[int, NetProtocol] = {}
        self.raw_deliver: Callable[[SKBuff, int], bool] | None = None
        """`raw_deliver(skb, protocol)`: give raw sockets their clones; True where any took one."""
        self.raw_error: Callable[[ErrorReport, int], None] | None = None

    def register(self, number: int, protocol: NetProtocol) -> None:
        """Raises ValueError where `number` is taken."""
        if number in self.table:
            raise ValueError(f"IP protocol {number} is registered already")
        self.table[number] = protocol
