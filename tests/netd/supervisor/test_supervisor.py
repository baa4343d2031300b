"""What a program under the supervisor finds: the calls of the standard `socket` module, and calls by number."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import threading
import time

import pytest

from tests.netd.supervisor.conftest import Bed
from tests.netd.supervisor.test_seccomp import pytestmark as possible
from tests.support.compiled import interpreted_only
from tests.support.stacks import until
from usernet.netd.supervisor import supervisor
from usernet.netd.supervisor.calls_data import STREAM_MAX

pytestmark = possible

PEER = "10.0.0.2"
MINE = "10.0.0.1"
NOWHERE = 0x10


def code(call: object, *args: object) -> int:
    """The errno of a call of libc, 0 for none."""
    ctypes.set_errno(0)
    result = call(*args)  # type: ignore[operator]
    return ctypes.get_errno() if result == -1 else 0


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def fails(expected: int, call: object, *args: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.errno == expected, caught.value


def test_client(bed: Bed):
    with bed.listener() as listener:

        def work() -> None:
            with socket.create_connection((PEER, 80)) as sock:
                assert sock.getpeername() == (PEER, 80)
                assert sock.getsockname()[0] == MINE
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 200)[0] == 1  # ESTABLISHED
                # As a program that asks the descriptor alone what it is.
                assert socket.socket(fileno=os.dup(sock.fileno())).family == socket.AF_INET
                sock.sendall(b"x" * 300_000)
                sock.shutdown(socket.SHUT_WR)
                total = 0
                while data := sock.recv(65536):
                    total += len(data)
                assert total == 300_000

        child = bed.start(work)
        peer, address = listener.accept()
        assert address[0] == MINE
        while data := peer.recv(65536):
            peer.sendall(data)
        peer.close()
        assert child.wait() == 0
        assert not bed.lines


def test_server_of_several_processes(bed: Bed):
    """Two workers share a listener, as nginx's do, each with an epoll; each ends when it has done its part."""
    part = 10

    def serve(listener: socket.socket) -> None:
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        served = 0
        while served < part:
            epoll.poll()
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            assert sock.recv(100) == b"hello"
            sock.sendall(b"%d" % os.getpid())
            sock.close()
            served += 1

    def work() -> None:
        listener = socket.create_server(("", 80), backlog=64)
        listener.setblocking(False)
        for _ in range(2):
            if not os.fork():
                serve(listener)
                os._exit(0)
        for _ in range(2):
            assert os.wait()[1] == 0

    child = bed.start(work)
    answered: list[bytes] = []
    while len(answered) < 2 * part:
        with bed.peer.socket() as sock:
            sock.settimeout(10)
            try:
                sock.connect((MINE, 80))
            except ConnectionRefusedError:
                time.sleep(0.01)
                continue
            sock.sendall(b"hello")
            answered.append(sock.recv(100))
    assert child.wait() == 0
    assert sorted(map(answered.count, set(answered))) == [part, part]


def test_datagrams(bed: Bed):
    with bed.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 53))
        server.settimeout(10)

        def work() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(10)
                sock.sendto(b"one", (PEER, 53))
                assert sock.recvfrom(100) == (b"ONE", (PEER, 53))
                assert sock.sendmsg([b"t", b"wo"], [], 0, (PEER, 53)) == 3
                assert sock.recvmsg(2, 100) == (b"TW", [], socket.MSG_TRUNC, (PEER, 53))
                sock.setblocking(False)
                fails(errno.EAGAIN, sock.recvfrom, 10)
                sock.setblocking(True)
                sock.connect((PEER, 53))
                assert sock.send(b"three") == 5
                assert sock.recv(100) == b"THREE"
                sock.send(b"")
                assert sock.recvfrom(10, socket.MSG_PEEK) == (b"", (PEER, 53))
                assert sock.recv(100) == b""

        child = bed.start(work)
        for _ in range(4):
            data, address = server.recvfrom(100)
            server.sendto(data.upper(), address)
        assert child.wait() == 0


def test_many_messages_in_a_call(bed: Bed):
    with bed.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 53))
        server.settimeout(10)

        def work() -> None:
            c = libc()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                name = ctypes.create_string_buffer(
                    struct.pack("=H", 2) + struct.pack(">H", 53) + bytes((10, 0, 0, 2)) + bytes(8), 16
                )
                buffers = [ctypes.create_string_buffer(b"m%d" % index, 16) for index in range(3)]
                iovecs = b"".join([struct.pack("=QQ", ctypes.addressof(buffer), 2) for buffer in buffers])
                vectors = ctypes.create_string_buffer(iovecs, len(iovecs))
                at = ctypes.addressof(vectors)
                row = b"".join(
                    [
                        struct.pack("=QI4xQQQQi4xI4x", ctypes.addressof(name), 16, at + 16 * index, 1, 0, 0, 0, 0)
                        for index in range(3)
                    ]
                )
                messages = ctypes.create_string_buffer(row, len(row))
                assert c.sendmmsg(sock.fileno(), messages, 3, 0) == 3
                assert [messages.raw[64 * index + 56] for index in range(3)] == [2, 2, 2]
                assert c.recvmmsg(sock.fileno(), messages, 3, 0, None) == 3
                assert [buffer.raw[:2] for buffer in buffers] == [b"M0", b"M1", b"M2"]
                # None is there: a timeout is looked at when one has come, so that only DONTWAIT returns.
                assert code(c.recvmmsg, sock.fileno(), messages, 3, socket.MSG_DONTWAIT, None) == errno.EAGAIN

        child = bed.start(work)
        for _ in range(3):
            data, address = server.recvfrom(100)
            server.sendto(data.upper(), address)
        assert child.wait() == 0


def test_connecting_without_waiting(bed: Bed):
    with bed.listener() as listener:

        def work() -> None:
            with socket.socket() as sock:
                sock.setblocking(False)
                assert sock.connect_ex((PEER, 80)) == errno.EINPROGRESS
                assert select.select([], [sock], [], 10)[1]
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                sock.send(b"x")
            with socket.socket() as sock:
                sock.setblocking(False)
                assert sock.connect_ex((PEER, 81)) == errno.EINPROGRESS
                assert select.select([], [sock], [], 10)[1]
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
                # As on Linux, the next call learns that there is no connection, and the one behind makes one.
                assert sock.connect_ex((PEER, 80)) == errno.ECONNABORTED
                sock.setblocking(True)
                sock.connect((PEER, 80))
                sock.sendall(b"y")

        child = bed.start(work)
        for expected in (b"x", b"y"):
            peer, _ = listener.accept()
            assert peer.recv(10) == expected
            peer.close()
        assert child.wait() == 0


def test_refused_again_and_again_on_one_descriptor(bed: Bed):
    def work() -> None:
        with socket.socket() as sock:
            number = sock.fileno()
            for _ in range(5):
                fails(errno.ECONNREFUSED, sock.connect, (PEER, 80))
            assert sock.fileno() == number and not sock.get_inheritable()

    bed.run(work)


def test_time_outs(bed: Bed):
    with bed.listener():

        def work() -> None:
            with socket.socket() as sock:
                sock.bind(("", 90))
                sock.listen()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 0, 60_000))
                start = time.monotonic()
                fails(errno.EAGAIN, sock.accept)
                assert 0.05 < time.monotonic() - start < 5
            with socket.create_connection((PEER, 80)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 0, 60_000))
                fails(errno.EAGAIN, sock.recv, 10)
                value = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)
                assert struct.unpack("=qq", value) == (0, 60_000)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("", 90))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 0, 60_000))
                fails(errno.EAGAIN, sock.recvfrom, 10)

        bed.run(work)


def test_signals_interrupt_calls_that_wait(bed: Bed):
    def work() -> None:
        c = libc()
        listener = socket.create_server(("", 80))
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("", 80))
        hits: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
        buffer = ctypes.create_string_buffer(16)
        # Without SA_RESTART: EINTR.
        signal.siginterrupt(signal.SIGALRM, True)
        for call in (
            lambda: c.accept(listener.fileno(), None, None),
            lambda: c.recvfrom(receiver.fileno(), buffer, 16, 0, buffer, ctypes.byref(ctypes.c_int(16))),
        ):
            # Again and again, lest the one signal come before the call does.
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            assert code(call) == errno.EINTR
        signal.setitimer(signal.ITIMER_REAL, 0)
        hits.clear()
        # With it: the call goes on, and takes what comes.
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        if not os.fork():
            signal.setitimer(signal.ITIMER_REAL, 0)
            time.sleep(0.2)
            with socket.create_connection(("127.0.0.1", 80)) as sock:
                sock.sendall(b"hello")
            os._exit(0)
        fd = c.accept(listener.fileno(), None, None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert fd > 0 and hits
        assert os.read(fd, 100) == b"hello"
        os.wait()

    bed.run(work)


def test_connection_that_comes_in_a_hail_of_signals_is_not_lost(bed: Bed):
    """Each signal calls an accept off; what it may have taken goes back."""
    rounds = 40

    def work() -> None:
        listener = socket.create_server(("", 80))
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
        for _ in range(rounds):
            sock, _ = listener.accept()
            assert sock.recv(10) == b"x"
            sock.close()

    child = bed.start(work)
    made = 0
    while made < rounds:
        with bed.peer.socket() as sock:
            sock.settimeout(10)
            try:
                sock.connect((MINE, 80))
            except ConnectionRefusedError:
                time.sleep(0.01)
                continue
            sock.sendall(b"x")
            assert sock.recv(1) == b""
            made += 1
    assert child.wait() == 0


def test_descriptor_that_was_duplicated_inherited_and_passed(bed: Bed):
    with bed.listener() as listener:

        def work() -> None:
            sock = socket.create_connection((PEER, 80))
            other = sock.dup()
            assert other.getpeername() == (PEER, 80)
            sock.close()
            ours, theirs = socket.socketpair()
            if not os.fork():
                # It gets the descriptor by a message, and not by birth.
                other.close()
                fds = array.array("i")
                _, items, _, _ = theirs.recvmsg(10, socket.CMSG_SPACE(4))
                fds.frombytes(items[0][2][:4])
                passed = socket.socket(fileno=fds[0])
                ok = passed.getpeername() == (PEER, 80) and passed.family == socket.AF_INET
                passed.sendall(b"passed")
                passed.shutdown(socket.SHUT_WR)
                os._exit(0 if ok else 1)
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other.fileno()]))])
            other.close()
            assert os.wait()[1] == 0

        child = bed.start(work)
        peer, _ = listener.accept()
        got = b""
        while data := peer.recv(100):
            got += data
        assert got == b"passed"
        peer.close()
        assert child.wait() == 0


def test_threads_that_wait_at_once(bed: Bed):
    count = 30

    def work() -> None:
        listener = socket.create_server(("", 80), backlog=64)
        served: list[bytes] = []

        def serve() -> None:
            sock, _ = listener.accept()
            served.append(sock.recv(10))
            sock.close()

        threads = [threading.Thread(target=serve) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(served) == count and set(served) == {b"x"}

    child = bed.start(work)
    deadline = time.monotonic() + 10
    while len(child.supervisor.waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(count):
        with bed.peer.socket() as sock:
            sock.connect((MINE, 80))
            sock.sendall(b"x")
            assert sock.recv(1) == b""
    assert child.wait() == 0


def test_killed_in_the_midst_of_a_call(bed: Bed):
    def work() -> None:
        listener = socket.create_server(("", 80))
        if os.fork():
            os.wait()
            with socket.socket() as sock:  # a call, by which the listener is still to be had
                sock.setblocking(False)
            assert listener.getsockname() == ("0.0.0.0", 80)
            os._exit(0)
        listener.accept()

    child = bed.start(work)
    deadline = time.monotonic() + 10
    while not child.supervisor.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tid,) = child.supervisor.waiting
    os.kill(tid, signal.SIGKILL)
    assert child.wait() == 0


def test_pointers_to_nowhere(bed: Bed):
    with bed.listener():

        def work() -> None:
            c = libc()
            nowhere = ctypes.c_void_p(NOWHERE)
            beyond = ctypes.c_void_p(0xFFFF_FFFF_FFFF_F000)
            size = ctypes.c_int(16)
            name = ctypes.create_string_buffer(16)
            tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for where in (nowhere, beyond):
                assert code(c.bind, tcp.fileno(), where, 16) == errno.EFAULT
                assert code(c.connect, tcp.fileno(), where, 16) == errno.EFAULT
                assert code(c.getsockname, tcp.fileno(), where, ctypes.byref(size)) == errno.EFAULT
                assert code(c.getsockname, tcp.fileno(), name, where) == errno.EFAULT
                assert code(c.getsockopt, tcp.fileno(), 1, 3, where, ctypes.byref(size)) == errno.EFAULT
                assert code(c.getsockopt, tcp.fileno(), 1, 3, name, where) == errno.EFAULT
                assert code(c.setsockopt, tcp.fileno(), 1, 2, where, 4) == errno.EFAULT
                assert code(c.sendmsg, udp.fileno(), where, 0) == errno.EFAULT
                assert code(c.recvmsg, udp.fileno(), where, 0) == errno.EFAULT
                assert code(c.ioctl, tcp.fileno(), 0x5411, where) == errno.EFAULT
            to = ctypes.create_string_buffer(struct.pack("=HHI8x", 2, 80, 0x0200000A), 16)
            assert code(c.sendto, udp.fileno(), nowhere, ctypes.c_size_t(10), 0, to, 16) == errno.EFAULT
            # The length is looked at before the memory, and the message's before either.
            assert code(c.sendto, udp.fileno(), nowhere, ctypes.c_size_t(70_000), 0, to, 16) == errno.EMSGSIZE
            assert code(c.bind, tcp.fileno(), nowhere, 129) == errno.EINVAL
            assert code(c.bind, tcp.fileno(), nowhere, -1) == errno.EINVAL
            assert code(c.setsockopt, tcp.fileno(), 1, 2, name, -1) == errno.EINVAL
            assert code(c.getsockname, tcp.fileno(), name, ctypes.byref(ctypes.c_int(-1))) == errno.EINVAL
            # Lengths beyond the address space.
            for count in (2000, 0xFFFF_FFFF_FFFF_FFFF):
                message = ctypes.create_string_buffer(struct.pack("=QQQQQQQ", 0, 0, NOWHERE, count, 0, 0, 0), 56)
                assert code(c.sendmsg, udp.fileno(), message, 0) == errno.EMSGSIZE
            vector = ctypes.create_string_buffer(struct.pack("=QQ", NOWHERE, 0xFFFF_FFFF_FFFF_FFFF), 16)
            row = struct.pack("=QQQQQQQ", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0)
            assert code(c.sendmsg, udp.fileno(), ctypes.create_string_buffer(row, 56), 0) == errno.EINVAL
            # Descriptors that are none, or not a socket.
            assert code(c.listen, 1000, 1) == errno.EBADF
            assert code(c.listen, -1, 1) == errno.EBADF
            file = os.open("/dev/null", os.O_RDONLY)
            assert code(c.listen, file, 1) == errno.ENOTSOCK
            # An address that can't be told: the connection is closed, as on Linux.
            tcp.connect((PEER, 80))
            assert tcp.send(b"works") == 5

        bed.run(work)


def test_more_than_one_call_takes(bed: Bed):
    with bed.listener() as listener:

        def work() -> None:
            with socket.create_connection((PEER, 80)) as sock:
                data = bytes(3 << 20)
                taken = sock.send(data, 0x8000)  # MSG_MORE
                assert 0 < taken <= STREAM_MAX
                sock.sendall(data[taken:], 0x8000)

        child = bed.start(work)
        peer, _ = listener.accept()
        total = 0
        while data := peer.recv(1 << 20):
            total += len(data)
        assert total == 3 << 20
        peer.close()
        assert child.wait() == 0


def test_lengths_of_messages(bed: Bed):
    def work() -> None:
        c = libc()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((PEER, 80))
            empty = struct.pack("=QQQQQQQ", 0, 0, 0, 0, 0, 0, 0)
            control = ctypes.create_string_buffer((1 << 17) + 1)
            row = struct.pack("=QQQQQQQ", 0, 0, 0, 0, ctypes.addressof(control), len(control), 0)
            assert code(c.sendmsg, sock.fileno(), ctypes.create_string_buffer(row, 56), 0) == errno.ENOBUFS
            many = ctypes.create_string_buffer((empty + bytes(8)) * 1100, 64 * 1100)
            assert c.sendmmsg(sock.fileno(), many, 1100, 0) == 1024
            # A value is longer than an option's is: what is behind it is not looked at.
            value = ctypes.create_string_buffer(struct.pack("=i", 1), 1 << 17)
            assert c.setsockopt(sock.fileno(), 1, 2, value, 1 << 17) == 0
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1

    with bed.peer.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 80))
        bed.run(work)


@interpreted_only
def test_lines_are_bounded(bed: Bed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor, "LINES_MAX", 2)

    def work() -> None:
        with socket.socket() as sock:
            for option in range(200, 210):
                fails(errno.ENOPROTOOPT, sock.setsockopt, socket.IPPROTO_TCP, option, 1)

    bed.run(work)
    assert len(bed.lines) == 2


def test_what_is_not_supported_is_told_of(bed: Bed):
    def work() -> None:
        fails(errno.EAFNOSUPPORT, socket.socket, socket.AF_INET6, socket.SOCK_STREAM)
        with socket.socket() as sock:
            fails(errno.ENOPROTOOPT, sock.setsockopt, socket.IPPROTO_TCP, 200, 1)
            fails(errno.ENOPROTOOPT, sock.setsockopt, socket.IPPROTO_TCP, 200, 1)

    bed.run(work)
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC
    assert bed.lines == [f"socket(10, {kind}, 0): EAFNOSUPPORT", "setsockopt(level 6, option 200): ENOPROTOOPT"]


def test_sockets_of_the_host_are_let_alone(bed: Bed):
    def work() -> None:
        ours, theirs = socket.socketpair()
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX
        assert ours.sendmsg([b"a", b"b"]) == 2
        assert theirs.recvmsg(10)[0] == b"ab"
        ours.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("\0usernet-test-%d" % os.getpid())  # noqa: UP031
            listener.listen()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(listener.getsockname())
                listener.accept()[0].close()

    bed.run(work)
    assert not bed.backend.table


def test_options_of_the_descriptor_and_filters(bed: Bed):
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 7)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 7
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 20_000
            code = struct.pack("=HBBI", 6, 0, 0, 0)  # take nothing
            program = ctypes.create_string_buffer(code, 8)
            fprog = struct.pack("=H6xQ", 1, ctypes.addressof(program))
            sock.setsockopt(socket.SOL_SOCKET, 26, fprog)
            c = libc()
            room, size = ctypes.create_string_buffer(64), ctypes.c_int(8)
            assert c.getsockopt(sock.fileno(), 1, 26, room, ctypes.byref(size)) == 0
            assert size.value == 1 and room.raw[:8] == code
            sock.setsockopt(socket.SOL_SOCKET, 27, 0)
            fails(errno.EINVAL, sock.setsockopt, socket.SOL_SOCKET, 26, fprog[:8])

    bed.run(work)


def test_a_source_filter_can_be_read(bed: Bed):
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            group, here = socket.inet_aton("239.1.2.3"), socket.inet_aton("10.0.0.1")
            sources = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + here)
            sock.setsockopt(socket.IPPROTO_IP, 41, group + here + struct.pack("=II", 1, 2) + sources)
            # struct ip_msfilter, with room for one of the two
            room = ctypes.create_string_buffer(group + here + struct.pack("=II", 0, 1), 20)
            size = ctypes.c_int(20)
            assert libc().getsockopt(sock.fileno(), socket.IPPROTO_IP, 41, room, ctypes.byref(size)) == 0
            assert room.raw[: size.value] == group + here + struct.pack("=II", 1, 2) + sources[:4]
            assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 64

    bed.run(work)


def test_sigpipe_comes_with_a_broken_pipe(bed: Bed):
    with bed.listener():

        def work() -> None:
            with socket.create_connection((PEER, 80)) as sock:
                sock.shutdown(socket.SHUT_WR)
                hits: list[int] = []
                signal.signal(signal.SIGPIPE, lambda *_: hits.append(1))
                fails(errno.EPIPE, sock.send, b"x", 0x8000)  # MSG_MORE: by the stack
                # It comes right behind the call's end.
                deadline = time.monotonic() + 10
                while not hits:
                    assert time.monotonic() < deadline
                fails(errno.EPIPE, sock.send, b"x", 0x8000 | socket.MSG_NOSIGNAL)
                assert hits == [1]

        bed.run(work)


def test_end_of_the_supervisor(bed: Bed):
    """Calls that wait, and those that come, fail with ENOSYS."""
    def work() -> None:
        listener = socket.create_server(("", 80))
        fails(errno.ENOSYS, listener.accept)
        fails(errno.ENOSYS, socket.socket)

    child = bed.start(work)
    deadline = time.monotonic() + 10
    while not child.supervisor.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.supervisor.close()
    assert child.wait() == 0


def test_many_killed_in_the_midst_of_calls(bed: Bed):
    """Whatever they were at, nothing is left of them, and others are served."""
    rounds, count = 3, 24

    def accepting(listener: socket.socket) -> None:
        while True:
            listener.accept()[0].close()

    def connecting(listener: socket.socket) -> None:
        while True:
            with socket.socket() as sock:
                fails(errno.EHOSTUNREACH, sock.connect, ("10.0.0.99", 1))  # nobody is there, as is known after 3 s

    def receiving(listener: socket.socket) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("", 0))
            sock.recvfrom(10)

    def opening(listener: socket.socket) -> None:
        while True:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("", 0))
                sock.listen()

    def talking(listener: socket.socket) -> None:
        while True:
            with socket.create_connection((PEER, 80)) as sock:
                sock.sendall(b"x" * 5000)

    def work() -> None:
        listener = socket.create_server(("", 90))
        for _ in range(rounds):
            pids = []
            for number in range(count):
                pid = os.fork()
                if not pid:
                    (accepting, connecting, receiving, opening, talking)[number % 5](listener)
                    os._exit(1)
                pids.append(pid)
            time.sleep(0.3)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            for pid in pids:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            with socket.create_connection((PEER, 80)) as sock:
                sock.sendall(b"still here")

    heard: list[bytes] = []

    def serve(listener: object) -> None:
        while True:
            try:
                peer, _ = listener.accept()  # type: ignore[attr-defined]
                with peer:
                    while data := peer.recv(65536):
                        heard.append(data)
            except ConnectionError:
                continue
            except OSError:
                return

    with bed.listener() as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            bed.run(work)
            # What was written before the end is read a moment after it.
            until(lambda: heard.count(b"still here") == rounds)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_close_counts_in_the_next_call(bed: Bed):
    def work() -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            for _ in range(50):
                sock = socket.socket(socket.AF_INET, kind)
                sock.bind((MINE, 8080))
                sock.close()
        for _ in range(20):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((MINE, 8080))
            listener.listen()
            listener.close()
            with socket.socket() as asking:
                fails(errno.ECONNREFUSED, asking.connect, (MINE, 8080))

    bed.run(work)


def test_a_stream_that_is_not_connected_says_so(bed: Bed):
    def work() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            # EINVAL is what a UNIX socket says where TCP says ENOTCONN.
            fails(errno.EINVAL, sock.recv, 1)
            fails(errno.ENOTCONN, sock.getpeername)

    bed.run(work)
