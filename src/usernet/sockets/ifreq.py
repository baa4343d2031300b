"""The ioctls about interfaces: `struct ifreq` and `struct ifconf` (Linux: dev_ioctl.c, devinet_ioctl; netdevice(7)).

Any socket can be asked about devices; about addresses, one of the internet or a packet socket. Arguments and answers
are the bytes at the pointer that the program gave. Two requests hold another pointer in there: SIOCGIFCONF takes only
how many bytes (an int) there are where it points, and gives what is to be put there; with SIOCETHTOOL the structure
that `ifr_data` points to follows the 40 bytes of the ifreq, both ways.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import Final

from usernet.core.errors import error
from usernet.ip.v4.devinet import Devinet, IfAddr, mask_of
from usernet.net.pernet import Net
from usernet.netdevice.change import change_flags, get_flags, set_mac, set_mtu, set_name, set_tx_queue_len
from usernet.netdevice.device import IFF_BROADCAST, IFF_POINTOPOINT, IFF_UP, IFNAMSIZ, NetDevice
from usernet.netdevice.driver import (
    NETIF_F_GRO,
    NETIF_F_GSO,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
)
from usernet.netdevice.namespace import DeviceNamespace

AF_INET: Final = 2
AF_PACKET: Final = 17

SIOC_FIRST: Final = 0x8900
SIOC_LAST: Final = 0x89FF
SIOCATMARK: Final = 0x8905
SIOCGSTAMP: Final = 0x8906
SIOCGSTAMPNS: Final = 0x8907
SIOCOUTQNSD: Final = 0x894B
SIOCGIFNAME: Final = 0x8910
SIOCSIFLINK: Final = 0x8911
SIOCGIFCONF: Final = 0x8912
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFADDR: Final = 0x8915
SIOCSIFADDR: Final = 0x8916
SIOCGIFDSTADDR: Final = 0x8917
SIOCSIFDSTADDR: Final = 0x8918
SIOCGIFBRDADDR: Final = 0x8919
SIOCSIFBRDADDR: Final = 0x891A
SIOCGIFNETMASK: Final = 0x891B
SIOCSIFNETMASK: Final = 0x891C
SIOCGIFMETRIC: Final = 0x891D
SIOCSIFMETRIC: Final = 0x891E
SIOCGIFMTU: Final = 0x8921
SIOCSIFMTU: Final = 0x8922
SIOCSIFNAME: Final = 0x8923
SIOCSIFHWADDR: Final = 0x8924
SIOCGIFHWADDR: Final = 0x8927
SIOCGIFSLAVE: Final = 0x8929
SIOCSIFSLAVE: Final = 0x8930
SIOCADDMULTI: Final = 0x8931
SIOCDELMULTI: Final = 0x8932
SIOCGIFINDEX: Final = 0x8933
SIOCSIFHWBROADCAST: Final = 0x8937
SIOCGIFTXQLEN: Final = 0x8942
SIOCSIFTXQLEN: Final = 0x8943
SIOCETHTOOL: Final = 0x8946
SIOCGMIIPHY: Final = 0x8947
SIOCGMIIREG: Final = 0x8948
SIOCSMIIREG: Final = 0x8949
SIOCGIFMAP: Final = 0x8970
SIOCSIFMAP: Final = 0x8971
SIOCSHWTSTAMP: Final = 0x89B0
SIOCGHWTSTAMP: Final = 0x89B1
SIOCDEVPRIVATE: Final = 0x89F0

ETHTOOL_GDRVINFO: Final = 0x03
ETHTOOL_GLINK: Final = 0x0A
ETHTOOL_GRXCSUM: Final = 0x14
ETHTOOL_GTXCSUM: Final = 0x16
ETHTOOL_GSG: Final = 0x18
ETHTOOL_GTSO: Final = 0x1E
ETHTOOL_GGSO: Final = 0x23
ETHTOOL_GFLAGS: Final = 0x25
ETHTOOL_GGRO: Final = 0x2B

IFREQ: Final = 40

_U32: Final = Struct("=I")
_I32: Final = Struct("=i")
_SOCKADDR_IN: Final = Struct("=H2s4s8x")
_ETHTOOL_VALUE: Final = Struct("=II")
_DRVINFO: Final = Struct("=I32s32s32s32s32s12s5I")
_FEATURES: Final = {
    ETHTOOL_GRXCSUM: NETIF_F_RXCSUM, ETHTOOL_GTXCSUM: NETIF_F_HW_CSUM, ETHTOOL_GSG: NETIF_F_SG,
    ETHTOOL_GTSO: NETIF_F_TSO, ETHTOOL_GGSO: NETIF_F_GSO, ETHTOOL_GGRO: NETIF_F_GRO,
}  # fmt: skip
ETHTOOL_SIZES: Final = dict.fromkeys((*_FEATURES, ETHTOOL_GLINK, ETHTOOL_GFLAGS), _ETHTOOL_VALUE.size) | {
    ETHTOOL_GDRVINFO: _DRVINFO.size
}
"""How many bytes SIOCETHTOOL's structure has, by its first 4 bytes, the command; 4 for all others."""

_GET_ADDR: Final = (SIOCGIFADDR, SIOCGIFBRDADDR, SIOCGIFDSTADDR, SIOCGIFNETMASK)
_SET_ADDR: Final = (SIOCSIFADDR, SIOCSIFBRDADDR, SIOCSIFDSTADDR, SIOCSIFNETMASK)
_GET: Final = (
    SIOCGIFFLAGS, SIOCGIFMETRIC, SIOCGIFMTU, SIOCGIFSLAVE, SIOCGIFMAP, SIOCGIFINDEX, SIOCGIFTXQLEN, SIOCGIFHWADDR,
)  # fmt: skip
_SET: Final = (
    SIOCSIFMAP, SIOCSIFTXQLEN, SIOCSIFFLAGS, SIOCSIFMETRIC, SIOCSIFMTU, SIOCSIFHWADDR, SIOCSIFSLAVE, SIOCADDMULTI,
    SIOCDELMULTI, SIOCSIFHWBROADCAST, SIOCSIFNAME, SIOCGMIIPHY, SIOCGMIIREG, SIOCSMIIREG, SIOCSHWTSTAMP, SIOCGHWTSTAMP,
    *range(SIOCDEVPRIVATE, SIOCDEVPRIVATE + 16),
)  # fmt: skip


def is_interface_request(request: int) -> bool:
    """Whether it is one for `interface_ioctl`, and not for a socket's protocol."""
    return SIOC_FIRST <= request <= SIOC_LAST and request not in (SIOCATMARK, SIOCOUTQNSD)


def interface_ioctl(net: Net, family: int, request: int, argument: bytes, admin: bool = True) -> bytes:
    """Answer a request on a socket of `family`. admin: whether it may change anything. Returns the bytes to be written
    back: none where nothing is.

    Raises OSError as Linux: ENOTTY (no such request), EFAULT (the argument is cut short), ENODEV, EADDRNOTAVAIL, EPERM,
    EINVAL, EOPNOTSUPP, …
    """
    if request in (SIOCGSTAMP, SIOCGSTAMPNS):
        # No packet was stamped before somebody asked.
        raise error(errno.ENOENT)
    if request == SIOCGIFCONF:
        return _ifconf(net, _I32.unpack_from(_whole(argument, 4))[0])
    if family in (AF_INET, AF_PACKET):
        if request in _GET_ADDR:
            return _get_address(net, request, _whole(argument, IFREQ))
        if request in _SET_ADDR or request == SIOCSIFFLAGS:
            if not admin:
                raise error(errno.EPERM)
            return _set_address(net, request, _whole(argument, IFREQ))
    if request == SIOCGIFNAME:
        return _name_of(net, _whole(argument, IFREQ))
    if request in _GET:
        argument = _whole(argument, IFREQ)
        return _get(_device(net, argument), request, argument)
    if request in _SET:
        if not admin:
            raise error(errno.EPERM)
        argument = _whole(argument, IFREQ)
        _set(net, _device(net, argument), request, argument)
        return b""
    if request == SIOCETHTOOL:
        return _ethtool(_device(net, _whole(argument, IFREQ)), argument)
    raise error(errno.ENOTTY)


def _whole(argument: bytes, size: int) -> bytes:
    if len(argument) < size:
        raise error(errno.EFAULT)
    return argument


def _text(argument: bytes) -> str:
    """The name in an ifreq, with its label's part behind a colon."""
    return argument[: IFNAMSIZ - 1].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _device(net: Net, argument: bytes) -> NetDevice:
    dev: NetDevice | None = net.get(DeviceNamespace).get(_text(argument).partition(":")[0])
    if dev is None:
        raise error(errno.ENODEV)
    return dev


def _name(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[: IFNAMSIZ - 1].ljust(IFNAMSIZ, b"\0")


def _answer(argument: bytes, data: bytes) -> bytes:
    """The ifreq with the union's first bytes replaced."""
    return argument[:IFNAMSIZ] + data + argument[IFNAMSIZ + len(data) : IFREQ]


def _name_of(net: Net, argument: bytes) -> bytes:
    dev = net.get(DeviceNamespace).by_index(_I32.unpack_from(argument, IFNAMSIZ)[0])
    if dev is None:
        raise error(errno.ENODEV)
    return _name(dev.name) + argument[IFNAMSIZ:IFREQ]


def _ifconf(net: Net, room: int) -> bytes:
    """Linux: dev_ifconf."""
    devinet = net.get(Devinet)
    entries = [
        _name(ifa.label) + _SOCKADDR_IN.pack(AF_INET, bytes(2), ifa.addr) + bytes(8)
        for dev in net.get(DeviceNamespace).values()
        for ifa in devinet.of(dev)
    ]
    return b"".join(entries[: max(room, 0) // IFREQ])


def _get(dev: NetDevice, request: int, argument: bytes) -> bytes:
    """Linux: dev_ifsioc_locked."""
    if request == SIOCGIFFLAGS:
        return _answer(argument, (get_flags(dev) & 0xFFFF).to_bytes(2, "little"))
    if request == SIOCGIFHWADDR:
        mac = dev.mac if dev.has_link_header else b""
        return _answer(argument, dev.link_type.to_bytes(2, "little") + mac.ljust(14, b"\0"))
    if request == SIOCGIFSLAVE:
        raise error(errno.EINVAL)
    if request == SIOCGIFMAP:
        return _answer(argument, bytes(24))
    value = 0
    if request == SIOCGIFMTU:
        value = dev.mtu
    elif request == SIOCGIFINDEX:
        value = dev.index
    elif request == SIOCGIFTXQLEN:
        value = dev.tx_queue_len
    return _answer(argument, _U32.pack(value))


def _set(net: Net, dev: NetDevice, request: int, argument: bytes) -> None:
    """Linux: dev_ifsioc."""
    devices = net.get(DeviceNamespace)
    number: int = _I32.unpack_from(argument, IFNAMSIZ)[0]
    if request == SIOCSIFFLAGS:
        change_flags(devices, dev, number & 0xFFFF)
    elif request == SIOCSIFMTU:
        set_mtu(devices, dev, number & 0xFFFFFFFF)
    elif request == SIOCSIFTXQLEN:
        if number < 0:
            raise error(errno.EINVAL)
        set_tx_queue_len(dev, number)
    elif request == SIOCSIFNAME:
        set_name(devices, dev, _text(argument[IFNAMSIZ:]))
    elif request == SIOCSIFHWADDR:
        if int.from_bytes(argument[16:18], "little") != dev.link_type:
            raise error(errno.EINVAL)
        set_mac(devices, dev, argument[18:24])
    elif request in (SIOCADDMULTI, SIOCDELMULTI):
        mac = argument[18:24]
        if any(argument[16:18]) or not mac[0] & 1:
            raise error(errno.EINVAL)
        if request == SIOCADDMULTI:
            dev.add_multicast(mac)
        else:
            dev.remove_multicast(mac)
    elif request == SIOCSIFHWBROADCAST:
        if int.from_bytes(argument[16:18], "little") != dev.link_type or not dev.has_link_header:
            raise error(errno.EINVAL)
        dev.broadcast = argument[18:24]
    elif request == SIOCSIFSLAVE:
        raise error(errno.EINVAL)
    else:
        raise error(errno.EOPNOTSUPP)


# -- addresses


def _labelled(net: Net, dev: NetDevice, argument: bytes, addr: bytes) -> IfAddr | None:
    """The device's address of the ifreq's label: the one given, where that is among them."""
    label = _text(argument)
    labelled = [ifa for ifa in net.get(Devinet).of(dev) if ifa.label == label]
    for ifa in labelled:
        if ifa.addr == addr:
            return ifa
    return labelled[0] if labelled else None


def _get_address(net: Net, request: int, argument: bytes) -> bytes:
    dev = _device(net, argument)
    family, _, addr = _SOCKADDR_IN.unpack_from(argument, IFNAMSIZ)
    ifa = _labelled(net, dev, argument, addr if family == AF_INET else b"")
    if ifa is None:
        raise error(errno.EADDRNOTAVAIL)
    if request == SIOCGIFADDR:
        addr = ifa.addr
    elif request == SIOCGIFBRDADDR:
        addr = ifa.broadcast
    elif request == SIOCGIFDSTADDR:
        addr = ifa.peer
    else:
        addr = ifa.mask.to_bytes(4, "big")
    return _answer(argument, _SOCKADDR_IN.pack(AF_INET, bytes(2), addr))


def _set_address(net: Net, request: int, argument: bytes) -> bytes:
    """Linux: devinet_ioctl."""
    family, _, addr = _SOCKADDR_IN.unpack_from(argument, IFNAMSIZ)
    if request != SIOCSIFFLAGS and family != AF_INET:
        raise error(errno.EINVAL)
    dev = _device(net, argument)
    devinet = net.get(Devinet)
    label = _text(argument)
    ifa = _labelled(net, dev, argument, b"")
    if request == SIOCSIFFLAGS:
        flags = int.from_bytes(argument[16:18], "little")
        if ":" not in label:
            change_flags(net.get(DeviceNamespace), dev, flags)
        elif ifa is None:
            raise error(errno.EADDRNOTAVAIL)
        elif not flags & IFF_UP:
            devinet.remove(dev, ifa.addr, ifa.prefixlen)
        return b""
    if request == SIOCSIFADDR:
        length = _class_length(addr)
        if length < 0:
            raise error(errno.EINVAL)
        if ifa is not None:
            if ifa.addr == addr:
                return b""
            devinet.remove(dev, ifa.addr, ifa.prefixlen)
        if any(addr):
            length = 32 if dev.flags & IFF_POINTOPOINT else length
            _add(devinet, dev, addr, length, None, label)
        return b""
    if ifa is None:
        raise error(errno.EADDRNOTAVAIL)
    length, broadcast, peer = ifa.prefixlen, ifa.broadcast, ifa.peer
    if request == SIOCSIFBRDADDR:
        broadcast = addr
    elif request == SIOCSIFDSTADDR:
        if addr != peer and _class_length(addr) < 0:
            raise error(errno.EINVAL)
        peer = addr
    else:
        length = int.from_bytes(addr, "big").bit_count()
        if mask_of(length) != int.from_bytes(addr, "big"):
            raise error(errno.EINVAL)
        old = _last(ifa.addr, ifa.prefixlen)
        if dev.flags & IFF_BROADCAST and length < 31 and broadcast == old:
            broadcast = _last(ifa.addr, length)
    if (length, broadcast, peer) != (ifa.prefixlen, ifa.broadcast, ifa.peer):
        devinet.remove(dev, ifa.addr, ifa.prefixlen)
        _add(devinet, dev, ifa.addr, length, broadcast, ifa.label, ifa.scope, peer)
    return b""


def _add(
    devinet: Devinet, dev: NetDevice, addr: bytes, length: int, broadcast: bytes | None, label: str,
    scope: int | None = None, peer: bytes | None = None,
) -> None:  # fmt: skip
    try:
        devinet.add(dev, addr, length, broadcast, label, scope, peer)
    except ValueError as bad:
        raise error(errno.EINVAL, str(bad)) from None


def _last(addr: bytes, length: int) -> bytes:
    """The last address of a network: its broadcast address."""
    return (int.from_bytes(addr, "big") | ~mask_of(length) & 0xFFFFFFFF).to_bytes(4, "big")


def _class_length(addr: bytes) -> int:
    """The prefix length of an address's class; -1 for none that a device can have (Linux: inet_abc_len)."""
    if not any(addr) or addr == b"\xff\xff\xff\xff":
        return 0
    first = addr[0]
    if not first & 0x80:
        return 8
    if not first & 0x40:
        return 16
    if not first & 0x20:
        return 24
    return -1


# -- ethtool


def _ethtool(dev: NetDevice, argument: bytes) -> bytes:
    """The few requests of ethtool(8) that were there before netlink's: link, driver, offloads."""
    data = argument[IFREQ:]
    if len(data) < 4:
        raise error(errno.EFAULT)
    command: int = _U32.unpack_from(data)[0]
    size = ETHTOOL_SIZES.get(command)
    if size is None:
        raise error(errno.EOPNOTSUPP)
    if len(data) < size:
        raise error(errno.EFAULT)
    if command == ETHTOOL_GDRVINFO:
        kind = dev.driver.kind.encode()
        return argument[:IFREQ] + _DRVINFO.pack(command, kind, b"", b"", b"", b"", b"", 0, 0, 0, 0, 0)
    if command == ETHTOOL_GLINK:
        value = int(dev.running)
    elif command == ETHTOOL_GFLAGS:
        value = 0
    else:
        value = int(bool(dev.features & _FEATURES[command]))
    return argument[:IFREQ] + _ETHTOOL_VALUE.pack(command, value)
