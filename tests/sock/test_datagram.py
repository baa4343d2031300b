"""What datagram sockets share in receiving: peeking, time stamps, counts of drops, the error queue."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.transport.hosts import REALTIME, Blocked, Host, at
from usernet.core.iov import CollectIter, SourceIter
from usernet.core.timer import NEVER
from usernet.skbuff.skbuff import SKBuff
from usernet.sock import sockopt as so
from usernet.sock.datagram import copy_out
from usernet.sock.errqueue import SO_EE_ORIGIN_TIMESTAMPING
from usernet.sock.msg import MSG_DONTWAIT, MSG_ERRQUEUE, MSG_PEEK, MSG_TRUNC, MsgHdr
from usernet.transport.udp_sock import UdpSock

PEEK = MSG_PEEK | MSG_DONTWAIT


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.end()


def loaded(host: Host, *payloads: bytes) -> UdpSock:
    """A socket in whose queue these datagrams are."""
    sk, sender = host.udp_socket("127.0.0.1", 7), host.udp_socket()
    for payload in payloads:
        host.send(sender, payload, at("127.0.0.1", 7))
    host.close(sender)
    return sk


def turn_on(sk: UdpSock, option: int, value: int = 1) -> None:
    sk.setsockopt(so.SOL_SOCKET, option, struct.pack("=i", value))


class TestPeek:
    def test_peeking_takes_nothing(self, host: Host) -> None:
        sk = loaded(host, b"first", b"second")
        assert [host.recv(sk, 100, PEEK) for _ in range(2)] == [b"first", b"first"]
        data, msg = host.receive(sk, 2, PEEK | MSG_TRUNC)
        assert (data, msg.flags) == (b"fi", MSG_TRUNC)
        assert host.net.mib.udp.InDatagrams == 0
        assert host.recv(sk) == b"first"
        assert host.net.mib.udp.InDatagrams == 1

    def test_the_offset_moves_on_and_back(self, host: Host) -> None:
        sk = loaded(host, b"0123456789", b"abcdef")
        turn_on(sk, so.SO_PEEK_OFF, 0)
        assert host.recv(sk, 4, PEEK) == b"0123"
        assert host.recv(sk, 4, PEEK) == b"4567"
        assert host.recv(sk, 4, PEEK) == b"89"
        assert host.recv(sk, 4, PEEK) == b"abcd"
        assert sk.peek_off == 14
        assert host.recv(sk) == b"0123456789"
        assert sk.peek_off == 4
        assert host.recv(sk, 100, PEEK) == b"ef"
        with pytest.raises(BlockingIOError):
            host.recv(sk, 4, PEEK)
        assert host.recv(sk) == b"abcdef"
        assert sk.peek_off == 0

    def test_the_offset_may_be_set(self, host: Host) -> None:
        sk = loaded(host, b"0123456789")
        turn_on(sk, so.SO_PEEK_OFF, 7)
        assert host.recv(sk, 100, PEEK) == b"789"
        turn_on(sk, so.SO_PEEK_OFF, -1)
        assert host.recv(sk, 100, PEEK) == b"0123456789"

    def test_behind_everything_it_waits_for_more(self, host: Host) -> None:
        sk = loaded(host, b"0123456789")
        turn_on(sk, so.SO_PEEK_OFF, 10)
        sink = CollectIter(100)
        with host.inside():
            started = sk.recvmsg(MsgHdr(sink), MSG_PEEK, NEVER)
        call = Blocked(host, started)
        call.step()
        assert not call.done
        sender = host.udp_socket()
        host.send(sender, b"more", at("127.0.0.1", 7))
        call.step()
        assert (call.result, sink.getvalue()) == (4, b"more")

    def test_behind_everything_it_ends_at_the_deadline_or_the_end(self, host: Host) -> None:
        sk = loaded(host, b"0123456789")
        turn_on(sk, so.SO_PEEK_OFF, 10)
        with host.inside():
            late = sk.recvmsg(MsgHdr(CollectIter(1)), MSG_PEEK, 5)
            ended = sk.recvmsg(MsgHdr(CollectIter(1)), MSG_PEEK, NEVER)
        first, second = Blocked(host, late), Blocked(host, ended)
        sk.shutdown_mask = 3
        second.step()
        assert second.result == 0
        sk.shutdown_mask = 0
        host.clock.set(5)
        with pytest.raises(BlockingIOError):
            first.step()


class TestControl:
    def test_time_stamps(self, host: Host) -> None:
        host.clock.set(1_234_567_890)
        seconds, nanos = divmod(REALTIME + 1_234_567_890, 10**9)
        for option, unit in ((so.SO_TIMESTAMP, nanos // 1000), (so.SO_TIMESTAMPNS, nanos)):
            sk = loaded(host, b"x")
            turn_on(sk, option)
            assert host.receive(sk)[1].control == [(so.SOL_SOCKET, option, struct.pack("=qq", seconds, unit))]
            host.close(sk)
        sk = loaded(host, b"x")
        turn_on(sk, so.SO_TIMESTAMPING, so.SOF_TIMESTAMPING_RX_SOFTWARE | so.SOF_TIMESTAMPING_SOFTWARE)
        stamps = struct.pack("=6q", seconds, nanos, 0, 0, 0, 0)
        assert host.receive(sk)[1].control == [(so.SOL_SOCKET, so.SO_TIMESTAMPING, stamps)]

    def test_the_count_of_drops_and_the_mark(self, host: Host) -> None:
        sk = loaded(host)
        sk.rcvbuf = 100
        turn_on(sk, so.SO_RXQ_OVFL)
        turn_on(sk, so.SO_RCVMARK)
        sender = host.udp_socket()
        for _ in range(4):
            host.send(sender, b"x", at("127.0.0.1", 7))
        assert host.receive(sk)[1].control == [(so.SOL_SOCKET, so.SO_MARK, bytes(4))]
        host.send(sender, b"x", at("127.0.0.1", 7))
        assert host.receive(sk)[1].control == [
            (so.SOL_SOCKET, so.SO_RXQ_OVFL, struct.pack("=I", 3)), (so.SOL_SOCKET, so.SO_MARK, bytes(4)),
        ]  # fmt: skip

    def test_when_it_was_sent(self, host: Host) -> None:
        sk = host.udp_socket()
        flags = so.SOF_TIMESTAMPING_SOFTWARE | so.SOF_TIMESTAMPING_OPT_ID
        turn_on(sk, so.SO_TIMESTAMPING, flags | so.SOF_TIMESTAMPING_TX_SOFTWARE)
        host.udp_socket("127.0.0.1", 7)
        for payload in (b"one", b"two"):
            host.send(sk, payload, at("127.0.0.1", 7))
        for number, payload in enumerate((b"one", b"two")):
            data, msg = host.receive(sk, 100, MSG_ERRQUEUE)
            # The whole packet, headers too.
            assert data[-28 - len(payload)] == 0x45
            assert data.endswith(payload)
            assert msg.control is not None
            stamps, entry = msg.control
            assert stamps[:2] == (so.SOL_SOCKET, so.SO_TIMESTAMPING)
            assert struct.unpack("=6q", stamps[2])[0] == REALTIME // 10**9
            errno_, origin, *_, info, key = struct.unpack_from("=IBBBBII", entry[2])
            assert (errno_, origin, info, key) == (errno.ENOMSG, SO_EE_ORIGIN_TIMESTAMPING, 0, number)
        # For one message only, and without its bytes.
        turn_on(sk, so.SO_TIMESTAMPING, flags | so.SOF_TIMESTAMPING_OPT_TSONLY)
        wanted = struct.pack("=I", so.SOF_TIMESTAMPING_TX_SOFTWARE)
        host.send(sk, b"no", at("127.0.0.1", 7))
        host.send(sk, b"yes", at("127.0.0.1", 7), control=[(so.SOL_SOCKET, so.SO_TIMESTAMPING, wanted)])
        assert host.recv(sk, 100, MSG_ERRQUEUE) == b""
        with pytest.raises(BlockingIOError):
            host.recv(sk, 100, MSG_ERRQUEUE)


def test_copying_out_of_fragments(host: Host) -> None:
    skb = SKBuff(b"linear")
    skb.add_frag(b"-first")
    skb.add_frag(memoryview(b"-second"))
    for offset in range(skb.len + 1):
        for size in range(skb.len - offset + 1):
            sink = CollectIter(100)
            copy_out(skb, offset, size, sink)
            assert sink.getvalue() == b"linear-first-second"[offset : offset + size]


def test_a_fault_loses_the_datagram(host: Host) -> None:
    sk = loaded(host, b"lost", b"kept")
    with pytest.raises(OSError) as caught, host.inside():
        sk.recvmsg(MsgHdr(SourceIter([b"not writable"])), MSG_DONTWAIT, 0)
    assert caught.value.errno == errno.EFAULT
    assert host.recv(sk) == b"kept"
    assert sk.rmem_alloc == 0
