"""Interface ioctls. What is expected of lo is what a Linux 6.18 answers to the same bytes."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.sockets.netlink.asker import host
from tests.transport.hosts import Host
from usernet.ip.v4.devinet import Devinet
from usernet.netdevice.device import IFF_PROMISC
from usernet.sockets import ifreq as ifr

LO = b"lo".ljust(16, b"\0")
ETH0 = b"eth0".ljust(16, b"\0")


@pytest.fixture
def one() -> Iterator[Host]:
    with host() as made:
        yield made


def code(call: Callable[..., Any], *args: Any) -> int:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno or 0


def ask(one: Host, request: int, name: str, data: bytes = b"", family: int = 2, admin: bool = True) -> bytes:
    argument = name.encode().ljust(16, b"\0") + data.ljust(24, b"\0")
    return one.call(ifr.interface_ioctl, one.net, family, request, argument, admin)


def sin(text: str) -> bytes:
    return struct.pack("=HH", 2, 0) + bytes(map(int, text.split(".")))


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (ifr.SIOCGIFNAME, "01000000"), (ifr.SIOCGIFFLAGS, "4900"), (ifr.SIOCGIFADDR, "020000007f000001"),
        (ifr.SIOCGIFDSTADDR, "020000007f000001"), (ifr.SIOCGIFBRDADDR, "0200000000000000"),
        (ifr.SIOCGIFNETMASK, "02000000ff000000"), (ifr.SIOCGIFMETRIC, "00000000"), (ifr.SIOCGIFMTU, "00000100"),
        (ifr.SIOCGIFHWADDR, "0403000000000000"), (ifr.SIOCGIFINDEX, "01000000"), (ifr.SIOCGIFTXQLEN, "e8030000"),
        (ifr.SIOCGIFMAP, "00"),
    ],
)  # fmt: skip
def test_what_lo_is(one: Host, request_: int, answer: str):
    data = struct.pack("=i", 1) if request_ == ifr.SIOCGIFNAME else b""
    assert ask(one, request_, "lo", data) == LO + bytes.fromhex(answer).ljust(24, b"\0")
    wrong = struct.pack("=i", 77) if request_ == ifr.SIOCGIFNAME else b""
    assert code(ask, one, request_, "nope", wrong) == errno.ENODEV


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (ifr.SIOCSIFLINK, errno.ENOTTY), (0x891F, errno.ENOTTY), (0x8972, errno.ENOTTY), (0x8980, errno.ENOTTY),
        (ifr.SIOCSIFMETRIC, errno.EOPNOTSUPP), (ifr.SIOCDEVPRIVATE, errno.EOPNOTSUPP),
        (ifr.SIOCGMIIREG, errno.EOPNOTSUPP), (ifr.SIOCGIFSLAVE, errno.EINVAL), (ifr.SIOCSIFSLAVE, errno.EINVAL),
        (ifr.SIOCGSTAMP, errno.ENOENT),
    ],
)  # fmt: skip
def test_what_there_is_none_of(one: Host, request_: int, number: int):
    assert code(ask, one, request_, "lo") == number


def test_addresses_are_asked_of_sockets_that_have_some(one: Host):
    assert ask(one, ifr.SIOCGIFADDR, "lo", family=17)
    for family in (0, 16):
        assert code(ask, one, ifr.SIOCGIFADDR, "lo", b"", family) == errno.ENOTTY
        assert ask(one, ifr.SIOCGIFINDEX, "lo", family=family)


def test_an_argument_that_is_cut_short(one: Host):
    for request in (ifr.SIOCGIFMTU, ifr.SIOCGIFADDR, ifr.SIOCGIFNAME, ifr.SIOCSIFFLAGS, ifr.SIOCETHTOOL):
        assert code(one.call, ifr.interface_ioctl, one.net, 2, request, LO + bytes(23)) == errno.EFAULT
    assert code(one.call, ifr.interface_ioctl, one.net, 2, ifr.SIOCGIFCONF, bytes(3)) == errno.EFAULT


def test_the_list(one: Host):
    entries = [LO + sin("127.0.0.1").ljust(24, b"\0"), ETH0 + sin("10.0.0.1").ljust(24, b"\0")]
    for room, count in ((400, 2), (80, 2), (79, 1), (0, 0), (-1, 0)):
        answer = one.call(ifr.interface_ioctl, one.net, 0, ifr.SIOCGIFCONF, struct.pack("=i", room))
        assert answer == b"".join(entries[:count])


class TestChanging:
    def test_a_device(self, one: Host):
        dev = one.devices["eth0"]
        ask(one, ifr.SIOCSIFMTU, "eth0", struct.pack("=i", 1400))
        ask(one, ifr.SIOCSIFTXQLEN, "eth0", struct.pack("=i", 77))
        ask(one, ifr.SIOCSIFHWADDR, "eth0", b"\1\0\2\0\0\0\0\7")
        ask(one, ifr.SIOCSIFFLAGS, "eth0", struct.pack("=H", 0x1000 | IFF_PROMISC))
        assert (dev.mtu, dev.tx_queue_len, dev.mac, dev.up) == (1400, 77, b"\2\0\0\0\0\7", False)
        assert ask(one, ifr.SIOCGIFFLAGS, "eth0")[16:18] == struct.pack("=H", 0x1102)
        assert dev.promiscuity == 1
        ask(one, ifr.SIOCSIFFLAGS, "eth0", struct.pack("=H", 0x1001))
        assert dev.up
        assert dev.promiscuity == 0
        ask(one, ifr.SIOCSIFNAME, "eth0", b"wan%d\0")
        assert dev.name == "wan0"

    @pytest.mark.parametrize(
        ("request_", "data", "number"),
        [
            (ifr.SIOCSIFMTU, struct.pack("=i", 12), errno.EINVAL),
            (ifr.SIOCSIFMTU, struct.pack("=i", -1), errno.EINVAL),
            (ifr.SIOCSIFTXQLEN, struct.pack("=i", -1), errno.EINVAL),
            (ifr.SIOCSIFHWADDR, b"\2\0\2\0\0\0\0\7", errno.EINVAL),
            (ifr.SIOCSIFHWADDR, b"\1\0\1\0\0\0\0\7", errno.EADDRNOTAVAIL),
            (ifr.SIOCSIFNAME, b"lo", errno.EEXIST), (ifr.SIOCSIFNAME, b"a/b", errno.EINVAL),
            (ifr.SIOCSIFNAME, b"a%s", errno.EINVAL), (ifr.SIOCADDMULTI, b"\0\0\2\0\0\0\0\7", errno.EINVAL),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, one: Host, request_: int, data: bytes, number: int):
        assert code(ask, one, request_, "eth0", data) == number

    def test_one_who_may_not(self, one: Host):
        for request in (ifr.SIOCSIFMTU, ifr.SIOCSIFADDR, ifr.SIOCSIFFLAGS, ifr.SIOCSIFNAME):
            assert code(ask, one, request, "eth0", sin("10.0.0.2"), 2, False) == errno.EPERM
        assert ask(one, ifr.SIOCGIFMTU, "eth0", b"", 2, False)

    def test_the_address_of_a_label(self, one: Host):
        ask(one, ifr.SIOCSIFADDR, "lo:1", sin("10.9.8.7"))
        assert ask(one, ifr.SIOCGIFNETMASK, "lo:1")[16:24] == sin("255.0.0.0")
        ask(one, ifr.SIOCSIFNETMASK, "lo:1", sin("255.255.255.0"))
        assert ask(one, ifr.SIOCGIFNETMASK, "lo:1")[16:24] == sin("255.255.255.0")
        for request, data in ((ifr.SIOCSIFNETMASK, "255.0.255.0"), (ifr.SIOCSIFADDR, "224.9.8.7")):
            assert code(ask, one, request, "lo:1", sin(data)) == errno.EINVAL
        assert code(ask, one, ifr.SIOCSIFADDR, "lo:1", b"\x0a\0" + sin("24.9.8.7")[2:]) == errno.EINVAL
        ask(one, ifr.SIOCSIFADDR, "lo:1", sin("0.0.0.0"))
        assert code(ask, one, ifr.SIOCGIFADDR, "lo:1") == errno.EADDRNOTAVAIL
        ask(one, ifr.SIOCSIFADDR, "lo:2", sin("10.9.8.7"))
        ask(one, ifr.SIOCSIFFLAGS, "lo:2", bytes(2))
        assert [ifa.label for ifa in one.net.get(Devinet).of(one.devices["lo"])] == ["lo"]

    def test_masks_take_the_broadcast_address_with_them(self, one: Host):
        ask(one, ifr.SIOCSIFADDR, "eth0", sin("192.168.1.5"))
        assert ask(one, ifr.SIOCGIFBRDADDR, "eth0")[16:24] == sin("192.168.1.255")
        ask(one, ifr.SIOCSIFNETMASK, "eth0", sin("255.255.0.0"))
        assert ask(one, ifr.SIOCGIFBRDADDR, "eth0")[16:24] == sin("192.168.255.255")
        ask(one, ifr.SIOCSIFBRDADDR, "eth0", sin("192.168.0.0"))
        ask(one, ifr.SIOCSIFDSTADDR, "eth0", sin("192.168.7.7"))
        (ifa,) = one.net.get(Devinet).of(one.devices["eth0"])
        wanted = [sin(text)[4:] for text in ("192.168.1.5", "192.168.0.0", "192.168.7.7")]
        assert [ifa.addr, ifa.broadcast, ifa.peer] == wanted

    def test_the_one_of_several_that_was_named(self, one: Host):
        one.call(one.net.get(Devinet).add, one.devices["eth0"], bytes((10, 0, 0, 9)), 24)
        assert ask(one, ifr.SIOCGIFADDR, "eth0", sin("10.0.0.9"))[16:24] == sin("10.0.0.9")
        assert ask(one, ifr.SIOCGIFADDR, "eth0", sin("10.0.0.77"))[16:24] == sin("10.0.0.1")


def test_ethtool(one: Host):
    def ethtool(command: int, size: int = 8) -> bytes:
        argument = ETH0 + bytes(24) + struct.pack("=I", command).ljust(size, b"\0")
        return one.call(ifr.interface_ioctl, one.net, 0, ifr.SIOCETHTOOL, argument)[40:]

    assert ethtool(ifr.ETHTOOL_GLINK) == struct.pack("=II", ifr.ETHTOOL_GLINK, one.devices["eth0"].running)
    assert ethtool(ifr.ETHTOOL_GSG) == struct.pack("=II", ifr.ETHTOOL_GSG, 1)
    assert ethtool(ifr.ETHTOOL_GDRVINFO, 196)[4:36].rstrip(b"\0") == b"veth"
    assert code(ethtool, 0x41) == errno.EOPNOTSUPP
    assert code(ethtool, ifr.ETHTOOL_GDRVINFO, 195) == errno.EFAULT
