"""SOL_SOCKET options: values, lengths and errors as Linux has them (compared once with a kernel, option by option)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.transport.hosts import Host, at
from usernet.core.timer import NEVER
from usernet.skbuff.skbuff import SKBuff
from usernet.sock import sockopt as so
from usernet.sock.options import sock_getsockopt, sock_setsockopt
from usernet.sock.sock import Sock


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.end()


def num(value: int) -> bytes:
    return struct.pack("=i", value)


def got(sk: Sock, option: int, length: int = 4) -> int:
    return int.from_bytes(sock_getsockopt(sk, option, length), "little", signed=True)


def code(call: object, *args: object) -> int:
    with pytest.raises(OSError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.errno or 0


@pytest.mark.parametrize(
    "option",
    [
        so.SO_REUSEADDR, so.SO_REUSEPORT, so.SO_BROADCAST, so.SO_KEEPALIVE, so.SO_OOBINLINE, so.SO_NO_CHECK,
        so.SO_DONTROUTE, so.SO_RXQ_OVFL, so.SO_DEBUG, so.SO_TIMESTAMP, so.SO_TIMESTAMPNS, so.SO_RCVMARK,
        so.SO_SELECT_ERR_QUEUE, so.SO_ZEROCOPY, so.SO_PREFER_BUSY_POLL, so.SO_NOFCS, so.SO_WIFI_STATUS,
    ],
)  # fmt: skip
def test_a_switch_is_off_can_be_turned_on_and_off(host: Host, option: int) -> None:
    sk = host.udp_socket()
    assert got(sk, option) == 0
    sock_setsockopt(sk, option, num(1))
    assert got(sk, option) == 1
    sock_setsockopt(sk, option, num(0))
    assert got(sk, option) == 0


@pytest.mark.parametrize("option", [so.SO_PRIORITY, so.SO_MARK, so.SO_PEEK_OFF, so.SO_BUSY_POLL, so.SO_INCOMING_CPU])
def test_a_number_is_kept(host: Host, option: int) -> None:
    sk = host.udp_socket()
    sock_setsockopt(sk, option, num(77))
    assert got(sk, option) == 77


@pytest.mark.parametrize("option", [so.SO_TYPE, so.SO_PROTOCOL, so.SO_DOMAIN, so.SO_ERROR, so.SO_ACCEPTCONN])
def test_what_can_only_be_read(host: Host, option: int) -> None:
    assert code(sock_setsockopt, host.udp_socket(), option, num(1)) == errno.ENOPROTOOPT


def test_what_a_socket_is(host: Host) -> None:
    sk = host.udp_socket()
    assert [got(sk, option) for option in (so.SO_TYPE, so.SO_PROTOCOL, so.SO_DOMAIN)] == [2, 17, 2]


def test_values_are_cut_to_the_length_and_short_ones_refused(host: Host) -> None:
    sk = host.udp_socket()
    assert sock_getsockopt(sk, so.SO_TYPE, 2) == b"\x02\x00"
    assert sock_getsockopt(sk, so.SO_TYPE, 100) == num(2)
    assert code(sock_getsockopt, sk, so.SO_TYPE, -1) == errno.EINVAL
    assert code(sock_setsockopt, sk, so.SO_REUSEADDR, b"\x01\x00\x00") == errno.EINVAL
    assert code(sock_setsockopt, sk, 200, num(1)) == errno.ENOPROTOOPT
    assert code(sock_getsockopt, sk, 200, 4) == errno.ENOPROTOOPT
    assert code(sock_setsockopt, sk, so.SO_TXTIME, bytes(8)) == errno.ENOPROTOOPT


def test_buffers_are_doubled_and_bounded(host: Host) -> None:
    sk = host.udp_socket()
    for option in (so.SO_RCVBUF, so.SO_SNDBUF):
        sock_setsockopt(sk, option, num(10000))
        assert got(sk, option) == 20000
        sock_setsockopt(sk, option, num(-1))
        assert got(sk, option) == 2 * 212992
    sock_setsockopt(sk, so.SO_RCVBUF, num(1))
    sock_setsockopt(sk, so.SO_SNDBUF, num(1))
    assert (got(sk, so.SO_RCVBUF), got(sk, so.SO_SNDBUF)) == (2304, 4608)
    sock_setsockopt(sk, so.SO_RCVBUFFORCE, num(10_000_000))
    sock_setsockopt(sk, so.SO_SNDBUFFORCE, num(-5))
    assert (got(sk, so.SO_RCVBUF), got(sk, so.SO_SNDBUF)) == (20_000_000, 4608)
    assert got(sk, so.SO_BUF_LOCK) == 3
    sock_setsockopt(sk, so.SO_BUF_LOCK, num(1))
    assert (sk.sndbuf_locked, sk.rcvbuf_locked) == (True, False)
    assert code(sock_setsockopt, sk, so.SO_BUF_LOCK, num(4)) == errno.EINVAL


def test_the_limits_are_sysctls(host: Host) -> None:
    host.net.sysctl["net.core.rmem_max"] = 5000
    sk = host.udp_socket()
    sock_setsockopt(sk, so.SO_RCVBUF, num(100000))
    assert got(sk, so.SO_RCVBUF) == 10000


def test_timeouts(host: Host) -> None:
    sk = host.udp_socket()
    assert sock_getsockopt(sk, so.SO_RCVTIMEO, 16) == bytes(16)
    sock_setsockopt(sk, so.SO_RCVTIMEO, struct.pack("=qq", 1, 500000))
    assert sk.rcvtimeo == 1_500_000_000
    assert sock_getsockopt(sk, so.SO_RCVTIMEO, 16) == struct.pack("=qq", 1, 500000)
    sock_setsockopt(sk, so.SO_RCVTIMEO, bytes(16))
    assert sk.rcvtimeo == NEVER
    sock_setsockopt(sk, so.SO_SNDTIMEO, struct.pack("=qq", -1, 0))
    assert sk.sndtimeo == 0
    assert code(sock_setsockopt, sk, so.SO_SNDTIMEO, struct.pack("=qq", 0, 1000000)) == errno.EDOM
    assert code(sock_setsockopt, sk, so.SO_SNDTIMEO, bytes(15)) == errno.EINVAL


def test_linger(host: Host) -> None:
    sk = host.udp_socket()
    assert sock_getsockopt(sk, so.SO_LINGER, 8) == bytes(8)
    sock_setsockopt(sk, so.SO_LINGER, struct.pack("=ii", 1, 5))
    assert sk.linger == 5
    assert sock_getsockopt(sk, so.SO_LINGER, 8) == struct.pack("=ii", 1, 5)
    sock_setsockopt(sk, so.SO_LINGER, bytes(8))
    assert sk.linger == -1
    assert code(sock_setsockopt, sk, so.SO_LINGER, num(1)) == errno.EINVAL


def test_so_error_takes_the_error(host: Host) -> None:
    sk = host.udp_socket()
    sk.err = errno.ECONNREFUSED
    sk.err_soft = errno.EHOSTUNREACH
    assert [got(sk, so.SO_ERROR) for _ in range(3)] == [errno.ECONNREFUSED, errno.EHOSTUNREACH, 0]


def test_binding_to_a_device(host: Host) -> None:
    sk = host.udp_socket()
    assert sock_getsockopt(sk, so.SO_BINDTODEVICE, 0) == b""
    sock_setsockopt(sk, so.SO_BINDTODEVICE, b"lo\0")
    assert got(sk, so.SO_BINDTOIFINDEX) == 1
    assert sock_getsockopt(sk, so.SO_BINDTODEVICE, 16) == b"lo\0"
    assert code(sock_getsockopt, sk, so.SO_BINDTODEVICE, 15) == errno.EINVAL
    assert code(sock_setsockopt, sk, so.SO_BINDTODEVICE, b"eth9") == errno.ENODEV
    sock_setsockopt(sk, so.SO_BINDTODEVICE, b"")
    assert sk.bound_dev_if == 0
    assert code(sock_setsockopt, sk, so.SO_BINDTOIFINDEX, num(-1)) == errno.EINVAL


def test_time_stamps_exclude_one_another(host: Host) -> None:
    sk = host.udp_socket()
    sock_setsockopt(sk, so.SO_TIMESTAMP, num(1))
    sock_setsockopt(sk, so.SO_TIMESTAMPNS, num(1))
    assert (got(sk, so.SO_TIMESTAMP), got(sk, so.SO_TIMESTAMPNS)) == (0, 1)
    flags = so.SOF_TIMESTAMPING_SOFTWARE | so.SOF_TIMESTAMPING_RX_SOFTWARE
    sock_setsockopt(sk, so.SO_TIMESTAMPING, num(flags))
    assert sock_getsockopt(sk, so.SO_TIMESTAMPING, 8) == struct.pack("=ii", flags, 0)
    assert sock_getsockopt(sk, so.SO_TIMESTAMPING_NEW, 8) == bytes(8)
    for bad in (1 << 19, so.SOF_TIMESTAMPING_OPT_ID_TCP, so.SOF_TIMESTAMPING_OPT_STATS, so.SOF_TIMESTAMPING_BIND_PHC):
        assert code(sock_setsockopt, sk, so.SO_TIMESTAMPING, num(bad)) == errno.EINVAL


def test_rcvlowat(host: Host) -> None:
    sk = host.udp_socket()
    assert got(sk, so.SO_RCVLOWAT) == 1
    for given, kept in ((0, 1), (9, 9), (-1, 2**31 - 1)):
        sock_setsockopt(sk, so.SO_RCVLOWAT, num(given))
        assert got(sk, so.SO_RCVLOWAT) == kept
    assert got(sk, so.SO_SNDLOWAT) == 1
    assert code(sock_setsockopt, sk, so.SO_SNDLOWAT, num(1)) == errno.ENOPROTOOPT


def test_pacing_rate(host: Host) -> None:
    sk = host.udp_socket()
    assert sock_getsockopt(sk, so.SO_MAX_PACING_RATE, 8) == b"\xff" * 8
    assert sock_getsockopt(sk, so.SO_MAX_PACING_RATE, 4) == b"\xff" * 4
    sock_setsockopt(sk, so.SO_MAX_PACING_RATE, struct.pack("=Q", 10**10))
    assert sk.max_pacing_rate == 10**10
    sock_setsockopt(sk, so.SO_MAX_PACING_RATE, num(-1))
    assert sk.max_pacing_rate == 0


def test_cookies_name_sockets_and_the_namespace(host: Host) -> None:
    one, two = host.udp_socket(), host.udp_socket()
    first = sock_getsockopt(one, so.SO_COOKIE, 8)
    assert first == sock_getsockopt(one, so.SO_COOKIE, 16) != sock_getsockopt(two, so.SO_COOKIE, 8)
    assert code(sock_getsockopt, one, so.SO_COOKIE, 4) == errno.EINVAL
    assert sock_getsockopt(one, so.SO_NETNS_COOKIE, 8) == sock_getsockopt(two, so.SO_NETNS_COOKIE, 8)
    assert code(sock_getsockopt, one, so.SO_NETNS_COOKIE, 9) == errno.EINVAL


def test_meminfo(host: Host) -> None:
    sk = host.udp_socket("0.0.0.0", 5)
    other = host.udp_socket()
    host.send(other, b"x" * 24, at("127.0.0.1", 5))
    info = struct.unpack("=9I", sock_getsockopt(sk, so.SO_MEMINFO, 100))
    assert info == (sk.rmem_alloc, sk.rcvbuf, 0, sk.sndbuf, 0, 0, 0, 0, 0)
    assert sk.rmem_alloc > 24
    assert len(sock_getsockopt(sk, so.SO_MEMINFO, 5)) == 5


def test_filters_are_checked_kept_and_locked(host: Host) -> None:
    sk = host.udp_socket()
    assert code(sock_setsockopt, sk, so.SO_DETACH_FILTER, num(0)) == errno.ENOENT
    assert sock_getsockopt(sk, so.SO_GET_FILTER, 0) == b""
    program = struct.pack("=HBBI", 6, 0, 0, 4)
    sock_setsockopt(sk, so.SO_ATTACH_FILTER, program)
    assert sock_getsockopt(sk, so.SO_GET_FILTER, 80) == program
    assert code(sock_getsockopt, sk, so.SO_GET_FILTER, 7) == errno.EINVAL
    assert code(sock_setsockopt, sk, so.SO_ATTACH_FILTER, b"") == errno.EINVAL
    assert sk.filter.run(SKBuff(b"abcdef")) == 4
    sock_setsockopt(sk, so.SO_LOCK_FILTER, num(1))
    assert code(sock_setsockopt, sk, so.SO_DETACH_FILTER, num(0)) == errno.EPERM
    assert code(sock_setsockopt, sk, so.SO_ATTACH_FILTER, program) == errno.EPERM
    assert code(sock_setsockopt, sk, so.SO_LOCK_FILTER, num(0)) == errno.EPERM
    assert got(sk, so.SO_LOCK_FILTER) == 1
    assert code(sock_setsockopt, sk, so.SO_ATTACH_BPF, num(3)) == errno.EINVAL
    assert code(sock_setsockopt, sk, so.SO_ATTACH_REUSEPORT_CBPF, program) == errno.EINVAL


def test_what_only_some_protocols_have(host: Host) -> None:
    raw = host.raw_socket(200)
    assert code(sock_setsockopt, raw, so.SO_PEEK_OFF, num(0)) == errno.EOPNOTSUPP
    assert code(sock_getsockopt, raw, so.SO_PEEK_OFF, 4) == errno.EOPNOTSUPP
    assert code(sock_setsockopt, raw, so.SO_ZEROCOPY, num(1)) == errno.EOPNOTSUPP
    assert code(sock_setsockopt, host.udp_socket(), so.SO_ZEROCOPY, num(2)) == errno.EINVAL


def test_peers(host: Host) -> None:
    sk = host.udp_socket()
    assert code(sock_getsockopt, sk, so.SO_PEERNAME, 16) == errno.ENOTCONN
    host.call(sk.connect, at("127.0.0.1", 80), 0, 0)
    assert sock_getsockopt(sk, so.SO_PEERNAME, 16) == struct.pack("=HHI8x", 2, 0x5000, 0x100007F)
    assert code(sock_getsockopt, sk, so.SO_PEERNAME, 17) == errno.EINVAL
    assert sock_getsockopt(sk, so.SO_PEERCRED, 12) == struct.pack("=iii", 0, -1, -1)
    assert code(sock_getsockopt, sk, so.SO_PEERGROUPS, 4) == errno.ENODATA


def test_a_changed_route_option_forgets_the_route(host: Host) -> None:
    sk = host.udp_socket()
    for option, value in ((so.SO_MARK, 5), (so.SO_DONTROUTE, 1), (so.SO_CNX_ADVICE, 1)):
        host.call(sk.connect, at("127.0.0.1", 80), 0, 0)
        assert sk.dst is not None
        sock_setsockopt(sk, option, num(value))
        assert sk.dst is None
        sock_setsockopt(sk, so.SO_DONTROUTE, num(0))
