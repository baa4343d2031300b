"""The interface of a driver: what a NIC must do to be a network device (Linux: `struct net_device_ops`, napi_poll).

A driver is constructed on its own, given to `NetDevice`, opened when the device goes up and stopped when it goes down.
It touches the outside world; nothing above it does. It never receives inside a transmit.
"""

from __future__ import annotations

from typing import Any, Final

from usernet.core.native import mypyc_attr
from usernet.skbuff.skbuff import GSO_LEGACY_MAX_SIZE, SKBuff

NETIF_F_SG: Final = 1 << 0
NETIF_F_HW_CSUM: Final = 1 << 3
NETIF_F_TSO: Final = 1 << 16
NETIF_F_TSO_ECN: Final = 1 << 18
NETIF_F_TSO6: Final = 1 << 20
NETIF_F_GSO_UDP_L4: Final = 1 << 25
NETIF_F_GSO: Final = 1 << 11
NETIF_F_GRO: Final = 1 << 14
NETIF_F_LOOPBACK: Final = 1 << 31
NETIF_F_RXCSUM: Final = 1 << 40
NETIF_F_GSO_ACCECN: Final = 1 << 41

ARPHRD_ETHER: Final = 1
ARPHRD_LOOPBACK: Final = 772
ARPHRD_NONE: Final = 0xFFFE


@mypyc_attr(allow_interpreted_subclasses=True)
class Driver:
    """A NIC. Subclass, set `hw_features`, `link_type`, and define the methods.

    hw_features: NETIF_F_* that the NIC can do. Without NETIF_F_SG it is given packets in one piece; without
    NETIF_F_HW_CSUM, with checksums filled in; without NETIF_F_TSO (…), no super-segments.
    link_type: ARPHRD_ETHER (packets have Ethernet headers), ARPHRD_LOOPBACK (likewise) or ARPHRD_NONE (bare IP).
    mac: the address the NIC comes with (6 bytes), b"" to be given a random one. mtu: likewise, 0 for the default.
    tso_max_size: bytes, from its network header on, of the largest super-segment the NIC takes, or has split for it.
    queue_length: packets the device's queue holds (0: it has no queue, the driver takes all it is given).
    """

    hw_features: int = 0
    link_type: int = ARPHRD_ETHER
    mac: bytes = b""
    mtu: int = 0
    min_mtu: int = 68
    max_mtu: int = 65535
    tso_max_size: int = GSO_LEGACY_MAX_SIZE
    queue_length: int = 1000

    plain_frames: bool = False
    """The NIC takes frames as bytes, by `write_frames`, and does so rather than many small packets."""

    claimed: bool = False
    """It is a device's: `add_device` says so, for it can only be one's."""

    kind: str = "driver"
    """What `ip -d link` says of it."""

    def open(self, dev: Any) -> None:
        """The device goes up: get ready to send and receive for `dev`, a `NetDevice`, or what stands before one
        (drivers/impair.py). Raises OSError where the NIC can't."""
        raise NotImplementedError(f"{type(self).__name__} must define open()")

    def stop(self) -> None:
        """The device goes down: let go of what `open` took. The driver may be opened again."""
        raise NotImplementedError(f"{type(self).__name__} must define stop()")

    def close(self) -> None:
        """The device is removed: let go of everything."""

    def fileno(self) -> int:
        """The descriptor whose readability is the interrupt, while open; -1 where there is none."""
        return -1

    def xmit(self, skb: SKBuff) -> bool:
        """Send `skb`, from its link header on, and consume it, or drop it with a reason.

        False (Linux: NETDEV_TX_BUSY): there is no room now and the packet was not touched; call
        `dev.stop_queue()` before, and `dev.wake_queue()` when there is room again.
        """
        raise NotImplementedError(f"{type(self).__name__} must define xmit()")

    def write_frames(self, frames: list[bytes], start: int) -> int:
        """As `xmit` for frames with all checksums filled in, from `frames[start]` on. Only called with `plain_frames`.

        Returns how many of `frames` are done with, those before `start` among them. Where that is not all, the next one
        found no room, as with `xmit`, or, an error of the device's statistics more, was refused and is not to come
        again.
        """
        raise NotImplementedError(f"{type(self).__name__} has no write_frames()")

    def poll(self, budget: int) -> int:
        """Receive up to `budget` packets, each into `dev.napi.receive(skb)`; returns how many (Linux: napi poll)."""
        raise NotImplementedError(f"{type(self).__name__} must define poll()")

    def set_mtu(self, mtu: int) -> None:
        """The device's MTU is to be `mtu`, within `min_mtu` and `max_mtu`. Raises OSError where the NIC refuses."""

    def set_mac(self, mac: bytes) -> None:
        """The device's address is to be `mac`. Raises OSError where the NIC refuses."""

    def carrier(self) -> bool:
        """Whether the link is up (Linux: netif_carrier_ok)."""
        return True
