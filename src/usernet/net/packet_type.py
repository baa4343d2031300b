"""Packet types: who takes received packets, by EtherType, and who looks on (Linux: `struct packet_type`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from usernet.skbuff.skbuff import SKBuff

if TYPE_CHECKING:
    from usernet.net.pernet import Net

ETH_P_ALL: Final = 0x0003


@final
class Tap:
    """One that looks on: packet sockets and captures.

    `deliver(skb)` is shown each packet of EtherType `protocol` (ETH_P_ALL: every one, sent ones too) on `dev` (None:
    every device), with `data` at the network header and `mac_header` set. The packet isn't the tap's: it takes a clone
    of what it wants to keep.
    """

    __slots__ = ("deliver", "dev", "owner", "protocol")

    def __init__(
        self, deliver: Callable[[SKBuff], None], protocol: int = ETH_P_ALL, dev: object = None, owner: object = None
    ) -> None:
        self.deliver = deliver
        self.protocol = protocol
        self.dev = dev
        self.owner = owner


@final
class PacketTypes:
    """The handlers and taps of one namespace."""

    def __init__(self, net: Net) -> None:
        self.handlers: dict[int, Callable[[SKBuff], None]] = {}
        self.taps: list[Tap] = []

    def register(self, ethertype: int, handler: Callable[[SKBuff], None]) -> None:
        """`handler(skb)` gets packets of `ethertype`, `data` at the network header. Raises ValueError if taken."""
        if ethertype in self.handlers:
            raise ValueError(f"EtherType {ethertype:#06x} has a handler already")
        self.handlers[ethertype] = handler

    def add_tap(self, tap: Tap) -> None:
        self.taps.append(tap)

    def remove_tap(self, tap: Tap) -> None:
        """Nothing happens where it is not there."""
        if tap in self.taps:
            self.taps.remove(tap)

    def show(self, skb: SKBuff, outgoing: bool) -> None:
        """Show `skb` to the taps that look for it. A socket is not shown what it sent itself."""
        for tap in tuple(self.taps):
            if tap.dev is not None and tap.dev is not skb.dev:
                continue
            if tap.protocol == ETH_P_ALL:
                if outgoing and tap.owner is not None and tap.owner is skb.sk:
                    continue
                tap.deliver(skb)
            elif not outgoing and tap.protocol == skb.protocol:
                tap.deliver(skb)
