"""What a packet socket asks of a device's filter: groups, promiscuous mode (Linux: `struct packet_mclist`)."""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from usernet.core.errors import error
from usernet.netdevice.device import NetDevice

if TYPE_CHECKING:
    from usernet.sockets.packet import PacketSock

PACKET_MR_MULTICAST: Final = 0
PACKET_MR_PROMISC: Final = 1
PACKET_MR_ALLMULTI: Final = 2
PACKET_MR_UNICAST: Final = 3

_MREQ: Final = Struct("=iHH8s")


@final
class Membership:
    """One thing a socket asked of a device's filter (Linux: `struct packet_mclist`)."""

    __slots__ = ("addr", "count", "dev", "kind")

    def __init__(self, dev: NetDevice, kind: int, addr: bytes) -> None:
        self.dev = dev
        self.kind = kind
        self.addr = addr
        self.count: int = 1

    def apply(self, delta: int) -> None:
        """Linux: packet_dev_mc. ALLMULTI is promiscuous mode here: devices have no filter between the two. A kind that
        doesn't exist is kept, and does nothing."""
        if self.kind in (PACKET_MR_PROMISC, PACKET_MR_ALLMULTI):
            self.dev.set_promiscuity(delta)
        elif self.kind > PACKET_MR_UNICAST:
            return
        elif delta > 0:
            self.dev.add_multicast(self.addr)
        else:
            self.dev.remove_multicast(self.addr)


def change_membership(sk: PacketSock, value: bytes, add: bool) -> None:
    """PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP (Linux: packet_mc_add, packet_mc_drop).

    Raises OSError: EINVAL, ENODEV.
    """
    if len(value) < _MREQ.size:
        raise error(errno.EINVAL, f"struct packet_mreq: expected {_MREQ.size} bytes, not {len(value)}")
    index, kind, alen, address = _MREQ.unpack_from(value)
    held = [
        entry
        for entry in sk.memberships
        if entry.dev.index == index and entry.kind == kind and entry.addr == address[:alen]
    ]
    if not add:
        if held:
            held[0].count -= 1
            if not held[0].count:
                sk.memberships.remove(held[0])
                held[0].apply(-1)
        return
    dev = sk.devices.by_index(index)
    if dev is None:
        raise error(errno.ENODEV)
    needs = kind in (PACKET_MR_MULTICAST, PACKET_MR_UNICAST)
    if alen > len(dev.mac) or (needs and alen != len(dev.mac)):
        raise error(errno.EINVAL, f"struct packet_mreq: no membership of type {kind} with {alen} bytes of address")
    if held:
        held[0].count += 1
        return
    entry = Membership(dev, kind, address[:alen])
    sk.memberships.append(entry)
    entry.apply(1)
