"""A socket's readiness as the host's select, poll, epoll and selectors see it."""

from __future__ import annotations

import errno
import os
import select
import selectors
import threading
from socket import MSG_OOB, SHUT_WR, SO_ERROR, SOL_SOCKET

import pytest

from tests.sockets.fake import ROOM, FakeNet, make_net, stop
from tests.sockets.pairs import listener, sk_of, stream_pair
from tests.transport.tcp.harness import Peer
from usernet.net.pernet import Net
from usernet.sockets.readiness import DESCRIPTORS, find
from usernet.sockets.user import UserSocket
from usernet.wire.tcp import ACK, FIN, RST, URG


def events(sock: UserSocket) -> int:
    """What the host's poll(2) says of a socket now."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP)
    found = poll.poll(0)
    return found[0][1] if found else 0


def test_the_descriptor_is_made_on_first_use_and_stays(net: Net) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with UserSocket(net) as sock:
        assert sock._fd == -1
        assert set(os.listdir("/proc/self/fd")) == before
        fd = sock.fileno()
        assert sock.fileno() == fd
        assert len(set(os.listdir("/proc/self/fd")) - before) == 2
    assert set(os.listdir("/proc/self/fd")) == before


def test_readable_is_readable(net: Net) -> None:
    with stream_pair(net) as (left, right):
        assert events(right) == select.POLLOUT
        left.send(b"ab")
        assert events(right) == select.POLLIN | select.POLLOUT
        right.recv(1)
        assert events(right) == select.POLLIN | select.POLLOUT
        right.recv(1)
        assert events(right) == select.POLLOUT
        left.send(b"c")
        assert select.select([right], [], [], 0)[0] == [right]


def test_writable_is_writable(net: Net) -> None:
    with stream_pair(net) as (left, right):
        assert events(left) == select.POLLOUT
        left.send(bytes(ROOM))
        assert events(left) == 0
        right.recv(1)
        assert events(left) == select.POLLOUT
        left.send(b"x")
        assert events(left) == 0
        right.recv(ROOM)
        assert events(left) == select.POLLOUT


def test_a_descriptor_made_late_starts_in_step(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.send(bytes(ROOM))
        assert events(left) == 0
        assert events(right) == select.POLLIN | select.POLLOUT


def test_a_listener_is_readable_when_somebody_calls(net: Net) -> None:
    with listener(net) as server, UserSocket(net) as client:
        assert not events(server) & select.POLLIN
        client.connect(("127.0.0.1", 80))
        assert events(server) & select.POLLIN
        server.accept()[0].close()
        assert not events(server) & select.POLLIN


def test_a_connection_under_way_becomes_writable(net: Net) -> None:
    net.get(FakeNet).manual_handshake = True
    with listener(net), UserSocket(net) as client:
        client.setblocking(False)
        client.fileno()
        client.connect_ex(("127.0.0.1", 80))
        assert events(client) == 0
        sk_of(client).establish()
        net.loop.enter()
        net.loop.leave()
        assert events(client) == select.POLLOUT


def test_an_error_is_both(net: Net) -> None:
    net.get(FakeNet).manual_handshake = True
    with listener(net), UserSocket(net) as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", 80))
        assert events(client) == 0
        sk_of(client).fail(errno.ECONNREFUSED)
        net.loop.enter()
        net.loop.leave()
        assert events(client) == select.POLLIN | select.POLLOUT
        assert select.select([client], [client], [], 0)[:2] == ([client], [client])


def test_the_end_of_a_stream_stays_readable(net: Net) -> None:
    with stream_pair(net) as (left, right):
        right.fileno()
        left.send(b"x")
        left.shutdown(1)
        assert events(right) == select.POLLIN | select.POLLOUT | select.POLLRDHUP
        right.recv(1)
        assert events(right) == select.POLLIN | select.POLLOUT | select.POLLRDHUP
        assert right.recv(1) == b""
        assert events(right) & select.POLLIN


def test_both_ends_shut_hang_up(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.send(bytes(ROOM))
        assert events(left) == 0
        right.shutdown(2)
        left.shutdown(1)
        assert events(left) & select.POLLHUP
        assert events(left) & select.POLLOUT
        assert events(left) & select.POLLIN


def test_urgent_data_is_urgent() -> None:
    with Peer() as peer:
        sock = peer.active()
        assert events(sock) == select.POLLOUT
        peer.send(ACK | URG, 1, 1, b"abcd", urg=3)
        assert events(sock) == select.POLLIN | select.POLLOUT | select.POLLPRI
        assert select.select([], [], [sock], 0)[2] == [sock]
        assert sock.recv(100) == b"ab"
        assert events(sock) & select.POLLPRI
        assert sock.recv(1, MSG_OOB) == b"c"
        assert events(sock) == select.POLLIN | select.POLLOUT
        assert sock.recv(100) == b"d"
        assert events(sock) == select.POLLOUT
        # Again, as edges; and the end of the stream right behind it.
        with select.epoll() as epoll:
            epoll.register(sock, select.EPOLLPRI | select.EPOLLET)
            assert epoll.poll(0) == []
            peer.send(ACK | URG | FIN, 5, 1, b"!", urg=1)
            assert epoll.poll(0) == [(sock.fileno(), select.EPOLLPRI)]
            assert epoll.poll(0) == []
        assert events(sock) == select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDHUP
        assert sock.recv(1, MSG_OOB) == b"!"
        assert events(sock) == select.POLLIN | select.POLLOUT | select.POLLRDHUP


@pytest.mark.parametrize("shut", [False, True])
def test_a_connection_that_failed_shows_it_until_it_is_asked(shut: bool) -> None:
    with Peer() as peer:
        sock = peer.active()
        sock.fileno()
        ended = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLHUP
        if shut:
            # Both directions are shut already when the reset comes.
            peer.send(FIN, 1, 1)
            sock.shutdown(SHUT_WR)
            peer.settle()
            assert events(sock) == ended
        peer.send(RST, 2 if shut else 1)
        assert events(sock) == ended | select.POLLERR
        assert sock.getsockopt(SOL_SOCKET, SO_ERROR) == errno.ECONNRESET
        peer.settle()
        assert events(sock) == ended
        assert sock.getsockopt(SOL_SOCKET, SO_ERROR) == 0


def test_a_refused_connection_of_tcp() -> None:
    with Peer() as peer:
        sock = peer.dial()
        assert events(sock) == 0
        peer.take()
        peer.send(RST, 0, 1)
        assert events(sock) & (select.POLLERR | select.POLLIN | select.POLLOUT) == (
            select.POLLERR | select.POLLIN | select.POLLOUT
        )
        assert sock.connect_ex(("10.0.0.2", 80)) == errno.ECONNREFUSED
        peer.settle()
        assert not events(sock) & select.POLLERR


def test_the_end_of_the_stack_hangs_up() -> None:
    net = make_net()
    sock = UserSocket(net, 2, 2)
    sock.bind(("", 1))
    assert events(sock) == select.POLLOUT
    sk = sk_of(sock)
    net.loop.enter()
    net.loop.close("over")
    sk.wait.wake_all(-1)
    net.loop.leave()
    assert events(sock) & select.POLLHUP
    sock.close()
    stop(net)


def test_a_program_that_reads_the_descriptor_harms_only_itself(net: Net) -> None:
    with stream_pair(net) as (left, right):
        left.send(b"x")
        os.read(right.fileno(), 10)
        assert right.recv(1) == b"x"
        left.send(b"y")
        assert events(right) & select.POLLIN


def test_several_descriptors_of_one_socket(net: Net) -> None:
    with stream_pair(net) as (left, right):
        twin, third = right.dup(), right.dup()
        assert len({right.fileno(), twin.fileno(), third.fileno()}) == 3
        right_fd = right.fileno()
        right.close()
        assert find(right_fd) is None
        left.send(b"x")
        assert events(twin) & events(third) & select.POLLIN
        twin.close()
        assert third.recv(1) == b"x"
        assert events(third) == select.POLLOUT
        third.close()
    assert not DESCRIPTORS


def test_the_last_object_with_a_descriptor_closes_before_one_without(net: Net) -> None:
    with stream_pair(net) as (left, right):
        twin = right.dup()
        right.fileno()
        right.close()
        left.send(b"x")
        assert events(twin) & select.POLLIN
        twin.close()


def test_out_of_descriptors_is_an_error_and_no_harm(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    from usernet.sockets import readiness

    def none_left(*args: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with UserSocket(net) as sock:
        with monkeypatch.context() as patch:
            patch.setattr(readiness, "socketpair", none_left)
            with pytest.raises(OSError) as raised:
                sock.fileno()
            assert raised.value.errno == errno.EMFILE
        assert sock.fileno() >= 0


def test_the_hosts_epoll_sees_edges(net: Net) -> None:
    with stream_pair(net) as (left, right), select.epoll() as epoll:
        epoll.register(right, select.EPOLLIN | select.EPOLLET)
        left.send(b"a")
        assert epoll.poll(0)
        assert not epoll.poll(0)
        right.recv(10)
        left.send(b"b")
        assert epoll.poll(0)


def test_selectors_wait_for_a_socket_in_another_thread(threaded: Net) -> None:
    with stream_pair(threaded) as (left, right), selectors.DefaultSelector() as selector:
        selector.register(right, selectors.EVENT_READ)
        sender = threading.Timer(0.02, left.sendall, (b"x",))
        sender.start()
        assert selector.select(30)
        assert right.recv(1) == b"x"
        sender.join()
