"""TCP_REPAIR: a connection taken apart and put together again, while its peer notices nothing but a pause."""

from __future__ import annotations

import errno
from struct import pack, unpack
from typing import Any

import pytest

from tests.transport.tcp.harness import Pair, code, sock_of, state_of
from tests.transport.tcp.keys import TCP_AO_ADD_KEY, TCP_AO_INFO, TCP_AO_REPAIR, ao_add, ao_info
from tests.transport.tcp.test_md5 import ext, transfer, watch
from usernet.sockets.user import UserSocket
from usernet.transport.tcp.const import TCP_CLOSE, TCP_ESTABLISHED
from usernet.transport.tcp.tcp import Tcp

REPAIR, QUEUE, QUEUE_SEQ, OPTIONS, TIMESTAMP, WINDOW, MAXSEG = 19, 20, 21, 22, 24, 29, 2
RECV, SEND = 1, 2
PEEK = 2
MSS, WSCALE, SACK, STAMP = 2, 3, 4, 8  # as in the header


class Image:
    """What is kept of a connection, read with the calls that a program has for it."""

    def __init__(self, sock: UserSocket, ao: bool = False) -> None:
        sock.setsockopt(6, REPAIR, 1)
        self.local, self.peer = sock.getsockname(), sock.getpeername()
        self.queues: dict[int, tuple[int, bytes]] = {}
        for queue in (RECV, SEND):
            sock.setsockopt(6, QUEUE, queue)
            number = sock.getsockopt(6, QUEUE_SEQ, 4)
            assert isinstance(number, bytes)
            try:
                data = sock.recv(1 << 20, PEEK)
            except BlockingIOError:
                data = b""
            self.queues[queue] = int.from_bytes(number, "little"), data
        info: Any = sock.getsockopt(6, 11, 280)
        self.options, self.wscale = info[5], (info[6] & 15, info[6] >> 4)
        self.mss: Any = sock.getsockopt(6, MAXSEG)
        self.stamp: Any = sock.getsockopt(6, TIMESTAMP)
        self.window: Any = sock.getsockopt(6, WINDOW, 20)
        self.ao: Any = sock.getsockopt(6, TCP_AO_REPAIR, 16) if ao else None
        sock.close()

    def restore(self, sock: UserSocket, keys: bytes = b"") -> None:
        sock.setsockopt(6, REPAIR, 1)
        if keys:
            sock.setsockopt(6, TCP_AO_ADD_KEY, keys)
        for queue, (number, data) in self.queues.items():
            sock.setsockopt(6, QUEUE, queue)
            sock.setsockopt(6, QUEUE_SEQ, pack("=I", (number - len(data)) & 0xFFFFFFFF))
        sock.bind(self.local)
        sock.connect(self.peer)
        chosen = pack("=II", MSS, self.mss)
        if self.options & 4:
            chosen += pack("=II", WSCALE, self.wscale[0] | self.wscale[1] << 16)
        chosen += pack("=II", SACK, 0) if self.options & 2 else b""
        chosen += pack("=II", STAMP, 0) if self.options & 1 else b""
        sock.setsockopt(6, OPTIONS, chosen)
        for queue, (_, data) in self.queues.items():
            sock.setsockopt(6, QUEUE, queue)
            while data:
                data = data[sock.send(data) :]
        sock.setsockopt(6, WINDOW, self.window)
        if self.options & 1:
            sock.setsockopt(6, TIMESTAMP, self.stamp)
        if self.ao is not None:
            sock.setsockopt(6, TCP_AO_REPAIR, self.ao)
        sock.setsockopt(6, REPAIR, 0)


@pytest.mark.parametrize("stamps", [0, 1])
@pytest.mark.parametrize("sack", [0, 1])
@pytest.mark.parametrize("scaling", [0, 1])
def test_a_connection_goes_away_and_comes_back(stamps: int, sack: int, scaling: int):
    sysctl = {"tcp_timestamps": stamps, "tcp_sack": sack, "tcp_window_scaling": scaling}
    with Pair(sysctl=sysctl, delay=0.005) as pair:
        client, server = pair.connected()
        assert transfer(pair, client, server, b"x" * 200_000) == b"x" * 200_000
        # In both queues, and under way both ways.
        server.send(b"unread" * 100)
        pair.run(0.1)
        client.send(b"in flight" * 1000)
        image = Image(client)
        assert pair.left.net.mib.tcp.OutRsts == 0 and not pair.left.net.get(Tcp).table
        # What comes meanwhile would be reset: who does this to a live host has a filter keep it away.
        assert state_of(server) == TCP_ESTABLISHED
        back = pair.socket(pair.left)
        image.restore(back)
        assert state_of(back) == TCP_ESTABLISHED and back.getsockname() == image.local
        sk, peer = sock_of(back), sock_of(server)
        assert (sk.tstamp_ok, sk.sack_ok, sk.wscale_ok) == (bool(stamps), bool(sack), bool(scaling))
        assert sk.snd_nxt == sk.write_seq
        # What it has not read is there, what it had sent arrives, and it goes on both ways.
        assert back.recv(10_000) == b"unread" * 100
        got = bytearray()

        def read() -> bool:
            try:
                got.extend(server.recv(65536))
            except BlockingIOError:
                pass
            return len(got) == 9000

        assert pair.run(10.0, read)
        assert got == b"in flight" * 1000
        for one, other in ((back, server), (server, back)):
            data = bytes(range(256)) * 1500
            assert transfer(pair, one, other, data) == data
        pair.run(1.0)
        assert peer.snd_una == peer.write_seq
        assert pair.left.net.mib.tcp.OutRsts == pair.right.net.mib.tcp.OutRsts == 0
        assert pair.left.net.mib.tcp.ActiveOpens == 1


def test_a_signed_connection_comes_back_with_its_numbers():
    with Pair() as pair:
        server = pair.listener()
        server.setsockopt(6, TCP_AO_ADD_KEY, ao_add("10.0.0.1"))
        client = pair.socket(pair.left)
        client.setsockopt(6, TCP_AO_ADD_KEY, ao_add("10.0.0.2"))
        client.connect_ex(("10.0.0.2", 80))
        pair.run(0.5)
        accepted = pair.accept(server)
        assert transfer(pair, client, accepted, b"x" * 50_000) == b"x" * 50_000
        image = Image(client, ao=True)
        snt, rcv, snd_sne, rcv_sne = unpack("=4s4sII", image.ao)
        assert snt != rcv and snd_sne == rcv_sne == 0
        back = pair.socket(pair.left)
        image.restore(back, ao_add("10.0.0.2"))
        for one, other in ((back, accepted), (accepted, back)):
            assert transfer(pair, one, other, b"y" * 50_000) == b"y" * 50_000
        assert ext(pair.left).TCPAOBad == ext(pair.right).TCPAOBad == 0
        server.close()


def test_what_is_restored_as_sent_is_sent_again_when_its_time_has_come():
    """Its peer never saw it: nothing tells, so the retransmission timer does."""
    with Pair() as pair:
        client, server = pair.connected()
        client.setsockopt(6, REPAIR, 1)
        client.setsockopt(6, QUEUE, SEND)
        assert client.send(b"z" * 5000) == 5000
        sk = sock_of(client)
        assert sk.snd_nxt == sk.write_seq and sk.bytes_sent == 0 and sk.packets_out == 4
        pair.run(0.001)
        assert code(server.recv, 1) == errno.EAGAIN
        client.setsockopt(6, REPAIR, -1)
        got = bytearray()

        def read() -> bool:
            try:
                got.extend(server.recv(65536))
            except BlockingIOError:
                pass
            return len(got) == 5000

        assert pair.run(10.0, read)
        assert pair.left.net.mib.tcp.RetransSegs >= 4
        # No round trip was measured by what was not sent.
        assert sk.min_rtt_us() < 100_000


def test_who_goes_away_in_repair_mode_says_nothing():
    with Pair() as pair:
        client, server = pair.connected()
        server.send(b"unread")
        pair.run(0.1)
        sent = watch(pair.left)
        client.setsockopt(6, REPAIR, 1)
        client.close()
        pair.run(0.5)
        assert not sent and state_of(server) == TCP_ESTABLISHED


# -- what a kernel of 6.18 says to each


def ready(sock: UserSocket) -> None:
    sock.setsockopt(6, REPAIR, 1)


def test_outside_repair_mode():
    with Pair() as pair:
        sock = pair.socket(pair.left)
        assert sock.getsockopt(6, REPAIR) == 0
        assert code(sock.getsockopt, 6, QUEUE) == errno.EINVAL
        assert code(sock.getsockopt, 6, WINDOW, 20) == errno.EPERM
        for option, value, expected in (
            (QUEUE, 1, errno.EPERM), (QUEUE_SEQ, 1, errno.EINVAL), (OPTIONS, b"", errno.EINVAL),
            (OPTIONS, bytes(8), errno.EINVAL), (WINDOW, bytes(20), errno.EPERM), (WINDOW, bytes(4), errno.EPERM),
            (TIMESTAMP, 5, errno.EPERM), (REPAIR, 2, errno.EINVAL), (TCP_AO_REPAIR, bytes(16), errno.EPERM),
        ):  # fmt: skip
            assert code(sock.setsockopt, 6, option, value) == expected, option
        assert code(pair.listener().setsockopt, 6, REPAIR, 1) == errno.EPERM


def test_queues_of_a_closed_socket():
    with Pair() as pair:
        sock = pair.socket(pair.left)
        ready(sock)
        assert sock.getsockopt(6, REPAIR) == 1 and sock.getsockopt(6, QUEUE) == 0
        assert code(sock.setsockopt, 6, QUEUE, 3) == errno.EINVAL
        assert code(sock.setsockopt, 6, QUEUE_SEQ, 1) == code(sock.getsockopt, 6, QUEUE_SEQ) == errno.EINVAL
        for queue, number in ((SEND, 1000), (RECV, 2000)):
            sock.setsockopt(6, QUEUE, queue)
            sock.setsockopt(6, QUEUE_SEQ, number)
            assert sock.getsockopt(6, QUEUE_SEQ) == number
        assert code(sock.setsockopt, 6, OPTIONS, pack("=II", MSS, 1000)) == errno.EPERM
        sock.setsockopt(6, WINDOW, bytes(20))
        assert sock.getsockopt(6, WINDOW, 20) == bytes(20)
        assert code(sock.getsockopt, 6, WINDOW, 24) == errno.EINVAL
        sock.setsockopt(6, REPAIR, -1)
        assert sock.getsockopt(6, REPAIR) == 0


def test_queues_and_options_of_a_connection():
    with Pair() as pair:
        sock, _ = pair.connected()
        ready(sock)
        sock.setsockopt(6, OPTIONS, pack("=8I", MSS, 1000, WSCALE, 7 | 7 << 16, SACK, 0, STAMP, 0))
        for pair_of, expected in (((WSCALE, 15), errno.EFBIG), ((SACK, 1), errno.EINVAL), ((STAMP, 1), errno.EINVAL)):
            assert code(sock.setsockopt, 6, OPTIONS, pack("=II", *pair_of)) == expected
        sock.setsockopt(6, QUEUE, SEND)
        assert code(sock.setsockopt, 6, QUEUE_SEQ, 1) == errno.EPERM
        assert sock.getsockopt(6, MAXSEG) == 1000
        sock.setsockopt(6, QUEUE, 0)
        assert code(sock.send, b"x") == errno.EINVAL
        assert code(sock.recv, 10) == errno.EPERM and code(sock.recv, 10, PEEK) == errno.EINVAL
        sock.setsockopt(6, QUEUE, SEND)
        assert sock.send(b"xyz") == 3 and sock.recv(10, PEEK) == b"xyz" and sock.recv(2, PEEK) == b"xy"
        assert code(sock.recv, 10) == errno.EPERM
        sock.setsockopt(6, QUEUE, RECV)
        assert sock.send(b"abc") == 3 and sock.recv(10, PEEK) == b"abc"
        assert code(sock.recv, 10) == errno.EPERM
        window: Any = sock.getsockopt(6, WINDOW, 20)
        values = list(unpack("=5I", window))
        sock.setsockopt(6, WINDOW, window)
        values[2] = values[1] - 1
        assert code(sock.setsockopt, 6, WINDOW, pack("=5I", *values)) == errno.EINVAL
        assert code(sock.setsockopt, 6, WINDOW, window + b"\0") == errno.EINVAL
        assert code(sock.setsockopt, 6, WINDOW, window[:16] + pack("=I", values[4] + 100)) == errno.EINVAL
        assert code(sock.getsockopt, 6, TCP_AO_REPAIR, 16) == errno.ENOENT
        assert code(sock.setsockopt, 6, TCP_AO_INFO, ao_info()) == errno.EINVAL


def test_the_receive_queue_is_bounded_in_repair_mode_too():
    with Pair() as pair:
        sock, _ = pair.connected()
        ready(sock)
        sock.setsockopt(1, 8, 20_000)
        sock.setsockopt(6, QUEUE, RECV)
        sent = 0
        while not (failed := code(sock.send, b"x" * 10_000)):
            sent += 10_000
        assert failed == errno.ENOMEM and sent <= 60_000
        assert ext(pair.left).TCPRcvQDrop == 1


def test_a_socket_in_repair_mode_has_any_port():
    with Pair() as pair:
        server = pair.listener(80)
        taken = pair.socket(pair.right)
        assert code(taken.bind, ("10.0.0.2", 80)) == errno.EADDRINUSE
        ready(taken)
        assert code(taken.bind, ("10.0.0.2", 80)) == 0
        assert state_of(taken) == TCP_CLOSE
        server.close()
