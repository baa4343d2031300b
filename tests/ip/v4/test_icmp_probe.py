"""The extended echo of RFC 8335."""

from __future__ import annotations

import pytest

from tests.ip.v4.host import US, Host, addr, packet
from usernet.wire import icmp

L_BIT = 1


def obj(ctype: int, data: bytes, length: int | None = None) -> bytes:
    """An extension header with one interface identification object."""
    size = len(data) + 4 if length is None else length
    return b"\x20\0\0\0" + size.to_bytes(2, "big") + bytes((3, ctype)) + data


def probe(host: Host, payload: bytes, sequence: int = 0x0500 | L_BIT) -> tuple[int, int] | None:
    """Code and the low byte of the reply's sequence, None where there is no reply."""
    host.receive(packet(icmp.build(icmp.ICMP_EXT_ECHO, 0, 0x00070000 | sequence, payload)))
    replies = host.sent()
    if not replies:
        return None
    kind, code, _, rest = icmp.parse(replies[0].checked(), 0)
    assert kind == icmp.ICMP_EXT_ECHOREPLY
    assert rest >> 8 == 0x000705
    assert replies[0].payload[8:] == payload
    return code, rest & 0xFF


def test_it_is_off_by_default(host: Host) -> None:
    assert probe(host, obj(1, b"eth0")) is None


@pytest.fixture
def prober(host: Host) -> Host:
    host.sysctl("icmp_echo_enable_probe", 1)
    return host


def test_by_name_index_and_address(prober: Host) -> None:
    index = prober.eth0.index.to_bytes(4, "big")
    for payload in (obj(1, b"eth0"), obj(1, b"eth0\0\0\0\0"), obj(2, index), obj(3, b"\0\1\4\0" + US)):
        assert probe(prober, payload) == (0, 6)


def test_an_interface_that_is_down(prober: Host) -> None:
    eth1 = prober.add_device("eth1")
    assert probe(prober, obj(1, b"eth1")) == (0, 4)
    prober.addresses.add(eth1, addr("10.1.0.1"), 24)
    assert probe(prober, obj(1, b"eth1")) == (0, 6)
    prober.addresses.remove(eth1, addr("10.1.0.1"))
    prober.devices.set_down(eth1)
    assert probe(prober, obj(1, b"eth1")) == (0, 0)


def test_no_such_interface(prober: Host) -> None:
    for payload in (obj(1, b"eth9"), obj(2, b"\0\0\0\x63"), obj(3, b"\0\1\4\0" + addr("10.9.9.9"))):
        assert probe(prober, payload) == (2, 0)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x20\0\0\0", obj(1, b""), obj(1, b"eth0", 40), obj(1, b"x" * 16), obj(2, b"\0\1"), obj(4, b"eth0"),
     obj(3, b"\0\2\4\0" + US)],
)  # fmt: skip
def test_a_query_that_is_malformed(prober: Host, payload: bytes) -> None:
    assert probe(prober, payload) == (1, 0)


def test_only_about_this_host(prober: Host) -> None:
    assert probe(prober, obj(1, b"eth0"), 0x0500) is None
