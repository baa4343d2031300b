"""SO_TIMESTAMPING of datagrams: when they are told of, by which number, and what comes with it."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.transport.hosts import REALTIME, Host, at
from usernet.core.iov import BytesIter
from usernet.sock import sockopt as so
from usernet.sock.msg import MSG_ERRQUEUE, MSG_TRUNC, MsgHdr
from usernet.sock.timestamping import SCM_TS_OPT_ID, per_call, recv_timestamp, tsflags_of
from usernet.transport.udp_sock import UdpSock

IP_PKTINFO = 8
SERVER = at("127.0.0.1", 7)
SOFTWARE = so.SOF_TIMESTAMPING_SOFTWARE | so.SOF_TIMESTAMPING_OPT_ID


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.udp_socket("127.0.0.1", 7)
    yield host
    host.end()


def sender(host: Host, flags: int) -> UdpSock:
    sk = host.udp_socket()
    sk.setsockopt(so.SOL_SOCKET, so.SO_TIMESTAMPING, struct.pack("=i", flags))
    return sk


def reports(host: Host, sk: UdpSock) -> list[tuple[int, int]]:
    """(info, data) of all that the error queue holds."""
    found = []
    while sk.error_queue is not None:
        _, msg = host.receive(sk, 200, MSG_ERRQUEUE)
        assert msg.control is not None
        found.append(struct.unpack_from("=8xII", msg.control[-1][2]))
    return [(info, data) for info, data in found]


def test_queued_and_sent(host: Host) -> None:
    sk = sender(host, SOFTWARE | so.SOF_TIMESTAMPING_TX_SCHED | so.SOF_TIMESTAMPING_TX_SOFTWARE)
    host.send(sk, b"one", SERVER)
    host.send(sk, b"two", SERVER)
    assert reports(host, sk) == [(1, 0), (0, 0), (1, 1), (0, 1)]


def test_only_what_is_recorded_is_numbered(host: Host) -> None:
    sk = sender(host, SOFTWARE)
    host.send(sk, b"one", SERVER)
    wanted = struct.pack("=I", so.SOF_TIMESTAMPING_TX_SCHED)
    host.send(sk, b"two", SERVER, control=[(so.SOL_SOCKET, so.SO_TIMESTAMPING, wanted)])
    assert reports(host, sk) == [(1, 0)]


def test_a_call_can_choose_its_key(host: Host) -> None:
    sk = sender(host, SOFTWARE | so.SOF_TIMESTAMPING_TX_SOFTWARE)
    host.send(sk, b"one", SERVER, control=[(so.SOL_SOCKET, SCM_TS_OPT_ID, struct.pack("=I", 0xFFFFFFFE))])
    host.send(sk, b"two", SERVER)
    assert reports(host, sk) == [(0, 0xFFFFFFFE), (0, 0)]
    for flags, data in ((so.SOF_TIMESTAMPING_SOFTWARE, bytes(4)), (SOFTWARE, bytes(3))):
        with pytest.raises(OSError) as caught:
            host.send(sender(host, flags), b"x", SERVER, control=[(so.SOL_SOCKET, SCM_TS_OPT_ID, data)])
        assert caught.value.errno == errno.EINVAL


def test_how_it_left(host: Host) -> None:
    flags = SOFTWARE | so.SOF_TIMESTAMPING_OPT_CMSG | so.SOF_TIMESTAMPING_TX_SOFTWARE
    sk = sender(host, flags)
    sk.setsockopt(0, IP_PKTINFO, struct.pack("=i", 1))
    host.send(sk, b"data", SERVER)
    _, msg = host.receive(sk, 10, MSG_ERRQUEUE)
    assert msg.flags == MSG_ERRQUEUE | MSG_TRUNC
    assert msg.name is None
    assert msg.control is not None
    stamps, info, entry = msg.control
    assert stamps[:2] == (so.SOL_SOCKET, so.SO_TIMESTAMPING)
    index = struct.unpack_from("=i", info[2])[0]
    assert (info[:2], index > 0, info[2][4:]) == ((0, IP_PKTINFO), True, SERVER.addr * 2)
    # The offender is the address it was sent from.
    assert entry[2][16:] == struct.pack("=HH", 2, 0) + SERVER.addr + bytes(8)
    # Nothing is known of a packet that isn't there.
    sk.setsockopt(so.SOL_SOCKET, so.SO_TIMESTAMPING, struct.pack("=i", flags | so.SOF_TIMESTAMPING_OPT_TSONLY))
    host.send(sk, b"data", SERVER)
    _, msg = host.receive(sk, 10, MSG_ERRQUEUE)
    assert msg.control is not None
    assert [item[:2] for item in msg.control] == [(so.SOL_SOCKET, so.SO_TIMESTAMPING), (0, 11)]
    assert msg.control[1][2][16:] == bytes(16)


def test_a_full_receive_buffer_loses_them(host: Host) -> None:
    sk = sender(host, SOFTWARE | so.SOF_TIMESTAMPING_TX_SOFTWARE)
    sk.setsockopt(so.SOL_SOCKET, so.SO_RCVBUF, struct.pack("=i", 1152))
    for _ in range(20):
        host.send(sk, b"data", SERVER)
    found = reports(host, sk)
    assert 0 < len(found) < 5
    assert sk.rmem_alloc == 0


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(8), struct.pack("=I", so.SOF_TIMESTAMPING_SOFTWARE)])
def test_what_a_call_can_choose(data: bytes) -> None:
    with pytest.raises(OSError) as caught:
        per_call(0, data)
    assert caught.value.errno == errno.EINVAL


def test_ancillary_data(host: Host) -> None:
    sk = sender(host, SOFTWARE | so.SOF_TIMESTAMPING_TX_ACK)
    wanted = struct.pack("=I", so.SOF_TIMESTAMPING_TX_SCHED)
    assert tsflags_of(sk, [(0, 99, b""), (so.SOL_SOCKET, so.SO_TIMESTAMPING_NEW, wanted)]) == (
        SOFTWARE | so.SOF_TIMESTAMPING_TX_SCHED
    )
    for kind, data in ((so.SO_RCVBUF, bytes(4)), (so.SO_MARK, bytes(3))):
        with pytest.raises(OSError) as caught:
            tsflags_of(sk, [(so.SOL_SOCKET, kind, data)])
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("flags", "report", "told"),
    [
        (so.SOF_TIMESTAMPING_SOFTWARE, False, True),
        (so.SOF_TIMESTAMPING_RX_SOFTWARE, False, False),
        (so.SOF_TIMESTAMPING_SOFTWARE | so.SOF_TIMESTAMPING_OPT_RX_FILTER, False, False),
        (so.SOF_TIMESTAMPING_SOFTWARE | so.SOF_TIMESTAMPING_OPT_RX_FILTER, True, True),
    ],
)
def test_what_is_told(host: Host, flags: int, report: bool, told: bool) -> None:
    sk = sender(host, flags)
    msg = MsgHdr(BytesIter(b""))
    recv_timestamp(sk, msg, REALTIME, b"stats", report)
    kinds = [kind for _, kind, _ in msg.control or ()]
    assert kinds == ([so.SO_TIMESTAMPING, 54] if told else [])
