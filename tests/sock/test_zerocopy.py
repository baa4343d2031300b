"""Reports of MSG_ZEROCOPY: their numbers, ranges, and bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.transport.hosts import Host
from usernet.sock import zerocopy
from usernet.sock.errqueue import SO_EE_ORIGIN_ZEROCOPY, ExtendedError, dequeue_error
from usernet.sock.zerocopy import BYTE_LIMIT, UARG_TRUESIZE, UbufInfo, page_size, zerocopy_realloc
from usernet.transport.tcp.sock import TcpSock
from usernet.transport.udp_sock import UdpSock


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.end()


def reports(sk: UdpSock | TcpSock) -> list[tuple[int, int, int]]:
    """What the error queue holds: info, data, code."""
    held: list[ExtendedError] = [skb.cb for skb in sk.error_queue or ()]
    assert all(entry.origin == SO_EE_ORIGIN_ZEROCOPY and entry.errno == 0 for entry in held)
    return [(entry.info, entry.data, entry.code) for entry in held]


def read(sk: UdpSock) -> None:
    skb = dequeue_error(sk)
    assert skb is not None
    skb.consume()


def alloc(sk: UdpSock, size: int = 100, held: UbufInfo | None = None) -> UbufInfo:
    uarg = zerocopy_realloc(sk, size, held)
    assert uarg is not None
    return uarg


def test_calls_in_a_row_are_one_report(host: Host) -> None:
    sk = host.udp_socket()
    first, second, third = alloc(sk), alloc(sk), alloc(sk)
    first.put()
    third.put()
    assert reports(sk) == [(0, 0, 0), (2, 2, 0)]
    assert sk.omem_alloc == 3 * UARG_TRUESIZE
    second.put()
    # It comes late, and so is not next to the first.
    assert reports(sk) == [(0, 0, 0), (2, 2, 0), (1, 1, 0)]
    # A call that fails has no number.
    alloc(sk).abort()
    following = alloc(sk)
    assert following.id == 3
    following.put()
    for left in (3, 2, 1, 0):
        read(sk)
        assert sk.omem_alloc == left * UARG_TRUESIZE


def test_a_range_grows_while_nobody_reads(host: Host) -> None:
    sk = host.udp_socket()
    for _ in range(1000):
        alloc(sk).put()
    assert reports(sk) == [(0, 999, 0)]
    assert sk.omem_alloc == UARG_TRUESIZE


def test_numbers_wrap(host: Host) -> None:
    sk = host.udp_socket()
    sk.zckey = 0xFFFFFFFE
    for _ in range(4):
        alloc(sk).put()
    assert reports(sk) == [(0xFFFFFFFE, 1, 0)]


def test_a_copy_anywhere_is_told(host: Host) -> None:
    sk = host.udp_socket()
    uarg = alloc(sk)
    uarg.get()
    uarg.zerocopy = False
    uarg.put()
    assert reports(sk) == []
    uarg.put()
    assert reports(sk) == [(0, 0, zerocopy.SO_EE_CODE_ZEROCOPY_COPIED)]


def test_option_memory_bounds_what_is_not_read(host: Host) -> None:
    sk = host.udp_socket()
    sk.settings.optmem_max = 5000
    held = [alloc(sk) for _ in range(6)]
    assert zerocopy_realloc(sk, 1, None) is None
    assert sk.zckey == 6
    for uarg in held[::2]:
        uarg.put()
    # The reports wait to be read, and take as much.
    assert zerocopy_realloc(sk, 1, None) is None
    read(sk)
    held.append(alloc(sk))
    assert held[-1].id == 6
    for uarg in held[1::2]:
        uarg.put()
    held[-1].put()


def test_a_datagram_has_one_report_of_so_many_bytes(host: Host) -> None:
    sk = host.udp_socket()
    uarg = alloc(sk, BYTE_LIMIT)
    assert zerocopy_realloc(sk, 1, uarg) is None
    uarg.put()
    small = alloc(sk, 10)
    assert zerocopy_realloc(sk, 10, small) is small
    assert (small.len, small.bytelen, small.refs) == (2, 20, 1)
    small.put()
    assert reports(sk) == [(0, 2, 0)]


def test_a_closed_socket_is_told_nothing(host: Host) -> None:
    sk = host.udp_socket()
    uarg = alloc(sk)
    sk.dead = True
    uarg.put()
    assert sk.error_queue is None
    assert sk.omem_alloc == 0


@pytest.mark.parametrize(("size", "memory"), [(1, 4096), (4096, 4096), (4097, 8192)])
def test_whole_pages_are_kept(size: int, memory: int) -> None:
    assert page_size(size) == memory
