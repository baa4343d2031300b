"""UDP-Lite: coverage on both sides, and what arrives broken where it may."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.hosts import Host, at, pair, run
from usernet.skbuff.dropreason import DropReason
from usernet.skbuff.skbuff import SKBuff
from usernet.transport.udp_sock import SOL_UDP, UDP_CORK, UDP_SEGMENT
from usernet.transport.udplite import (
    SOL_UDPLITE,
    UDPLITE_RECV_CSCOV,
    UDPLITE_SEND_CSCOV,
    UdpLite,
    UdpLiteSock,
)
from usernet.wire import udp
from usernet.wire.checksum import csum, csum_fold, pseudo_sum

PEER = at("10.0.0.9", 5000)
HERE = at("10.0.0.1", 7)


@pytest.fixture
def host() -> Iterator[Host]:
    left, right = pair()
    right.end()
    left.net.get(UdpLite)
    yield left
    left.end()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    left, right = pair()
    for one in (left, right):
        one.net.get(UdpLite)
    yield left, right
    left.end()
    right.end()


def lite(host: Host, address: str | None = None, port: int = 0) -> UdpLiteSock:
    with host.inside():
        sk = UdpLiteSock(host.net, host.ipv4.af)
        if address is not None:
            sk.bind(at(address, port))
    return sk


def cover(host: Host, sk: UdpLiteSock, option: int, size: int) -> None:
    host.call(sk.setsockopt, SOL_UDPLITE, option, struct.pack("=i", size))


def packet(payload: bytes, coverage: int = 0, *, check: int = -1) -> bytes:
    header = udp.build(5000, 7, coverage, 0)
    whole = header + payload
    if check < 0:
        pseudo = pseudo_sum(PEER.addr, HERE.addr, 136, len(whole))
        check = csum_fold(csum(whole, 0, coverage or len(whole), pseudo)) or 0xFFFF
    return udp.build(5000, 7, coverage, check) + payload


def arrive(host: Host, data: bytes) -> None:
    skb = SKBuff(bytes(20) + data)
    skb.network_header = 0
    skb.transport_header = skb.data = 20
    skb.len -= 20
    skb.dev, skb.af, skb.saddr, skb.daddr = host.devices["eth0"], host.ipv4.af, PEER.addr, HERE.addr
    host.call(host.net.get(UdpLite).receive, skb)


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_what_is_not_covered_may_be_broken(host):
    sk = lite(host, "0.0.0.0", 7)
    data = packet(b"header and picture", 8 + 6)
    arrive(host, data)
    arrive(host, damaged(data, 20))
    assert [host.recv(sk) for _ in range(2)] == [b"header and picture", damaged(data, 20)[8:]]
    arrive(host, damaged(data, 10))
    assert not sk.receive_queue
    mib = host.net.mib.udp_lite
    assert (mib.InCsumErrors, mib.InErrors, mib.InDatagrams) == (1, 1, 2)
    assert host.net.mib.udp.InErrors == 0


@pytest.mark.parametrize(
    "data", [packet(b"x", 7), packet(b"x", 1), packet(b"x", 10), packet(b"x", check=0), b"1234567", b""]
)
def test_illegal_coverage_no_checksum_and_no_header_are_refused(host, data):
    sk = lite(host, "0.0.0.0", 7)
    arrive(host, data)
    assert not sk.receive_queue
    assert host.net.mib.udp_lite.InErrors == 1


def test_a_receiver_asks_for_coverage(host):
    sk = lite(host, "0.0.0.0", 7)
    cover(host, sk, UDPLITE_RECV_CSCOV, 12)
    arrive(host, packet(b"too little", 11))
    assert not sk.receive_queue
    arrive(host, packet(b"enough", 12))
    arrive(host, packet(b"all", 0))
    arrive(host, packet(b"s", 9))  # all of it is covered
    assert [host.recv(sk) for _ in range(3)] == [b"enough", b"all", b"s"]
    cover(host, sk, UDPLITE_RECV_CSCOV, 0)
    arrive(host, packet(b"in part", 14))
    assert not sk.receive_queue
    assert sk.drops == host.drops(DropReason.UDP_CSUM) == 2


@given(st.binary(max_size=300), st.integers(0, 320))
def test_what_is_sent_is_what_the_receiver_checks(payload, coverage):
    left, right = pair()
    for one in (left, right):
        one.net.get(UdpLite)
    here, there = lite(left, "10.0.0.1", 5), lite(right, "10.0.0.2", 6)
    cover(left, here, UDPLITE_SEND_CSCOV, coverage)
    left.send(here, payload, at("10.0.0.2", 6))
    run(left, right)
    assert right.recv(there) == payload
    left.close(here)
    right.close(there)
    left.end()
    right.end()


def test_it_is_no_udp(hosts):
    left, right = hosts
    here = lite(left, "10.0.0.1", 5)
    other = right.udp_socket("10.0.0.2", 6)
    left.call(here.connect, at("10.0.0.2", 6), 0, 0)
    left.send(here, b"anyone?")
    run(left, right)
    assert not other.receive_queue
    assert right.net.mib.udp_lite.NoPorts == 1
    with pytest.raises(ConnectionRefusedError):
        left.recv(here)
    # The ports of the two are two tables.
    lite(right, "10.0.0.2", 6)


def test_options(host):
    sk = lite(host, "0.0.0.0", 7)

    def get(option: int, level: int = SOL_UDPLITE) -> int:
        return int.from_bytes(host.call(sk.getsockopt, level, option, 4), "little", signed=True)

    assert get(UDPLITE_SEND_CSCOV) == get(UDPLITE_RECV_CSCOV) == 0
    for given_, kept in ((20, 20), (1, 8), (7, 8), (-1, 8), (70000, 65535), (0, 0)):
        cover(host, sk, UDPLITE_SEND_CSCOV, given_)
        cover(host, sk, UDPLITE_RECV_CSCOV, given_)
        assert get(UDPLITE_SEND_CSCOV) == get(UDPLITE_RECV_CSCOV) == kept
    host.call(sk.setsockopt, SOL_UDPLITE, UDP_CORK, struct.pack("=i", 1))
    assert get(UDP_CORK) == get(UDP_CORK, SOL_UDP) == 1
    host.send(sk, b"one", PEER)
    host.send(sk, b"two", PEER)
    assert sk.cork is not None and sk.cork.size == 6
    host.call(sk.setsockopt, SOL_UDP, UDP_CORK, struct.pack("=i", 0))
    assert sk.cork is None
    with pytest.raises(OSError) as caught:
        host.call(sk.getsockopt, SOL_UDPLITE, 77, 4)
    assert caught.value.errno == errno.ENOPROTOOPT


def test_what_can_not_be_sent(host):
    sk = lite(host)
    for to, code in ((None, errno.EDESTADDRREQ), (at("10.0.0.9", 0), errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            host.send(sk, b"x", to)
        assert caught.value.errno == code
    with pytest.raises(OSError) as caught:
        host.send(sk, bytes(65508), PEER)
    assert caught.value.errno == errno.EMSGSIZE
    host.call(sk.setsockopt, SOL_UDP, UDP_SEGMENT, struct.pack("=i", 100))
    with pytest.raises(OSError) as caught:
        host.send(sk, b"x", PEER)
    assert caught.value.errno == errno.EIO
